"""Which stored completions a person wants to see: the files, then the rows and their order. PURE."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from scalerl_api.rollouts import RolloutFileName

Item = TypeVar("Item")

SEARCHED = 8  # newest steps or evaluations in which a source is looked for: one of little weight is not in every step


@dataclass(frozen=True)
class RolloutQuery:
    """Wanted completions."""

    dataset: str | None = None
    """An evaluated set; None: the completions of training steps."""
    step: int | None = None
    """None: the newest or, with `prompt`, every one."""
    prompt: int | None = None
    source: str | None = None
    """A training source or downstream set; None: all."""
    grade: Literal["wrong", "right"] | None = None
    """`wrong`: graded with a reward of at most 0; `right`: above 0; None: all, ungraded ones included."""


@dataclass(frozen=True)
class RowKey:
    """Place and grade of one stored completion."""

    file: RolloutFileName
    row: int
    """Position in the file, from 0."""
    prompt_id: int
    sample: int
    reward: float | None
    source: str = ""
    """As `Rollout.source`."""

    @property
    def is_right(self) -> bool | None:
        """Whether it passes; None if it was not graded."""
        return None if self.reward is None else self.reward > 0


@dataclass(frozen=True)
class Counts:
    """Numbers of completions."""

    passed: int
    graded: int
    completions: int


def choose_files(names: Iterable[RolloutFileName], query: RolloutQuery) -> list[RolloutFileName]:
    """Return the files to search, oldest first."""
    found = sorted((name for name in names if name.dataset == query.dataset), key=lambda name: name.step)
    if query.step is not None:
        return [name for name in found if name.step == query.step]
    if query.prompt is not None:
        return found
    return found[-1:] if query.source is None else found[-SEARCHED:]


def find_place(keys: Iterable[RowKey], query: RolloutQuery) -> list[RowKey]:
    """Return the completions of the query's prompt and source, whatever their grade.

    Without a prompt and a step, those of the newest step that has any.
    """
    found = [key for key in keys if _is_of(key, query)]
    if query.source is None or query.step is not None or query.prompt is not None:
        return found
    newest = max((key.file.step for key in found), default=0)
    return [key for key in found if key.file.step == newest]


def choose_rows(keys: Iterable[RowKey], query: RolloutQuery) -> list[RowKey]:
    """Return the wanted rows: the first of each prompt and step, then the second of each, and so on.

    The prompts of a mixture's sources take turns.
    """
    wanted = sorted((key for key in keys if _is_wanted(key, query)), key=lambda key: (key.sample, key.prompt_id))
    samples: Counter[tuple[int, int]] = Counter()
    prompts: Counter[tuple[int, int, str]] = Counter()
    ranked = []
    for key in wanted:
        sample = key.file.step, key.prompt_id
        prompt = samples[sample], key.file.step, key.source
        ranked.append((samples[sample], key.file.step, prompts[prompt], key.prompt_id, key))
        samples[sample] += 1
        prompts[prompt] += 1
    return [key for *_, key in sorted(ranked, key=lambda each: each[:4])]


def choose_shown(rows: Sequence[RowKey], limit: int) -> list[RowKey]:
    """Return at most `limit` of the wanted rows, in the order of display.

    Of more steps than `limit`, evenly spaced ones are shown, the first and the last included.
    """
    steps = sorted({row.file.step for row in rows})
    if len(steps) > limit:
        kept = choose_evenly(steps, limit)
        rows = [row for row in rows if row.file.step in kept]
    return sorted(rows[:limit], key=lambda row: (row.file.step, row.prompt_id, row.sample))


def choose_extremes(keys: Sequence[RowKey], limit: int) -> tuple[list[RowKey], list[RowKey]]:
    """Return the right completions with the highest reward and the wrong ones with the lowest, at most `limit` of each.

    Among equals those of the prompts with the lowest pass rate come first; a prompt occurs once in each, and a
    mixture's sources take turns.
    """
    graded = [(key.reward, key) for key in keys if key.reward is not None]
    rewards: dict[int, list[bool]] = {}
    for reward, key in graded:
        rewards.setdefault(key.prompt_id, []).append(reward > 0)
    rate = {prompt: sum(each) / len(each) for prompt, each in rewards.items()}

    def choose(*, right: bool) -> list[RowKey]:
        sign = -1.0 if right else 1.0
        found = [each for each in graded if (each[0] > 0) == right]
        found.sort(key=lambda each: (sign * each[0], rate[each[1].prompt_id], each[1].prompt_id, each[1].sample))
        by_prompt: dict[int, RowKey] = {}
        for _, key in found:
            by_prompt.setdefault(key.prompt_id, key)
        turns: Counter[str] = Counter()
        ranked = []
        for key in by_prompt.values():
            ranked.append((turns[key.source], key))
            turns[key.source] += 1
        return [key for _, key in sorted(ranked, key=lambda each: each[0])][:limit]

    return choose(right=True), choose(right=False)


def count(keys: Collection[RowKey]) -> Counts:
    """Return how many completions there are, how many were graded, and how many passed."""
    return Counts(sum(key.is_right is True for key in keys), sum(key.reward is not None for key in keys), len(keys))


def choose_evenly(items: Sequence[Item], limit: int) -> list[Item]:
    """Return at most `limit` of the items, evenly spaced, with the first and the last; with a limit of 1 the last."""
    if len(items) <= limit:
        return list(items)
    last = len(items) - 1
    return [items[round(index * last / (limit - 1))] for index in range(limit)] if limit > 1 else [items[last]]


def _is_of(key: RowKey, query: RolloutQuery) -> bool:
    """Whether it is of the query's prompt and source."""
    return query.prompt in (None, key.prompt_id) and query.source in (None, key.source)


def _is_wanted(key: RowKey, query: RolloutQuery) -> bool:
    return _is_of(key, query) and (query.grade is None or key.is_right is (query.grade == "right"))
