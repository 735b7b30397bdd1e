"""One cluster and one installed chart for all end-to-end tests; those of a file follow each other in a run's life."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import OPERATOR_NAMESPACE, Platform, describe, install, say, start_platform

NAMESPACES = [OPERATOR_NAMESPACE, "research", "pairs"]


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    """The platform; what went wrong is looked at before it goes."""
    with start_platform() as found:
        try:
            install(found)
            yield found
        except BaseException:
            say(describe(found, NAMESPACES))
            raise
        finally:
            if found.timeline:
                say("timeline: " + json.dumps([(phase, round(seconds, 1)) for phase, seconds in found.timeline]))
                if kept := os.environ.get("E2E_TIMELINE"):
                    Path(kept).write_text(json.dumps({"full": found.is_full, "timeline": found.timeline}))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """With a failed test's report, what the cluster shows; the tests after it need what it has not done."""
    report = yield
    if report.when == "call" and report.failed:
        found = item.funcargs.get("platform")
        if isinstance(found, Platform):
            report.sections.append(("the cluster", describe(found, NAMESPACES)))
        item.session.shouldfail = "the run's life has ended here"
    return report
