"""Reports an attempt: `/v1/progress`, the metrics, the termination message, the cost on disk. I/O."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scalerl_api.status import PreflightStatus, SourceStatus
from scalerl_api.wire import (
    SERIES_EARLIER,
    SERIES_PHASE,
    SERIES_SPENT,
    Checkpoint,
    EvalPoint,
    Phase,
    Progress,
    RolloutExample,
    SelfCheck,
    StepRecord,
    Termination,
)
from scalerl_runtime.algorithm.equal_rewards import FirstRewards, describe_equal_rewards
from scalerl_runtime.algorithm.rollout_rows import choose_example
from scalerl_runtime.loop.eval_sets import EvalProgress
from scalerl_runtime.process.live_state import ROLES, LiveState, StartPoint
from scalerl_runtime.process.metrics import Publisher
from scalerl_runtime.process.vitals import Vitals
from scalerl_runtime.storage.checkpoint import RunState
from scalerl_runtime.storage.cost import CostFile
from scalerl_runtime.trackers.interface import TrackedPoint
from scalerl_runtime.trackers.points import build_eval_point, build_summary
from scalerl_runtime.trackers.track import Trackers
from scalerl_runtime.types import Group, Prompt

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReportIdentity:
    """The names under which an attempt reports."""

    run: str
    attempt: int
    mismatch_bound: float
    """Bound of `watchdog.mismatch` (nats), which alerts compare with."""


class ProgressReporter:
    """The pipeline's Observer: keeps the latest of each kind and publishes it."""

    def __init__(self, identity: ReportIdentity, live: LiveState, cost: CostFile, evals: Sequence[EvalPoint]):
        """`evals`: those of earlier attempts, oldest first."""
        self._identity = identity
        self._live = live
        self._cost = cost
        self._evals = list(evals)
        self.after_eval: Callable[[], None] = lambda: None
        """Called after an evaluation is recorded."""
        self.describe_reading: Callable[[Prompt, str], str] = lambda _prompt, _text: "not read yet"
        """Words for the verifiers' reading of a completion's text; the coordinator sets it when training starts."""
        self.sources: Sequence[SourceStatus] = ()
        """The data, as this attempt read it; the coordinator sets it when the judges have been tried."""
        self._publisher = Publisher()
        self._vitals = Vitals(time.monotonic)
        self._phase: Phase = "starting"
        self._detail = ""
        self._evaluating = ""  # progress of the evaluation that runs
        self._num_late_evals = 0
        self.trackers: Trackers | None = None  # from the start of training on
        self._latest: StepRecord | None = None
        self._example: RolloutExample | None = None
        self._first_rewards = FirstRewards()
        self._warning = ""
        self._checkpoint: Checkpoint | None = None
        self._self_check: SelfCheck | None = None
        self._preflight: PreflightStatus | None = None
        self._publisher.set({"mismatch_bound": identity.mismatch_bound})
        for role in ROLES:
            self._publisher.set_labelled(SERIES_EARLIER, role, cost.before.get(role, 0.0))
        self._publish_evals(self._evals)

    # -- events ------------------------------------------------------------------------------------------------------

    def on_resume(self, newest: tuple[Path, RunState] | None) -> None:
        """The checkpoints are read; `newest` is the one to resume from. From now on step and compute have values."""
        if newest is None:
            self._live.start = StartPoint()
            return
        path, state = newest
        self._live.start = StartPoint(state.step, state.compute_gpu_hours)
        self._set_checkpoint(state.step, path.stat().st_mtime, path)

    def on_preflight(self, found: PreflightStatus | None) -> None:
        """The trainer ranks' nodes are checked; None: the run asks for no check."""
        self._preflight = found
        if found is not None:
            values = {
                "preflight_seconds": found.seconds,
                "preflight_teraflops": found.teraflops,
                "preflight_slowest_teraflops": found.slowest_teraflops,
                "preflight_bandwidth": found.bandwidth,
                "preflight_node_bandwidth": found.node_bandwidth,
            }
            self._publisher.set({name: value for name, value in values.items() if value is not None})

    def on_step(self, record: StepRecord, lags: Sequence[int], split: Sequence[tuple[str, str, float]]) -> None:
        """See `Observer`."""
        self._latest = record
        if self.trackers is not None:
            by_judge = {f"reward/{judge}": reward for judge, reward in record.reward_by_judge.items()}
            values = {**record.values, **by_judge, "compute_gpu_hours": record.compute_gpu_hours}
            self.trackers.log(TrackedPoint("train", record.step, values, record.time))
        self._cost.save(self._live.device_seconds())
        self._vitals.add(record)
        self._publisher.set(record.values)
        for judge, reward in record.reward_by_judge.items():
            self._publisher.set_labelled("reward_by_judge", judge, reward)
        self._publisher.observe_lags(lags)
        for name, bucket, value in split:
            self._publisher.set_labelled(name, bucket, value)
        if self._phase != "stopping":
            self.on_phase("training", "")

    def on_groups(self, groups: Sequence[Group], step: int) -> None:
        """See `Observer`."""
        self._example = choose_example(groups, step=step)
        self._first_rewards = self._first_rewards.add(groups)
        if self._first_rewards.is_due:
            self._warning = describe_equal_rewards(groups, self.describe_reading)
            log.warning("%s", self._warning)

    def on_self_check(self, found: SelfCheck) -> None:
        """See `Observer`."""
        self._self_check = found
        self._publisher.set({"self_check_mean": found.mean, "self_check_max": found.largest})

    def on_eval_progress(self, progress: EvalProgress | None) -> None:
        """See `Observer`."""
        self._evaluating = "" if progress is None else progress.describe()
        self._publisher.unset("eval_prompts", "eval_prompts_done", "eval_rate_so_far", "eval_rate_so_far_error")
        if progress is None:
            return
        self._publisher.set({"eval_prompts": progress.prompts, "eval_prompts_done": progress.done})
        if progress.done and not math.isnan(progress.pass_rate):
            rates = {"eval_rate_so_far": progress.pass_rate, "eval_rate_so_far_error": progress.standard_error}
            self._publisher.set(rates)

    def on_late_eval(self) -> None:
        """See `Observer`."""
        self._num_late_evals += 1

    def on_eval(self, points: Sequence[EvalPoint]) -> None:
        """See `Observer`."""
        self._evals.extend(points)
        self._publish_evals(points)
        if self.trackers is not None and points:
            self.trackers.log(build_eval_point(points, time.time()))
        self.after_eval()

    def evals(self) -> Sequence[EvalPoint]:
        """Every evaluation so far, those of earlier attempts included."""
        return tuple(self._evals)

    def on_checkpoint(self, step: int, path: Path) -> None:
        """See `Observer`."""
        self._set_checkpoint(step, time.time(), path)

    def on_phase(self, phase: str, detail: str) -> None:
        """See `Observer`."""
        self._phase, self._detail = phase, detail  # type: ignore[assignment] # a Phase by contract
        if phase == "training":
            self._vitals.move()

    def _set_checkpoint(self, step: int, when: float, path: Path) -> None:
        self._checkpoint = Checkpoint(step=step, time=when, path=str(path))
        self._publisher.set({"checkpoint_step": step})

    def _publish_evals(self, points: Sequence[EvalPoint]) -> None:
        self._publisher.show_evals(self._evals)
        for point in points:
            self._publisher.set_labelled("pass_rate", point.dataset, point.pass_rate)
            self._publisher.set_labelled("pass_rate_standard_error", point.dataset, point.standard_error)

    # -- reports ---------------------------------------------------------------------------------------------------

    def progress(self, since: int) -> Progress:
        """Body of `/v1/progress`, with the evaluations from index `since` on."""
        live = self._live
        return Progress(
            run=self._identity.run,
            attempt=self._identity.attempt,
            phase=self._phase,
            detail=self._describe_detail(),
            step=live.step,
            version=live.version,
            compute_gpu_hours=live.compute_gpu_hours,
            gpu_seconds=self._cost.total(live.device_seconds()),
            idle_fraction=live.idle_fractions(),
            generators_ready=live.generators_ready,
            generator_restarts=live.counters.restarts,
            latest=self._latest,
            example=self._example,
            warning=self._warning,
            vitals=self._vitals.steps,
            self_check=self._self_check,
            still_seconds=self._vitals.still_seconds if self._phase == "training" else None,
            evals=[point for point in self._evals if point.index >= since],
            sources=list(self.sources),
            preflight=self._preflight,
            checkpoint=self._checkpoint,
            time=time.time(),
        )

    def _describe_detail(self) -> str:
        """Return what the run does beside its phase: an evaluation that runs is a detail of training, too."""
        if self._phase not in ("training", "evaluating"):
            return self._detail
        return "; ".join(each for each in (self._detail, self._evaluating) if each)

    def render_metrics(self) -> bytes:
        """Body of `/metrics`."""
        live, publisher = self._live, self._publisher
        for (role, phase), spent in live.device_seconds_by_phase().items():
            publisher.raise_to(SERIES_SPENT, spent, role, phase)
        publisher.choose(SERIES_PHASE, self._phase)
        publisher.raise_to("late_evaluations_total", self._num_late_evals)
        if live.start is not None:
            publisher.set({"step": live.step, "compute_gpu_hours": live.compute_gpu_hours})
        if live.pool is not None:
            publisher.set({"version": live.version, "generators_ready": live.generators_ready})
            publisher.raise_to("generator_restarts_total", live.counters.restarts)
            publisher.raise_to("forced_mismatches_total", live.counters.forced_mismatches)
            publisher.raise_to("refused_prompts_total", live.counters.refused)
            publisher.raise_to("verifier_failures_total", live.counters.excluded)
            publisher.raise_to("verifier_timeouts_total", live.counters.timed_out)
        return publisher.render()

    def close_trackers(self, outcome: str) -> None:
        """Send the summary and end every tracker, within its deadline. `outcome`: of the attempt."""
        if self.trackers is not None:
            summary = build_summary(outcome, self._live.step, self._live.compute_gpu_hours, self._evals)
            self.trackers.close(summary, is_final=outcome in ("Finished", "AllPromptsSolved"))

    def termination(
        self,
        reason: Literal["Finished", "AllPromptsSolved", "Stopped", "Invalid", "Retry", "Failed", "Unfit"],
        error: str,
    ) -> Termination:
        """The termination message of an attempt that ends for `reason`."""
        return Termination(
            reason=reason,
            step=self._live.step,
            checkpoint=self._checkpoint,
            last_eval=self._evals[-1] if self._evals else None,
            self_check=self._self_check,
            error=error,
        )
