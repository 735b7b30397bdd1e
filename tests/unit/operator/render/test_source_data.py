"""A source as it was read, as a line and as cells."""

from scalerl_api.status import SelfTestStatus, SourceStatus
from scalerl_operator.render.source_data import SOURCE_HEADER, describe_source_data, source_data_rows

MATH = SourceStatus(
    path="spec.data.train[0]",
    name="math",
    rows=7000,
    bad=3,
    cut="read the first 7,000 of 7,473 rows",
    train=6500,
    held_out=400,
    duplicates=97,
    self_tests=[
        SelfTestStatus(verifier="math", rows=128, failed=1),
        SelfTestStatus(verifier="style", rows=8, failed=0, note="the same reward on each of 8 rows (+0.25)"),
    ],
)
AIME = SourceStatus(path="spec.data.downstream[0]", rows=30, held_out=30)


def test_a_source_in_one_line() -> None:
    assert describe_source_data(MATH) == (
        "spec.data.train[0] (math): 7,000 rows (read the first 7,000 of 7,473 rows), 3 bad, 97 near duplicates removed,"
        " 6,500 to train on, 400 held out; math: 127 of 128 rows as expected; style: the same reward on each of 8 rows"
        " (+0.25)"
    )
    assert describe_source_data(AIME) == "spec.data.downstream[0]: 30 rows, 30 held out; not tested"


def test_sources_as_cells() -> None:
    first, second = source_data_rows([MATH, AIME])
    assert dict(zip(SOURCE_HEADER, first, strict=True)) == {
        "source": "math",
        "rows": "7,000 (read the first 7,000 of 7,473 rows)",
        "bad": "3",
        "near duplicates": "97",
        "train": "6,500",
        "held out": "400",
        "self-test": "math: 127 of 128 rows as expected; style: the same reward on each of 8 rows (+0.25)",
    }
    assert second == ("downstream[0]", "30", "0", "0", "-", "30", "-")
