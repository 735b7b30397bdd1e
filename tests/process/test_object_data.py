"""Data of buckets and of the hub's files, from real servers of the stores' protocols."""

import gzip
import json
from pathlib import Path

import object_stores as stores
import pytest
from hub_server import NAME, TOKEN, HubFiles, serve_hub
from hub_server import _describe as describe
from object_stores import Faults, put, refusal, same_files, use

from scalerl_api import InvalidRun
from scalerl_api.data import DatasetSpec
from scalerl_runtime.data.datasets import DataUnavailable, read_records
from scalerl_runtime.models.source import resolve_model
from scalerl_runtime.remote import stores as remote

pytestmark = pytest.mark.filterwarnings("ignore")  # of the stores' libraries

ROWS = [{"prompt": f"{i} + 1", "answer": str(i + 1)} for i in range(7)]


def lines(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def read(source: str, **fields: object) -> list[tuple[str, object]]:
    return list(read_records(DatasetSpec.model_validate({"source": source, **fields}), "spec.data.train"))


def test_data_of_a_bucket_is_read_by_the_same_readers(bucket: str, tmp_path: Path) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    parquet.write_table(arrow.Table.from_pylist(ROWS[:3]), tmp_path / "a.parquet")
    parquet.write_table(arrow.Table.from_pylist(ROWS[3:]), tmp_path / "b.parquet")
    for name in ("a.parquet", "b.parquet"):
        put(bucket, f"rows/{name}", (tmp_path / name).read_bytes())
    put(bucket, "text/rows.jsonl", lines(ROWS))
    put(bucket, "text/README.md", b"words")
    for source in ("s3://lab/rows/*.parquet", "s3://lab/rows", "s3://lab/text/rows.jsonl", "s3://lab/text/"):
        found = read(source)
        assert [record for _, record in found] == ROWS, source
        assert found[0][0].startswith("s3://lab/"), "a bad row is found by its address"
    assert len(read("s3://lab/rows/*.parquet", size=4)) == 4


@pytest.mark.parametrize(
    "key", ["with space/a b.jsonl", "größe/数据.jsonl", "plus+and&%20/a#1.jsonl", "zipped/a.jsonl.gz", "=x/a?.jsonl"]
)
def test_keys_may_have_any_letters(bucket: str, key: str) -> None:
    data = lines(ROWS)
    put(bucket, key, gzip.compress(data) if key.endswith(".gz") else data)
    folder = key.rpartition("/")[0]
    put(bucket, f"{folder}/", b"")  # the object by which a console shows a folder
    sources = [f"s3://lab/{folder}", f"s3://lab/{folder}/*.jsonl*", *([] if "?" in key else [f"s3://lab/{key}"])]
    for source in sources:
        found = read(source)
        assert [record for _, record in found] == ROWS, source
        assert found[0][0].startswith(f"s3://lab/{key}:")


def test_a_folder_that_is_only_marked_has_nothing(bucket: str) -> None:
    put(bucket, "marked/", b"")
    with pytest.raises(InvalidRun, match="none is there"):
        read("s3://lab/marked")


REFUSED_DATA = {
    "s3://lab/none/*.jsonl": "none is there",
    "s3://lab/mixed": "files of one kind",
    "s3://lab/splits": "files of one split",
    "s3://lab/zip/a.zip": "or a hub id",
    "s3://nothing/a.jsonl": "a bucket that exists",
}


@pytest.mark.parametrize("source", REFUSED_DATA)
def test_data_that_is_refused_costs_one_listing(bucket: str, source: str) -> None:
    for key in ("mixed/a.jsonl", "mixed/b.csv", "splits/train-1.jsonl", "splits/test-1.jsonl", "zip/a.zip"):
        put(bucket, key, lines(ROWS))
    faults = Faults()
    with stores.proxy(bucket, faults) as address, pytest.MonkeyPatch.context() as patch:
        use(patch, stores.s3_variables(address))
        with pytest.raises(InvalidRun) as caught:
            read(source)
    assert caught.value.faults[0].path == "spec.data.train.source"
    assert REFUSED_DATA[source] in caught.value.faults[0].allowed
    assert not [path for method, path in faults.seen if method == "GET" and "list-type" not in path]


@pytest.mark.usefixtures("bucket")
def test_validate_fetches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALERL_OFFLINE", "1")
    with pytest.raises(DataUnavailable, match="nothing is fetched from object storage"):
        read("s3://lab/text/rows.jsonl")


# -- Google Cloud Storage ----------------------------------------------------------------------------------------------


def test_models_and_data_of_google_cloud_storage(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the protocol of an emulator, which checks no credentials."""
    with stores.serve_gcs(tmp_path / "log") as endpoint:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", endpoint)
        monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # read when gcsfs is imported
        import gcsfs

        monkeypatch.setenv("SCALERL_CACHE", str(tmp_path / "cache"))
        gcsfs.GCSFileSystem.clear_instance_cache()
        writer = gcsfs.GCSFileSystem(token="anon", endpoint_url=endpoint)
        writer.mkdir("lab")
        for path in model.iterdir():
            writer.pipe_file(f"lab/a/model/{path.name}", path.read_bytes())
        writer.pipe_file("lab/rows/a.jsonl", lines(ROWS))
        assert same_files(resolve_model("gs://lab/a/model"), model)
        assert [record for _, record in read("gs://lab/rows/*.jsonl")] == ROWS
        assert "none is there" in refusal("gs://lab/none")
        assert "an address that exists" in refusal("gs://nothing-here/model")


# -- files of the hub's data sets --------------------------------------------------------------------------------------


def use_hub(monkeypatch: pytest.MonkeyPatch, endpoint: str, token: str | None) -> None:
    from huggingface_hub import HfFileSystem

    HfFileSystem.clear_instance_cache()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    options = {"use_listings_cache": False, "endpoint": endpoint, "token": token or False}
    monkeypatch.setitem(remote.OPTIONS, "hf", options)


def test_files_of_the_hub_are_read_once_and_their_checksums_are_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    monkeypatch.setenv("SCALERL_CACHE", str(tmp_path / "cache"))
    parquet.write_table(arrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    hub = HubFiles({"data/a.parquet": (tmp_path / "a.parquet").read_bytes(), "text/b.jsonl": lines(ROWS)})
    with serve_hub(hub) as endpoint:
        use_hub(monkeypatch, endpoint, None)
        for path in ("data/*.parquet", "text/b.jsonl"):
            for _ in range(2):
                assert [record for _, record in read(f"hf://datasets/{NAME}/{path}")] == ROWS
        assert hub.num_reads == 2
        wrong = bytes(reversed(hub.files["text/b.jsonl"]))
        tree = {**hub.files, "text/b.jsonl": hub.files["text/b.jsonl"] + b"\n"}
        monkeypatch.setattr("hub_server._describe", lambda name, _data: describe(name, tree[name]))
        hub.files["text/b.jsonl"] = wrong + b"\n"
        with pytest.raises(DataUnavailable, match="another checksum"):
            read(f"hf://datasets/{NAME}/text/b.jsonl")


def test_a_private_data_set_needs_the_token_which_is_in_no_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SCALERL_CACHE", str(tmp_path / "cache"))
    source = f"hf://datasets/{NAME}/b.jsonl"
    with serve_hub(HubFiles({"b.jsonl": lines(ROWS)}, is_private=True)) as endpoint:
        texts = []
        for token in (None, "hf_anotherTokenThatIsWrong"):
            use_hub(monkeypatch, endpoint, token)
            with pytest.raises(InvalidRun) as caught:
                read(source)
            texts.append(str(caught.value))
            assert "spec.secrets.hubToken" in texts[-1]
        use_hub(monkeypatch, endpoint, TOKEN)
        assert len(read(source)) == len(ROWS)
    written = "".join([*texts, *capfd.readouterr()])
    assert "hf_anotherTokenThatIsWrong" not in written
    assert TOKEN not in written
