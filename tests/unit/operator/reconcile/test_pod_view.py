"""The reason why a pod waits, and events of both kinds."""

from datetime import UTC, datetime
from typing import Any

import pytest

from scalerl_operator.reconcile.observed_pod import parse_observed_pod
from scalerl_operator.reconcile.pod_view import (
    EventView,
    build_pod_view,
    describe_wait,
    has_no_process,
    last_events,
    order_pods,
    parse_event,
)
from scalerl_operator.resources.names import PodRole, pod_labels

Json = dict[str, Any]


def pod(pod_role: PodRole = PodRole("trainer", 0), run: str = "tiny", **parts: Any) -> Json:  # noqa: B008 # a value
    metadata = {
        "name": f"{run}-{pod_role.hostname}",
        "namespace": "research",
        "uid": f"uid-{pod_role.hostname}",
        "resourceVersion": "7",
        "labels": pod_labels(run, pod_role, 1),
        "creationTimestamp": "2026-05-04T11:00:00Z",
        **parts.get("metadata", {}),
    }
    spec = {"nodeName": "gpu-7", "containers": [{"name": "shipper"}, {"name": "runtime", "image": "mine:3"}]}
    return {"metadata": metadata, "spec": {**spec, **parts.get("spec", {})}, "status": parts.get("status", {})}


def waiting(name: str, reason: str, message: str = "") -> Json:
    return {"name": name, "state": {"waiting": {"reason": reason} | ({"message": message} if message else {})}}


NOT_PLACED = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/2 nodes are available: 2 Insufficient nvidia.com/gpu.",
}
RUNNING = {"name": "runtime", "restartCount": 2, "state": {"running": {"startedAt": "2026-05-04T11:01:00Z"}}}
ENDED = {"name": "runtime", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}

WAITS: list[tuple[str, Json, str, bool]] = [
    ("no node has room", pod(spec={"nodeName": ""}, status={"conditions": [NOT_PLACED]}),
     "Unschedulable: 0/2 nodes are available: 2 Insufficient nvidia.com/gpu.", True),
    ("held by a gate", pod(spec={"nodeName": ""}, status={"conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}), "SchedulingGated", True),
    ("no scheduler binds it", pod(spec={"nodeName": "", "schedulerName": "volcano"}),
     "no word from the scheduler volcano", True),
    ("not seen by its kubelet", pod(status={"phase": "Pending"}), "the kubelet has not started it", True),
    ("no image", pod(status={"containerStatuses": [
        waiting("shipper", "ContainerCreating"), waiting("runtime", "ImagePullBackOff", "Back-off pulling x")]}),
     "runtime: ImagePullBackOff: Back-off pulling x", True),
    ("being made", pod(status={"containerStatuses": [
        waiting("shipper", "ContainerCreating"), waiting("runtime", "ContainerCreating")]}),
     "shipper: ContainerCreating", True),
    ("an init container", pod(status={"initContainerStatuses": [waiting("fetch", "CrashLoopBackOff")],
                                      "containerStatuses": [waiting("runtime", "PodInitializing")]}),
     "fetch: CrashLoopBackOff", True),
    ("at work", pod(status={"phase": "Running", "containerStatuses": [RUNNING],
                            "conditions": [{"type": "Ready", "status": "True"}]}), "", False),
    ("not ready", pod(status={"phase": "Running", "containerStatuses": [RUNNING],
                              "conditions": [{"type": "Ready", "status": "False"}]}), "runs, is not ready", False),
    ("on its way out", pod(metadata={"deletionTimestamp": "2026-05-04T12:34:56Z"},
                           status={"phase": "Running", "containerStatuses": [RUNNING]}),
     "is ending, has until 12:34:56", False),
    ("out of memory", pod(status={"phase": "Failed", "containerStatuses": [ENDED]}), "exit code 137, OOMKilled", False),
    ("evicted", pod(status={"phase": "Failed", "reason": "Evicted"}), "Evicted", False),
    ("finished", pod(status={"phase": "Succeeded", "containerStatuses": [
        {"name": "runtime", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}), "exit code 0", False),
]  # fmt: skip


@pytest.mark.parametrize(("document", "waits", "stuck"), [r[1:] for r in WAITS], ids=[r[0] for r in WAITS])
def test_what_a_pod_waits_for(document: Json, waits: str, stuck: bool) -> None:
    found = parse_observed_pod(document)
    assert found is not None
    assert (describe_wait(found), has_no_process(found)) == (waits, stuck)


def test_the_other_fields_of_a_pod() -> None:
    running = parse_observed_pod(pod(status={"phase": "Running", "containerStatuses": [{"name": "shipper"}, RUNNING]}))
    assert running is not None
    assert (running.node, running.image, running.restarts) == ("gpu-7", "mine:3", 2)
    assert (running.has_log, running.container_state, running.ready) == (True, "running", False)
    assert running.log_key == ("uid-trainer-0", 2)
    ended = parse_observed_pod(pod(status={"phase": "Failed", "containerStatuses": [ENDED]}))
    assert ended is not None
    assert (ended.has_log, ended.container_state) == (True, "terminated")
    waits = parse_observed_pod(pod(status={"containerStatuses": [waiting("runtime", "ContainerCreating")]}))
    assert waits is not None
    assert (waits.has_log, waits.container_state) == (False, "waiting")


def test_a_pod_of_somebody_else_is_none() -> None:
    assert parse_observed_pod({**pod(), "metadata": {**pod()["metadata"], "labels": {"app": "web"}}}) is None


def test_a_warning_follows_what_the_pod_waits_for() -> None:
    found = parse_observed_pod(pod(status={"containerStatuses": [waiting("runtime", "ContainerCreating")]}))
    assert found is not None
    view = build_pod_view(found, "FailedMount: no volume")
    assert (view.name, view.phase, view.node) == ("tiny-trainer-0", "Pending", "gpu-7")
    assert view.waits == "runtime: ContainerCreating; FailedMount: no volume"


def test_an_evicted_pod_is_not_restarted() -> None:
    status = {"phase": "Failed", "reason": "Evicted", "containerStatuses": [ENDED]}
    found = parse_observed_pod(pod(spec={"restartPolicy": "Always"}, status=status))
    assert found is not None
    assert describe_wait(found) == "exit code 137, OOMKilled, Evicted"


def test_pods_are_chosen_and_ordered() -> None:
    pod_roles = [PodRole("generator", 10), PodRole("generator", 2), PodRole("trainer", 1), PodRole("trainer", 0)]
    pods = [each for pod_role in pod_roles if (each := parse_observed_pod(pod(pod_role))) is not None]
    pods += [each for each in [parse_observed_pod(pod(run="other"))] if each is not None]
    names = [each.pod_role.hostname for each in order_pods(pods, "tiny")]
    assert names == ["trainer-0", "trainer-1", "generator-2", "generator-10"]
    assert [each.pod_role.index for each in order_pods(pods, "tiny", role="generator")] == [2, 10]
    assert [each.pod_role.hostname for each in order_pods(pods, "tiny", index=0)] == ["trainer-0"]


def event(time: str, **parts: Any) -> Json:
    return {"metadata": {"creationTimestamp": "2026-05-04T01:00:00Z"}, "reason": "R", "lastTimestamp": time, **parts}


def test_events_of_the_old_kind_and_of_the_new() -> None:
    old = event("2026-05-04T12:00:00Z", count=4, type="Warning", message=" no room\n")
    assert parse_event(old) == EventView(datetime(2026, 5, 4, 12, tzinfo=UTC), "Warning", "R", "no room", 4)
    new = event(None, eventTime="2026-05-04T13:00:00.250000Z", series={  # type: ignore[arg-type]
        "count": 7, "lastObservedTime": "2026-05-04T14:00:00.500000Z"})  # fmt: skip
    found = parse_event(new)
    assert (found.time.hour, found.count, found.kind) == (14, 7, "Normal")
    bare = {"metadata": {"creationTimestamp": "2026-05-04T01:00:00Z"}}
    assert (parse_event(bare).time.hour, parse_event(bare).count) == (1, 1)


def test_the_last_events_oldest_first() -> None:
    given = [event(f"2026-05-04T{hour}:00:00Z") for hour in ("10", "12", "09", "11")]
    assert [each.time.hour for each in last_events(given, 3)] == [10, 11, 12]
