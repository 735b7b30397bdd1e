"""A log that is read over several requests: no line is lost, none is repeated."""

import pytest

from scalerl_operator.cli.log_lines import LineReader, LogOffset, LogOptions, build_query

A, B, C = (f"2026-05-04T12:00:0{second}.500000000Z" for second in (1, 2, 3))


def read(after: LogOffset, *chunks: str, timestamps: bool = False, is_over: bool = True) -> tuple[list[str], LogOffset]:
    reader = LineReader(after, timestamps=timestamps)
    lines = [line for chunk in chunks for line in reader.feed(chunk.encode())]
    return [*lines, *(reader.close() if is_over else [])], reader.offset


def test_times_are_removed_and_chunks_are_joined() -> None:
    assert read(LogOffset(), f"{A} one\n{B} tw", f"o\n{C} thr", "ee\n")[0] == ["one", "two", "three"]
    assert read(LogOffset(), f"{A} one\n", timestamps=True)[0] == [f"{A} one"]


def test_an_empty_line_is_a_line() -> None:
    assert read(LogOffset(), f"{A} \n{B}\n")[0] == ["", ""]


def test_a_line_without_a_newline_is_held_back_until_the_log_is_over() -> None:
    assert read(LogOffset(), f"{A} one\n{B} last lin", is_over=False) == (["one"], LogOffset(A, 1))
    assert read(LogOffset(), f"{A} one\n{B} last lin") == (["one", "last lin"], LogOffset(B, 1))


def test_the_next_request_starts_where_the_last_one_ended() -> None:
    """Kubernetes repeats the whole second: lines that were read are skipped, also among lines of one time."""
    first, offset = read(LogOffset(), f"{A} one\n{B} two\n{B} three\n", is_over=False)
    assert (first, offset) == (["one", "two", "three"], LogOffset(B, 2))
    again, offset = read(offset, f"{A} one\n{B} two\n{B} three\n{B} four\n{C} five\n", is_over=False)
    assert (again, offset) == (["four", "five"], LogOffset(C, 1))


def test_requests_without_a_new_line_keep_the_offset() -> None:
    offset = LogOffset(B, 2)
    for _ in range(3):
        lines, offset = read(offset, f"{B} two\n{B} three\n", is_over=False)
        assert (lines, offset) == ([], LogOffset(B, 2))


def test_trailing_zeros_of_a_fraction_do_not_change_the_time() -> None:
    early, late = "2026-05-04T12:00:01.1Z", "2026-05-04T12:00:01.12Z"
    assert read(LogOffset(late, 1), "2026-05-04T12:00:01.120000000Z old\n2026-05-04T12:00:01.120Z new\n")[0] == ["new"]
    lines, _ = read(
        LogOffset("2026-05-04T12:00:01.120000000Z", 1), f"{early} old\n{late} old\n2026-05-04T12:00:01.2Z new\n"
    )
    assert lines == ["new"]


def test_a_line_without_a_time_is_kept_as_it_is() -> None:
    assert read(LogOffset(A, 1), "failed to read the log file\n")[0] == ["failed to read the log file"]


def test_bytes_that_are_no_utf8_are_replaced() -> None:
    reader = LineReader(LogOffset(), timestamps=False)
    assert list(reader.feed(A.encode() + b" \xff\xfe 100%\r\n")) == ["\ufffd\ufffd 100%"]


QUERIES = [
    (LogOptions(), LogOffset(), {}),
    (LogOptions(follow=True, tail=5), LogOffset(), {"follow": "true", "tailLines": "5"}),
    (LogOptions(follow=True, tail=5), LogOffset(A, 1), {"follow": "true", "sinceTime": A}),
    (LogOptions(previous=True, tail=0), LogOffset(), {"previous": "true", "tailLines": "0"}),
]


@pytest.mark.parametrize(("options", "offset", "wanted"), QUERIES)
def test_queries(options: LogOptions, offset: LogOffset, wanted: dict[str, str]) -> None:
    assert build_query("runtime", options, offset) == {"container": "runtime", "timestamps": "true", **wanted}
