"""Loads every prompt of a run: training, held-out and downstream. I/O."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from scalerl_api.data import DatasetSpec
from scalerl_api.recipe import Recipe
from scalerl_api.rlrun import RLRun
from scalerl_api.validation import Fault, InvalidRun
from scalerl_runtime.data.chat_template import check_template
from scalerl_runtime.data.datasets import LoadedSource, LoadingContext, load_prompts
from scalerl_runtime.data.held_out import Split, collect_keys, remove_near_duplicates, share_out, split_prompts
from scalerl_runtime.data.prompts import Tokenizer
from scalerl_runtime.data.rows import BuildReference, spell_reference
from scalerl_runtime.types import Prompt

log = logging.getLogger(__name__)

# Ids are unique over training sources and their validation sets: id = number of the source * SOURCE_IDS + row.
SOURCE_IDS = 1_000_000_000


@dataclass(frozen=True)
class SourceCounts:
    """How many rows of one source were read, and what became of them."""

    path: str  # in the spec
    label: str  # as its prompts carry it
    num_read: int
    num_bad: int
    cut: str  # words on the rows that `size` left out; empty: there are none
    num_held_out: int  # prompts that are never trained on
    num_train: int
    num_duplicates: int  # removed from training: near duplicates of held-out or downstream prompts


@dataclass(frozen=True)
class Data:
    """Every prompt of a run. A prompt's `source` says of which training source or downstream set it is."""

    train: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]  # of all sources; no near duplicate of one is in `train`
    downstream: Mapping[str, tuple[Prompt, ...]]  # by name; no near duplicate of a prompt is in `train`
    bad_rows: tuple[Fault, ...]  # skipped; at most `maxBadShare` of each source
    num_removed: int  # training rows that are near duplicates of a held-out or downstream prompt
    sources: tuple[SourceCounts, ...] = ()  # in the order of the spec

    @property
    def tested(self) -> tuple[Prompt, ...]:
        """Those that are never trained on."""
        return (*self.held_out, *(each for prompts in self.downstream.values() for each in prompts))

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """All of them."""
        return (*self.train, *self.tested)


@dataclass(frozen=True)
class _Loaded:
    """Every source as it was read, by its path in the spec."""

    sources: Mapping[str, LoadedSource]

    @property
    def bad_rows(self) -> tuple[Fault, ...]:
        return tuple(fault for each in self.sources.values() for fault in each.bad_rows)


def load_data(
    run: RLRun,
    recipe: Recipe,
    tokenizer: Tokenizer,
    seed: int,
    *,
    vocab_size: int | None = None,
    build_reference: BuildReference = spell_reference,
) -> Data:
    """Read every source of the run. The same seed gives the same prompts, ids and split.

    Args:
        run, recipe, tokenizer: of the run.
        seed: of generated tasks and of the split.
        vocab_size: rows of the model's embedding; None: unknown.
        build_reference: the verifiers' reading of an answer.

    Raises InvalidRun with a fault per cause, DataUnavailable if the hub does not respond.
    """
    spec = run.spec.data
    if spec.prompt_format == "chat":
        check_template(tokenizer, spec)
    loaded = _load_sources(LoadingContext(run, recipe, tokenizer, vocab_size, build_reference), seed)
    splits = [_split_source(run, loaded, index, seed) for index in range(len(spec.train))]
    downstream = {
        each.name: tuple(loaded.sources[f"spec.data.downstream[{index}]"].prompts)
        for index, each in enumerate(spec.downstream)
    }
    held_out = tuple(prompt for split in splits for prompt in split.held_out)
    tested = [*held_out, *(prompt for prompts in downstream.values() for prompt in prompts)]
    keys = collect_keys(tested)
    kept = [remove_near_duplicates(split.rest, keys) for split in splits]
    for index, (split, train) in enumerate(zip(splits, kept, strict=True)):
        if not train:
            raise InvalidRun([_name_empty(run, index, split)])
        log.info("%s: %s", spec.train_path(index), _describe(split, len(train)))
    num_removed = sum(len(split.rest) - len(train) for split, train in zip(splits, kept, strict=True))
    every = tuple(prompt for prompts in kept for prompt in prompts)
    counts = tuple(_count_sources(run, loaded, splits, kept))
    return Data(every, held_out, downstream, loaded.bad_rows, num_removed, counts)


def _count_sources(
    run: RLRun, loaded: _Loaded, splits: Sequence[Split], kept: Sequence[Sequence[Prompt]]
) -> Iterator[SourceCounts]:
    """Yield the counts of every source; `splits`, `kept`: of each training source."""
    train = {run.spec.data.train_path(index): index for index in range(len(run.spec.data.train))}
    for path, source in run.spec.data.sources:
        found = loaded.sources[path]
        index = train.get(path)
        num_train = len(kept[index]) if index is not None else 0
        num_rest = len(splits[index].rest) if index is not None else 0
        yield SourceCounts(
            path=path,
            label=found.prompts[0].source if found.prompts else source.label,
            num_read=found.num_read,
            num_bad=len(found.bad_rows),
            cut=found.cut,
            num_held_out=len(found.prompts) - num_rest,
            num_train=num_train,
            num_duplicates=num_rest - num_train,
        )


def _load_sources(context: LoadingContext, seed: int) -> _Loaded:
    sources: dict[str, LoadedSource] = {}
    for number, path, source, first_id, label in _list_sources(context.run):
        found = load_prompts(context, path, source, derive_seed(seed, number))
        prompts = [replace(prompt, id=first_id + prompt.id, source=label) for prompt in found.prompts]
        sources[path] = replace(found, prompts=prompts)
    assert set(sources) == {path for path, _ in context.run.spec.data.sources}, "every source is loaded once"
    return _Loaded(sources)


def _list_sources(run: RLRun) -> list[tuple[int, str, DatasetSpec, int, str]]:
    """Return every source: the number of its seed, its path, its spec, its first id and the name of its results.

    The numbers of a run with one training source are those of earlier versions, whose checkpoints must fit.
    """
    spec = run.spec.data
    num_train, num_downstream = len(spec.train), len(spec.downstream)
    sources = dict(spec.sources)
    found = []
    for index, each in enumerate(spec.train):
        path = spec.train_path(index)
        found.append((index, path, sources[path], index * SOURCE_IDS, each.label))
        if each.validation is not None:
            number = 2 * num_train + num_downstream + index
            path = f"{path}.validation"
            found.append((number, path, sources[path], (num_train + index) * SOURCE_IDS, each.label))
    for index, test in enumerate(spec.downstream):
        path = f"spec.data.downstream[{index}]"
        found.append((num_train + index, path, sources[path], 0, test.label))
    return found


def _split_source(run: RLRun, loaded: _Loaded, index: int, seed: int) -> Split:
    """Return one training source's prompts, split. Raises InvalidRun if it has too few different ones."""
    spec = run.spec.data
    path, source = spec.train_path(index), spec.train[index]
    prompts = loaded.sources[path].prompts
    if source.validation is not None:
        return Split(tuple(prompts), tuple(loaded.sources[f"{path}.validation"].prompts))
    wanted = plan_held_out(run)[index]
    number = len(spec.train) + len(spec.downstream) + index
    split = split_prompts(prompts, num_held_out=wanted, rng=np.random.default_rng(derive_seed(seed, number)))
    if len(split.held_out) < wanted:
        allowed = f"less than the {len(split.held_out)} different prompts of {source.source}"
        raise InvalidRun([Fault(_held_out_path(run, index), str(wanted), allowed)])
    return split


def plan_held_out(run: RLRun) -> list[int]:
    """Return the number of prompts to split off from each training source; 0: it has a validation set."""
    spec = run.spec.data
    shared = [index for index, each in enumerate(spec.train) if each.validation is None and each.held_out is None]
    parts = share_out(spec.held_out.prompts, [spec.train[index].weight for index in shared]) if shared else []
    counts = [0 if each.validation is not None else each.held_out or 0 for each in spec.train]
    for index, part in zip(shared, parts, strict=True):
        counts[index] = part
    return counts


def derive_seed(seed: int, number: int) -> int:
    """Return an unrelated seed for each number: reasoning_gym's row i of seed s is its row i - 1 of seed s + 1."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _held_out_path(run: RLRun, index: int) -> str:
    data = run.spec.data
    is_own = data.train[index].held_out is not None
    return f"{data.train_path(index)}.heldOut" if is_own else "spec.data.heldOut.prompts"


def _name_empty(run: RLRun, index: int, split: Split) -> Fault:
    """Return the fault of a source of which nothing is left to train on."""
    spec = run.spec.data
    source = spec.train[index].source
    if source and spec.train[index].validation is not None:
        allowed = "a prompt that is in no validation or downstream set, in any spelling"
        return Fault(f"{spec.train_path(index)}.source", source, allowed)
    allowed = f"fewer: no prompt of {source} is left to train on"
    return Fault(_held_out_path(run, index), str(len(split.held_out)), allowed)


def _describe(split: Split, num_train: int) -> str:
    removed = len(split.rest) - num_train
    text = f"{num_train} training and {len(split.held_out)} held-out prompts"
    return f"{text}; {removed} near duplicates of held-out or downstream prompts are removed" if removed else text
