"""A model's source: what is found, what is the user's fault, and what a later try may find."""

import errno
import json
import os
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from scalerl_api import InvalidRun
from scalerl_runtime.models import source as module
from scalerl_runtime.models.source import ModelUnavailable, is_path, load_tokenizer, loading, resolve_model, vocab_size


@pytest.fixture
def folder(tmp_path):
    """A folder with everything that a model needs, by its file headers."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "llama", "vocab_size": 77}')
    (path / "tokenizer.json").write_text("{}")
    save_file({"a": np.zeros(3), "b": np.ones(5)}, path / "model.safetensors")
    return path


def refusal(source, **options):
    with pytest.raises(InvalidRun) as caught:
        resolve_model(str(source), **options)
    (fault,) = caught.value.faults
    assert fault.path == "spec.model.source"
    return fault.allowed


def test_a_whole_folder_is_found_by_any_path(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    for name in (str(folder), "./model", "model", "model/", "~/model", "../" + folder.parent.name + "/model"):
        assert resolve_model(name).resolve() == folder


def cut(path, end):
    path.write_bytes(path.read_bytes()[:end])


def shard(path):
    (path / "model.safetensors").rename(path / "one.safetensors")
    weights = {"a": "one.safetensors", "b": "two.safetensors"}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))


def shard_without_tensor(path):
    shard(path)
    save_file({"c": np.zeros(2)}, path / "two.safetensors")


DAMAGES = {
    "no config": (lambda p: (p / "config.json").unlink(), "config.json"),
    "a config that is cut": (lambda p: cut(p / "config.json", 9), "config.json that is JSON"),
    "a config that is a list": (lambda p: (p / "config.json").write_text("[]"), "holds an object"),
    "an adapter": (lambda p: (p / "config.json").rename(p / "adapter_config.json"), "adapter only"),
    "GGUF": (lambda p: (p / "config.json").rename(p / "model.gguf"), "GGUF"),
    "no weights": (lambda p: (p / "model.safetensors").unlink(), "a folder with weights"),
    "other names": (lambda p: (p / "model.safetensors").rename(p / "weights.safetensors"), "under another name"),
    "an empty file": (lambda p: cut(p / "model.safetensors", 0), "is cut"),
    "a cut header": (lambda p: cut(p / "model.safetensors", 20), "is cut"),
    "cut tensors": (lambda p: cut(p / "model.safetensors", -1), "its header promises"),
    "a header of nonsense": (
        lambda p: (p / "model.safetensors").write_bytes(struct.pack("<Q", 4) + b"nope"),
        "is cut or damaged",
    ),
    "a huge header": (lambda p: (p / "model.safetensors").write_bytes(b"\xff" * 64), "is cut or damaged"),
    "a Git LFS pointer": (
        lambda p: (p / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "git lfs pull",
    ),
    "a missing shard": (shard, "two.safetensors of 2 files"),
    "a shard without its tensor": (shard_without_tensor, "lacks b"),
    "an index without a map": (
        lambda p: (p / "model.safetensors.index.json").write_text("{}"),
        "weight_map of tensors to files",
    ),
    "a cut pickle": (
        lambda p: ((p / "model.safetensors").unlink(), (p / "pytorch_model.bin").write_bytes(b"PK\x03\x04half")),
        "is cut",
    ),
    "no tokenizer": (lambda p: (p / "tokenizer.json").unlink(), "tokenizer"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_is_refused_by_name(folder, name):
    damage, words = DAMAGES[name]
    damage(folder)
    assert words in refusal(folder)


@pytest.mark.parametrize(
    "source", ["./model", "../m", "/no/such/folder", "~/nothing-here", "a/b/c", "model/", ".\\m", "."]
)
def test_a_path_never_becomes_a_name_of_the_hub(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "_download", lambda *_: pytest.fail("looked up on the hub"))
    assert is_path(source)
    assert "folder" in refusal(source)


@pytest.mark.parametrize(
    "source",
    ["ftp://host/model", "S3://bucket/model", "hf://a", "https://huggingface.co/a/b", "a b", "org/na me", "-x/y"],
)
def test_a_source_that_is_neither_path_nor_hub_id_is_refused(source, monkeypatch):
    monkeypatch.setattr(module, "_download", lambda *_: pytest.fail("looked up on the hub"))
    assert "a hub id such as org/name" in refusal(source)


def test_a_file_is_no_model(folder):
    assert "a folder, not a file" in refusal(folder / "config.json")


def fail_listing(monkeypatch, error):
    def fail(_path):
        raise error

    monkeypatch.setattr(Path, "iterdir", fail)


def test_an_unreadable_folder_is_the_users_fault(folder, monkeypatch):
    fail_listing(monkeypatch, PermissionError(errno.EACCES, "Permission denied", str(folder)))
    assert "may read: Permission denied" in refusal(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_weight_file_is_the_users_fault(folder):
    (folder / "model.safetensors").chmod(0)
    assert "Permission denied" in refusal(folder)


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
def test_a_file_system_that_fails_is_tried_again(folder, monkeypatch, code):
    fail_listing(monkeypatch, OSError(code, os.strerror(code)))
    with pytest.raises(ModelUnavailable):
        resolve_model(str(folder))


class Hub(BaseHTTPRequestHandler):
    """A hub that answers every request in one way."""

    status, code = 404, "RepoNotFound"

    def do_GET(self):
        self.send_response(self.status)
        self.send_header("X-Error-Code", self.code)
        self.send_header("X-Error-Message", "the hub's words")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_arguments):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


ANSWERS = {
    "no such model": (404, "RepoNotFound", "exists on the hub"),
    "a private model or no token": (401, "RepoNotFound", "exists on the hub"),
    "a gated model": (403, "GatedRepo", "accept its terms"),
    "a wrong revision": (404, "RevisionNotFound", "a revision that exists"),
    "a wrong token": (401, "", "HF_TOKEN"),
    "a token without the right": (403, "", "HF_TOKEN"),
    "a disabled model": (403, "DisabledRepo", "HF_TOKEN"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_hubs_refusal_is_the_users_fault(hub, monkeypatch, name):
    status, code, words = ANSWERS[name]
    monkeypatch.setattr(Hub, "status", status)
    monkeypatch.setattr(Hub, "code", code)
    assert words in refusal("org/model", endpoint=hub)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_hub_that_fails_is_asked_again(hub, monkeypatch, status):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    monkeypatch.setattr(Hub, "status", status)
    monkeypatch.setattr(Hub, "code", "")
    with pytest.raises(ModelUnavailable, match="org/model"):
        resolve_model("org/model", endpoint=hub)


def test_a_hub_that_does_not_answer_is_asked_again(hub):  # noqa: ARG001 # its cache is empty
    with pytest.raises(ModelUnavailable, match="does not answer"):
        resolve_model("org/model", endpoint="http://127.0.0.1:9")


def test_offline_mode_is_the_users_choice(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refusal("org/model", endpoint=hub)


@pytest.mark.parametrize(
    ("error", "is_retried"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (PermissionError(errno.EACCES, "Permission denied", "/cache"), False),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/cache"), False),
    ],
)
def test_errors_of_the_hubs_cache(monkeypatch, error, is_retried):
    def fail(*_arguments, **_options):
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(ModelUnavailable if is_retried else InvalidRun):
        resolve_model("org/model")


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError("Error no file named model.safetensors found in directory"), InvalidRun),
        (ValueError("Unrecognized configuration class"), InvalidRun),
        (KeyError("llama9"), InvalidRun),
        (OSError(errno.ENOSPC, "No space left on device"), ModelUnavailable),
        (MemoryError(), MemoryError),
        (RuntimeError("CUDA error: out of memory"), RuntimeError),
    ],
)
def test_an_error_while_a_rank_loads_the_model(error, raised):
    with pytest.raises(raised), loading("/m", "the model"):
        raise error


def test_a_tokenizer_without_a_vocabulary_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    assert resolve_model(str(folder)) == folder, "by its files alone it has a tokenizer"
    with pytest.raises(InvalidRun, match=r"spec.model.source.*tokeniz"):
        load_tokenizer(folder, str(folder))


def test_the_rows_of_the_embedding(folder):
    assert vocab_size(folder) == 77
    (folder / "config.json").write_text('{"text_config": {"vocab_size": 9}}')
    assert vocab_size(folder) == 9
    (folder / "config.json").write_text("{}")
    assert vocab_size(folder) is None
