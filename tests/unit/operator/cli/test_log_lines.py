"""A log that is read in several goes: no line is lost, none is told twice."""

import pytest

from scalerl_operator.cli.log_lines import LineReader, LogOffset, LogOptions, build_query

A, B, C = (f"2026-05-04T12:00:0{second}.500000000Z" for second in (1, 2, 3))


def read(after: LogOffset, *pieces: str, timestamps: bool = False, is_over: bool = True) -> tuple[list[str], LogOffset]:
    reader = LineReader(after, timestamps=timestamps)
    lines = [line for piece in pieces for line in reader.feed(piece.encode())]
    return [*lines, *(reader.close() if is_over else [])], reader.place


def test_lines_lose_their_times_and_pieces_their_borders() -> None:
    assert read(LogOffset(), f"{A} one\n{B} tw", f"o\n{C} thr", "ee\n")[0] == ["one", "two", "three"]
    assert read(LogOffset(), f"{A} one\n", timestamps=True)[0] == [f"{A} one"]


def test_an_empty_line_is_a_line() -> None:
    assert read(LogOffset(), f"{A} \n{B}\n")[0] == ["", ""]


def test_a_line_without_an_end_waits_for_it_unless_the_log_is_over() -> None:
    assert read(LogOffset(), f"{A} one\n{B} last wor", is_over=False) == (["one"], LogOffset(A, 1))
    assert read(LogOffset(), f"{A} one\n{B} last wor") == (["one", "last wor"], LogOffset(B, 1))


def test_the_next_go_begins_where_the_last_one_ended() -> None:
    """Kubernetes gives whole seconds again: what was told is skipped, also of lines of one time."""
    first, place = read(LogOffset(), f"{A} one\n{B} two\n{B} three\n", is_over=False)
    assert (first, place) == (["one", "two", "three"], LogOffset(B, 2))
    again, place = read(place, f"{A} one\n{B} two\n{B} three\n{B} four\n{C} five\n", is_over=False)
    assert (again, place) == (["four", "five"], LogOffset(C, 1))


def test_several_goes_in_which_nothing_new_came() -> None:
    place = LogOffset(B, 2)
    for _ in range(3):
        lines, place = read(place, f"{B} two\n{B} three\n", is_over=False)
        assert (lines, place) == ([], LogOffset(B, 2))


def test_a_fraction_without_its_zeros_is_the_same_time() -> None:
    early, late = "2026-05-04T12:00:01.1Z", "2026-05-04T12:00:01.12Z"
    assert read(LogOffset(late, 1), "2026-05-04T12:00:01.120000000Z told\n2026-05-04T12:00:01.120Z new\n")[0] == ["new"]
    lines, _ = read(
        LogOffset("2026-05-04T12:00:01.120000000Z", 1), f"{early} told\n{late} told\n2026-05-04T12:00:01.2Z new\n"
    )
    assert lines == ["new"]


def test_a_line_without_a_time_is_told_as_it_is() -> None:
    assert read(LogOffset(A, 1), "failed to read the log file\n")[0] == ["failed to read the log file"]


def test_bytes_that_are_no_text() -> None:
    reader = LineReader(LogOffset(), timestamps=False)
    assert list(reader.feed(A.encode() + b" \xff\xfe 100%\r\n")) == ["\ufffd\ufffd 100%"]


QUERIES = [
    (LogOptions(), LogOffset(), {}),
    (LogOptions(follow=True, tail=5), LogOffset(), {"follow": "true", "tailLines": "5"}),
    (LogOptions(follow=True, tail=5), LogOffset(A, 1), {"follow": "true", "sinceTime": A}),
    (LogOptions(previous=True, tail=0), LogOffset(), {"previous": "true", "tailLines": "0"}),
]


@pytest.mark.parametrize(("wish", "place", "wanted"), QUERIES)
def test_queries(wish: LogOptions, place: LogOffset, wanted: dict[str, str]) -> None:
    assert build_query("runtime", wish, place) == {"container": "runtime", "timestamps": "true", **wanted}
