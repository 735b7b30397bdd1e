"""Runs inside vLLM's worker process: forces the phrase when a completion's thinking budget is spent. I/O.

vLLM has a thinking budget of its own; each of its two model runners ends it otherwise: both force the phrase into the
answer in some completions, and count from another tag where thinking is opened twice. They know a tag as one fixed
sequence of tokens, too. This one is a logits processor, which vLLM's first model runner calls (note 063).
"""

from pathlib import Path
from typing import Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from scalerl_runtime.actors.generator import INTERRUPTION_TEXTS, REQUEST_BUDGET
from scalerl_runtime.algorithm.interruption import Interruption, ThinkingBudget
from scalerl_runtime.models.source import load_tokenizer

FORCED_LOGIT = 1e9  # as vLLM's own budget has it: finite, so that processed log-probabilities are


class ThinkingBudgetProcessor(LogitsProcessor):  # type: ignore[misc] # vllm is untyped here
    """Follows the completions of the batch that have a thinking budget."""

    def __init__(self, vllm_config: Any, _device: torch.device, _is_pin_memory: bool):
        folder = vllm_config.model_config.tokenizer
        tokenizer = load_tokenizer(Path(folder), folder)
        opens, closes, phrase = vllm_config.additional_config[INTERRUPTION_TEXTS]
        self._interruption = Interruption.build(opens, closes, phrase, tokenizer)
        self._rows: dict[int, tuple[ThinkingBudget, list[int]]] = {}

    def is_argmax_invariant(self) -> bool:
        """A forced token is another one than the most likely."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Follow the requests that came, moved and went; a preempted one comes back with the tokens it has."""
        process_dict_updates(self._rows, batch_update, self._follow)

    def _follow(
        self, parameters: Any, _prompt: list[int] | None, completion: list[int]
    ) -> tuple[ThinkingBudget, list[int]] | None:
        """`completion` is the engine's own list, which grows."""
        limits = (parameters.extra_args or {}).get(REQUEST_BUDGET)
        return None if limits is None else (ThinkingBudget(self._interruption, *limits), completion)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Make the forced tokens certain in `logits` [B, V], in place."""
        found = {row: budget.find_forced(tokens) for row, (budget, tokens) in self._rows.items()}
        forced = {row: token for row, token in found.items() if token is not None}
        if forced:
            places = torch.tensor([list(forced), list(forced.values())], device=logits.device)
            logits[places[0], places[1]] = FORCED_LOGIT
        return logits
