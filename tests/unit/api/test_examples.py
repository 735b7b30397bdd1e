"""The shipped examples are valid, and the paper's run is the paper's run."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from scalerl_api import Recipe, RLRun, parse_run
from scalerl_api.policies import Deadlines
from scalerl_operator.resources.pod import check_pods

EXAMPLES = Path(__file__).parents[3] / "examples"
FILES = sorted(EXAMPLES.glob("*.yaml"))


def load(name: str) -> RLRun:
    return parse_run(yaml.safe_load((EXAMPLES / name).read_text()))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_example_is_valid(path: Path) -> None:
    run = load(path.name)
    assert run.spec.generator.colocated or check_pods(run) == []


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


PAGES = ("policies", "gpu-cluster")
BLOCKS = [
    block
    for page in PAGES
    for block in re.findall(r"```yaml\n(.*?)```", (EXAMPLES.parent / f"docs/{page}.md").read_text(), re.DOTALL)
]


@pytest.mark.parametrize("block", BLOCKS, ids=[block.split(":", 1)[0] for block in BLOCKS])
def test_examples_on_the_pages_are_valid(block: str, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    run = parse_run(edit({f"spec.{name}": value for name, value in yaml.safe_load(block).items()}))
    assert check_pods(run) == []


def test_the_page_on_policies_states_the_default_bound_of_a_step() -> None:
    assert Deadlines().step_seconds == 20_400  # 5 h 40 min
    assert "5 h 10 min" in (EXAMPLES.parent / "docs/policies.md").read_text()
