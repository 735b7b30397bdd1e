"""Models and data of buckets, from real servers of S3's and Google's protocols, and what happens when they fail."""

import errno
import logging
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import object_stores as stores
import pytest
from object_stores import SECRET, Faults, put, refusal, same_files, use

from scalerl_api import InvalidRun
from scalerl_runtime.models.source import ModelUnavailable, find_at_hand, locate_model, resolve_model
from scalerl_runtime.remote import bucket_models, node_cache
from scalerl_runtime.remote.bucket_models import fetch_model, pin
from scalerl_runtime.remote.faults import RemoteUnavailable
from scalerl_runtime.remote.stores import Patience, RemoteFile, digest_files

pytestmark = pytest.mark.filterwarnings("ignore")  # of the stores' libraries


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def patience(seconds: float = 300.0) -> Patience:
    clock = Clock()
    return Patience(seconds, clock, clock.sleep)


def test_a_model_is_fetched_once_and_without_other_frameworks_copies(bucket: str, model: Path) -> None:
    for key in ("a/model/model.gguf", "a/model/pytorch_model.bin", "a/model/original/weights.safetensors"):
        put(bucket, key, b"another framework's")
    faults = Faults()
    with stores.proxy(bucket, faults) as address, pytest.MonkeyPatch.context() as patch:
        use(patch, stores.s3_variables(address))
        located = locate_model("s3://lab/a/model/")
        assert same_files(located.folder, model)
        weights = faults.num_bytes["/lab/a/model/model.safetensors"]
        assert weights == (model / "model.safetensors").stat().st_size
        assert locate_model("s3://lab/a/model").folder == located.folder
        # The name for other ranks and engines has the content.
        assert resolve_model(located.name) == located.folder
        assert faults.num_bytes["/lab/a/model/model.safetensors"] == weights
    assert resolve_model(located.name) == located.folder, "a known content needs no store"


def test_a_later_content_is_another_entry_and_no_answer_to_a_pinned_one(bucket: str) -> None:
    first = fetch_model("s3://lab/a/model")
    pinned = pin("s3://lab/a/model", first)
    put(bucket, "a/model/config.json", b'{"model_type": "llama", "vocab_size": 78}')
    second = fetch_model("s3://lab/a/model")
    assert (first / "config.json").read_text() != (second / "config.json").read_text()
    assert fetch_model(pinned) == first
    (first / "config.json").unlink()
    with pytest.raises(ModelUnavailable, match="changed since the attempt began"):
        resolve_model(pinned)


def test_a_pod_of_the_node_waits_for_the_other_ones_download(bucket: str, model: Path) -> None:
    """Eight processes start at once: the weights cross the network once."""
    faults = Faults()
    code = (
        "import sys; from scalerl_runtime.remote.bucket_models import fetch_model; "
        "print(fetch_model('s3://lab/a/model'))"
    )
    with stores.proxy(bucket, faults) as address:
        environment = {**os.environ, **stores.s3_variables(address)}
        processes = [
            subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], env=environment, stdout=subprocess.PIPE)
            for _ in range(8)
        ]
        folders = {process.communicate(timeout=300)[0] for process in processes}
    assert [process.returncode for process in processes] == [0] * 8
    assert len(folders) == 1
    assert same_files(Path(folders.pop().decode().strip()), model)
    assert faults.num_bytes["/lab/a/model/model.safetensors"] == (model / "model.safetensors").stat().st_size


def test_a_killed_download_is_continued(bucket: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is killed between two pieces; the next one fetches the rest alone."""
    chunk = 100_000
    code = (
        "import os, signal\n"
        "from scalerl_runtime.remote.bucket_models import fetch_model\n"
        "from scalerl_runtime.remote import node_cache, stores\n"
        f"node_cache.CHUNK_BYTES = {chunk}\n"
        "read, pieces = stores.Store.read_range, []\n"
        "def killed(self, file, start, end):\n"
        "    pieces.append(start)\n"
        "    if start >= 500_000: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return read(self, file, start, end)\n"
        "stores.Store.read_range = killed\n"
        "fetch_model('s3://lab/a/model')\n"
    )
    died = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False, capture_output=True)
    assert died.returncode == -signal.SIGKILL
    monkeypatch.setattr(node_cache, "CHUNK_BYTES", chunk)
    faults = Faults()
    with stores.proxy(bucket, faults) as address, pytest.MonkeyPatch.context() as patch:
        use(patch, stores.s3_variables(address))
        assert same_files(fetch_model("s3://lab/a/model"), model)
    size = (model / "model.safetensors").stat().st_size
    # Bytes that the killed process had not flushed are fetched again.
    assert size - 500_000 <= faults.num_bytes["/lab/a/model/model.safetensors"] < size


@pytest.mark.usefixtures("bucket")
def test_a_download_of_before_a_crash_of_the_node_begins_anew(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system may have lost the end of a file, so what is there is not believed."""
    key = fetch_model("s3://lab/a/model").parent.name
    cache = tmp_path / "cache" / "objects"
    (cache / key).rename(cache / f"{key}.part")
    wrong = cache / f"{key}.part" / "files" / "tokenizer.json"
    wrong.write_bytes(b"\0\0")
    (tmp_path / "boot").write_text("another boot")
    monkeypatch.setattr(node_cache, "BOOT_ID", tmp_path / "boot")
    assert same_files(fetch_model("s3://lab/a/model"), model)


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_entry_is_fetched_again(model: Path, name: str) -> None:
    folder = fetch_model("s3://lab/a/model")
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    assert same_files(fetch_model("s3://lab/a/model"), model)


@pytest.mark.usefixtures("bucket")
def test_bytes_that_arrive_wrong_are_found_by_the_stores_checksum(model: Path) -> None:
    wrong = b"x" * 41
    read = bucket_models.Store.read_range
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            bucket_models.Store,
            "read_range",
            lambda self, file, start, end: (
                wrong[: end - start] if file.path.endswith("tokenizer.json") else read(self, file, start, end)
            ),
        )
        with pytest.raises(RemoteUnavailable, match=r"tokenizer.json arrives with another checksum"):
            fetch_model("s3://lab/a/model")
    assert same_files(fetch_model("s3://lab/a/model"), model)


@pytest.mark.usefixtures("bucket")
def test_what_is_not_there_is_the_users_fault() -> None:
    assert "a bucket that exists: there is no nothing" in refusal("s3://nothing/model")
    assert "none is there" in refusal("s3://lab/no/model")
    assert "a folder with config.json" in refusal("s3://lab/a").replace("model's folder", "folder")
    assert find_at_hand("s3://lab/a/model") is None


def test_wrong_and_missing_keys_are_the_users_fault_and_in_no_message(
    bucket: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG, "scalerl_runtime")
    right = stores.require_keys(bucket)
    wrong = [
        ({**right, "AWS_ACCESS_KEY_ID": "AKIAUNKNOWNUNKNOWN00"}, "InvalidAccessKeyId"),
        ({**right, "AWS_SECRET_ACCESS_KEY": SECRET}, "SignatureDoesNotMatch"),
    ]
    texts = []
    for variables, word in wrong:
        use(monkeypatch, variables)
        texts.append(refusal("s3://lab/a/model"))
        assert word in texts[-1]
        assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY from a Secret" in texts[-1]
    use(monkeypatch, right)
    assert resolve_model("s3://lab/a/model").is_dir()
    written = "".join([*texts, caplog.text, *capfd.readouterr()])
    for secret in (SECRET, right["AWS_SECRET_ACCESS_KEY"]):
        assert secret not in written


def test_a_public_bucket_needs_no_key_and_another_says_that_none_was_found(
    bucket: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = stores.s3_client(bucket)
    for path in model.iterdir():
        client.put_object_acl(Bucket=stores.BUCKET, Key=f"a/model/{path.name}", ACL="public-read")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    use(monkeypatch, {})
    assert same_files(resolve_model("s3://lab/a/model"), model)
    with stores.proxy(bucket, Faults(lambda *_: "403")) as address:
        use(monkeypatch, {"AWS_ENDPOINT_URL": address})
        text = refusal("s3://lab/a/model")
    assert "an address that the credentials may read" in text
    assert "no credentials were found, so it was asked for without" in text


def test_an_object_that_is_written_anew_while_it_is_fetched_makes_no_entry(
    bucket: str, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its halves are of two contents, and so many bytes as were listed arrive."""
    monkeypatch.setattr(node_cache, "CHUNK_BYTES", 1_000_000)
    old = (model / "model.safetensors").read_bytes()
    read = bucket_models.Store.read_range

    def replaced(self: bucket_models.Store, file: RemoteFile, start: int, end: int) -> bytes:
        data = read(self, file, start, end)
        if file.path.endswith(".safetensors") and start == 0:
            put(bucket, "a/model/model.safetensors", old[::-1])
        return data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bucket_models.Store, "read_range", replaced)
        with pytest.raises(RemoteUnavailable, match="has changed while it was fetched"):
            fetch_model("s3://lab/a/model")
    assert not list((tmp_path / "cache" / "objects").glob("*/entry.json"))
    put(bucket, "a/model/model.safetensors", old)
    assert same_files(fetch_model("s3://lab/a/model"), model)


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize(
    ("number", "error", "words"),
    [
        (errno.ENOSPC, ModelUnavailable, "the disk of the cache is full"),
        (errno.EDQUOT, ModelUnavailable, "the disk of the cache is full"),
        (errno.ENOLCK, InvalidRun, "a cache that can be written and locked"),
        (errno.EROFS, InvalidRun, "a cache that can be written and locked"),
    ],
)
def test_a_cache_that_fails_is_named(
    monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception], words: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(node_cache.fcntl, "flock" if number == errno.ENOLCK else "fcntl", fail)
    monkeypatch.setattr(node_cache.os, "fsync", fail)
    with pytest.raises(error, match=words):
        resolve_model("s3://lab/a/model")


def test_an_outage_is_waited_for_and_then_the_machines(bucket: str, model: Path) -> None:
    once = Faults(lambda _method, _path, number: "500" if number <= 12 else None)
    with stores.proxy(bucket, once) as address, pytest.MonkeyPatch.context() as patch:
        use(patch, stores.s3_variables(address))
        assert same_files(fetch_model("s3://lab/a/model", patience=patience()), model)
    always = Faults(lambda *_: "500")
    with stores.proxy(bucket, always) as address, pytest.MonkeyPatch.context() as patch:
        use(patch, stores.s3_variables(address))
        with pytest.raises(RemoteUnavailable, match="listing failed for 7 s"):
            fetch_model("s3://lab/a/model", patience=patience(7.0))
    with pytest.MonkeyPatch.context() as patch:  # nobody listens there any more
        use(patch, stores.s3_variables(address.replace("http://", "http://me:pass-word@")))
        with pytest.raises(RemoteUnavailable) as caught:
            fetch_model("s3://lab/a/model", patience=patience(2.0))
    assert "pass-word" not in str(caught.value)


@pytest.mark.parametrize("fault", ["reset", "cut"])
def test_a_connection_that_breaks_is_made_again(bucket: str, model: Path, fault: str) -> None:
    broken: list[str] = []

    def answer(method: str, path: str, _number: int) -> str | None:
        if method == "GET" and "model.safetensors" in path and len(broken) < 7:
            broken.append(path)
            return fault
        return None

    with stores.proxy(bucket, Faults(answer)) as address, pytest.MonkeyPatch.context() as patch:
        use(patch, stores.s3_variables(address))
        assert same_files(fetch_model("s3://lab/a/model", patience=patience()), model)
    assert len(broken) == 7


@pytest.mark.usefixtures("bucket")
def test_a_download_that_another_process_holds_without_progress_is_given_up(tmp_path: Path) -> None:
    """Its holder hangs: the lock is not broken, and the wait has an end."""
    key = fetch_model("s3://lab/a/model").parent.name
    cache = tmp_path / "cache" / "objects"
    (cache / key / "entry.json").unlink()
    code = (
        "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); "
        "print(flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(cache / f"{key}.lock")], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(RemoteUnavailable, match="another process fetches it, without a byte for 20 s"):
            fetch_model("s3://lab/a/model", patience=patience(20.0))
    finally:
        holder.kill()
        holder.wait()
    assert fetch_model("s3://lab/a/model").is_dir(), "the kernel frees the lock of a dead process"


@pytest.mark.usefixtures("bucket")
def test_a_disk_that_is_too_small_is_named_before_a_byte_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_cache, "SPARE_BYTES", 10**18)
    with pytest.raises(ModelUnavailable, match="the disk of the cache is full: .* are needed"):
        resolve_model("s3://lab/a/model")


@pytest.mark.usefixtures("bucket")
def test_a_cache_that_cannot_be_written_names_its_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SCALERL_CACHE", str(tmp_path / "file"))
    assert "on a cluster the chart's modelCache" in refusal("s3://lab/a/model")


def test_file_addresses_are_folders(model: Path) -> None:
    assert resolve_model(f"file://{model}") == model
    assert locate_model(f"file://{model}").name == str(model)


def test_the_digest_of_an_entry_follows_name_size_and_mark() -> None:
    file = RemoteFile("lab/a", 3, "v1", None)
    digests = {
        digest_files("s3://lab", [each])
        for each in (file, replace(file, path="lab/b"), replace(file, size=4), replace(file, version="v2"))
    }
    assert len(digests) == 4
