"""The chat template's markup around an environment's observation, as tokens. PURE."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from scalerl_api.data import DataSpec
from scalerl_api.validation import Fault, InvalidRun
from scalerl_runtime.data.chat_template import TEMPLATE_ERRORS, ChatTokenizer
from scalerl_runtime.hub import first_line
from scalerl_runtime.think_tags import Decoder

# Texts that no template changes: a first question, the policy's turn, an observation.
PROBES = ("7f3a9c", "c5e1d8", "b2a604")
ALLOWED = "a model whose template takes a user's turn after the assistant's, or plain"


class TurnTokenizer(ChatTokenizer, Decoder, Protocol):
    """The used part of a Hugging Face tokenizer."""

    def encode(self, text: str, *, add_special_tokens: bool, split_special_tokens: bool = False) -> list[int]:
        """Return the tokens of `text`; `split_special_tokens`: spell out a special token that it names."""
        ...


@dataclass(frozen=True)
class TurnMarkup:
    """The texts around an observation, tokenised once. They are empty with `promptFormat: plain`."""

    before: tuple[int, ...]  # after the token that ended the policy's turn
    after: tuple[int, ...]  # opens the policy's next turn
    before_text: str
    after_text: str


def build_turn_markup(data: DataSpec, tokenizer: TurnTokenizer, stop_ids: Collection[int]) -> TurnMarkup:
    """Return the markup of a run's observations.

    The policy's turn has the token that ended it, one of `stop_ids`, so the template's own is left out. Raises
    InvalidRun for a template that refuses the turns or drops one.
    """
    if data.prompt_format == "plain":
        return TurnMarkup((), (), "", "")
    roles = ("user", "assistant", "user")
    turns = [{"role": role, "content": text} for role, text in zip(roles, PROBES, strict=True)]
    try:
        text = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, **data.template_arguments
        )
    except (*TEMPLATE_ERRORS, ValueError) as error:
        found = f"{ALLOWED}; it raises {type(error).__name__}: {first_line(error)}"
        raise InvalidRun([Fault("spec.data.promptFormat", "chat", found)]) from error
    _, policy, rest = text.partition(PROBES[1])
    before, observation, after = rest.partition(PROBES[2])
    if not policy or not observation:
        raise InvalidRun([Fault("spec.data.promptFormat", "chat", f"{ALLOWED}; it drops a turn")])
    # Blanks may stand before the token that ends a turn; the policy has ended its turn already.
    ids = tokenizer.encode(before.lstrip(), add_special_tokens=False)
    kept = ids[1:] if ids and ids[0] in stop_ids else ids
    return TurnMarkup(tuple(kept), tuple(tokenizer.encode(after, add_special_tokens=False)), before, after)
