"""The gate: whether trainer and engine can represent a model, decided from its files before anything starts. I/O.

A check is a function from a `Candidate` to faults, PURE but for `models/load.py`; `CHECKS` is the list of them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from scalerl_api import Fault, InvalidRun, RLRun
from scalerl_api.recipe import Recipe
from scalerl_runtime.models.source import FIELD
from scalerl_runtime.models.tokenizer import check_tokenizer


@dataclass(frozen=True)
class Candidate:
    """A model that a run names, as far as its small files tell: no weights are loaded."""

    run: RLRun
    recipe: Recipe
    source: str  # folder or hub id
    config: Any  # transformers' configuration, of the whole model where that has several parts
    tokenizer: Any  # transformers' tokenizer
    generation_eos: tuple[int, ...] = ()  # tokens that end a completion by the model's generation config

    def fault(self, found: str, allowed: str) -> Fault:
        """A fault of the field that names the model."""
        return Fault(FIELD, f"{self.source}: {found}", allowed)


Check = Callable[[Candidate], Iterable[Fault]]


def check_context(candidate: Candidate) -> Iterable[Fault]:
    """Prompt, thinking and answer must fit into the model's positions."""
    wanted = candidate.recipe.length.sequence_tokens
    text = candidate.config.get_text_config()
    have = getattr(text, "max_position_embeddings", None)
    if isinstance(have, int) and wanted > have:
        found = f"{have} positions, but promptTokens + thinkTokens + answerTokens are {wanted}"
        yield candidate.fault(found, f"shorter lengths in recipe.length, {have} in all, or a model with more positions")


def check_tokens(candidate: Candidate) -> Iterable[Fault]:
    """The tokenizer spells the run's tags and phrase, and a completion can end."""
    rows = getattr(candidate.config.get_text_config(), "vocab_size", None)
    data, recipe = candidate.run.spec.data, candidate.recipe
    return check_tokenizer(candidate.tokenizer, data, recipe, candidate.generation_eos, rows)


# Each is called with every candidate; the faults of all are reported together.
CHECKS: tuple[Check, ...] = (check_context, check_tokens)


def find_faults(candidate: Candidate) -> tuple[Fault, ...]:
    """Return the faults that the checks find."""
    return tuple(fault for check in CHECKS for fault in check(candidate))


def require_model(candidate: Candidate) -> None:
    """Raise InvalidRun with every fault that the checks find."""
    if faults := find_faults(candidate):
        raise InvalidRun(faults)
