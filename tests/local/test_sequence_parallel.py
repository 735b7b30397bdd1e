"""Real ranks on the CPU that share packed rows: losses, log-probabilities and updates are those of one rank."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch

from scalerl_runtime.algorithm.loss import LossStats

sys.path.insert(0, str(Path(__file__).parent))
from rank_processes import run_ranks  # noqa: E402
from sequence_ranks import STEPS, train_cases  # noqa: E402

RANKS = 4
# Tokens of the sequences of each row. In four parts: sequences are cut, one fills three parts, another lies in all of
# them, the last part is padded, or is padding only, and parts have no target.
ROWS = [[20, 13, 30], [5, 50], [3, 2], [41]]
LORA = {"rank": 2, "alpha": 4.0}
CASES: dict[str, dict[str, Any]] = {
    "ZeRO 1": {"model": "qwen3", "stage": 1, "parts": 4},
    "ZeRO 2": {"model": "qwen3", "stage": 2, "parts": 2, "activations": "keep"},
    "ZeRO 3": {"model": "qwen3", "stage": 3, "parts": 4},
    "one key head; a ratio of sequences": {
        "model": "llama", "stage": 1, "parts": 4, "activations": "offload",
        "loss": {"kind": "gspo", "clip_low": 3e-4, "clip_high": 4e-4, "entropy_bonus": 0.1},
    },
    "windows and soft caps": {"model": "gemma2", "stage": 3, "parts": 2},
    "sinks, windows, replayed experts": {"model": "gpt_oss", "stage": 2, "parts": 4, "replay": True},
    "experts": {"model": "qwen3_moe", "stage": 3, "parts": 2},
    "experts, whole rows": {"model": "qwen3_moe", "stage": 3, "parts": 1},
    "adapters": {"model": "qwen2", "stage": 2, "parts": 2, "lora": LORA},
}  # fmt: skip
CHANGES: dict[str, dict[str, Any]] = {"llama": {"num_key_value_heads": 1}}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], list[dict[str, Any]]]]:
    """For every case: one rank with whole rows, and the first rank of each group."""
    folder = tmp_path_factory.mktemp("sequence")
    cases = {name: {**case, "rows": ROWS} for name, case in CASES.items()}
    for case in cases.values():
        family, path = case["model"], folder / case["model"]
        if not path.exists():
            tiny_models.save_model(path, family, **CHANGES.get(family, {}))
        case["model"] = str(path)
        if case.pop("replay", False):
            config = tiny_models.build_config(family)
            case["experts"] = [config.num_hidden_layers, config.num_local_experts, config.num_experts_per_tok]
    whole = {name: {**case, "parts": 1, "stage": 1} for name, case in cases.items()}
    (alone,), by_rank = run_cases(folder / "one.json", 1, whole), run_cases(folder / "parts.json", RANKS, cases)
    return {name: (alone[name], [each[name] for each in by_rank[:: case["parts"]]]) for name, case in cases.items()}


def run_cases(path: Path, ranks: int, cases: dict[str, Any]) -> list[dict[str, Any]]:
    path.write_text(json.dumps({"ranks": ranks, "cases": cases}))
    run_ranks(train_cases, path, [path.with_suffix(f".{rank}.log") for rank in range(ranks)], seconds=600)
    return [torch.load(path.with_suffix(f".{rank}.pt"), weights_only=False) for rank in range(ranks)]


@pytest.mark.parametrize("name", CASES)
def test_ranks_that_share_rows_train_as_one(found: Any, name: str) -> None:
    alone, groups = found[name]
    assert len(groups) == RANKS // CASES[name]["parts"]
    for step in range(STEPS):
        one, several = alone["steps"][step], [group["steps"][step] for group in groups]
        for row, expected in enumerate(one["before"]):
            logps = several[row % len(groups)]["before"][row // len(groups)]
            np.testing.assert_allclose(logps, expected, atol=1e-5, err_msg=f"log-probabilities of row {row}")
        stats = sum((each["stats"] for each in several), LossStats())
        assert vars(stats) == pytest.approx(vars(one["stats"]), rel=2e-5, abs=1e-5)
        assert sum(each["tokens"] for each in several) == sum(map(sum, ROWS)), "a token is counted once"
        assert [each["norm"] for each in several] == pytest.approx([one["norm"]] * len(groups), rel=1e-4)
    weights, expected = groups[0]["weights"], alone["weights"]
    assert set(weights) == set(expected)
    for key, value in expected.items():
        torch.testing.assert_close(weights[key], value, atol=5e-6, rtol=1e-5, msg=lambda m, key=key: f"{key}: {m}")
