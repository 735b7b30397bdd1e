"""The metadata of every object of a run: its owner, labels, annotations. PURE."""

from dataclasses import dataclass

from scalerl_api import RLRun
from scalerl_api.rlrun import API_VERSION, KIND
from scalerl_operator.resources import names
from scalerl_operator.resources.network_policy import Isolation
from scalerl_operator.resources.pod_storage import CachePlace
from scalerl_operator.resources.pod_template import Json


@dataclass(frozen=True)
class Owner:
    """The run as its children see it."""

    run: RLRun
    uid: str
    document: str
    """The run's YAML, as the coordinator reads it: without status."""
    token: str
    """The bearer token of the coordinator's /v1, and Ray."""
    accepted_data: str = ""
    """Digest of changed data that the coordinator may resume with; empty: none."""
    excluded_nodes: tuple[str, ...] = ()
    """Names of nodes that its pods must not run on."""
    claim_size: str = ""
    """Of the claim that is created; empty: none is."""

    @property
    def name(self) -> str:
        """The run's name."""
        return self.run.name

    @property
    def namespace(self) -> str:
        """The run's namespace, of all its children too."""
        return self.run.metadata.namespace


@dataclass(frozen=True)
class PodOptions:
    """The operator's options that pods depend on."""

    image: str
    """Of the runtime, where the user's template names none."""
    exit_seconds: float
    """From the last checkpoint to a process's end; `plan.Limits` has the same."""
    isolation: Isolation | None = None
    """None: no NetworkPolicy is made."""
    cache: CachePlace = CachePlace()
    """Of fetched models and data."""


def build_owned(owner: Owner, api_version: str, kind: str, name: str, component: str) -> Json:
    """The head of a child: gone when the run is."""
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": owner.namespace,
            "labels": names.common_labels(owner.name, component),
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": KIND,
                    "name": owner.name,
                    "uid": owner.uid,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
    }


def build_annotations(ceiling: str | None, interval: str | None) -> dict[str, str]:
    """Return the run's annotations for tools that read only metadata; none without a forecast to believe."""
    if ceiling is None or interval is None:
        return {}
    return {names.ANNOTATION_CEILING: ceiling, names.ANNOTATION_INTERVAL: interval}


def reference(key: tuple[str, str], uid: str) -> Json:
    """Return what an Event says about which run it is; `key` is (namespace, name)."""
    return {"apiVersion": API_VERSION, "kind": KIND, "namespace": key[0], "name": key[1], "uid": uid}
