"""The objects that all pods of a run share. PURE."""

import base64

from scalerl_api.wire import (
    PORT_HTTP,
)
from scalerl_operator.resources import names
from scalerl_operator.resources.network_policy import Isolation, build_network_spec
from scalerl_operator.resources.owner import Owner, PodOptions, build_owned
from scalerl_operator.resources.pod_template import Json


def build_common(owner: Owner, options: PodOptions) -> list[Json]:
    """Return what all pods of the run share; each can be applied at any time."""
    built = [_service(owner), _config(owner, options), _secret(owner), _disruption_budget(owner)]
    if options.isolation is not None:
        built.append(_network_policy(owner, options.isolation))
    return built if owner.run.spec.checkpoint.claim_name is not None else [*built, _claim(owner)]


def _service(owner: Owner) -> Json:
    return {
        **build_owned(owner, "v1", "Service", names.service_name(owner.name), "network"),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,  # workers must find the coordinator before it is ready
            "selector": names.selector(owner.name),
            "ports": [{"name": names.PORT_NAME, "port": PORT_HTTP, "targetPort": PORT_HTTP, "protocol": "TCP"}],
        },
    }


def _config(owner: Owner, options: PodOptions) -> Json:
    head = build_owned(owner, "v1", "ConfigMap", names.config_name(owner.name), "spec")
    head["metadata"]["annotations"] = {names.ANNOTATION_IMAGE: options.image}
    return {**head, "data": {names.SPEC_KEY: owner.document}}


def build_curve(owner: Owner, data: dict[str, str]) -> Json:
    """Return the ConfigMap with what is kept for the run's report; whoever may see the run may read it."""
    return {**build_owned(owner, "v1", "ConfigMap", names.curve_name(owner.name), "curve"), "data": data}


def _secret(owner: Owner) -> Json:
    head = build_owned(owner, "v1", "Secret", names.token_name(owner.name), "token")
    return {**head, "type": "Opaque", "data": {names.TOKEN_KEY: base64.b64encode(owner.token.encode()).decode()}}


def _disruption_budget(owner: Owner) -> Json:
    """One trainer at a time: a drain of many nodes costs one restart after the other, and does not hang.

    `maxUnavailable: 1` would say the same, but needs a scale subresource to be counted, and blocks every drain without.
    """
    trainer = owner.run.spec.trainer
    least = (trainer.min_replicas or trainer.replicas) - 1  # of a smaller gang too one may go
    return {
        **build_owned(owner, "policy/v1", "PodDisruptionBudget", names.budget_name(owner.name), "trainer"),
        "spec": {"minAvailable": least, "selector": {"matchLabels": names.selector(owner.name, "trainer")}},
    }


def _network_policy(owner: Owner, isolation: Isolation) -> Json:
    name = names.network_policy_name(owner.name)
    head = build_owned(owner, "networking.k8s.io/v1", "NetworkPolicy", name, "network")
    return {**head, "spec": build_network_spec(owner.name, isolation)}


def _claim(owner: Owner) -> Json:
    """Checkpoints outlive the run: nobody owns the claim."""
    spec = owner.run.spec.checkpoint
    head = build_owned(owner, "v1", "PersistentVolumeClaim", names.claim_name(owner.name), "checkpoints")
    del head["metadata"]["ownerReferences"]
    wanted: Json = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": owner.claim_size}}}
    if spec.storage_class_name is not None:
        wanted["storageClassName"] = spec.storage_class_name
    return {**head, "spec": wanted}
