"""A real pre-trained chat model, SmolLM2-135M-Instruct, learns a real task in ten steps on the real components."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from chat_model import chat_model_folder

from scalerl_api.recipe import merge
from scalerl_operator.cli.main import main

EXAMPLE = Path(__file__).parents[2] / "examples/smollm2-135m.yaml"
# A tenth of the example: half the prompts of a step, at three times the rate.
SHORT = {
    "recipe": {"promptsPerStep": 12, "optimizer": {"learningRate": 3.0e-5, "warmupSteps": 2}},
    "data": {"heldOut": {"prompts": 128, "samplesPerPrompt": 2}},
    "budget": {"steps": 10, "evalEverySteps": 10},
    "generator": {"maxSequences": 128},
    "failurePolicy": {"maxRestarts": 0},
}


@pytest.mark.timeout(1800)
def test_pass_rate_rises_in_ten_steps(tmp_path: Path, lines: Callable[[Path], list[dict[str, Any]]]) -> None:
    document = merge(yaml.safe_load(EXAMPLE.read_text()), {"spec": SHORT})
    document["spec"]["model"]["source"] = str(chat_model_folder())
    run_file, folder = tmp_path / "run.yaml", tmp_path / "run"
    run_file.write_text(yaml.safe_dump(document))
    assert main(["run", str(run_file), "--folder", str(folder), "--quiet"]) == 0, (
        folder / "coordinator.log"
    ).read_text()
    first, last = lines(folder / "evals.jsonl")
    noise = (first["standardError"] ** 2 + last["standardError"] ** 2) ** 0.5
    assert last["passRate"] > first["passRate"] + 2 * noise
    trained = [line["values"] for line in lines(folder / "metrics.jsonl")]
    assert all(values["grad_norm"] > 0 for values in trained)
    # bfloat16 on both sides, which multiply in another order: small, and no step grows it.
    fresh = [values["mismatch_kl"] for values in trained if values["lag_max"] == 0]
    assert fresh
    assert all(kl < 5e-3 for kl in fresh)
