import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from scalerl_api.validation import Fault
from scalerl_runtime.data.file_lists import SourceFault, find_files
from scalerl_runtime.data.readers import describe_cut, read_files, take

ROWS = [{"prompt": "1+1", "answer": "2"}, {"prompt": "2+2, é", "answer": "4"}]
LINES = "\n".join(map(json.dumps, ROWS))
CSV = 'prompt,answer\n1+1,2\n"2+2, é",4\n'


def read(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.lower().endswith(".gz") else content)
    return list(read_files(find_files(str(path))).records)


def values(records):
    return [f"bad: {record.value}" if isinstance(record, Fault) else record for _, record in records]


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("a.jsonl", LINES, "lines of JSON"),
        ("a.JSONL.GZ", LINES, "zipped"),
        ("a.jsonl", "\ufeff" + LINES, "with a mark of the byte order"),
        ("a.jsonl", LINES.replace("\n", "\r\n\r\n"), "with the ends of Windows and empty lines"),
        ("a.json", json.dumps(ROWS), "a list"),
        ("a.json", json.dumps(ROWS, indent=2), "a list over several lines"),
        ("a.json", "\ufeff" + json.dumps(ROWS), "a list after a mark"),
        ("a.json", json.dumps({"version": 1, "data": ROWS}), "the one list inside"),
        ("a.json", json.dumps({"rows": ROWS, "tags": ["x"]}), "the one list of objects inside"),
        ("a.json", LINES, "lines of JSON by another name"),
        ("a.json.gz", LINES + "\n", "zipped lines"),
        ("a.csv", CSV, "a table"),
        ("a.csv.gz", CSV, "a zipped table"),
        ("a.csv", "\ufeff" + CSV.replace("\n", "\r\n"), "a table of Excel"),
        ("a.csv", CSV.replace("2+2, é", "2+2, é").replace("\n1", "\n\n1"), "an empty line is no row"),
        ("a.tsv", "prompt\tanswer\n1+1\t2\n2+2, é\t4\n", "separated by tabs"),
    ],
)
def test_rows_of_a_file(tmp_path, name, text, rule):
    assert values(read(tmp_path, name, text.encode())) == ROWS, rule


def test_a_table_in_utf_16_is_read(tmp_path):
    assert values(read(tmp_path, "a.csv", CSV.encode("utf-16"))) == ROWS


def test_a_cell_may_have_lines_and_quotes(tmp_path):
    (where, record), (after, _) = read(tmp_path, "a.csv", b'prompt,answer\n"a\n""b""",1\nc,2\n')
    assert record == {"prompt": 'a\n"b"', "answer": "1"}
    assert [each.rsplit(":", 1)[1] for each in (where, after)] == ["2", "4"]


def test_a_cell_may_be_long(tmp_path):
    ((_, record),) = read(tmp_path, "a.csv", b"prompt,answer\n" + b"x" * 200_000 + b",1\n")
    assert len(record["prompt"]) == 200_000


@pytest.mark.parametrize(
    ("name", "content", "bad"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": "\xe9"}\n{"a": 2}\n', "not JSON"),
        ("a.jsonl", b'{"a": 1}\n{"a": \n{"a": 2}\n', "not JSON"),
        ("a.csv", b"a\n1\n\xe9\n2\n", "bytes that are not UTF-8"),
        ("a.csv", b"a,b\n1,1\n1,2,3\n2,1\n", "3 cells"),
        ("a.csv", b"a,b\n1,1\n1\n2,1\n", "1 cells"),
        ("a.csv", b'a,b\n1,1\n"x"y,1\n2,1\n', "not a row"),
    ],
)
def test_a_broken_line_is_one_bad_row(tmp_path, name, content, bad):
    first, second, third = values(read(tmp_path, name, content))
    assert (first["a"], third["a"]) in [(1, 2), ("1", "2")]
    assert second.startswith(f"bad: {bad}")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", b'[{"a": 1},', "is not JSON"),
        ("a.json", b'"text"', "holds a str"),
        ("a.json", json.dumps({"train": ROWS, "test": ROWS}).encode(), "has 2: train, test"),
        ("a.json", b'{"prompt": ["a", "b"], "answer": ["1", "2"]}', "has prompt, answer"),
        ("a.json", b'{"prompt": {"0": "a"}, "answer": {"0": "1"}}', "has prompt, answer"),
        ("a.csv", b"prompt;answer\n1;2\n", "by ';'"),
        ("a.csv", b"a,a\n1,2\n", "a more than once"),
        ("a.csv", b'a,b\n1,"x\n2,y\n3,z\n', "line 2, is never closed"),
    ],
)
def test_a_file_that_cannot_be_read_whole_is_refused(tmp_path, name, content, words):
    with pytest.raises(SourceFault) as caught:
        read(tmp_path, name, content)
    assert words in str(caught.value)


def test_a_file_of_one_object_is_one_row(tmp_path):
    assert values(read(tmp_path, "a.json", b'{"prompt": "1+1", "answer": "2"}')) == ROWS[:1]


def test_files_are_read_one_after_another(tmp_path):
    (tmp_path / "b.jsonl").write_text(json.dumps(ROWS[1]))
    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS[0]))
    assert values(read_files(find_files(str(tmp_path))).records) == ROWS


@pytest.mark.parametrize(
    ("size", "cut"), [(None, None), (20, None), (10, None), (9, "read the first 9 of 10 rows"), (25, None)]
)
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "json"])
def test_a_cut_is_counted(tmp_path, kind, size, cut):
    rows = [{"prompt": str(i)} for i in range(10)]
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        texts = {"jsonl": map(json.dumps, rows), "csv": ["prompt", *map(str, range(10))], "json": [json.dumps(rows)]}
        path.write_text("\n".join(texts[kind]))
    table = read_files(find_files(str(path)))
    num_read = len(list(take(table, size)))
    assert describe_cut(table, size, num_read) == cut


def test_rows_of_a_large_file_are_not_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("scalerl_runtime.data.readers.MAX_COUNT_BYTES", 10)
    (tmp_path / "a.jsonl").write_text("\n".join(["{}"] * 1200))
    table = read_files(find_files(str(tmp_path / "a.jsonl")))
    assert describe_cut(table, 1100, len(list(take(table, 1100)))) == "read the first 1,100 rows; more rows follow"
    table = read_files(find_files(str(tmp_path / "a.jsonl")))
    assert describe_cut(table, 1200, len(list(take(table, 1200)))) is None
