"""The stop policies that hold, by a run's evaluations and forecasts. PURE."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from pydantic.alias_generators import to_camel

from scalerl_api.policies import Bound, MinEvidence, SetBound, StopCondition, StopPolicy
from scalerl_operator.forecast import Forecast


@dataclass(frozen=True)
class Observation:
    """One evaluation and the forecast that was made after it. A number that is not known is None."""

    pass_rate: float
    compute: float
    """GPU-hours (device-hours on CPU)."""
    forecast: Forecast | None
    """None if none was made; its gains and `high` are for the run's budget."""
    step: int = 0
    entropy: float | None = None
    """Mean surprise of the completions' tokens, nats."""
    truncation: float | None = None
    """Share of the completions that were cut, in [0, 1]."""


@dataclass(frozen=True)
class Evidence:
    """A number that a policy evaluated."""

    step: int
    compute: float
    value: float
    verdict: str | None
    """Of the forecast that it came from; None for a measured number."""


@dataclass(frozen=True)
class PolicyHit:
    """A policy whose condition held for long enough."""

    policy: str
    mode: Literal["Enforce", "Observe"]
    quantity: str
    """By its name in the spec: `ceilingUpper`, `downstream.aime-24`."""
    reason: str
    """The numbers, in one sentence."""
    inputs: tuple[Evidence, ...]
    """One per evaluation that counted, oldest first."""
    saved_gpu_hours: float | None
    """Budget less compute at the last held-out evaluation; None if the budget's compute is not known."""


@dataclass(frozen=True)
class StopDecision:
    """The result of all policies."""

    enforced: PolicyHit | None
    """The first `Enforce` policy that holds: end the run."""
    hits: tuple[PolicyHit, ...]
    """Every policy that holds, in the user's order."""

    @property
    def first(self) -> PolicyHit:
        """The hit to show in the status: the one that ends the run if there is one."""
        return self.enforced if self.enforced is not None else self.hits[0]

    @property
    def others(self) -> tuple[PolicyHit, ...]:
        """The hits beside `first`."""
        return tuple(hit for hit in self.hits if hit is not self.first)


@dataclass(frozen=True)
class RunHistory:
    """The evaluations of a run, as policies look at them."""

    held_out: Sequence[Observation]
    """One per held-out evaluation, oldest first."""
    sets: Mapping[str, Sequence[Observation]] = field(default_factory=dict)
    """The same of other test sets, by their names in the spec; without forecasts."""
    budget_gpu_hours: float | None = None
    """Compute at which the run would end."""

    @property
    def unit(self) -> str:
        """Unit of compute."""
        last = self.held_out[-1].forecast if self.held_out else None
        return last.unit if last is not None else "GPU-h"

    @property
    def left_gpu_hours(self) -> float | None:
        """Budget that is left; None if it is not known."""
        if self.budget_gpu_hours is None or not self.held_out:
            return None
        return max(0.0, self.budget_gpu_hours - self.held_out[-1].compute)


def decide_stop(policies: Sequence[StopPolicy], history: RunHistory) -> StopDecision | None:
    """Return the policies that hold at the last evaluation of their test sets, or None if none does.

    Args:
        policies: in the user's order.
        history: of the run.

    An unknown number satisfies no bound: no forecast, or one with a lesser verdict than the policy requires, stops
    nothing.
    """
    found = [_hit(policy, history) for policy in policies]
    hits = tuple(hit for hit in found if hit is not None)
    if not hits:
        return None
    return StopDecision(next((hit for hit in hits if hit.mode == "Enforce"), None), hits)


def _hit(policy: StopPolicy, history: RunHistory) -> PolicyHit | None:
    condition = _condition(policy.when, history)
    if condition is None:
        return None
    quantity, bound, own, unit = condition.quantity, condition.bound, condition.history, history.unit
    if len(own) < policy.for_evals or not _is_enough(policy.min_evidence, own):
        return None
    measured = []
    for count in range(len(own) - policy.for_evals + 1, len(own) + 1):
        evidence = _evaluate(quantity, own[:count], policy.min_evidence)
        if evidence is None or not _holds(bound, evidence.value):
            return None
        measured.append(evidence)
    last = measured[-1]
    evaluations = "1 evaluation" if policy.for_evals == 1 else f"{policy.for_evals} evaluations in a row"
    reason = (
        f"{quantity.words.format(unit=unit)} is {last.value:{quantity.digits}}, {_side(bound)}, for {evaluations}"
        f" up to {last.compute:.4g} {unit}"
    )
    return PolicyHit(policy.name, policy.mode, condition.name, reason, tuple(measured), history.left_gpu_hours)


@dataclass(frozen=True)
class _Condition:
    """A policy's quantity, its bound, and the evaluations that it is measured by."""

    name: str
    quantity: "_Quantity"
    bound: Bound
    history: Sequence[Observation]


def _condition(when: StopCondition, history: RunHistory) -> _Condition | None:
    """Return the condition that is set; None if none is."""
    for name, bound in (when.downstream or {}).items():
        quantity, side = _set_quantity(name, bound)
        return _Condition(f"downstream.{name}", quantity, side, history.sets.get(name, ()))
    for name, quantity in QUANTITIES.items():
        bound = getattr(when, name)
        if isinstance(bound, Bound):
            return _Condition(to_camel(name), quantity, bound, history.held_out)
    return None


def _set_quantity(name: str, bound: SetBound) -> tuple["_Quantity", Bound]:
    """Return what a bound on a test set compares, and with what."""
    if bound.drop is not None:
        fall = replace(QUANTITIES["pass_rate_drop"], words=f"{name}'s fall from its best pass rate")
        return fall, Bound(above=bound.drop)
    return replace(QUANTITIES["pass_rate"], words=f"{name}'s pass rate"), bound


def _is_enough(wanted: MinEvidence, history: Sequence[Observation]) -> bool:
    return len(history) >= wanted.evals and history[-1].compute >= wanted.gpu_hours


@dataclass(frozen=True)
class _Quantity:
    """A quantity that a bound may limit."""

    words: str
    """For a person; `{unit}` is that of compute."""
    measure: Callable[[Sequence[Observation]], float | None] = lambda _: None
    """Its value at the last of some observations, if it is measured."""
    predict: Callable[[Forecast], float | None] | None = None
    """Its value, if it is predicted."""
    digits: str = ".3f"


def _drop(history: Sequence[Observation]) -> float:
    return max(each.pass_rate for each in history) - history[-1].pass_rate


QUANTITIES = {
    "ceiling_upper": _Quantity("the ceiling's upper end", predict=lambda it: it.ceiling_high),
    "remaining_gain": _Quantity("the gain left, at most,", predict=lambda it: it.gain_left_high),
    "marginal_gain": _Quantity("the gain per {unit}, at most,", predict=lambda it: it.marginal_gain_high, digits=".3g"),
    "pass_rate": _Quantity("the pass rate", lambda history: history[-1].pass_rate),
    "pass_rate_drop": _Quantity("the pass rate's fall from its best", _drop),
    "entropy": _Quantity("the entropy (nats)", lambda history: history[-1].entropy),
    "truncation": _Quantity("the share of cut completions", lambda history: history[-1].truncation),
    "gpu_hours": _Quantity("the compute", lambda history: history[-1].compute, digits=".4g"),
}


def _evaluate(quantity: _Quantity, history: Sequence[Observation], wanted: MinEvidence) -> Evidence | None:
    """Return the quantity at the last observation; None if it is not known, or the forecast not good enough."""
    last = history[-1]
    if quantity.predict is None:
        value, verdict = quantity.measure(history), None
    else:
        good = last.forecast is not None and last.forecast.verdict in (wanted.verdict, "Identified")
        value = quantity.predict(last.forecast) if good and last.forecast is not None else None
        verdict = last.forecast.verdict if last.forecast is not None else None
    return Evidence(last.step, last.compute, value, verdict) if value is not None else None


def _holds(bound: Bound, value: float) -> bool:
    if bound.below is None and bound.above is None:
        return False
    return (bound.below is None or value < bound.below) and (bound.above is None or value > bound.above)


def _side(bound: Bound) -> str:
    sides = [
        f"below {bound.below:g}" if bound.below is not None else "",
        f"above {bound.above:g}" if bound.above is not None else "",
    ]
    return " and ".join(side for side in sides if side)
