"""The failure rule that applies to the end of an attempt, by its exit code, pod conditions and reasons. PURE."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from scalerl_api.policies import ExitCodes, FailurePolicy, FailureRule
from scalerl_api.status import StopCause
from scalerl_api.wire import EXIT_INVALID


@dataclass(frozen=True)
class Ending:
    """How an attempt ended."""

    stop_cause: StopCause | None
    """Cause of the operator's request to end; None without one."""
    exit_code: int | None
    """128 + N for signal N; None if there is none."""
    conditions: Mapping[str, str] = field(default_factory=dict)
    """Of its pod: type -> status."""
    reasons: frozenset[str] = frozenset()
    """Reasons of the container, of the pod, and of the pod's true conditions."""


def find_rule(policy: FailurePolicy, ending: Ending) -> FailureRule | None:
    """Return the first rule that matches; None if none does.

    None also for a requested end, whose exit code carries no information, and for an invalid spec, which no restart
    repairs. With `GangBroken`, the coordinator was ended because a member was lost: the member's end is matched.
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
    """No exit code, and code 0, match neither `In` nor `NotIn`, as in a Job's podFailurePolicy."""
    if not code:
        return False
    return (code in codes.values) == (codes.operator == "In")
