"""`scalerl plan`: pilot curves in, a plan of their compute out. I/O."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from scalerl_operator.cli.fit_compare import load_curve, save_json
from scalerl_operator.cli.options import PlanOptions
from scalerl_operator.forecast import (
    FitError,
    Forecast,
    Points,
    Share,
    expected_width,
    fit_forecast,
    identified_at,
    split_budget,
    stop_point,
)
from scalerl_operator.render.text import format_table

HEADER = ("RUN", "VERDICT", "CEILING", "WIDTH NOW", "KNOWN AT", "WIDTH THERE", "MAY STOP AT", "SPEND MORE", "THEN AT")


@dataclass(frozen=True)
class BudgetPlan:
    """The plan of one pilot; compute in its unit, None for unknown numbers."""

    name: str
    verdict: str
    reason: str
    unit: str
    ceiling: float | None
    width: float | None
    """Of the ceiling's 90 % interval now."""
    identified_at: float | None
    """Compute at which `width` is expected to reach the requested width; None if above 30 times the pilot's."""
    expected_width: float | None
    """Width expected at `identified_at`."""
    stop_at: float | None
    """Compute from which on a stop is expected to lose at most the allowed loss against the budget's end."""
    share: Share | None
    """The pilot's part of the compute that is split over all runs."""


def run_plan(options: PlanOptions) -> str:
    """Plan every pilot, write the requested file, return the text to print. Raises FitError for a bad file."""
    curves = [load_curve(path, options.columns) for path in options.files]
    forecasts = [fit_forecast(curve, budget=options.budget) for curve in curves]
    names = [path.stem for path in options.files]
    shares: Sequence[Share | None] = [None] * len(curves)
    if options.split is not None:
        refused = [name for name, each in zip(names, forecasts, strict=True) if not each.draws]
        if refused:
            raise FitError(
                f"{refused[0]} has no curve to split compute by: {forecasts[names.index(refused[0])].reason}"
            )
        shares = split_budget(forecasts, options.split)
    plans = [
        plan_run(name, curve, found, (options.width, options.loss, share))
        for name, curve, found, share in zip(names, curves, forecasts, shares, strict=True)
    ]
    if options.json is not None:
        save_json(options.json, [asdict(each) for each in plans], indent=2)
    return f"{format_table(HEADER, [_row(each) for each in plans])}\n{_notes(plans, options)}"


def plan_run(name: str, curve: Points, found: Forecast, wanted: tuple[float, float, Share | None]) -> BudgetPlan:
    """Return the plan of one pilot.

    Args:
        name, curve, found: the run's name, points and forecast.
        wanted: width of the ceiling's interval, pass rate that may be lost, and the run's share of a split.
    """
    width, loss, share = wanted
    known = found.ceiling_high is not None and found.ceiling_low is not None
    at = identified_at(found, curve, width=width) if found.draws else None
    return BudgetPlan(
        name=name,
        verdict=found.verdict,
        reason=found.reason,
        unit=found.unit,
        ceiling=found.ceiling,
        width=(found.ceiling_high or 0.0) - (found.ceiling_low or 0.0) if known else None,
        identified_at=at,
        expected_width=None if at is None else expected_width(found, curve, at),
        stop_at=stop_point(found, loss=loss) if found.verdict != "NotIdentified" else None,
        share=share,
    )


def _row(plan: BudgetPlan) -> tuple[str, ...]:
    doubt = "?" if plan.share is not None and plan.verdict == "NotIdentified" else ""
    return (
        plan.name,
        plan.verdict,
        _number(plan.ceiling, ".3f"),
        _number(plan.width, ".3f"),
        _number(plan.identified_at, ".4g"),
        _number(plan.expected_width, ".3f"),
        _number(plan.stop_at, ".4g"),
        _number(None if plan.share is None else plan.share.compute, ".4g") + doubt,
        _number(None if plan.share is None else plan.share.pass_rate, ".3f") + doubt,
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _notes(plans: Sequence[BudgetPlan], options: PlanOptions) -> str:
    """Return the meaning of the columns for these options, and the reasons of refused forecasts."""
    lines = [
        f"KNOWN AT: {plans[0].unit} at which the interval is expected to be {options.width:g} wide, from the sigmoid "
        "alone: a lower bound."
    ]
    if options.budget is None:
        lines.append("MAY STOP AT needs --budget, the compute at which a run would end.")
    else:
        lines.append(
            f"MAY STOP AT: from there on a run is expected to gain less than {options.loss:g} up to {options.budget:g}."
        )
    if options.split is not None:
        lines.append(f"SPEND MORE splits {options.split:g} so that the sum of the pass rates THEN is largest.")
        doubtful = [each.name for each in plans if each.verdict == "NotIdentified"]
        if doubtful:
            lines.append(f"?: the split rests on a curve that is not identified, that of {', '.join(doubtful)}.")
    lines += [f"{each.name}: {each.reason}." for each in plans if each.verdict == "NotIdentified"]
    return "\n".join(lines) + "\n"
