import pytest

from scalerl_runtime.data.fetched_files import find_source_files
from scalerl_runtime.data.file_lists import SourceFault, find_files


def make(tmp_path, *names):
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return tmp_path


def names(source):
    return [(file.path.name, file.kind, file.is_zipped) for file in find_files(str(source))]


@pytest.mark.parametrize(
    ("name", "kind", "is_zipped"),
    [
        ("a.jsonl", ".jsonl", False),
        ("a.JSONL", ".jsonl", False),
        ("a.Json.GZ", ".json", True),
        ("a.csv", ".csv", False),
        ("a.b.tsv.gz", ".tsv", True),
        ("a.parquet", ".parquet", False),
    ],
)
def test_a_file_by_its_suffixes(tmp_path, name, kind, is_zipped):
    assert names(make(tmp_path, name) / name) == [(name, kind, is_zipped)]


@pytest.mark.parametrize("source", ["openai/gsm8k", "org/set.v1", "imdb"])
def test_a_hub_id_is_no_file(source):
    assert find_files(source) is None


def test_a_folder_is_read_whole_and_in_order(tmp_path):
    make(
        tmp_path,
        "b.jsonl",
        "a.jsonl.gz",
        "data/c.jsonl",
        "README.md",
        "dataset_info.json",
        ".cache/d.jsonl",
        ".e.jsonl",
    )
    assert [name for name, *_ in names(tmp_path)] == ["a.jsonl.gz", "b.jsonl", "c.jsonl"]


def test_a_pattern_names_its_files(tmp_path):
    make(tmp_path, "train-1.parquet", "train-0.parquet", "test-0.parquet", "sub/train-2.parquet")
    assert [name for name, *_ in names(tmp_path / "train-*.parquet")] == ["train-0.parquet", "train-1.parquet"]
    assert [name for name, *_ in names(tmp_path / "**/train-*")] == [
        "train-2.parquet",
        "train-0.parquet",
        "train-1.parquet",
    ]


@pytest.mark.parametrize(
    ("files", "source", "words"),
    [
        (["a.jsonl", "b.csv"], "", "a.jsonl and b.csv are of several"),
        (["a.jsonl", "b.zip"], "", "b.zip is of another kind"),
        (["a.arrow", "state.json"], "", "a.arrow is of another kind"),
        (["README.md"], "", "no file in"),
        (["dataset_info.json"], "", "no file in"),
        (["train.jsonl", "test.jsonl"], "", "one split; these are of test, train"),
        (["train/0.parquet", "validation/0.parquet"], "", "one split"),
        (["a.jsonl", "a.jsonl.gz"], "", "with and without .gz"),
        (["a.jsonl"], "b*.jsonl", "a pattern that a file matches"),
        (["sub/a.jsonl"], "*", "is a folder"),
        (["a.parquet.gz"], "a.parquet.gz", "a .jsonl, .json"),
        (["a.txt"], "a.txt", "a .jsonl, .json"),
        (["rows"], "rows", "a .jsonl, .json"),
        ([], "a.csv", "this one does not exist"),
        ([], "a/b", "this one does not exist"),
    ],
)
def test_what_cannot_be_read_whole_is_refused(tmp_path, files, source, words):
    make(tmp_path, *files)
    with pytest.raises(SourceFault) as caught:
        find_files(f"{tmp_path}/{source}" if source else str(tmp_path))
    assert words in str(caught.value)


@pytest.mark.parametrize("source", ["https://host/a.jsonl", "S3://bucket/a.parquet", "hf://datasets", "file://a.jsonl"])
def test_an_address_of_another_form_is_refused(source):
    with pytest.raises(SourceFault, match="s3://bucket/file"):
        find_source_files(source)


def test_the_address_of_a_file_is_its_path(tmp_path):
    make(tmp_path, "a.jsonl")
    assert find_source_files(f"file://{tmp_path}/a.jsonl") == find_files(f"{tmp_path}/a.jsonl")
