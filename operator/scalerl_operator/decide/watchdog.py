"""Which of the watchdog's rules a run that trains has broken, by its coordinator's last answer. PURE."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from scalerl_api import RLRun
from scalerl_api.policies import WatchAction
from scalerl_api.wire import Progress, StepVital
from scalerl_operator.run.observed import Alarm, Assessment, ObservedState

_SEVERITY: tuple[WatchAction, ...] = ("Stop", "Restart", "Warn")


def find_alarms(run: RLRun, observed: ObservedState) -> tuple[Alarm, ...]:
    """Return the broken rules, the one with the gravest action first; none while the running attempt has not answered.

    Steps count within an attempt: what an earlier one did is dealt with.
    """
    if observed.running is None or observed.answered is None or observed.progress is None:
        return ()
    found = [
        *_no_step(run, observed.progress),
        *_non_finite(run, observed.progress.vitals),
        *_mismatch(run, observed.progress.vitals),
        *_no_gradient(run, observed.progress.vitals),
        *_stale(run, observed.progress.vitals),
        *_entropy(run, observed.progress.vitals),
    ]
    return tuple(sorted(found, key=lambda alarm: _SEVERITY.index(alarm.action)))


def add_alarms(assessment: Assessment, run: RLRun, observed: ObservedState) -> Assessment:
    """Return `assessment` with the alarms of `observed`."""
    return replace(assessment, alarms=find_alarms(run, observed))


def longest_step_seconds(run: RLRun) -> int:
    """Return the longest time from step to step that `watchdog.noStep` bears."""
    return run.spec.watchdog.no_step.seconds or run.spec.deadlines.step_seconds


def _no_step(run: RLRun, progress: Progress) -> Iterator[Alarm]:
    allowed = longest_step_seconds(run)
    if progress.still_seconds is not None and progress.still_seconds > allowed:
        message = f"no step has ended for {allowed} s; {progress.step} are done"
        yield Alarm("NoStep", run.spec.watchdog.no_step.action, message)


def _non_finite(run: RLRun, vitals: Sequence[StepVital]) -> Iterator[Alarm]:
    """Only with an action that lets the run continue; otherwise the coordinator has exited with EXIT_NON_FINITE."""
    bad = [each.step for each in vitals if not each.finite]
    if bad:
        message = (
            f"loss or gradient was no number in {len(bad)} of the last {len(vitals)} steps, step {bad[-1]} the last"
        )
        yield Alarm("NonFinite", run.spec.watchdog.non_finite.action, message)


def _mismatch(run: RLRun, vitals: Sequence[StepVital]) -> Iterator[Alarm]:
    """Steps with too few tokens of lag 0 say nothing, and do not count."""
    rule, allowed = run.spec.watchdog.mismatch, run.mismatch_bound
    recent = [(each.step, each.mismatch) for each in vitals if each.mismatch is not None][-rule.steps :]
    if len(recent) == rule.steps and all(value > allowed for _, value in recent):
        message = (
            f"log-probabilities of engine and trainer differ by {recent[-1][1]:.2g} nats on average at lag 0, "
            f"more than {allowed:g} for {rule.steps} steps up to step {recent[-1][0]}"
        )
        yield Alarm("Mismatch", rule.action, message)


def _no_gradient(run: RLRun, vitals: Sequence[StepVital]) -> Iterator[Alarm]:
    rule = run.spec.watchdog.no_gradient
    recent = vitals[-rule.steps :]
    if len(recent) < rule.steps or any(each.gradient for each in recent):
        return
    rewards = [each.reward for each in recent if each.reward is not None]
    mean = f"mean reward {sum(rewards) / len(rewards):.2f}" if rewards else "no completion has a reward"
    message = (
        f"no step had a gradient for {rule.steps} steps up to step {recent[-1].step}: "
        f"every completion of a group got the same reward ({mean})"
    )
    yield Alarm("NoGradient", rule.action, message)


def _stale(run: RLRun, vitals: Sequence[StepVital]) -> Iterator[Alarm]:
    rule = run.spec.watchdog.staleness
    recent = vitals[-rule.steps :]
    if len(recent) < rule.steps:
        return
    allowed = rule.above if rule.above is not None else run.spec.resolved_recipe().asynchrony.largest_lag
    if all(each.lag is not None and each.lag > allowed for each in recent):
        message = (
            f"the oldest tokens lag more than {allowed} steps, for {rule.steps} steps up to step {recent[-1].step}"
        )
        yield Alarm("Stale", rule.action, message)


def _entropy(run: RLRun, vitals: Sequence[StepVital]) -> Iterator[Alarm]:
    rule = run.spec.watchdog.entropy
    recent = vitals[-rule.steps :]
    if rule.below is None or len(recent) < rule.steps:
        return
    if all(each.entropy is not None and each.entropy < rule.below for each in recent):
        message = f"entropy below {rule.below:g} nats, for {rule.steps} steps up to step {recent[-1].step}"
        yield Alarm("EntropyLow", rule.action, message)
