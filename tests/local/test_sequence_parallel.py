"""Real ranks on the CPU that share packed rows: losses, log-probabilities and updates are one rank's."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch

sys.path.insert(0, str(Path(__file__).parent))
from rank_processes import run_ranks  # noqa: E402
from sequence_ranks import STEPS, train_cases  # noqa: E402

RANKS = 4
# Tokens of the sequences of each row. Four parts: all of them cut a sequence, one sequence fills three parts, parts are
# padded, a part is padding only, a part has no target, a row is one sequence.
ROWS = [[20, 13, 30], [5, 50], [3, 2], [41]]
MODELS = {
    "qwen3": {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16},
    "gemma2": {},  # windows, soft caps
    "gpt_oss": {},  # sinks, windows, experts
    "qwen3_moe": {},
}
LORA = {"rank": 2, "alpha": 4.0}
"""What is trained, by name: `parts` ranks share a row."""
CASES: dict[str, dict[str, Any]] = {
    "ZeRO 1": {"model": "qwen3", "stage": 1},
    "ZeRO 2, everything kept": {"model": "qwen3", "stage": 2, "activations": "keep"},
    "ZeRO 3": {"model": "qwen3", "stage": 3},
}
