"""The short-lived pod that turns a run's checkpoint into a model: the coordinator's, without what trains. PURE."""

from dataclasses import dataclass
from typing import Any

from scalerl_api import RLRun
from scalerl_api.wire import ENV_CACHE, ENV_FOLDER, ENV_SPEC
from scalerl_operator.resources import names
from scalerl_operator.resources.names import COORDINATOR
from scalerl_operator.resources.owner import Owner, PodOptions
from scalerl_operator.resources.pod import TOKEN_VOLUME, build_pod
from scalerl_operator.resources.pod_storage import HUB_FOLDER, build_token_variable
from scalerl_operator.resources.pod_template import Json

TOKEN_SECRET_KEY = "token"
_KEPT_VARIABLES = (ENV_SPEC, ENV_FOLDER, "HOME", "PYTHONUNBUFFERED")
_OWNED_PREFIXES = ("SCALERL_", "RAY_")


@dataclass(frozen=True)
class ExportPod:
    """The choices of one export."""

    image: str
    suffix: str
    """Of the pod's name: two exports of one run do not meet."""
    seconds: int
    """After which Kubernetes ends the pod, also if its owner's command is gone."""
    token_secret: str | None = None
    """Secret with the hub's token; None: no hub."""


def build_export_pod(owner: Owner, wanted: ExportPod) -> Json:
    """Return the pod. It waits; the export itself is executed in it, so its output goes to the one who asked.

    Placement, image pull secrets, volumes and variables of the user's template stay; sidecars, devices and resource
    requests go. The run's folder is mounted read-only. The labels are those that the run's NetworkPolicy selects.
    """
    pod = build_pod(owner, COORDINATOR, 1, PodOptions(wanted.image, exit_seconds=0.0))
    spec: dict[str, Any] = {key: value for key, value in pod["spec"].items() if key not in ("hostname", "subdomain")}
    runtime = next(each for each in spec["containers"] if each["name"] == names.CONTAINER)
    spec |= {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "activeDeadlineSeconds": wanted.seconds,
        "containers": [_container(runtime, wanted, owner.run)],
        "volumes": [each for each in spec["volumes"] if each["name"] != TOKEN_VOLUME],
    }
    return {**pod, "metadata": _metadata(owner, pod["metadata"], wanted), "spec": spec}


def _metadata(owner: Owner, metadata: Json, wanted: ExportPod) -> Json:
    # A user may not set `blockOwnerDeletion` without the right to update the run's finalizers.
    reference = {**metadata["ownerReferences"][0], "controller": False, "blockOwnerDeletion": False}
    return {
        **metadata,
        "name": f"{owner.name}-export-{wanted.suffix}",
        "labels": {
            **{k: v for k, v in metadata["labels"].items() if not k.startswith("scalerl.io/")},
            **names.common_labels(owner.name, "export"),
        },
        "ownerReferences": [reference],
    }


def _container(runtime: Json, wanted: ExportPod, run: RLRun) -> Json:
    dropped = ("ports", "readinessProbe", "resources")
    kept = {key: value for key, value in runtime.items() if key not in dropped}
    variables = [each for each in runtime["env"] if _stays(each["name"])]
    fetches = run.spec.model.lora is not None  # the base model, into which adapters may be merged
    own_token = run.spec.secrets.hub_token
    if fetches:
        variables.append({"name": ENV_CACHE, "value": names.CACHE_FOLDER})
    else:
        unneeded = [HUB_FOLDER, *([] if own_token is None else [build_token_variable(own_token)])]
        variables = [each for each in variables if each not in unneeded]
    if wanted.token_secret is not None:
        key = {"name": wanted.token_secret, "key": TOKEN_SECRET_KEY}
        others = [each for each in variables if each["name"] != "HF_TOKEN"]
        variables = [*others, {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": key}}]
    mounts = [
        {**each, "readOnly": True} if each["mountPath"] == names.RUN_FOLDER else each
        for each in runtime["volumeMounts"]
        if each["name"] != TOKEN_VOLUME and (fetches or each["mountPath"] != names.CACHE_FOLDER)
    ]
    return {
        **kept,
        "command": ["python", "-c", f"import time; time.sleep({wanted.seconds})"],
        "env": variables,
        "volumeMounts": mounts,
    }


def _stays(name: str) -> bool:
    return name in _KEPT_VARIABLES or not name.startswith(_OWNED_PREFIXES)
