"""Loads every prompt of a run: training, held-out and downstream. I/O."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scalerl_api.data import DatasetSpec
from scalerl_api.recipe import Recipe
from scalerl_api.rlrun import RLRun
from scalerl_api.validation import Fault, InvalidRun
from scalerl_runtime.data.chat_template import check_template
from scalerl_runtime.data.datasets import LoadingContext, load_prompts
from scalerl_runtime.data.held_out import split_prompts
from scalerl_runtime.data.prompts import Tokenizer
from scalerl_runtime.data.rows import BuildReference, spell_reference
from scalerl_runtime.types import Prompt


@dataclass(frozen=True)
class Data:
    """Every prompt of a run."""

    train: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]  # texts are unique and not in `train`
    downstream: Mapping[str, tuple[Prompt, ...]]  # by name; no prompt is in `train`
    bad_rows: tuple[Fault, ...]  # skipped; at most `maxBadShare` of each source
    num_removed: int  # training rows with the text of a held-out or downstream prompt


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
    sources: list[tuple[str, DatasetSpec]] = [("spec.data.train", spec.train[0])]
    sources += [(f"spec.data.downstream[{index}]", each) for index, each in enumerate(spec.downstream)]
    context = LoadingContext(run, recipe, tokenizer, vocab_size, build_reference)
    loaded, bad_rows = [], []
    for number, (path, source) in enumerate(sources):
        prompts, bad = load_prompts(context, path, source, _derive_seed(seed, number))
        loaded.append(prompts)
        bad_rows += bad
    downstream = {each.name: tuple(prompts) for each, prompts in zip(spec.downstream, loaded[1:], strict=True)}
    split = split_prompts(
        loaded[0],
        num_held_out=spec.held_out.prompts,
        never_train=frozenset(prompt.text for prompts in downstream.values() for prompt in prompts),
        rng=np.random.default_rng(_derive_seed(seed, len(sources))),
    )
    _check_split(run, len(split.held_out), len(split.train))
    return Data(split.train, split.held_out, downstream, tuple(bad_rows), split.num_removed)


def _derive_seed(seed: int, number: int) -> int:
    """Return an unrelated seed for each number: reasoning_gym's row i of seed s is its row i - 1 of seed s + 1."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _check_split(run: RLRun, num_held_out: int, num_train: int) -> None:
    wanted = run.spec.data.held_out.prompts
    if num_held_out < wanted:
        allowed = f"less than the {num_held_out} different prompts of {run.spec.data.train[0].source}"
    elif num_train == 0:
        allowed = f"fewer: no prompt of {run.spec.data.train[0].source} is left to train on"
    else:
        return
    raise InvalidRun([Fault("spec.data.heldOut.prompts", str(wanted), allowed)])
