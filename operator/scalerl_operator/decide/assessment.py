"""From a run's points to its forecast and its stop recommendation. PURE."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from scalerl_api import RLRun
from scalerl_api.evaluations import surviving
from scalerl_api.status import ForecastStatus, SourceForecastStatus, StopInput, StopStatus
from scalerl_api.wire import HELD_OUT, EvalPoint, source_of
from scalerl_operator.decide.stop_policy import Observation, PolicyHit, RunHistory, decide_stop
from scalerl_operator.forecast import (
    EntropyForecast,
    FitError,
    Forecast,
    Points,
    binomial_standard_error,
    fit_forecast,
    forecast_entropy,
    points,
)
from scalerl_operator.run.evals import EvalKey, eval_key
from scalerl_operator.run.forecast_log import ForecastLine, living_forecasts, match_forecasts
from scalerl_operator.run.observed import Assessment
from scalerl_operator.run.progress import budget_gpu_hours, compute_unit

STATED_INPUTS = 10  # of a policy in the status; `for` may be 1000


def fit_points(evals: Sequence[EvalPoint], unit: str, dataset: str = HELD_OUT) -> Points:
    """Return the points of a test set that can be fitted."""
    kept = surviving(evals, dataset)
    return points(
        [point.compute_gpu_hours for point in kept],
        [point.pass_rate for point in kept],
        [scatter_of(point) for point in kept],
        unit=unit,
    )


def scatter_of(point: EvalPoint) -> float:
    """Return how far this pass rate may lie from the curve by chance.

    The prompts of whole evaluations are the same, so only their completions scatter. A late evaluation has measured a
    random part of them; its error by prompt counts in proportion to the prompts that it left out.
    """
    sampling = binomial_standard_error(point.pass_rate, max(1, point.prompts * point.samples - point.excluded))
    left_out = point.unsampled / max(1, point.prompts + point.unsampled)
    return math.hypot(sampling, math.sqrt(left_out) * point.standard_error)


def forecast_points(run: RLRun, evals: Sequence[EvalPoint], budget: float | None, time: float) -> ForecastLine:
    """Return the forecast that `evals` allow, as of the last of them (of one test set, in order, at least one).

    Args:
        budget: compute (GPU-hours) at which the run will end, if that is known.
        time: Unix seconds, for the record.
    """
    last, spec, unit = evals[-1], run.spec.forecast, compute_unit(run)
    try:
        found = fit_forecast(
            fit_points(evals, unit, last.dataset),
            budget=budget or None,
            target=spec.target.pass_rate if spec.target is not None else None,
            burn_in=spec.burn_in_gpu_hours,
            law=spec.law,
        )
    except FitError as error:  # a coordinator that measures nonsense; the run itself may be sound
        found = Forecast("NotIdentified", str(error), "sigmoid", 0, 0.0, unit)
    return ForecastLine(
        time=time,
        step=last.step,
        compute_gpu_hours=last.compute_gpu_hours,
        budget_gpu_hours=budget,
        forecast=found,
        attempt=last.attempt,
    )


def forecast_prefixes(run: RLRun, prefixes: Sequence[Sequence[EvalPoint]], time: float) -> list[ForecastLine]:
    """Return the forecast of each prefix of the run's evaluations, with the budget as estimated at its last one."""
    return [forecast_prefix(run, prefix, time) for prefix in prefixes]


def forecast_prefix(run: RLRun, prefix: Sequence[EvalPoint], time: float) -> ForecastLine:
    """Return the forecast that a prefix of the run's evaluations allows."""
    budget = budget_gpu_hours(run, prefix[-1].step, prefix[-1].compute_gpu_hours)
    return forecast_points(run, prefix, budget, time)


def foresee_entropy(run: RLRun, evals: Sequence[EvalPoint]) -> EntropyForecast | None:
    """Return when the policy's entropy will be at the watchdog's floor; None if it has none, or nothing was measured.

    From the evaluations' own entropy, which is that of held-out prompts; the watchdog's is that of the trained tokens.
    """
    floor = run.spec.watchdog.entropy.below
    measured = [point for point in surviving(evals) if point.entropy is not None]
    if floor is None or not measured:
        return None
    compute, entropy = [each.compute_gpu_hours for each in measured], [each.entropy or 0.0 for each in measured]
    return forecast_entropy(compute, entropy, floor=floor, unit=compute_unit(run))


def to_status(line: ForecastLine) -> ForecastStatus:
    """Return the status's view of a forecast. A number that a refusal makes worthless is left out."""
    found = line.forecast
    known = found.verdict != "NotIdentified"
    return ForecastStatus(
        verdict=found.verdict,
        reason=found.reason,
        law=found.law,
        points=found.points,
        ceiling=found.ceiling if known else None,
        ceiling_low=found.ceiling_low,
        ceiling_high=found.ceiling_high,
        c_mid_gpu_hours=found.c_mid if known else None,
        b=found.b if known else None,
        r0=found.r0,
        predicted_at_budget=found.predicted_at_budget if known else None,
        low=found.low,
        high=found.high,
        target_gpu_hours=found.target_compute if known else None,
        summary=_summarize_ceiling(found) if known else None,
        updated_at=datetime.fromtimestamp(line.time, UTC),
    )


def _summarize_ceiling(found: Forecast) -> str | None:
    """Return `0.61 [0.59,0.63]`; None without a fit."""
    if found.ceiling is None or found.ceiling_low is None or found.ceiling_high is None:
        return None
    return f"{found.ceiling:.2f} [{found.ceiling_low:.2f},{found.ceiling_high:.2f}]"


def summarize(
    run: RLRun,
    forecasts: Sequence[ForecastLine],
    evals: Sequence[EvalPoint],
    sources: Mapping[str, ForecastLine] | None = None,
) -> Assessment:
    """Return the newest forecast, those of the training sources by their `dataset`, and the stop policy that holds."""
    lines = living_forecasts(forecasts, evals)
    by_source = tuple(to_source_status(name, line, evals) for name, line in sorted((sources or {}).items()))
    if not lines:
        return Assessment(sources=by_source)
    return Assessment(to_status(lines[-1]), decide_run_stop(run, lines, evals), by_source)


def to_source_status(dataset: str, line: ForecastLine, evals: Sequence[EvalPoint]) -> SourceForecastStatus:
    """Return the status's view of a source's forecast, beside its last measured pass rate."""
    measured = surviving(evals, dataset)
    rate = round(measured[-1].pass_rate, 4) if measured else None
    return SourceForecastStatus(**to_status(line).model_dump(), name=source_of(dataset), pass_rate=rate)


def decide_run_stop(run: RLRun, forecasts: Sequence[ForecastLine], evals: Sequence[EvalPoint]) -> StopStatus | None:
    """Return the policy to show: the one that ends the run, else the first that only reports; None if none holds.

    Args:
        forecasts: of the weights that went on, the newest last.

    A policy gets each evaluation with the forecast that was made after it. Evaluations newer than the last forecast are
    left out until theirs is made, those of other test sets too. `scalerl run` and the operator both decide by this
    function alone.
    """
    if not run.spec.stop_policies or not forecasts:
        return None
    made = {key: line.forecast for key, line in match_forecasts(forecasts, evals).items()}
    known = [point for point in evals if point.step <= forecasts[-1].step]
    sets = {name: _observe(surviving(known, dataset), {}) for name, dataset in run.spec.data.named_sets.items()}
    history = RunHistory(_observe(surviving(known), made), sets, forecasts[-1].budget_gpu_hours)
    decision = decide_stop(run.spec.stop_policies, history)
    if decision is None:
        return None
    return _to_stop(decision.first, [hit.policy for hit in decision.others])


def _observe(points: Sequence[EvalPoint], made: Mapping[EvalKey, Forecast]) -> list[Observation]:
    return [
        Observation(
            point.pass_rate,
            point.compute_gpu_hours,
            made.get(eval_key(point)),
            step=point.step,
            entropy=point.entropy,
            truncation=point.truncation_share,
        )
        for point in points
    ]


def _to_stop(hit: PolicyHit, others: list[str]) -> StopStatus:
    shown = hit.inputs[-STATED_INPUTS:]
    return StopStatus(
        policy=hit.policy,
        mode=hit.mode,
        reason=hit.reason,
        quantity=hit.quantity,
        inputs=[
            StopInput(step=each.step, compute_gpu_hours=each.compute, value=each.value, verdict=each.verdict)
            for each in shown
        ],
        saved_gpu_hours=hit.saved_gpu_hours,
        others=others,
    )
