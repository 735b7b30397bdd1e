"""Nodes that failed a run's preflight, by its pods' termination messages, and their readmission. PURE."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from scalerl_api.status import ExcludedNode
from scalerl_api.wire import ANNOTATION_FIT_NODES
from scalerl_operator.reconcile.observed_pod import ObservedPod

MAX_EXCLUDED = 16  # more than this are no fault of nodes; the oldest are tried again
EVERY_NODE = "*"


def update_excluded(
    known: Sequence[ExcludedNode], pods: Sequence[ObservedPod], annotations: Mapping[str, str], now: datetime
) -> list[ExcludedNode]:
    """Return the nodes that the run's next pods must avoid, oldest first.

    A node in the annotation is fit whatever its pods report, so that the annotation holds until it is removed.
    """
    names = {each.strip() for each in annotations.get(ANNOTATION_FIT_NODES, "").split(",")}
    found = {each.name: each for each in known}
    for pod in pods:
        for each in pod.unfit_nodes:
            found.setdefault(each.node, ExcludedNode(name=each.node, reason=each.reason, time=now))
    kept = [each for each in found.values() if each.name not in names and EVERY_NODE not in names]
    return kept[-MAX_EXCLUDED:]


def is_refused(pod: ObservedPod) -> bool:
    """Whether the pod's process refused its node, on which the kubelet would only start it again."""
    return bool(pod.unfit_nodes) and pod.container_state != "running"
