"""A server of S3's protocol, a bucket with a model, and their variables."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import object_stores as stores
import pytest
from object_stores import BUCKET, use
from safetensors.numpy import save_file

NUM_WEIGHTS = 300_000


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with stores.serve_s3(tmp_path_factory.mktemp("s3") / "log") as endpoint:
        yield endpoint


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with what a model needs, by its file headers."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "llama", "vocab_size": 77}')
    (path / "tokenizer.json").write_text("{}")
    save_file({"a": np.arange(NUM_WEIGHTS, dtype=np.float32)}, path / "model.safetensors")
    return path


@pytest.fixture
def bucket(s3: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The endpoint of a server whose bucket has the model in `a/model`; its variables are set, and the cache is new."""
    stores.reset_keys(s3, 10**9)
    client = stores.s3_client(s3)
    if BUCKET not in [each["Name"] for each in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=BUCKET)
    for each in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=each["Key"])
    stores.put_folder(s3, BUCKET, model, "a/model")
    use(monkeypatch, stores.s3_variables(s3))
    monkeypatch.setenv("SCALERL_CACHE", str(tmp_path / "cache"))
    return s3
