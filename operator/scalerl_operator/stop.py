"""Which stop policies hold, given what was measured and forecast so far. PURE."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scalerl_api.rlrun import Bound, StopCondition, StopPolicy
from scalerl_operator.forecast import Forecast


@dataclass(frozen=True)
class Observation:
    """One held-out evaluation and the forecast that was made after it."""

    pass_rate: float
    compute: float
    """GPU-hours (device-hours on CPU)."""
    forecast: Forecast | None
    """None if none was made; its gain left and `high` are for the run's budget."""


@dataclass(frozen=True)
class PolicyHit:
    """A policy whose condition held for long enough."""

    policy: str
    mode: Literal["Enforce", "Observe"]
    reason: str
    """The numbers, in one sentence."""
    saved_gpu_hours: float | None
    """Budget less compute so far; None if the budget's compute is not known."""


@dataclass(frozen=True)
class StopDecision:
    """What the policies say."""

    enforced: PolicyHit | None
    """The first `Enforce` policy that holds: end the run."""
    observed: tuple[PolicyHit, ...]
    """Every `Observe` policy that holds: report."""

    @property
    def first(self) -> PolicyHit:
        """The hit to show in the status: the one that ends the run if there is one."""
        return self.enforced if self.enforced is not None else self.observed[0]


def decide_stop(
    policies: Sequence[StopPolicy], history: Sequence[Observation], *, budget_gpu_hours: float | None = None
) -> StopDecision | None:
    """Return which policies hold at the last observation, or None if none does.

    Args:
        policies: in the user's order.
        history: one per held-out evaluation, oldest first.
        budget_gpu_hours: compute at which the run would end.

    A number that is not known satisfies no bound: no forecast, or one with the verdict NotIdentified, stops nothing.
    """
    hits = [hit for policy in policies if (hit := _hit(policy, history, budget_gpu_hours)) is not None]
    if not hits:
        return None
    enforced = next((hit for hit in hits if hit.mode == "Enforce"), None)
    return StopDecision(enforced, tuple(hit for hit in hits if hit.mode == "Observe"))


def _hit(policy: StopPolicy, history: Sequence[Observation], budget_gpu_hours: float | None) -> PolicyHit | None:
    recent = history[-policy.for_evals :]
    if len(recent) < policy.for_evals:
        return None
    measured = [_measure(policy.when, each) for each in recent]
    if not all(_holds(bound, value) for _, bound, value in measured):
        return None
    name, bound, value = measured[-1]
    last = recent[-1].compute
    unit = recent[-1].forecast.unit if recent[-1].forecast is not None else "GPU-h"
    reason = (
        f"{name} is {value:.3f}, {_side(bound)}, for {policy.for_evals} evaluations in a row up to {last:.4g} {unit}"
    )
    saved = None if budget_gpu_hours is None else max(0.0, budget_gpu_hours - last)
    return PolicyHit(policy.name, policy.mode, reason, saved)


def _measure(when: StopCondition, seen: Observation) -> tuple[str, Bound, float | None]:
    """Return the name of the condition's quantity, its bound, and its value if it is known."""
    if when.pass_rate is not None:
        return "the pass rate", when.pass_rate, seen.pass_rate
    believed = seen.forecast if seen.forecast is not None and seen.forecast.verdict != "NotIdentified" else None
    if when.ceiling_upper is not None:
        return "the ceiling's upper end", when.ceiling_upper, believed.ceiling_high if believed else None
    if when.remaining_gain is not None:
        return "the gain left, at most,", when.remaining_gain, believed.gain_left_high if believed else None
    return "nothing", Bound(), None


def _holds(bound: Bound, value: float | None) -> bool:
    if value is None or (bound.below is None and bound.above is None):
        return False
    return (bound.below is None or value < bound.below) and (bound.above is None or value > bound.above)


def _side(bound: Bound) -> str:
    sides = [
        f"below {bound.below:g}" if bound.below is not None else "",
        f"above {bound.above:g}" if bound.above is not None else "",
    ]
    return " and ".join(side for side in sides if side)
