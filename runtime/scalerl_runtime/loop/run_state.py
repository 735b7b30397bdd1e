"""The training state that a checkpoint stores, and how a run resumes from it. I/O only on the journals."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from scalerl_api.recipe import Recipe
from scalerl_api.wire import HELD_OUT
from scalerl_runtime.algorithm.prompts.mixture import Mixture, MixturePosition, SourceDraw
from scalerl_runtime.algorithm.prompts.prompt_filters import PassRateHistory
from scalerl_runtime.algorithm.results import StepResult
from scalerl_runtime.algorithm.schedules import KlController, build_kl_controller
from scalerl_runtime.algorithm.step import follow_kl
from scalerl_runtime.loop.group_buffer import GroupBuffer
from scalerl_runtime.storage.checkpoint import PendingEval, RunState
from scalerl_runtime.storage.journal import Journal
from scalerl_runtime.types import Group


@dataclass(frozen=True)
class Journals:
    """The run folder's records."""

    metrics: Journal
    evals: Journal
    ledger: Journal


@dataclass
class TrainingState:
    """How far training is; a checkpoint stores it. Mutable, by its own methods."""

    step: int
    warm_steps: int
    compute_before: float  # GPU-hours of earlier attempts, up to the checkpoint
    stream: MixturePosition
    history: PassRateHistory
    kl: KlController
    num_evals: int = 0
    ledger_lines: int = 0
    pending: list[PendingEval] = field(default_factory=list)
    fingerprint: Mapping[str, object] = field(default_factory=dict)  # of the data, the tokenizer and the model

    def draw(self, mixture: Mixture, excluded: Mapping[str, Collection[int]]) -> SourceDraw:
        """Return the mixture's next prompt, and advance its streams."""
        draw, self.stream = mixture.draw(self.stream, excluded)
        return draw

    def count_step(self, groups: Sequence[Group], *, keep_history: bool) -> None:
        """Count a step that trained on `groups`, and its line in the ledger."""
        self.step += 1
        self.ledger_lines += 1
        if keep_history:
            self.history = self.history.record([(g.prompt.id, g.rewards) for g in groups])

    def follow_kl(self, results: Sequence[StepResult]) -> None:
        """Adjust the KL coefficient to the divergence that a step measured."""
        self.kl = follow_kl(self.kl, results)

    def count_eval(self, pending: PendingEval, num_points: int) -> None:
        """Count an evaluation that is recorded."""
        self.num_evals += num_points
        self.pending.remove(pending)


def initial_state(recipe: Recipe, fingerprint: Mapping[str, object] | None = None) -> TrainingState:
    """Return the state of a run that has not started; `fingerprint`: of its data, tokenizer and model."""
    return TrainingState(
        step=0,
        warm_steps=0,
        compute_before=0.0,
        stream=MixturePosition(),
        history=PassRateHistory.empty(recipe.no_positive_threshold),
        kl=build_kl_controller(recipe.loss),
        fingerprint=fingerprint or {},
    )


def snapshot(state: TrainingState, groups: GroupBuffer, compute_gpu_hours: float) -> RunState:
    """Return the part of a checkpoint that the coordinator writes."""
    return RunState(
        step=state.step,
        warm_steps=state.warm_steps,
        compute_gpu_hours=compute_gpu_hours,
        consumed=groups.num_consumed,
        stream=state.stream.to_dict(),
        history=state.history.to_dict(),
        kl=asdict(state.kl),
        in_flight=groups.unfinished(),
        num_evals=state.num_evals,
        ledger_lines=state.ledger_lines,
        pending_evals=tuple(state.pending),
        fingerprint=dict(state.fingerprint),
    )


def resume_state(state: RunState, journals: Journals, due: Callable[[int], frozenset[str]]) -> TrainingState:
    """Return the state that a checkpoint stored; the journals are truncated to it.

    `due`: the data sets that an evaluation of a step reports.

    An evaluation recorded after the checkpoint is kept: its step has a checkpoint of its own, so it belongs to this
    history.
    """
    journals.ledger.truncate(state.ledger_lines)
    recorded = recorded_evals(journals, due)
    return TrainingState(
        step=state.step,
        warm_steps=state.warm_steps,
        compute_before=state.compute_gpu_hours,
        stream=MixturePosition.from_dict(state.stream),
        history=PassRateHistory.from_dict(state.history),
        kl=KlController(**state.kl),
        num_evals=sum(1 for _ in journals.evals.read()),
        ledger_lines=state.ledger_lines,
        pending=[p for p in state.pending_evals if p.step not in recorded],
        fingerprint=state.fingerprint,
    )


def keep_prompts(state: RunState, ids: frozenset[int]) -> RunState:
    """Return the state of a checkpoint without what it knows of other training prompts than `ids`."""
    history = PassRateHistory.from_dict(state.history)
    own = PassRateHistory(
        history.threshold,
        {prompt: counts for prompt, counts in history.counts.items() if prompt in ids},
        history.excluded & ids,
    )
    in_flight = tuple(each for each in state.in_flight if each[1] in ids)
    return replace(state, history=own.to_dict(), in_flight=in_flight)


def recorded_evals(journals: Journals, due: Callable[[int], frozenset[str]]) -> dict[int, float]:
    """Return the held-out pass rate by step of the evaluations that are recorded with all sets that are due."""
    lines = list(journals.evals.read())
    found: dict[int, set[str]] = {}
    for line in lines:
        found.setdefault(int(line["step"]), set()).add(str(line["dataset"]))
    rates = {int(line["step"]): float(line["passRate"]) for line in lines if line["dataset"] == HELD_OUT}
    # Fewer: the attempt was killed between two test sets.
    return {step: rates.get(step, 0.0) for step, names in found.items() if due(step) <= names}
