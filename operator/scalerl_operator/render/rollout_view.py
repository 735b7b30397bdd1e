"""Stored completions for a terminal: the completions with their texts, and a table of the prompts' pass rates. PURE."""

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from scalerl_api.rollouts import Rollout
from scalerl_operator.render.text import escape, format_table, shorten
from scalerl_operator.run.prompt_rates import PromptRates
from scalerl_operator.run.rollout_selection import Counts, RolloutQuery

PROMPT_ENDS = (400, 200)  # characters shown of a longer prompt's start and end
COMPLETION_ENDS = (600, 900)  # of a completion's: its answer is at the end
REFERENCE_CHARACTERS = 200
TABLE_CHARACTERS = 44  # of a prompt in a table
SPARK_POINTS = 24  # in a table
SPARKS = "▁▂▃▄▅▆▇█"
FORCED_MARKS = ("⟦", "⟧")


@dataclass(frozen=True)
class RolloutView:
    """The content of one answer."""

    run: str
    query: RolloutQuery
    steps: tuple[int, ...]
    """The steps that were searched, ascending."""
    counts: Counts
    """Of all completions of the searched steps and of the prompt, whatever their grade."""
    num_wanted: int
    """Completions that the query selects, of which `rollouts` are the first."""
    rollouts: Sequence[Rollout]
    full: bool
    """Show texts in full."""


def build_rollouts(view: RolloutView) -> RenderableType:
    """Return a headline and each completion with its numbers."""
    parts: list[RenderableType] = [Text(_headline(view), style="bold")]
    marks = " ".join(FORCED_MARKS)
    if any(each.forced_start is not None for each in view.rollouts):
        parts.append(Text(f"{marks} was forced by the interruption", style="dim"))
    if any(each.observations for each in view.rollouts):
        parts.append(Text(f"{marks} was written by the environment", style="dim"))
    for each in view.rollouts:
        parts += _one(each, full=view.full)
    left = view.num_wanted - len(view.rollouts)
    if left > 0:
        parts.append(Text(f"\n{left} more: --limit {view.num_wanted}", style="dim"))
    return Group(*parts)


def describe_query(query: RolloutQuery) -> str:
    """Return the selection in words."""
    words = [f"evaluation of {query.dataset}" if query.dataset is not None else "training"]
    words += [f"step {query.step}"] if query.step is not None else []
    words += [f"source {query.source}"] if query.source is not None else []
    words += [f"prompt {query.prompt}"] if query.prompt is not None else []
    words += [query.grade] if query.grade is not None else []
    return ", ".join(words)


def build_rates_table(rates: Sequence[PromptRates]) -> str:
    """Return one line for each prompt, with its pass rate over time, and its source where sources have names."""
    is_named = any(each.source for each in rates)
    header = (
        "PROMPT",
        *(["SOURCE"] if is_named else []),
        "TEXT",
        "FIRST",
        "LAST",
        "MEAN",
        "COMPLETIONS",
        "STEPS",
        "OVER TIME",
    )
    rows = [
        (
            str(each.prompt_id),
            *([each.source] if is_named else []),
            shorten(each.text, TABLE_CHARACTERS),
            f"{each.points[0].rate:.2f}",
            f"{each.points[-1].rate:.2f}",
            f"{each.mean:.2f}",
            str(each.completions),
            _range(each.points[0].step, each.points[-1].step),
            sparkline([point.rate for point in each.points]),
        )
        for each in rates
    ]
    return format_table(header, rows)


def describe_reference(reference: str, *, full: bool = False) -> str:
    """Return the reference answer in one line; of a reasoning_gym record the answer alone, of `code` the tests."""
    try:
        document = json.loads(reference)
        answer = describe_tests(document) or ast.literal_eval(document["record"])["answer"]
    except (ValueError, TypeError, KeyError, AttributeError, SyntaxError, RecursionError, MemoryError):
        answer = reference
    return escape(str(answer)) if full else shorten(str(answer), REFERENCE_CHARACTERS)


def describe_tests(document: Mapping[str, Any]) -> str:
    """Return the tests of a reference of the verifier `code` as a person writes them; empty for another reference.

    Raises KeyError, TypeError, ValueError for what only looks like one.
    """
    match document.get("kind"):
        case "tests":
            return str(document["tests"]).strip()
        case "calls":
            calls = (
                f"{document['function']}({', '.join(map(repr, arguments))}) == {output!r}"
                for arguments, output in zip(document["inputs"], document["outputs"], strict=True)
            )
            return "; ".join(calls)
        case "stdio":
            runs = zip(document["inputs"], document["outputs"], strict=True)
            return "; ".join(f"{given!r} -> {wanted!r}" for given, wanted in runs)
    return ""


def sparkline(rates: Sequence[float]) -> str:
    """Return a letter for each rate in [0, 1], for at most SPARK_POINTS of them, evenly chosen."""
    last = len(rates) - 1
    if len(rates) > SPARK_POINTS:
        rates = [rates[round(index * last / (SPARK_POINTS - 1))] for index in range(SPARK_POINTS)]
    return "".join(SPARKS[min(len(SPARKS) - 1, int(rate * len(SPARKS)))] for rate in rates)


def _headline(view: RolloutView) -> str:
    query, counts = view.query, view.counts
    kind = "training" if query.dataset is None else f"evaluation of {query.dataset}"
    where = f"step {_range(view.steps[0], view.steps[-1])}"
    prompt = [f"prompt {query.prompt}"] if query.prompt is not None else []
    source = [f"source {query.source}"] if query.source is not None else []
    graded = f"{counts.passed} of {counts.graded} right"
    graded += f" ({counts.passed / counts.graded:.3f})" if counts.graded else ""
    failed = counts.completions - counts.graded
    parts = [view.run, kind, where, *source, *prompt, graded, *([f"{failed} without a reward"] if failed else [])]
    if query.grade == "wrong":
        parts.append(f"{view.num_wanted} wrong")
    return " · ".join(parts)


def _one(rollout: Rollout, *, full: bool) -> list[RenderableType]:
    texts = [_plain(rollout.prompt, PROMPT_ENDS, full=full)]
    texts[0].stylize("dim")
    texts.append(_cut(_completion(rollout), COMPLETION_ENDS, full=full))
    if rollout.reference:
        texts.append(Text.assemble(("reference: ", "dim"), describe_reference(rollout.reference, full=full)))
    return [Text(), _numbers(rollout), *(Padding(text, (0, 0, 0, 2), expand=False) for text in texts)]


def _numbers(rollout: Rollout) -> Text:
    right = rollout.is_right
    style = "bold magenta" if right is None else "bold green" if right else "bold red"
    reward = "no reward (the verifier failed)" if rollout.reward is None else f"reward {rollout.reward:+g}"
    if len(rollout.rewards) > 1:
        reward += f" ({', '.join(f'{name} {value:+g}' for name, value in rollout.rewards.items())})"
    rest = [f"advantage {rollout.advantage:+.3f}"] if rollout.advantage is not None else []
    rest.append(f"{rollout.num_tokens} tokens")
    rest.append("cut at the limit" if rollout.finish == "length" else rollout.finish)
    if rollout.dataset is None:
        rest += [f"lag {rollout.lag}", _versions(rollout)]
    if rollout.forced_start is not None and rollout.forced_end is not None:
        rest.append(f"forced {_range(rollout.forced_start, rollout.forced_end - 1)}")
    if rollout.turns > 1:
        errors = f", {rollout.tool_errors} with an error" if rollout.tool_errors else ""
        rest.append(f"{rollout.turns} turns{errors}")
    rest += [f"mean logp {rollout.mean_logp:.3f}"] if rollout.mean_logp is not None else []
    source = f"{rollout.source} · " if rollout.source else ""
    place = f"step {rollout.step} · {source}prompt {rollout.prompt_id} · sample {rollout.sample} · "
    return Text.assemble((place, "bold"), (reward, style), (" · " + " · ".join(rest), "dim"))


def _completion(rollout: Rollout) -> Text:
    """Return the completion; what the policy did not write is marked."""
    return Text.assemble(
        *(
            (f"{FORCED_MARKS[0]}{escape(text)}{FORCED_MARKS[1]}", "yellow") if is_marked else escape(text)
            for text, is_marked in rollout.segments
        )
    )


def _plain(text: str, ends: tuple[int, int], *, full: bool) -> Text:
    return _cut(Text(escape(text)), ends, full=full)


def _cut(text: Text, ends: tuple[int, int], *, full: bool) -> Text:
    """Return `text` without its middle if it is long."""
    head, tail = ends
    left_out = len(text) - head - tail
    if full or left_out <= 0:
        return text
    note = Text(f" [… {left_out:,} characters; --full shows all …] ", style="dim")
    return text[:head] + note + text[len(text) - tail :]


def _versions(rollout: Rollout) -> str:
    word = "version" if rollout.version_min == rollout.version_max else "versions"
    return f"{word} {_range(rollout.version_min, rollout.version_max)}"


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"
