"""The command line's answer when the runtime's check answers, fails, or answers something else."""

import json
import sys
from pathlib import Path

import pytest

from scalerl_api.wire import RunFault, RunVerdict
from scalerl_operator.local.run_verdicts import CheckScope, fetch_verdicts

FILES = [Path("a.yaml"), Path("b.yaml")]


def answering(text: str, code: int = 0, errors: str = "") -> list[str]:
    return [sys.executable, "-c", f"import sys; print({text!r}); sys.stderr.write({errors!r}); sys.exit({code})"]


def test_verdicts_are_read_from_the_last_line() -> None:
    fault = {"path": "spec.model.source", "value": "x", "allowed": "y"}
    lines = "a library's greeting\n" + json.dumps([{"faults": [fault], "unchecked": ""}, {"unchecked": "absent"}])
    assert fetch_verdicts(FILES, CheckScope(), answering(lines, 64)) == [
        RunVerdict(faults=(RunFault(path="spec.model.source", value="x", allowed="y"),)),
        RunVerdict(unchecked="absent"),
    ]


@pytest.mark.parametrize("text", ["", "no JSON", '{"faults": 3}', "[3, 4]", "[]"])
def test_a_check_that_fails_says_so_for_every_file(text: str) -> None:
    found = fetch_verdicts(FILES, CheckScope(), answering(text, 1, "first\nthe reason\n"))
    assert found == [RunVerdict(unchecked="the check failed: the reason")] * 2


def test_no_file_starts_no_process() -> None:
    assert fetch_verdicts([], CheckScope(), ["/does/not/exist"]) == []


@pytest.mark.parametrize(
    ("scope", "flags"),
    [
        (CheckScope(), ["--self-test"]),
        (CheckScope(user_code=True, http_judges=True), ["--self-test", "--run-user-code", "--ask-judges"]),
        (CheckScope(self_test=False), []),
    ],
)
def test_the_runtime_is_told_what_it_may_do_and_fetches_nothing(scope: CheckScope, flags: list[str]) -> None:
    script = (
        "import json, os, sys; words = [*sys.argv[1:], os.environ['HF_HUB_OFFLINE']];"
        "print(json.dumps([{'unchecked': ' '.join(words)}]))"
    )
    (found,) = fetch_verdicts(FILES[:1], scope, [sys.executable, "-c", script])
    assert found.unchecked.split() == [*flags, "a.yaml", "1"]
