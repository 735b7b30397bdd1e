"""The test sets of a run: which are due at a step; the order and the seeds of their prompts, and what is done. PURE."""

import hashlib
import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scalerl_api.data import NamedDatasetSpec
from scalerl_api.evaluations import MIN_PROMPTS
from scalerl_api.rlrun import RLRunSpec
from scalerl_api.wire import HELD_OUT
from scalerl_runtime.data.run_data import Data
from scalerl_runtime.types import Prompt

REPORTS = 20  # of an evaluation's progress: each changes the run's status
ORDER, SAMPLES = 0, 1  # streams of random numbers


@dataclass(frozen=True)
class EvalSet:
    """Prompts that are sampled together, in one way."""

    dataset: str
    prompts: Sequence[Prompt]
    samples: int  # completions per prompt
    temperature: float | None = None  # None: the recipe's; 0: the likeliest token
    parts: Sequence[str] = ()  # sources that are also reported on their own, as parts of this set


def list_eval_sets(spec: RLRunSpec, data: Data, step: int) -> list[EvalSet]:
    """Return the test sets that are due at `step`, the held-out prompts first."""
    names = [each.label for each in spec.data.train]
    samples = spec.data.held_out.samples_per_prompt
    own = EvalSet(HELD_OUT, data.held_out, samples, parts=names if len(names) > 1 else ())
    return [
        own,
        *(
            EvalSet(
                each.name,
                data.downstream[each.name],
                each.count_samples(samples),
                each.temperature,
            )
            for each in spec.data.downstream
            if _is_due(each, spec, step)
        ),
    ]


def list_due_datasets(spec: RLRunSpec, step: int) -> frozenset[str]:
    """Return the data sets that an evaluation of `step` reports."""
    later = {each.name for each in spec.data.downstream if not _is_due(each, spec, step)}
    return frozenset({HELD_OUT, *spec.data.named_sets.values()} - later)


def _is_due(test: NamedDatasetSpec, spec: RLRunSpec, step: int) -> bool:
    return test.every_steps is None or step % test.every_steps == 0 or step == spec.budget.steps


@dataclass(frozen=True)
class EvalTask:
    """One prompt of one set."""

    set_index: int
    row: int  # of the prompt in its set


def derive_rng(seed: int, step: int, dataset: str, *numbers: int) -> np.random.Generator:
    """Return the random numbers of one purpose in the evaluation of `step`; `seed` is the run's."""
    name = int.from_bytes(hashlib.blake2b(dataset.encode(), digest_size=8).digest())
    return np.random.default_rng([seed, 2, step, name, *numbers])


def draw_seeds(rng: np.random.Generator, samples: int) -> tuple[int, ...]:
    """Return a seed for each completion of a prompt, in [0, 2^63)."""
    return tuple(int(each) for each in rng.integers(2**63 - 1, size=samples))


def order_prompts(sets: Sequence[EvalSet], *, seed: int, step: int) -> list[EvalTask]:
    """Return all prompts in the order in which they are sampled.

    Each set, and each source of a pooled set, is in a random order of its own for each step. They are interleaved so
    that every beginning of the list has the same share of each, within one prompt: a beginning is an unbiased sample.
    """
    placed: list[tuple[float, int, int, int]] = []
    for set_index, each in enumerate(sets):
        for stratum, rows in enumerate(_list_strata(each)):
            order = derive_rng(seed, step, each.dataset, ORDER, stratum).permutation(rows)
            placed += [((i + 0.5) / len(rows), set_index, stratum, int(row)) for i, row in enumerate(order)]
    return [EvalTask(set_index, row) for _, set_index, _, row in sorted(placed)]


def _list_strata(each: EvalSet) -> list[list[int]]:
    """Return the rows of each source that is reported on its own, and of all the others."""
    rows: dict[str, list[int]] = {}
    for row, prompt in enumerate(each.prompts):
        rows.setdefault(prompt.source if prompt.source in each.parts else "", []).append(row)
    return [rows[name] for name in sorted(rows)]


class EvalWork:
    """The prompts that are left, in flight, and done. Mutable, by its own methods."""

    def __init__(self, sets: Sequence[EvalSet], *, seed: int, step: int):
        self.sets = sets
        self._left = deque(order_prompts(sets, seed=seed, step=step))
        self._lost: deque[EvalTask] = deque()  # of engines that are gone: they belong to the sample, so they come first
        self._begun: Counter[tuple[int, str]] = Counter()  # prompts by set and source
        self.num_prompts = len(self._left)
        self.num_in_flight = 0
        self.num_done = 0
        self.is_ending = False

    @property
    def has_next(self) -> bool:
        """Whether another prompt is to be sampled."""
        return bool(self._lost or (self._left and not self.is_ending))

    @property
    def is_done(self) -> bool:
        """Whether every prompt that is to be sampled is."""
        return not self.has_next and not self.num_in_flight

    @property
    def is_report_due(self) -> bool:
        """Whether the last prompt completed another REPORTS-th part of all."""
        return self.num_done * REPORTS // self.num_prompts > (self.num_done - 1) * REPORTS // self.num_prompts

    def prompt(self, task: EvalTask) -> Prompt:
        """Return the prompt of a task."""
        return self.sets[task.set_index].prompts[task.row]

    def begin(self) -> EvalTask:
        """Return the next prompt to sample; `has_next` says whether there is one."""
        self.num_in_flight += 1
        if self._lost:
            return self._lost.popleft()
        task = self._left.popleft()
        self._begun[task.set_index, self.prompt(task).source] += 1
        return task

    def finish(self) -> None:
        """Count a prompt that is sampled and graded, or refused."""
        self.num_in_flight -= 1
        self.num_done += 1

    def give_back(self, task: EvalTask) -> None:
        """Have a prompt sampled again: its engine is lost."""
        self.num_in_flight -= 1
        self._lost.append(task)

    def end(self) -> None:
        """Begin no further prompt. Those in flight are completed: without them short completions would count more."""
        self.is_ending = True

    def is_enough(self) -> bool:
        """Whether the prompts that have begun are enough of each set, and of each source that is reported, to count."""
        return all(self._is_enough(index, each) for index, each in enumerate(self.sets))

    def _is_enough(self, index: int, each: EvalSet) -> bool:
        sizes = Counter(prompt.source for prompt in each.prompts)
        begun = {source: self._begun[index, source] for source in sizes}
        parts = all(begun[name] >= min(MIN_PROMPTS, sizes[name]) for name in each.parts if name in sizes)
        return parts and sum(begun.values()) >= min(MIN_PROMPTS, len(each.prompts))


@dataclass(frozen=True)
class EvalProgress:
    """How far an evaluation is."""

    step: int  # of the evaluated weights
    done: int  # prompts of all sets
    prompts: int  # in all
    pass_rate: float = math.nan  # of the held-out prompts so far; NaN: none is graded
    standard_error: float = math.nan

    def describe(self) -> str:
        """Return the progress in words. While an evaluation runs, prompts with short completions are ahead."""
        rate = (
            "" if math.isnan(self.pass_rate) else f", pass rate {self.pass_rate:.2f} ± {self.standard_error:.2f} so far"
        )
        return f"evaluating step {self.step}: {self.done} of {self.prompts} prompts{rate}"
