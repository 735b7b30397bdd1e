"""From an API server's JSON to a pod."""

from datetime import UTC, datetime
from typing import Any

import pytest

from scalerl_operator.reconcile.observed_pod import parse_observed_pod, parse_termination
from scalerl_operator.resources.names import PodRole

METADATA = {
    "creationTimestamp": "2026-05-04T11:58:07Z",
    "namespace": "research",
    "uid": "9f",
    "resourceVersion": "812",
    "generation": 3,
}


def pod(status: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    labels = {
        "scalerl.io/run": "tiny",
        "scalerl.io/role": "trainer",
        "scalerl.io/index": "0",
        "scalerl.io/attempt": "5",
    }
    head = {"name": "tiny-trainer-0", "creationTimestamp": "2026-05-04T11:00:00Z", "labels": labels, **METADATA}
    return {"metadata": {**head, **metadata}, "spec": {"restartPolicy": "Never"}, "status": status}


def container(**state: Any) -> list[dict[str, Any]]:
    return [{"name": "shipper", "state": {"running": {"startedAt": "2020-01-01T00:00:00Z"}}}] + [
        {"name": "runtime", "state": state}
    ]


def test_a_running_pod() -> None:
    status = {
        "phase": "Running",
        "podIP": "10.1.2.3",
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": container(running={"startedAt": "2026-05-04T11:02:00Z"}),
    }
    observed = parse_observed_pod(pod(status))
    assert observed is not None
    assert (observed.run, observed.pod_role, observed.attempt) == (("research", "tiny"), PodRole("trainer", 0), 5)
    assert (observed.phase, observed.ip, observed.ready, observed.over, observed.lost) == (
        "Running",
        "10.1.2.3",
        True,
        False,
        False,
    )
    assert observed.started == datetime(2026, 5, 4, 11, 2, tzinfo=UTC)


def test_a_pod_whose_process_has_ended_while_another_container_runs() -> None:
    ended = {"exitCode": 75, "startedAt": "2026-05-04T11:02:00Z", "reason": "Error", "message": '{"reason": "Retry"}'}
    observed = parse_observed_pod(pod({"phase": "Running", "containerStatuses": container(terminated=ended)}))
    assert observed is not None
    assert (observed.exit_code, observed.over, observed.ended, observed.reason) == (75, True, False, "Error")
    words = parse_termination(observed)
    assert words is not None
    assert words.reason == "Retry"


def test_a_container_that_will_be_restarted_has_not_ended() -> None:
    ended = {"exitCode": 1, "startedAt": "2026-05-04T11:02:00Z"}
    found = pod({"phase": "Running", "containerStatuses": container(terminated=ended)})
    observed = parse_observed_pod({**found, "spec": {"restartPolicy": "Always"}})
    assert observed is not None
    assert (observed.exit_code, observed.over) == (None, False)


@pytest.mark.parametrize(
    "status",
    [
        {"phase": "Failed", "reason": "Evicted"},
        {"phase": "Failed", "conditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ],
)
def test_a_pod_that_kubernetes_ended(status: dict[str, Any]) -> None:
    observed = parse_observed_pod(pod(status))
    assert observed is not None
    assert (observed.lost, observed.over, observed.exit_code) == (True, True, None)


REASONS = [
    ({"phase": "Failed", "containerStatuses": container(terminated={"exitCode": 137, "reason": "OOMKilled"})},
     False, {"OOMKilled"}, "an OOM kill is no lost pod"),
    ({"phase": "Failed", "reason": "NodeLost", "conditions": [{"type": "Ready", "status": "False", "reason": "Gone"}]},
     True, {"NodeLost"}, "a lost node; a condition that is false gives no reason"),
    ({"phase": "Running", "conditions": [
        {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}]},
     True, {"DeletionByTaintManager"}, "a node that does not answer: the pod still runs, for all that is known"),
    ({"phase": "Failed", "reason": "Evicted", "conditions": [
        {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}],
      "containerStatuses": container(terminated={"exitCode": 137, "reason": "Error"})},
     True, {"Error", "Evicted", "TerminationByKubelet"}, "an eviction by the kubelet says it three times"),
    ({"phase": "Failed", "conditions": [{"type": "DisruptionTarget", "status": "False", "reason": "X"}],
      "containerStatuses": container(terminated={"exitCode": 1, "reason": "Error"})},
     False, {"Error"}, "an eviction that was called off"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "lost", "reasons"), [r[:3] for r in REASONS], ids=[r[3] for r in REASONS])
def test_words_for_an_end(status: dict[str, Any], lost: bool, reasons: set[str]) -> None:
    observed = parse_observed_pod(pod(status))
    assert observed is not None
    assert (observed.lost, observed.reasons) == (lost, reasons)


UNPLACED = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/4 nodes are available"}
PULL = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "x:1"'}
WAITS = [
    ({"conditions": [UNPLACED]}, "Unschedulable: 0/4 nodes are available", "the scheduler"),
    ({"conditions": [{**UNPLACED, "reason": "SchedulingGated", "message": ""}]}, "SchedulingGated", "a gate"),
    ({"conditions": [{**UNPLACED, "status": "True"}], "containerStatuses": container(waiting=PULL)},
     'ImagePullBackOff: Back-off pulling image "x:1"', "an image"),
    ({"initContainerStatuses": [{"name": "fetch", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}],
      "containerStatuses": container(waiting={"reason": "PodInitializing"})}, "CrashLoopBackOff",
     "an init container, before the usual"),
    ({"containerStatuses": [{"name": "shipper", "state": {"waiting": {"reason": "ContainerCreating"}}},
                            {"name": "runtime", "state": {"waiting": PULL}}]},
     'ImagePullBackOff: Back-off pulling image "x:1"', "what is unusual, wherever it is"),
    ({"containerStatuses": container(waiting={"reason": "ContainerCreating"})}, "ContainerCreating", "the usual"),
    ({"containerStatuses": container(running={"startedAt": "2026-05-04T11:02:00Z"})}, "", "it runs"),
    ({}, "", "nobody has looked at it yet"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "waiting"), [r[:2] for r in WAITS], ids=[r[2] for r in WAITS])
def test_what_a_pod_waits_for(status: dict[str, Any], waiting: str) -> None:
    observed = parse_observed_pod(pod({"phase": "Pending", **status}))
    assert observed is not None
    assert observed.waiting == waiting


def test_conditions_are_kept_for_the_users_rules() -> None:
    conditions = [{"type": "example.com/XidError", "status": "True"}, {"type": "Ready", "status": "Unknown"}]
    observed = parse_observed_pod(pod({"phase": "Running", "conditions": conditions}))
    assert observed is not None
    assert observed.conditions == {"example.com/XidError": "True", "Ready": "Unknown"}


def test_words_that_are_none() -> None:
    ended = {"exitCode": 137, "message": "Killed"}
    observed = parse_observed_pod(pod({"phase": "Failed", "containerStatuses": container(terminated=ended)}))
    assert observed is not None
    assert parse_termination(observed) is None


def test_somebody_elses_pod() -> None:
    assert parse_observed_pod(pod({}, labels={"app": "web"})) is None


def test_a_pod_that_goes_and_one_that_is_gone() -> None:
    leaving = parse_observed_pod(pod({"phase": "Running"}, deletionTimestamp="2026-05-04T11:09:00Z"))
    assert leaving is not None
    assert (leaving.deleting, leaving.over) == (datetime(2026, 5, 4, 11, 9, tzinfo=UTC), False)
    gone = parse_observed_pod(pod({"phase": "Running"}), gone=True)
    assert gone is not None
    assert gone.over


@pytest.mark.parametrize(
    ("why", "others", "policy", "silent"),
    [
        ("nothing else", [], "Never", True),
        (
            "a further container has ended too",
            [{"name": "log", "state": {"terminated": {"exitCode": 0}}}],
            "Never",
            True,
        ),
        ("a further container runs", [{"name": "log", "state": {"running": {}}}], "Never", False),
        ("it will be started again", [], "Always", False),
    ],
)
def test_a_pod_has_ended_before_the_kubelet_says_its_phase(
    why: str, others: list[dict[str, Any]], policy: str, silent: bool
) -> None:
    """Else a coordinator's pod, which is kept for its log, would be deleted in that moment."""
    ended = {"name": "runtime", "state": {"terminated": {"exitCode": 0, "startedAt": "2026-05-04T12:00:00Z"}}}
    labels = {
        "scalerl.io/run": "tiny",
        "scalerl.io/role": "trainer",
        "scalerl.io/index": "0",
        "scalerl.io/attempt": "1",
    }
    pod = parse_observed_pod(
        {
            "metadata": {
                "namespace": "research",
                "name": "tiny-trainer-0",
                "uid": "u",
                "resourceVersion": "9",
                "creationTimestamp": "2026-05-04T11:00:00Z",
                "labels": labels,
            },
            "spec": {"restartPolicy": policy},
            "status": {"phase": "Running", "containerStatuses": [ended, *others]},
        }
    )
    assert pod is not None
    assert (pod.containers_ended, pod.ended) == (silent, silent), why


UNFIT = '{"reason": "Unfit", "unfitNodes": [{"node": "gpu-3", "reason": "2 devices are visible; need 8"}]}'


@pytest.mark.parametrize(
    ("states", "nodes"),
    [
        ({"state": {"terminated": {"exitCode": 76, "message": UNFIT}}}, ["gpu-3"]),
        ({"state": {"waiting": {}}, "lastState": {"terminated": {"exitCode": 76, "message": UNFIT}}}, ["gpu-3"]),
        ({"state": {"running": {}}, "lastState": {"terminated": {"exitCode": 76, "message": UNFIT}}}, ["gpu-3"]),
        ({"state": {"terminated": {"exitCode": 1, "message": UNFIT}}}, []),
        ({"state": {"terminated": {"exitCode": 76, "message": "cut of"}}}, []),
        ({"state": {"terminated": {"exitCode": 76}}}, []),
        ({"state": {"running": {}}, "lastState": {}}, []),
    ],
)
def test_nodes_that_a_process_refused(states: dict[str, Any], nodes: list[str]) -> None:
    found = pod({"phase": "Running", "containerStatuses": [{"name": "runtime", **states}]})
    observed = parse_observed_pod({**found, "spec": {"restartPolicy": "Always"}})
    assert observed is not None
    assert [each.node for each in observed.unfit_nodes] == nodes
