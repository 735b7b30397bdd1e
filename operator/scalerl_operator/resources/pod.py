"""The Kubernetes objects of a run, as values. PURE.

Pods are as restricted as the pod security standard of that name asks. Their environment holds names and paths only.
"""

import re
from collections.abc import Iterator

from scalerl_api import Fault, RLRun
from scalerl_api.cross_field_rules import COLOCATED_ALLOWED, COLOCATED_PATH
from scalerl_api.passthrough import PodTemplate
from scalerl_api.wire import (
    ENV_ACCEPT_DATA,
    ENV_ATTEMPT,
    ENV_COORDINATOR,
    ENV_FOLDER,
    ENV_INDEX,
    ENV_NODE,
    ENV_POD_IP,
    ENV_PORT,
    ENV_REPLICAS,
    ENV_ROLE,
    ENV_SPEC,
    ENV_TERMINATION_FILE,
    ENV_TERMINATION_PATH,
    ENV_TOKEN_FILE,
    PATH_READY,
    PORT_HTTP,
)
from scalerl_operator.resources import names
from scalerl_operator.resources.names import COORDINATOR, PodRole
from scalerl_operator.resources.owner import Owner, PodOptions, build_owned
from scalerl_operator.resources.pod_storage import cache_mount, cache_volumes, check_token, storage_environment
from scalerl_operator.resources.pod_template import (
    GPU,
    Json,
    check_template,
    drop_variables,
    exclude_nodes,
    merge_template,
)

DIGEST = re.compile(r"[0-9a-f]{32}")
USER = 1000  # of the runtime's image; the claim's files belong to this group
_VOLUME_SPEC = f"{names.VOLUME_PREFIX}spec"
TOKEN_VOLUME = f"{names.VOLUME_PREFIX}token"
_VOLUME_RUN = f"{names.VOLUME_PREFIX}run"
_VOLUME_SHARED_MEMORY = f"{names.VOLUME_PREFIX}shm"
_VOLUME_SCRATCH = f"{names.VOLUME_PREFIX}tmp"


def check_pods(run: RLRun) -> list[Fault]:
    """Return why a valid run cannot be pods: what one machine alone can do, and what is wrong in its pod templates."""
    shared = [Fault(COLOCATED_PATH, "true", COLOCATED_ALLOWED)] if run.spec.generator.colocated else []
    return [
        *shared,
        *check_template(run.spec.trainer.template, "spec.trainer.template"),
        *check_template(run.spec.generator.template, "spec.generator.template"),
        *check_token(run),
    ]


def build_pod(
    owner: Owner, pod_role: PodRole, attempt: int, options: PodOptions, *, replicas: int | None = None
) -> Json:
    """Return the pod of `pod_role`. A generator belongs to no attempt: it stays when the trainers restart.

    `replicas`: trainer pods of the attempt, where they are fewer than the spec has.
    """
    head = build_owned(owner, "v1", "Pod", names.pod_name(owner.name, pod_role), pod_role.role)
    labelled = attempt if pod_role.role == "trainer" else None
    head["metadata"]["labels"] = names.pod_labels(owner.name, pod_role, labelled) | {names.LABEL_RUN_UID: owner.uid}
    deadlines = owner.run.spec.deadlines
    grace = deadlines.stop_seconds + options.exit_seconds if pod_role.role == "trainer" else options.exit_seconds
    pod = {
        **head,
        "spec": {
            "hostname": pod_role.hostname,
            "subdomain": names.service_name(owner.name),
            # A generator's fault is its own: the kubelet starts it again, with its own backoff. A trainer's ends the
            # attempt, which the operator decides about.
            "restartPolicy": "Never" if pod_role.role == "trainer" else "Always",
            "terminationGracePeriodSeconds": int(grace),
            "enableServiceLinks": False,
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [_container(owner, pod_role, attempt, replicas, options)],
            "volumes": list(_volumes(owner, options)),
        },
    }
    return exclude_nodes(merge_template(pod, _template(owner, pod_role)), owner.excluded_nodes)


def _template(owner: Owner, pod_role: PodRole) -> PodTemplate:
    """Return the role's template; but for the coordinator's pod, which asks the judges, without their tokens."""
    spec = owner.run.spec
    template = spec.trainer.template if pod_role.role == "trainer" else spec.generator.template
    tokens = {each.token_variable for each in spec.reward.http if each.token_variable is not None}
    return template if pod_role == COORDINATOR or not tokens else drop_variables(template, tokens)


def _container(owner: Owner, pod_role: PodRole, attempt: int, replicas: int | None, options: PodOptions) -> Json:
    role = "coordinator" if pod_role == COORDINATOR else "worker"
    gpus = (owner.run.spec.trainer if pod_role.role == "trainer" else owner.run.spec.generator).gpus_per_replica
    container: Json = {
        "name": names.CONTAINER,
        "image": options.image,
        "command": ["python", "-m", "scalerl_runtime", role],
        "env": list(_environment(owner, pod_role, attempt, replicas)),
        "terminationMessagePath": names.TERMINATION_PATH,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": list(_mounts(owner, options)),
    }
    if gpus:
        container["resources"] = {"limits": {GPU: str(gpus)}, "requests": {GPU: str(gpus)}}
    if pod_role == COORDINATOR:
        container["ports"] = [{"name": names.PORT_NAME, "containerPort": PORT_HTTP, "protocol": "TCP"}]
        container["readinessProbe"] = {
            "httpGet": {"path": PATH_READY, "port": PORT_HTTP},
            "periodSeconds": 5,
            "timeoutSeconds": 5,
        }
    return container


def _environment(owner: Owner, pod_role: PodRole, attempt: int, replicas: int | None) -> Iterator[Json]:
    """Yield names and paths; a generator gets no attempt, because it outlives attempts."""
    yield {"name": ENV_ROLE, "value": pod_role.role}
    yield {"name": ENV_INDEX, "value": str(pod_role.index)}
    yield {"name": ENV_COORDINATOR, "value": names.coordinator_host(owner.name, owner.namespace)}
    yield {"name": ENV_NODE, "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    yield {"name": ENV_POD_IP, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    yield {"name": ENV_SPEC, "value": f"{names.SPEC_FOLDER}/{names.SPEC_KEY}"}
    yield {"name": ENV_FOLDER, "value": names.RUN_FOLDER}
    # A client of Ray can run code in the pod, so Ray requires the run's token too.
    yield {"name": "RAY_AUTH_MODE", "value": "token"}
    yield {"name": "RAY_AUTH_TOKEN_PATH", "value": f"{names.TOKEN_FOLDER}/{names.TOKEN_KEY}"}
    yield {"name": "HOME", "value": names.SCRATCH_FOLDER}  # what libraries cache; the root file system is read-only
    yield from storage_environment(owner.run, pod_role)
    yield {"name": "PYTHONUNBUFFERED", "value": "1"}  # a killed process's last lines must be in its log
    yield {"name": ENV_TERMINATION_PATH, "value": names.TERMINATION_PATH}
    if pod_role == COORDINATOR:
        yield {"name": ENV_ATTEMPT, "value": str(attempt)}
        if replicas is not None:
            yield {"name": ENV_REPLICAS, "value": str(replicas)}
        yield {"name": ENV_PORT, "value": str(PORT_HTTP)}
        yield {"name": ENV_TOKEN_FILE, "value": f"{names.TOKEN_FOLDER}/{names.TOKEN_KEY}"}
        yield {"name": ENV_TERMINATION_FILE, "value": f"{names.SCRATCH_FOLDER}/termination.json"}
        # Only a digest: on one machine the variable may also accept any data.
        if DIGEST.fullmatch(owner.accepted_data):
            yield {"name": ENV_ACCEPT_DATA, "value": owner.accepted_data}


def _mounts(owner: Owner, options: PodOptions) -> Iterator[Json]:
    yield {"name": _VOLUME_SPEC, "mountPath": names.SPEC_FOLDER, "readOnly": True}
    yield {"name": TOKEN_VOLUME, "mountPath": names.TOKEN_FOLDER, "readOnly": True}
    folder = names.folder_in_claim(owner.name, owner.uid)
    yield {"name": _VOLUME_RUN, "mountPath": names.RUN_FOLDER, "subPath": folder}
    yield cache_mount(options.cache, _VOLUME_RUN)
    yield {"name": _VOLUME_SHARED_MEMORY, "mountPath": names.SHARED_MEMORY}
    yield {"name": _VOLUME_SCRATCH, "mountPath": names.SCRATCH_FOLDER}


def _volumes(owner: Owner, options: PodOptions) -> Iterator[Json]:
    yield {"name": _VOLUME_SPEC, "configMap": {"name": names.config_name(owner.name)}}
    yield {"name": TOKEN_VOLUME, "secret": {"secretName": names.token_name(owner.name), "defaultMode": 0o440}}
    claim = owner.run.spec.checkpoint.claim_name or names.claim_name(owner.name)
    yield {"name": _VOLUME_RUN, "persistentVolumeClaim": {"claimName": claim}}
    yield from cache_volumes(options.cache)
    # Kubernetes gives 64 MB otherwise; Ray's object store and vLLM's workers share memory here.
    yield {"name": _VOLUME_SHARED_MEMORY, "emptyDir": {"medium": "Memory"}}
    yield {"name": _VOLUME_SCRATCH, "emptyDir": {}}
