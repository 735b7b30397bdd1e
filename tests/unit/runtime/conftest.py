"""Fixtures of several packages: a checkpoint of the older layout, without DeepSpeed."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from scalerl_api.rlrun import ScratchModel
from scalerl_runtime.data.scratch_model import make_scratch_model
from scalerl_runtime.export.model_files import save_config, save_model_files
from scalerl_runtime.storage.checkpoint import CheckpointStore, RunState

QUICKSTART = Path(__file__).parents[3] / "examples" / "quickstart.yaml"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("scratch") / "model"
    make_scratch_model(folder, ScratchModel(hidden_size=32, layers=2, heads=2, kv_heads=1), context_tokens=64, seed=5)
    return SimpleNamespace(
        model=AutoModelForCausalLM.from_pretrained(folder), tokenizer=AutoTokenizer.from_pretrained(folder)
    )


@pytest.fixture
def run_folder(tmp_path: Path, scratch: SimpleNamespace) -> Path:
    """A run's folder without checkpoints; its spec is the quickstart's."""
    folder = tmp_path / "run"
    folder.mkdir()
    spec = yaml.safe_load(QUICKSTART.read_text())
    spec["spec"]["trainer"]["template"] = {"spec": {"containers": [{"name": "x", "env": [{"name": "KEY"}]}]}}
    (folder / "run.yaml").write_text(yaml.safe_dump(spec))
    save_model_files(folder / "model-parts", scratch.tokenizer, yaml.safe_dump(spec), [1, 7])
    return folder


@pytest.fixture
def store(run_folder: Path) -> CheckpointStore:
    return CheckpointStore(run_folder / "checkpoints", 2, run_folder / "model-parts")


@pytest.fixture
def save_step(scratch: SimpleNamespace, store: CheckpointStore) -> Callable[[int], Path]:
    """`save_step(N)`: the checkpoint of step N, in which every weight is shifted by N."""

    def save(step: int) -> Path:
        part = store.begin(step)
        (part / "deepspeed").mkdir()
        shifted = {f"model.{name}": value for name, value in shift(scratch.model.state_dict(), step).items()}
        torch.save({"module": shifted}, part / "deepspeed" / "mp_rank_00_model_states.pt")
        torch.save({}, part / "deepspeed" / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
        save_config(scratch.model, part, "float32")
        return store.commit(part, [], RunState(step, 0, 0.0), [], frozenset())

    return save


def shift(state: dict[str, torch.Tensor], step: int) -> dict[str, torch.Tensor]:
    """The same tensors plus `step`; those that were tied stay so."""
    shifted: dict[int, torch.Tensor] = {}
    return {name: shifted.setdefault(value.data_ptr(), value + step) for name, value in state.items()}
