"""Builds the status of an RLRun from the observed state, the assessment and the run's standing. PURE."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

from scalerl_api import Fault, RLRun, RLRunStatus
from scalerl_api.evaluations import surviving
from scalerl_api.status import (
    CheckpointStatus,
    Condition,
    ConditionType,
    CostStatus,
    ExcludedNode,
    ForecastStatus,
    ProgressStatus,
    RoleStatus,
    StopStatus,
)
from scalerl_api.wire import Phase, Progress
from scalerl_operator.run.conditions import COMPLETE, FAILED, PAUSED, PhaseReason, Reason, StandingReason
from scalerl_operator.run.observed import Alarm, Assessment, ObservedState
from scalerl_operator.run.progress import last_mismatch

Truth = Literal["True", "False", "Unknown"]
Standing = tuple[StandingReason | Literal["Running"], str]
"""(reason, message); `Running` is replaced by the coordinator's phase."""
Said = tuple[ConditionType, Truth, Reason, str]
"""A condition: type, status, reason, message."""

_PHASE_REASONS: dict[Phase, PhaseReason] = {
    "starting": "Starting",
    "warmStart": "WarmStart",
    "training": "Training",
    "evaluating": "Evaluating",
    "stopping": "Stopping",
    "finished": "Finishing",
}


def build_status(
    run: RLRun, observed: ObservedState, assessment: Assessment, standing: Standing, now: datetime
) -> RLRunStatus:
    """Return the status to store. Fields that the running coordinator has not reported are kept from `run.status`."""
    old = run.status or RLRunStatus()
    progress = observed.progress
    attempts = len(observed.attempts)
    return RLRunStatus(
        observed_generation=old.observed_generation,
        conditions=_conditions(old, _wanted(observed, assessment, standing, old.excluded_nodes), now),
        roles=_roles(run, observed),
        attempt=max(1, observed.attempts[-1].number if attempts else 1),
        progress=_progress(progress, observed) if progress is not None else old.progress,
        forecast=assessment.forecast or old.forecast,
        source_forecasts=list(assessment.sources) or old.source_forecasts,
        sources=(progress.sources if progress is not None else []) or old.sources,
        preflight=(progress.preflight if progress is not None else None) or old.preflight,
        excluded_nodes=old.excluded_nodes,
        stop=assessment.stop,
        checkpoint=_checkpoint(observed) or old.checkpoint,
        cost=_cost(progress, old.cost) if progress is not None else old.cost,
    )


def _cost(progress: Progress, old: CostStatus | None) -> CostStatus:
    """Cost never decreases: a killed coordinator has not recorded its last step's."""
    spent = dict(old.gpu_seconds) if old is not None else {}
    reported = {role: max(seconds, spent.get(role, 0.0)) for role, seconds in progress.gpu_seconds.items()}
    return CostStatus(gpu_seconds=spent | reported, idle_fraction=progress.idle_fraction)


def _wanted(
    observed: ObservedState, assessment: Assessment, standing: Standing, excluded: Sequence[ExcludedNode]
) -> list[Said]:
    """Return every condition; each is always present, so that `kubectl wait` works with it."""
    said, message = standing
    phase = observed.progress.phase if observed.progress is not None else "starting"
    detail = observed.progress.detail if observed.progress is not None else ""
    reason: StandingReason = _PHASE_REASONS[phase] if said == "Running" else said
    if said == "Running":
        message = "; ".join(each for each in (detail, message) if each)
    over = reason in COMPLETE or reason in FAILED or reason in PAUSED
    ready = observed.running is not None and phase in ("training", "evaluating") and not over
    return [
        ("Ready", "True" if ready else "False", reason, message),
        ("Progressing", "False" if over else "True", reason, message),
        _health_condition(observed, assessment.alarms, over=over),
        _nodes_condition(excluded),
        ("Suspended", "True" if reason == "Suspended" else "False", reason, message if reason == "Suspended" else ""),
        _forecast_condition(assessment.forecast),
        _stop_condition(assessment.stop),
        ("Complete", "True" if reason in COMPLETE else "False", reason, message if reason in COMPLETE else ""),
        ("Failed", "True" if reason in FAILED else "False", reason, message if reason in FAILED else ""),
    ]


def _health_condition(observed: ObservedState, alarms: Sequence[Alarm], *, over: bool) -> Said:
    """The watchdog's condition; a run that it has just sent SIGTERM is still unhealthy."""
    if over or observed.running is None or observed.answered is None:
        return "Healthy", "Unknown", "NotTraining", ""
    if not alarms:
        return "Healthy", "True", "NothingFound", ""
    return "Healthy", "False", alarms[0].rule, "; ".join(f"{each.message} ({each.action})" for each in alarms)


def _nodes_condition(excluded: Sequence[ExcludedNode]) -> Said:
    if not excluded:
        return "NodesFit", "True", "NoneExcluded", ""
    return "NodesFit", "False", "NodesExcluded", "; ".join(f"{each.name}: {each.reason}" for each in excluded)


def _forecast_condition(forecast: ForecastStatus | None) -> Said:
    if forecast is None:
        return "ForecastReady", "Unknown", "NoPoints", "no held-out evaluation yet"
    truth: Truth = "True" if forecast.verdict == "Identified" else "False"
    return "ForecastReady", truth, forecast.verdict, forecast.reason


def _stop_condition(stop: StopStatus | None) -> Said:
    if stop is None:
        return "StopRecommended", "False", "NoPolicyHolds", ""
    return "StopRecommended", "True", stop.mode, describe_stop(stop)


def describe_stop(stop: StopStatus) -> str:
    """Return the policy that holds, its numbers, and the compute that it saves."""
    saved = f"; {stop.saved_gpu_hours:.4g} GPU-h of the budget are left" if stop.saved_gpu_hours is not None else ""
    others = f"; so do {', '.join(stop.others)}" if stop.others else ""
    return f"policy {stop.policy} ({stop.mode}): {stop.reason}{saved}{others}"


def _conditions(old: RLRunStatus, wanted: Sequence[Said], now: datetime) -> list[Condition]:
    """The transition time changes only with the status (metav1.Condition)."""
    before: dict[str, Condition] = {each.type: each for each in old.conditions}
    built = []
    for name, truth, reason, message in wanted:
        earlier = before.get(name)
        since = earlier.last_transition_time if earlier is not None and earlier.status == truth else now
        built.append(
            Condition.model_validate(
                {
                    "type": name,
                    "status": truth,
                    "reason": reason,
                    "message": message[:1000],
                    "last_transition_time": since,
                    "observed_generation": old.observed_generation,
                }
            )
        )
    return built


def _roles(run: RLRun, observed: ObservedState) -> list[RoleStatus]:
    progress = observed.progress
    running = observed.running
    alive = running is not None and progress is not None
    training = progress is not None and progress.phase in ("training", "evaluating")
    return [
        RoleStatus(
            name="trainer",
            desired=run.spec.trainer.replicas,
            ready=(running.replicas or run.spec.trainer.replicas) if running is not None and alive and training else 0,
            restarts=max(0, observed.attempts[-1].number - 1) if observed.attempts else 0,
        ),
        RoleStatus(
            name="generator",
            desired=run.spec.generator.min_replicas,
            ready=progress.generators_ready if alive and progress is not None else 0,
            restarts=progress.generator_restarts if progress is not None else 0,
        ),
    ]


def _progress(progress: Progress, observed: ObservedState) -> ProgressStatus:
    measured = surviving(observed.evals)
    return ProgressStatus(
        phase=progress.phase,
        step=progress.step,
        version=progress.version,
        pass_rate=round(measured[-1].pass_rate, 4) if measured else None,
        compute_gpu_hours=float(f"{progress.compute_gpu_hours:.4g}"),  # kubectl prints what is stored
        reward_by_judge=_rewards(progress),
        mismatch=_round(last_mismatch(progress)),
        eta_seconds=observed.eta_seconds,
    )


def _rewards(progress: Progress) -> dict[str, float]:
    """The last step's rewards by verifier, in three digits."""
    found = progress.latest.reward_by_judge if progress.latest is not None else {}
    return {name: round(reward, 3) for name, reward in found.items()}


def _round(value: float | None) -> float | None:
    """Two digits: kubectl prints what is stored."""
    return float(f"{value:.2g}") if value is not None else None


def _checkpoint(observed: ObservedState) -> CheckpointStatus | None:
    found = observed.last_checkpoint or (observed.progress.checkpoint if observed.progress is not None else None)
    if found is None:
        return None
    return CheckpointStatus(step=found.step, time=datetime.fromtimestamp(found.time, UTC), uri=found.path)


def describe_invalid(
    status: RLRunStatus | None, generation: int, faults: Sequence[Fault], now: datetime
) -> RLRunStatus:
    """Return the status of an invalid spec: what runs continues, and a corrected spec takes effect at once."""
    old = (status or RLRunStatus()).model_copy(update={"observed_generation": generation})
    message = "; ".join(map(str, faults))
    wanted: list[Said] = [("Progressing", "False", "InvalidSpec", message)]
    kept = [each for each in old.conditions if each.type != "Progressing"]
    progress = old.progress or ProgressStatus(phase="", step=0, version=0, compute_gpu_hours=0.0)
    shown = progress.model_copy(update={"phase": "InvalidSpec"})
    return old.model_copy(update={"conditions": [*kept, *_conditions(old, wanted, now)], "progress": shown})
