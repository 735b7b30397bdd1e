"""The shipped examples are valid, and the paper's run is the paper's run."""

from pathlib import Path

import pytest
import yaml

from scalerl_api import Recipe, RLRun, parse_run

EXAMPLES = Path(__file__).parents[3] / "examples"
FILES = sorted(EXAMPLES.glob("*.yaml"))


def load(name: str) -> RLRun:
    return parse_run(yaml.safe_load((EXAMPLES / name).read_text()))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_example_is_valid(path: Path) -> None:
    load(path.name)


def test_8b_run_spells_out_the_preset() -> None:
    assert load("qwen3-8b-math.yaml").spec.resolved_recipe() == Recipe()


def test_8b_run_has_the_papers_machine_and_measurements() -> None:
    spec = load("qwen3-8b-math.yaml").spec
    assert spec.trainer.ranks == 16
    assert spec.generator.min_replicas * spec.generator.gpus_per_replica == 64
    assert (spec.data.held_out.prompts, spec.data.held_out.samples_per_prompt) == (1000, 16)
    assert spec.budget.eval_every_steps == 100
    assert spec.budget.steps == 7400


def test_one_gpu_run_leaves_the_trainer_room() -> None:
    spec = load("qwen3-0.6b-one-gpu.yaml").spec
    assert spec.trainer.ranks == spec.generator.gpus_per_replica == 1
    assert spec.generator.gpu_memory_share < 0.5
