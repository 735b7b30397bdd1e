"""The user's rules about failures, over written-down ends."""

from typing import Any

import pytest

from scalerl_api.policies import FailurePolicy
from scalerl_operator.decide.failure_policy import Ending, find_rule

POLICY = FailurePolicy.model_validate(
    {
        "rules": [
            {"name": "bad-data", "action": "FailRun", "onExitCodes": {"operator": "In", "values": [42, 43]}},
            {"name": "memory", "action": "Count", "onReasons": ["OOMKilled", "Evicted"]},
            {"name": "link", "action": "Ignore", "onPodConditions": [{"type": "example.com/LinkDown"}]},
            {"name": "unsure", "action": "Ignore", "onPodConditions": [{"type": "Healthy", "status": "Unknown"}]},
            {"name": "rest", "action": "Ignore", "onExitCodes": {"operator": "NotIn", "values": [1, 2]}},
        ]
    }
)


def ended(code: int | None = 1, cause: Any = None, reasons: tuple[str, ...] = (), **conditions: str) -> Ending:
    named = {name.replace("_", "."): status for name, status in conditions.items()}
    return Ending(cause, code, named, frozenset(reasons))


LINK = {"example.com/LinkDown": "True"}
ROWS = [
    (ended(1), None, "none fits: it costs what it costs"),
    (ended(42), "bad-data", "one of the codes"),
    (ended(43), "bad-data", "the other"),
    (ended(44), "rest", "neither 1 nor 2"),
    (ended(2), None, "2 is not meant"),
    (ended(137, reasons=("OOMKilled",)), "memory", "a reason, before the last rule"),
    (ended(42, reasons=("OOMKilled",)), "bad-data", "the first that fits decides"),
    (ended(None, reasons=("Evicted", "TerminationByKubelet")), "memory", "a pod that left no code"),
    (Ending(None, 1, LINK), "link", "a condition that is true"),
    (Ending(None, 1, {"example.com/LinkDown": "False"}), None, "a condition that is not"),
    (ended(1, Healthy="Unknown"), "unsure", "a condition of which nobody knows"),
    (ended(1, Healthy="True"), None, "the status is another"),
    (ended(0), None, "success is neither in nor out of a list of codes"),
    (ended(None), None, "nor is an end that left no code"),
    (ended(64), None, "a wrong spec is the run's end whatever a rule says"),
    (ended(42, "GangBroken"), "bad-data", "the member that broke the gang"),
    (ended(42, "Stuck"), None, "its code is of our own kill"),
    (ended(42, "Suspended"), None, "it was asked to end"),
    (ended(42, "WatchdogRestart"), None, "it was asked to end"),
]


@pytest.mark.parametrize(
    ("ending", "name"), [row[:2] for row in ROWS], ids=[f"{row[0].exit_code}: {row[2]}" for row in ROWS]
)
def test_the_first_rule_that_fits(ending: Ending, name: str | None) -> None:
    rule = find_rule(POLICY, ending)
    assert (rule.name if rule is not None else None) == name


def test_without_rules_none_fits() -> None:
    assert find_rule(FailurePolicy(), ended(42)) is None
