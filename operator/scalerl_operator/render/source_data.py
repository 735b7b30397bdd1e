"""A run's sources as they were read, and how the verifiers judged them, as text and as rows of a table. PURE."""

from collections.abc import Sequence

from scalerl_api.status import SelfTestStatus, SourceStatus

SOURCE_HEADER = ("source", "rows", "bad", "near duplicates", "train", "held out", "self-test")


def describe_source_data(source: SourceStatus) -> str:
    """Return what was read of a source, and its self-tests, in one line."""
    name = f" ({source.name})" if source.name else ""
    parts = [f"{source.rows:,} rows" + (f" ({source.cut})" if source.cut else "")]
    parts += [f"{source.bad:,} bad"] if source.bad else []
    parts += [f"{source.duplicates:,} near duplicates removed"] if source.duplicates else []
    parts += [f"{source.train:,} to train on"] if source.train else []
    parts += [f"{source.held_out:,} held out"] if source.held_out else []
    tests = "; ".join(map(_describe_test, source.self_tests)) or "not tested"
    return f"{source.path}{name}: {', '.join(parts)}; {tests}"


def source_data_rows(sources: Sequence[SourceStatus]) -> list[tuple[str, ...]]:
    """Return the cells under SOURCE_HEADER of each source."""
    return [
        (
            each.name or each.path.removeprefix("spec.data."),
            f"{each.rows:,}" + (f" ({each.cut})" if each.cut else ""),
            f"{each.bad:,}",
            f"{each.duplicates:,}",
            f"{each.train:,}" if each.train else "-",
            f"{each.held_out:,}" if each.held_out else "-",
            "; ".join(map(_describe_test, each.self_tests)) or "-",
        )
        for each in sources
    ]


def _describe_test(test: SelfTestStatus) -> str:
    if test.note:
        return f"{test.verifier}: {test.note}"
    return f"{test.verifier}: {test.rows - test.failed} of {test.rows} rows as expected"
