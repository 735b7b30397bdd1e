"""Names, labels and paths of the objects that the operator creates for a run. PURE."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from scalerl_api.wire import CONTAINER as CONTAINER

Role = Literal["trainer", "generator"]
ROLES: tuple[Role, ...] = ("trainer", "generator")

FIELD_MANAGER = "scalerl-operator"
LABEL_RUN = "scalerl.io/run"
LABEL_ROLE = "scalerl.io/role"
LABEL_INDEX = "scalerl.io/index"
LABEL_ATTEMPT = "scalerl.io/attempt"  # trainers only: generators outlive attempts
LABEL_RUN_UID = "scalerl.io/run-uid"  # for scrapers: a later run of the same name is another run
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
OWNED_PREFIXES = ("scalerl.io/", "app.kubernetes.io/")
ANNOTATION_CEILING = "scalerl.io/predicted-ceiling"
ANNOTATION_INTERVAL = "scalerl.io/predicted-ceiling-interval"
ANNOTATION_IMAGE = "scalerl.io/runtime-image"  # of the ConfigMap with the spec: a later export needs it
FORECAST_ANNOTATIONS = (ANNOTATION_CEILING, ANNOTATION_INTERVAL)

PORT_NAME = "http"  # of the coordinator's port; the chart's monitors name it
SPEC_KEY = "run.yaml"  # in the ConfigMap
TOKEN_KEY = "token"  # in the Secret

# Paths in a run's pods.
SPEC_FOLDER = "/etc/scalerl"
TOKEN_FOLDER = "/etc/scalerl-token"
RUN_FOLDER = "/var/lib/scalerl/run"
CACHE_FOLDER = "/var/lib/scalerl/cache"
TERMINATION_PATH = "/dev/termination-log"
SCRATCH_FOLDER = "/tmp"  # noqa: S108 # private to the pod
SHARED_MEMORY = "/dev/shm"  # noqa: S108
VOLUME_PREFIX = "scalerl-"


@dataclass(frozen=True)
class PodRole:
    """A pod's role and index in its run."""

    role: Role
    index: int

    @property
    def hostname(self) -> str:
        """`trainer-0`; the run's headless Service is the domain."""
        return f"{self.role}-{self.index}"


COORDINATOR = PodRole("trainer", 0)


def pod_name(run: str, pod_role: PodRole) -> str:
    """Return the pod's name, the same in every attempt: the API server never stores two pods of one role and index."""
    return f"{run}-{pod_role.hostname}"


def service_name(run: str) -> str:
    """Return the headless Service's name; pods are `<hostname>.<service>.<namespace>.svc`."""
    return run


def config_name(run: str) -> str:
    """Return the name of the ConfigMap with the run's spec."""
    return f"{run}-spec"


def curve_name(run: str) -> str:
    """Return the name of the ConfigMap with the curve for the run's report."""
    return f"{run}-curve"


def token_name(run: str) -> str:
    """Return the name of the Secret with the run's token."""
    return f"{run}-token"


def budget_name(run: str) -> str:
    """Return the name of the trainers' PodDisruptionBudget."""
    return f"{run}-trainer"


def network_policy_name(run: str) -> str:
    """Return the name of the NetworkPolicy of all the run's pods."""
    return f"{run}-pods"


def claim_name(run: str) -> str:
    """Return the name of the PersistentVolumeClaim that is created where `checkpoint.claimName` is not set."""
    return f"{run}-checkpoints"


def folder_in_claim(run: str, uid: str) -> str:
    """Return the run's folder in its claim. A later run of the same name has another, so their points never mix."""
    return f"{run}-{uid[:8]}"


def coordinator_host(run: str, namespace: str) -> str:
    """Return the coordinator's DNS name in the cluster."""
    return f"{COORDINATOR.hostname}.{service_name(run)}.{namespace}.svc"


def selector(run: str, role: Role | None = None) -> dict[str, str]:
    """Return the labels that never change, for selectors."""
    return {LABEL_RUN: run} | ({LABEL_ROLE: role} if role is not None else {})


def common_labels(run: str, component: str) -> dict[str, str]:
    """Return the labels of every object of a run."""
    return {
        "app.kubernetes.io/name": "scalerl",
        "app.kubernetes.io/instance": run,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/part-of": "scalerl",
        LABEL_MANAGED_BY: FIELD_MANAGER,
        LABEL_RUN: run,
    }


def pod_labels(run: str, pod_role: PodRole, attempt: int | None) -> dict[str, str]:
    """Return a pod's labels; `attempt` is None for generators."""
    labels = common_labels(run, pod_role.role) | {LABEL_ROLE: pod_role.role, LABEL_INDEX: str(pod_role.index)}
    return labels | ({LABEL_ATTEMPT: str(attempt)} if attempt is not None else {})


def parse_pod_role(labels: Mapping[str, str]) -> tuple[PodRole, int | None] | None:
    """Return (role and index, attempt) from a pod's labels; None for a pod that belongs to no run."""
    index, attempt = labels.get(LABEL_INDEX, ""), labels.get(LABEL_ATTEMPT, "")
    for role in ROLES:
        if labels.get(LABEL_ROLE) == role and index.isdecimal():
            return PodRole(role, int(index)), int(attempt) if attempt.isdecimal() else None
    return None
