"""kill -9 of the coordinator or a trainer at each phase of a run; killed_run.py says what must hold."""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from scalerl_api.rlrun import ScratchModel
from scalerl_runtime.actors.generator import Generator
from scalerl_runtime.data.scratch_model import make_scratch_model

sys.path.insert(0, str(Path(__file__).parent))
from killed_run import check_killed_run  # noqa: E402
from stand_in_generator import StandInGenerator  # noqa: E402


def test_the_stand_in_has_the_generators_calls() -> None:
    for name, call in inspect.getmembers(StandInGenerator, inspect.isfunction):
        if not name.startswith("_"):
            assert [*inspect.signature(call).parameters] == [*inspect.signature(getattr(Generator, name)).parameters]


SMALL = Path(__file__).with_name("small.yaml")


def adapters_of(folder: Path) -> dict[str, Any]:
    """The small run's model in `folder`, and the spec that trains adapters of it."""
    sizes = yaml.safe_load(SMALL.read_text())["spec"]["model"]["scratch"]
    make_scratch_model(folder, ScratchModel.model_validate(sizes), context_tokens=128, seed=0)
    return {"model": {"source": str(folder), "scratch": None, "lora": {"rank": 4}}}


@pytest.mark.timeout(2400)
@pytest.mark.parametrize(("victim", "has_adapters"), [("coordinator", False), ("trainer", True)])
def test_resume_matrix(
    victim: str,
    has_adapters: bool,
    tmp_path: Path,
    write_run: Callable[[dict[str, Any]], Path],
    lines: Callable[[Path], list[dict[str, Any]]],
) -> None:
    changes = adapters_of(tmp_path / "base") if has_adapters else {}
    check_killed_run(victim, tmp_path, write_run, lines, changes=changes)
    if has_adapters:
        assert (tmp_path / "run" / "model-final" / "adapter_model.safetensors").is_file()
