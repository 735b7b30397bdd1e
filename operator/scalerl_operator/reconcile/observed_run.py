"""An RLRun as it is stored, from the API server's JSON. PURE."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from scalerl_api import Fault, InvalidRun, RLRun, RLRunStatus, parse_run
from scalerl_api.wire import ANNOTATION_ACCEPT_DATA
from scalerl_operator.reconcile.claim import check_claim
from scalerl_operator.resources.pod import check_pods

Key = tuple[str, str]
"""(namespace, name) of a run."""


@dataclass(frozen=True)
class ObservedRun:
    """An RLRun as it is stored."""

    key: Key
    uid: str
    version: int
    """resourceVersion: of two snapshots of an object the one with the larger number is the later."""
    generation: int
    managed_by: str
    deleting: bool
    annotations: Mapping[str, str]
    document: Mapping[str, Any]
    """Name, namespace and spec, as the coordinator reads them."""
    run: RLRun | None
    """None if the spec has faults."""
    faults: tuple[Fault, ...] = ()
    parsed: RLRun | None = None
    """As `run`; a spec of which only the pods cannot be built is here too."""
    status: RLRunStatus | None = None
    """As it was written last; fields that a newer operator added are left out."""
    status_fault: str = ""
    """Why a status that is not empty cannot be parsed."""
    created: datetime | None = None
    """By the API server's clock."""

    @property
    def accepted_data(self) -> str:
        """Digest of changed data that the user accepts; empty without the annotation."""
        return self.annotations.get(ANNOTATION_ACCEPT_DATA, "").strip()

    @property
    def is_status_foreign(self) -> bool:
        """Whether the stored status cannot be parsed: to act without it could start a run that is over."""
        return bool(self.status_fault)


def run_key(document: Mapping[str, Any]) -> Key:
    """Return which run an API server's JSON is."""
    return document["metadata"]["namespace"], document["metadata"]["name"]


def parse_observed_run(document: Mapping[str, Any], known: ObservedRun | None = None) -> ObservedRun:
    """Return the run in an API server's JSON.

    Args:
        known: an earlier snapshot of that name, if there is one: a spec that is still the same is not parsed again.
    """
    metadata = document["metadata"]
    uid, generation = metadata["uid"], int(metadata.get("generation", 1))
    if known is None or (known.uid, known.generation) != (uid, generation):
        known = _parse_spec(document, uid, generation)
    status, status_fault = _parse_status(document.get("status"))
    return replace(
        known,
        version=int(metadata["resourceVersion"]),
        deleting="deletionTimestamp" in metadata,
        annotations=dict(metadata.get("annotations", {})),
        status=status,
        status_fault=status_fault,
    )


def _parse_spec(document: Mapping[str, Any], uid: str, generation: int) -> ObservedRun:
    """Return the fields that stay the same until the spec is edited."""
    metadata, key = document["metadata"], run_key(document)
    bare = {
        "apiVersion": document["apiVersion"],
        "kind": document["kind"],
        "metadata": {"name": key[1], "namespace": key[0]},
        "spec": document.get("spec", {}),
    }
    run, faults = _check_spec(bare)
    return ObservedRun(
        key=key,
        uid=uid,
        version=0,
        generation=generation,
        managed_by=bare["spec"].get("managedBy", ""),
        deleting=False,
        annotations={},
        document=bare,
        run=run if not faults else None,
        faults=faults,
        parsed=run,
        created=datetime.fromisoformat(metadata["creationTimestamp"]) if "creationTimestamp" in metadata else None,
    )


def _check_spec(bare: Mapping[str, Any]) -> tuple[RLRun | None, tuple[Fault, ...]]:
    """Return (the run, None if it cannot be parsed; its faults and those of its pods)."""
    try:
        run = parse_run(bare)
    except InvalidRun as error:
        return None, error.faults
    return run, (*check_pods(run), *check_claim(run))


def _parse_status(value: object) -> tuple[RLRunStatus | None, str]:
    """Return (status, why it cannot be parsed). A field that a newer operator added is left out."""
    if not value:
        return None, ""
    try:
        return RLRunStatus.model_validate(value, extra="ignore"), ""
    except ValidationError as error:
        return None, str(error)
