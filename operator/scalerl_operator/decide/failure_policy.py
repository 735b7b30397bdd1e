"""What the end of an attempt costs: the user's rules, by how its process or pod has ended. PURE."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from scalerl_api.policies import ExitCodes, FailurePolicy, FailureRule
from scalerl_api.status import StopCause
from scalerl_api.wire import EXIT_INVALID


@dataclass(frozen=True)
class Ending:
    """How an attempt ended."""

    stop_cause: StopCause | None
    """Why it was asked to; None if it was not."""
    exit_code: int | None
    """128 + N for signal N; None if that left none."""
    conditions: Mapping[str, str] = field(default_factory=dict)
    """Of its pod: type -> status."""
    reasons: frozenset[str] = frozenset()
    """Words for it: the container's, the pod's, those of the pod's true conditions."""


def find_rule(policy: FailurePolicy, ending: Ending) -> FailureRule | None:
    """Return the first rule that fits; None if none does.

    None also for an end that was asked for, whose exit code says nothing, and for a spec that is wrong, which nothing
    can mend. A gang whose coordinator was asked to end, for it had lost a member, ended as that member did.
    """
    if ending.stop_cause not in (None, "GangBroken") or ending.exit_code == EXIT_INVALID:
        return None
    return next((rule for rule in policy.rules if _fits(rule, ending)), None)


def _fits(rule: FailureRule, ending: Ending) -> bool:
    if rule.on_exit_codes is not None:
        return _fits_code(rule.on_exit_codes, ending.exit_code)
    if rule.on_pod_conditions is not None:
        return any(ending.conditions.get(each.type) == each.status for each in rule.on_pod_conditions)
    return not ending.reasons.isdisjoint(rule.on_reasons or ())


def _fits_code(codes: ExitCodes, code: int | None) -> bool:
    """A process that left no code, or that succeeded, fits neither `In` nor `NotIn`: as in a Job's podFailurePolicy."""
    if not code:
        return False
    return (code in codes.values) == (codes.operator == "In")
