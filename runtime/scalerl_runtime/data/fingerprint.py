"""Digests of a run's data, tokenizer and model, which a checkpoint stores, and how two of them differ. PURE."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scalerl_runtime.data.run_data import Data
from scalerl_runtime.types import Prompt

TRAIN, HELD_OUT = "train", "heldOut"
COLUMNS = ("ids", "prompts", "references")

Columns = dict[str, NDArray[Any]]


class TokenizerParts(Protocol):
    """The part of a tokenizer that enters its digest."""

    chat_template: Any

    def get_vocab(self) -> dict[str, int]:
        """Return the id of every token."""
        ...


@dataclass(frozen=True)
class Fingerprint:
    """The digests of a run's inputs."""

    model: str  # its source and its config.json
    tokenizer: str  # its vocabulary and its chat template
    data: Mapping[str, str]  # by set: ids, prompts and references, in order

    @property
    def data_key(self) -> str:
        """Digest of all sets together."""
        return _digest(json.dumps(sorted(self.data.items())).encode()).hex()

    @property
    def key(self) -> str:
        """Digest of all inputs together."""
        return _digest(self.model.encode(), self.tokenizer.encode(), self.data_key.encode()).hex()

    def to_dict(self) -> dict[str, object]:
        """Return a JSON-able value for `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> "Fingerprint":
        """Return what `to_dict` described. Raises ValueError on anything else."""
        match data:
            case {"model": str(model), "tokenizer": str(tokenizer), "data": dict(sets)}:
                return cls(model, tokenizer, {str(name): str(value) for name, value in sets.items()})
        raise ValueError(f"fingerprint has keys {sorted(data)}; need model, tokenizer, data")


@dataclass(frozen=True)
class PromptDigests:
    """The prompts of one set, one entry each: enough to count what changed."""

    ids: NDArray[np.int64]
    prompts: NDArray[np.uint64]  # digest of the prompt
    references: NDArray[np.uint64]  # digest of its reference

    def by_content(self) -> dict[tuple[int, int], int]:
        """Return the id of each pair of prompt and reference; of equal pairs the last."""
        pairs = zip(self.prompts.tolist(), self.references.tolist(), strict=True)
        return dict(zip(pairs, self.ids.tolist(), strict=True))


DataDigests = Mapping[str, PromptDigests]  # by set


def digest_data(data: Data) -> dict[str, PromptDigests]:
    """Return the digests of every prompt of a run, by set."""
    sets = {TRAIN: data.train, HELD_OUT: data.held_out}
    sets |= {f"downstream {name}": prompts for name, prompts in data.downstream.items()}
    return {name: _digest_prompts(prompts) for name, prompts in sets.items()}


def digests_to_columns(digests: DataDigests) -> Columns:
    """Return the digests as named arrays, which a file can store."""
    return {f"{name}/{column}": getattr(each, column) for name, each in digests.items() for column in COLUMNS}


def columns_to_digests(columns: Mapping[str, NDArray[Any]]) -> dict[str, PromptDigests]:
    """Inverse of `digests_to_columns`."""
    names = dict.fromkeys(key.rpartition("/")[0] for key in columns)
    return {name: PromptDigests(*(columns[f"{name}/{column}"] for column in COLUMNS)) for name in names}


def build_fingerprint(digests: DataDigests, *, model: str, tokenizer: str) -> Fingerprint:
    """Return the fingerprint of a run with these prompts."""
    return Fingerprint(model, tokenizer, {name: _digest_set(each) for name, each in digests.items()})


def digest_model(source: str, config: bytes, *weights: bytes) -> str:
    """Return the digest of a model: its `source` in the spec, and the file that describes its architecture.

    `weights`: a digest of them, where a checkpoint does not hold them: that of adapters.
    """
    return _digest(source.encode(), config, *weights).hex()


def digest_tokenizer(vocabulary: Mapping[str, int], chat_template: object) -> str:
    """Return the digest of a tokenizer; `chat_template`: a text, several by name, or None."""
    ordered = json.dumps(sorted(vocabulary.items(), key=lambda item: (item[1], item[0])))
    return _digest(ordered.encode(), json.dumps(chat_template, default=str).encode()).hex()


def _digest_prompts(prompts: Sequence[Prompt]) -> PromptDigests:
    return PromptDigests(
        np.array([prompt.id for prompt in prompts], dtype=np.int64),
        _to_numbers(prompt.question or prompt.text for prompt in prompts),
        _to_numbers(prompt.answer for prompt in prompts),
    )


def _to_numbers(texts: Iterable[str]) -> NDArray[np.uint64]:
    return np.array([int.from_bytes(_digest(text.encode())[:8]) for text in texts], dtype=np.uint64)


def _digest_set(digests: PromptDigests) -> str:
    return _digest(digests.ids.tobytes(), digests.prompts.tobytes(), digests.references.tobytes()).hex()


def _digest(*parts: bytes) -> bytes:
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(len(part).to_bytes(8))
        found.update(part)
    return found.digest()


@dataclass(frozen=True)
class Change:
    """How a run's inputs differ from those of its checkpoint."""

    lines: tuple[str, ...]  # one for each part that differs
    same_ids: frozenset[int]  # of training prompts whose id, prompt and reference are as they were


def find_change(old: Fingerprint, new: Fingerprint, before: DataDigests | None, after: DataDigests) -> Change | None:
    """Return how the run's inputs differ from those of its checkpoint; None if they do not.

    `before`: the digests of the checkpoint's prompts; None: they are not stored, so that nothing can be counted.
    """
    lines = [name for name, is_same in _compare_parts(old, new) if not is_same]
    for name in sorted({*old.data, *new.data}, key=lambda name: (name != TRAIN, name != HELD_OUT, name)):
        if old.data.get(name) != new.data.get(name):
            known = before or {}
            lines.append(f"{name}: {_describe_set(known.get(name), after.get(name), is_old=name in old.data)}")
    if not lines:
        return None
    moved = _count_moved(before, after) if before is not None else 0
    if moved:
        lines.append(f"{moved} held-out prompts are such that were trained on")
    was, now = (before or {}).get(TRAIN), after[TRAIN]
    same = _rows(was) & _rows(now) if was is not None else set()
    return Change(tuple(lines), frozenset(each for each, _, _ in same))


def _compare_parts(old: Fingerprint, new: Fingerprint) -> list[tuple[str, bool]]:
    return [
        ("another model (model.source, its config.json, or the weights below adapters)", old.model == new.model),
        ("another tokenizer (its vocabulary or its chat template)", old.tokenizer == new.tokenizer),
    ]


def _describe_set(before: PromptDigests | None, after: PromptDigests | None, *, is_old: bool) -> str:
    """Return the counts of one set's added, removed and changed prompts."""
    if after is None:
        return "the set is gone"
    if not is_old:
        return "the set is new"
    if before is None:
        return f"other prompts, {len(after.ids)} now"
    old, new = before.by_content(), after.by_content()
    gone, come = {prompt for prompt, _ in old.keys() - new.keys()}, {prompt for prompt, _ in new.keys() - old.keys()}
    parts = [
        f"{len(come - gone)} prompts added",
        f"{len(gone - come)} removed",
        f"{len(come & gone)} with another reference",
    ]
    moved = sum(old[each] != new[each] for each in old.keys() & new.keys())
    return ", ".join([*parts, f"{moved} at another row"] if moved else parts)


def _count_moved(before: DataDigests, after: DataDigests) -> int:
    """Return the number of present held-out prompts that were training prompts."""
    if TRAIN not in before or HELD_OUT not in after:
        return 0
    return len(set(before[TRAIN].prompts.tolist()) & set(after[HELD_OUT].prompts.tolist()))


def _rows(digests: PromptDigests) -> set[tuple[int, int, int]]:
    return set(zip(digests.ids.tolist(), digests.prompts.tolist(), digests.references.tolist(), strict=True))
