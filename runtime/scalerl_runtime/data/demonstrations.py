"""Demonstrations for the warm start: traces of generated tasks, or pairs from a file. I/O at loading only."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scalerl_api.data import GENERATED, DatasetSpec
from scalerl_api.recipe import ThinkTags
from scalerl_api.rlrun import RLRun, WarmStartSpec
from scalerl_api.validation import Fault, InvalidRun
from scalerl_runtime.data.datasets import check_bad_share, check_columns, parse_records, read_records
from scalerl_runtime.data.held_out import collect_keys
from scalerl_runtime.data.near_duplicates import prompt_key
from scalerl_runtime.data.prompts import Tokenizer, parse_entry_answer, render_rows
from scalerl_runtime.data.rows import bind_verifiers, spell_reference
from scalerl_runtime.data.run_data import Data
from scalerl_runtime.data.worked_answers import WorkedAnswer, check_task, miss_answer, write_trace
from scalerl_runtime.types import Ints, Prompt

# A wrong number can be a digit or a sign longer than the right one: at most two tokens with any tokenizer.
WRONG_ANSWER_TOKENS = 2


@dataclass(frozen=True)
class Demonstration:
    """A prompt and the completion to learn."""

    tokens: Ints  # [T] prompt, completion, end of sequence
    loss_from: int  # tokens[loss_from:] enter the loss; the prompt precedes them


@dataclass(frozen=True)
class Pair:
    """A prompt and its right completion; with a trace, a wrong completion can be made too."""

    prompt: Prompt
    completion: str
    trace: WorkedAnswer | None = None


@dataclass(frozen=True)
class CompletionStyle:
    """How completions are written: with the tags of the run's thinking, and ended by a token that ends a completion."""

    tokenizer: Tokenizer
    tags: ThinkTags
    stop_id: int

    def build(self, prompt: Prompt, thinking: str, answer: str) -> str:
        """Return `<think>thinking</think>answer`; without `<think>` if the prompt opened the thinking."""
        opening = self.tags.open if prompt.think_tokens is None else ""
        return f"{opening}{thinking}{self.tags.close}{answer}"

    def encode(self, completions: Sequence[str]) -> list[Ints]:
        """Return the tokens of every completion, each with its end."""
        ids = self.tokenizer(list(completions), add_special_tokens=False)["input_ids"]
        return [np.array([*each, self.stop_id], dtype=np.int32) for each in ids]


class DemonstrationSource:
    """The batches of the warm start. A batch depends on seed and step only, so a resumed stage gets the same ones."""

    def __init__(self, pairs: Sequence[Pair], spec: WarmStartSpec, style: CompletionStyle, *, seed: int):
        self.pairs = tuple(pairs)
        self._spec = spec
        self._style = style
        self._seed = seed

    def batch(self, step: int, size: int) -> list[Demonstration]:
        """Return `size` demonstrations for `step`, from 0; in the last `wrongSteps`, `wrongShare` of them are wrong."""
        rng = np.random.default_rng([self._seed, step])
        wrong_share = self._spec.wrong_share if step >= self._spec.steps - self._spec.wrong_steps else 0.0
        chosen = [self.pairs[index] for index in rng.integers(len(self.pairs), size=size)]
        completions = [
            pair.completion
            if pair.trace is None or rng.random() >= wrong_share
            else self._style.build(pair.prompt, pair.trace.thinking, miss_answer(pair.trace.answer, rng))
            for pair in chosen
        ]
        encoded = self._style.encode(completions)
        return [
            Demonstration(np.concatenate([pair.prompt.tokens, tokens]), loss_from=pair.prompt.tokens.size)
            for pair, tokens in zip(chosen, encoded, strict=True)
        ]


def load_demonstrations(
    run: RLRun, tokenizer: Tokenizer, data: Data, rng: np.random.Generator, *, stop_id: int
) -> DemonstrationSource:
    """Return the demonstrations of `run`. Held-out and downstream prompts are never among them.

    `rng` gives one number, the seed of all batches; `stop_id` ends every completion. Raises InvalidRun.
    """
    spec = run.spec.warm_start
    assert spec is not None, "only a run with a warm start has demonstrations"
    style = CompletionStyle(tokenizer, run.spec.resolved_recipe().length.think_tags, stop_id)
    generated = spec.source.startswith(GENERATED)
    pairs = _write_pairs(run, spec, data, style) if generated else _read_pairs(run, spec, style)
    never_train = collect_keys(data.tested)
    pairs = [pair for pair in pairs if prompt_key(pair.prompt) not in never_train]
    fitting = _select_fitting(pairs, run.spec.resolved_recipe().length.completion_tokens, style)
    if not fitting:
        allowed = f"one demonstration that is not held out and fits in thinkTokens + answerTokens; {len(pairs)} seen"
        raise InvalidRun([Fault("spec.warmStart.source", spec.source, allowed)])
    return DemonstrationSource(fitting, spec, style, seed=int(rng.integers(2**63)))


def _select_fitting(pairs: Sequence[Pair], max_tokens: int, style: CompletionStyle) -> list[Pair]:
    """Drop what a micro-batch need not have room for; what is cut would teach to stop without an answer."""
    if not pairs:
        return []
    lengths = [tokens.size for tokens in style.encode([pair.completion for pair in pairs])]
    extra = [0 if pair.trace is None else WRONG_ANSWER_TOKENS for pair in pairs]
    return [pair for pair, length, more in zip(pairs, lengths, extra, strict=True) if length + more <= max_tokens]


def _write_pairs(run: RLRun, spec: WarmStartSpec, data: Data, style: CompletionStyle) -> list[Pair]:
    fault = check_task(spec.source.removeprefix(GENERATED), "spec.warmStart.source")
    sources = [each for each in run.spec.data.train if each.source == spec.source]
    if fault is None and not sources:
        known = ", ".join(each.source for each in run.spec.data.train)
        fault = Fault("spec.warmStart.source", spec.source, f"data.train.source ({known}) or a file")
    judges = [each.verifier for source in sources for each in run.spec.judges_of(source)]
    if fault is None and set(judges) != {"reasoning_gym"}:
        fault = Fault("spec.reward.verifier", ", ".join(judges), f"reasoning_gym with warmStart {spec.source}")
    if fault is not None:
        raise InvalidRun([fault])
    names = {each.label for each in sources}
    prompts = [prompt for prompt in data.train if prompt.source in names]
    traces = [write_trace(parse_entry_answer(prompt.answer)) for prompt in prompts]
    return [
        Pair(prompt, style.build(prompt, trace.thinking, trace.answer), trace)
        for prompt, trace in zip(prompts, traces, strict=True)
    ]


def _read_pairs(run: RLRun, spec: WarmStartSpec, style: CompletionStyle) -> list[Pair]:
    if spec.wrong_steps:
        allowed = f"0 with {spec.source}: wrong answers are made for reasoning_gym:<task> only"
        raise InvalidRun([Fault("spec.warmStart.wrongSteps", str(spec.wrong_steps), allowed)])
    source = DatasetSpec(source=spec.source, answer_field="completion")
    records = list(read_records(source, "spec.warmStart"))
    rows, faults = parse_records(records, source, bind_verifiers(spell_reference, ["completion"]))
    if not rows:
        check_columns(records, source, "spec.warmStart")
    num_read = len(rows) + len(faults)
    max_tokens = run.spec.resolved_recipe().length.prompt_tokens
    prompts, too_long = render_rows(rows, run.spec.data, style.tokenizer, max_tokens=max_tokens, tags=style.tags)
    check_bad_share(
        [*faults, *too_long],
        num_read,
        path="spec.warmStart",
        source=spec.source,
        max_share=run.spec.data.max_bad_share,
    )
    return [Pair(prompt, prompt.answer) for prompt in prompts]
