"""The sizes of a model by each form of its source."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from scalerl_api import InvalidRun, RLRun
from scalerl_operator.capacity.published_models import find_published
from scalerl_operator.cli.capacity import model_config
from scalerl_operator.cli.capacity.model_config import find_shape

NAME, PARAMETERS = "Qwen/Qwen3-8B", 8_190_735_360


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize("source", [NAME, f"hf://{NAME}", f"hf://{NAME}@main"])
def test_a_hub_model_by_id_and_address(make_run: Callable[..., RLRun], source: str) -> None:
    assert find_shape(make_run(model={"source": source}), None, ask_hub=False).parameters == PARAMETERS


def test_a_folder_by_path_and_address(make_run: Callable[..., RLRun], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(dict(find_published(NAME) or {})))
    for source in (str(tmp_path), f"file://{tmp_path}"):
        assert find_shape(make_run(model={"source": source}), None, ask_hub=False).parameters == PARAMETERS


@pytest.mark.parametrize("folder", ["refs/v2", None])
def test_the_cache_has_the_revision_that_is_asked_for(
    make_run: Callable[..., RLRun], cache: Path, folder: str | None
) -> None:
    model = cache / "models--org--mine"
    (model / "snapshots" / "c0ffee").mkdir(parents=True)
    (model / "snapshots" / "c0ffee" / "config.json").write_text(json.dumps(dict(find_published(NAME) or {})))
    revision = "c0ffee"
    if folder is not None:
        (model / "refs").mkdir()
        (model / folder).write_text("c0ffee")
        revision = "v2"
    run = make_run(model={"source": f"hf://org/mine@{revision}"})
    assert find_shape(run, None, ask_hub=False).parameters == PARAMETERS
    with pytest.raises(InvalidRun, match="not known here"):
        find_shape(make_run(model={"source": "hf://org/mine@other"}), None, ask_hub=False)


def test_the_hub_is_never_asked_for_a_bucket(make_run: Callable[..., RLRun], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_config, "_fetch_config", lambda _: pytest.fail("asked the hub"))
    with pytest.raises(InvalidRun, match="--model-config"):
        find_shape(make_run(model={"source": "s3://bucket/model"}), None, ask_hub=True)
