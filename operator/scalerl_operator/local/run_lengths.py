"""Lengths and shares of a run from the records in its folder. I/O."""

import json
from dataclasses import dataclass
from pathlib import Path

from scalerl_api import parse_run
from scalerl_api.recipe import Recipe
from scalerl_api.rollouts import ROLLOUTS
from scalerl_api.wire import METRICS_FILE
from scalerl_operator.capacity.lengths import Lengths, measured_lengths
from scalerl_operator.local.rollout_files import find_file, list_names, read_token_counts
from scalerl_operator.local.run_folder import RunFolder
from scalerl_operator.local.yaml_document import load_document

STEPS_READ = 20  # the newest


class NoRecords(Exception):
    """The folder has no steps to read lengths from."""


@dataclass(frozen=True)
class MeasuredRun:
    """The lengths and shares of a run's own steps."""

    lengths: Lengths
    trained_share: float
    """Of its completions, those in groups that entered the loss."""


def read_measured_run(folder: Path) -> MeasuredRun:
    """Return lengths and shares over the newest stored steps.

    Raises:
        NoRecords: nothing to read them from.
        UnreadableRollouts, NoParquet: of the stored completions.
        InvalidRun: of the folder's spec.
    """
    steps = sorted((name for name in list_names(folder) if name.dataset is None), key=lambda name: name.step)
    if not steps:
        raise NoRecords(f"{folder} has no stored completions: no {ROLLOUTS}/step-*.parquet")
    newest = steps[-STEPS_READ:]
    counts = [float(n) for name in newest for n in read_token_counts(find_file(folder, name)) if n]
    values = _read_values(folder / METRICS_FILE, {name.step for name in newest})
    if not counts or not values:
        raise NoRecords(f"{folder} has no completion of its newest {len(newest)} stored steps, or no metrics of them")
    recipe = _read_recipe(RunFolder(folder))
    kept = sum(each["effective_prompts"] for each in values) / len(values)
    packed = sum(each["train_seconds"] * each["trainer_tokens_per_second"] for each in values) / len(values)
    mean = sum(counts) / len(counts)
    # The packed rows hold the prompts too. Dropped groups may have other lengths, so this is an estimate.
    prompt = max(1.0, packed / (kept * recipe.completions_per_prompt) - mean) if kept else 1.0
    source = f"lengths of the newest {len(newest)} steps of {folder}"
    source += f": completions of {mean:,.0f} tokens, prompts of {prompt:,.0f}"
    return MeasuredRun(measured_lengths(counts, prompt, source), min(1.0, max(0.01, kept / recipe.prompts_per_step)))


def _read_recipe(folder: RunFolder) -> Recipe:
    return parse_run(load_document(folder.spec)).spec.resolved_recipe()


def _read_values(path: Path, steps: set[int]) -> list[dict[str, float]]:
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise NoRecords(f"{path} cannot be read: {error}") from error
    return [line["values"] for line in lines if line["step"] in steps]
