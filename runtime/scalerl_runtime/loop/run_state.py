"""The training state that a checkpoint stores, and how a run resumes from it. I/O only on the journals."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field

from scalerl_api.recipe import Recipe
from scalerl_api.wire import HELD_OUT
from scalerl_runtime.algorithm.curriculum import DrawnPrompt, PromptStream, StreamPosition
from scalerl_runtime.algorithm.prompt_filters import PassRateHistory
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
    stream: StreamPosition
    history: PassRateHistory
    kl: KlController
    num_evals: int = 0
    ledger_lines: int = 0
    pending: list[PendingEval] = field(default_factory=list)

    def draw(self, stream: PromptStream, excluded: Collection[int]) -> DrawnPrompt:
        """Return the stream's next prompt, and advance the stream."""
        issue, self.stream = stream.draw(self.stream, excluded)
        return issue

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


def initial_state(recipe: Recipe) -> TrainingState:
    """Return the state of a run that has not started."""
    return TrainingState(
        step=0,
        warm_steps=0,
        compute_before=0.0,
        stream=StreamPosition(),
        history=PassRateHistory.empty(recipe.no_positive_threshold),
        kl=build_kl_controller(recipe.loss),
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
    )


def resume_state(state: RunState, journals: Journals, num_sets: int) -> TrainingState:
    """Return the state that a checkpoint stored; the journals are truncated to it.

    An evaluation recorded after the checkpoint is kept: its step has a checkpoint of its own, so it belongs to this
    history.
    """
    journals.ledger.truncate(state.ledger_lines)
    recorded = recorded_evals(journals, num_sets)
    return TrainingState(
        step=state.step,
        warm_steps=state.warm_steps,
        compute_before=state.compute_gpu_hours,
        stream=StreamPosition.from_dict(state.stream),
        history=PassRateHistory.from_dict(state.history),
        kl=KlController(**state.kl),
        num_evals=sum(1 for _ in journals.evals.read()),
        ledger_lines=state.ledger_lines,
        pending=[p for p in state.pending_evals if p.step not in recorded],
    )


def recorded_evals(journals: Journals, num_sets: int) -> dict[int, float]:
    """Return the held-out pass rate by step of the evaluations that are recorded with all their sets."""
    lines = list(journals.evals.read())
    counts = Counter(int(line["step"]) for line in lines)
    rates = {int(line["step"]): float(line["passRate"]) for line in lines if line["dataset"] == HELD_OUT}
    # Fewer: the attempt was killed between two test sets.
    return {step: rates.get(step, 0.0) for step, count in counts.items() if count >= num_sets}
