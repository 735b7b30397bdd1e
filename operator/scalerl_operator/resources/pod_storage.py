"""Gives a run's pods the cache of fetched models and data, and the hub's token. PURE.

The cache is a folder of the run's claim unless the operator names another place: pods that are as restricted as the
standard asks may not use `hostPath`, and with the claim a model is fetched once for all pods and all attempts of a run.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from scalerl_api import Fault, RLRun
from scalerl_api.addresses import is_of_hub
from scalerl_api.passthrough import PodTemplate
from scalerl_api.rlrun import SCRATCH, SecretKey
from scalerl_api.wire import ENV_CACHE
from scalerl_operator.resources.names import CACHE_FOLDER, CONTAINER, COORDINATOR, VOLUME_PREFIX, PodRole

Json = dict[str, Any]

FOLDER_IN_CLAIM = "cache"
VOLUME_CACHE = f"{VOLUME_PREFIX}cache"
HUB_TOKEN = "HF_TOKEN"  # noqa: S105 # a variable's name
HUB_FOLDER = {"name": "HF_HOME", "value": f"{CACHE_FOLDER}/huggingface"}
SECRET_PATH = "spec.secrets.hubToken"


class InvalidCache(ValueError):
    """The operator's options for the cache exclude each other, or are no place."""


@dataclass(frozen=True)
class CachePlace:
    """Where the pods of all runs keep fetched models and data; both None: in each run's claim."""

    host_path: str | None = None
    """Folder of each node, writable for group 1000."""
    claim_name: str | None = None
    """A PersistentVolumeClaim of this name in each run's namespace."""

    @classmethod
    def parse(cls, host_path: str | None, claim_name: str | None) -> "CachePlace":
        """Return the place of the operator's two options, of which empty ones are unset. Raises InvalidCache."""
        if host_path and claim_name:
            raise InvalidCache("--cache-host-path and --cache-claim: only one place can be the cache")
        if host_path and not host_path.startswith("/"):
            raise InvalidCache(f"--cache-host-path {host_path}: a path from the node's root is needed")
        return cls(host_path or None, claim_name or None)


def cache_volumes(place: CachePlace) -> Iterator[Json]:
    """Yield the volume of a cache outside the run's claim."""
    if place.host_path is not None:
        yield {"name": VOLUME_CACHE, "hostPath": {"path": place.host_path, "type": "DirectoryOrCreate"}}
    elif place.claim_name is not None:
        yield {"name": VOLUME_CACHE, "persistentVolumeClaim": {"claimName": place.claim_name}}


def cache_mount(place: CachePlace, volume_run: str) -> Json:
    """Return the mount of the cache."""
    if place == CachePlace():
        return {"name": volume_run, "mountPath": CACHE_FOLDER, "subPath": FOLDER_IN_CLAIM}
    return {"name": VOLUME_CACHE, "mountPath": CACHE_FOLDER}


def storage_environment(run: RLRun, pod_role: PodRole) -> Iterator[Json]:
    """Yield the variables of cache and hub; the token's, a reference, in those pods alone that fetch with it."""
    yield {"name": ENV_CACHE, "value": CACHE_FOLDER}
    yield HUB_FOLDER
    token, source = run.spec.secrets.hub_token, run.spec.model.source
    # Data is read by the coordinator alone, and every pod finds the model for itself.
    fetches_model = source != SCRATCH and is_of_hub(source)
    if token is not None and (fetches_model or pod_role == COORDINATOR):
        yield build_token_variable(token)


def build_token_variable(token: SecretKey) -> Json:
    """Return HF_TOKEN as a reference to a Secret."""
    return {"name": HUB_TOKEN, "valueFrom": {"secretKeyRef": {"name": token.name, "key": token.key}}}


def check_token(run: RLRun) -> Iterator[Fault]:
    """Yield a fault for each template that has the hub's token too: one of the two would be used silently."""
    if run.spec.secrets.hub_token is None:
        return
    for role in ("trainer", "generator"):
        template = run.spec.trainer.template if role == "trainer" else run.spec.generator.template
        for index, position in _find_tokens(template):
            path = f"spec.{role}.template.spec.containers[{index}].env[{position}].name"
            yield Fault(path, HUB_TOKEN, f"set by {SECRET_PATH} already")


def _find_tokens(template: PodTemplate) -> Iterator[tuple[int, int]]:
    containers: Any = template.spec.get("containers")
    for index, container in enumerate(containers if isinstance(containers, list) else ()):
        if isinstance(container, dict) and container.get("name") == CONTAINER:
            variables = container.get("env")
            for position, each in enumerate(variables if isinstance(variables, list) else ()):
                if isinstance(each, dict) and each.get("name") == HUB_TOKEN:
                    yield index, position
