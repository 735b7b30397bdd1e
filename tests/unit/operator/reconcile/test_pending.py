"""The reasons why pods wait, as text."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from scalerl_api.status import AttemptStatus
from scalerl_operator.reconcile.observed_pod import ObservedPod
from scalerl_operator.reconcile.pending import describe_waits, pending_until
from scalerl_operator.resources.names import PodRole

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
FULL = "Unschedulable: 0/2 nodes are available: 2 Insufficient nvidia.com/gpu."


def pod(place: str, waiting: str = "", **values: Any) -> ObservedPod:
    role, index = place.split("-")
    kind: Any = role
    attempt = 3 if role == "trainer" else None
    return ObservedPod(
        run=("a", "b"), name=place, uid=place, owner="u", version=1, pod_role=PodRole(kind, int(index)),
        attempt=attempt, created=NOW, unscheduled=waiting, **values,
    )  # fmt: skip


def test_pods_that_wait_for_the_same_are_named_together_trainers_first() -> None:
    pods = [
        pod("generator-0", "ImagePullBackOff"),
        pod("trainer-1", FULL),
        pod("trainer-0", started=NOW),
        pod("generator-1", FULL),
        pod("trainer-2", FULL),
    ]
    assert describe_waits(pods) == f"trainer-1, trainer-2, generator-1: {FULL}; generator-0: ImagePullBackOff"


def test_many_pods_are_counted() -> None:
    assert describe_waits([pod(f"generator-{n}", FULL) for n in range(400)]) == f"generator-0 and 399 more: {FULL}"


def test_a_long_sentence_is_cut() -> None:
    assert describe_waits([pod("trainer-0", "x" * 5000)]) == "trainer-0: " + "x" * 300


@pytest.mark.parametrize(
    "values",
    [{"started": NOW}, {"gone": True}, {"phase": "Failed"}, {"deleting": NOW}],
    ids=["it runs", "it is gone", "it has failed", "it goes"],
)
def test_who_does_not_wait_is_not_named(values: dict[str, Any]) -> None:
    assert describe_waits([pod("trainer-0", FULL, **values)]) == ""


ATTEMPT = AttemptStatus(number=3, replicas=2, created=NOW - timedelta(seconds=100))
RUNS = (pod("trainer-0", started=NOW), pod("trainer-1", started=NOW))


def test_the_wait_is_over_when_all_trainers_have_begun() -> None:
    due = NOW + timedelta(seconds=800)
    assert pending_until(ATTEMPT, RUNS[:1], 900) == due
    assert pending_until(ATTEMPT, [RUNS[0], pod("trainer-1", FULL)], 900) == due
    assert pending_until(ATTEMPT, [RUNS[0], pod("generator-0", started=NOW)], 900) == due
    assert pending_until(ATTEMPT, RUNS, 900) is None
    assert pending_until(ATTEMPT, (), None) is None
