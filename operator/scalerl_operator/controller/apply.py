"""The actuator for a cluster: observe a run from the informer cache, apply a plan through the API server. I/O.

Observing reads no object from the API server.
"""

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import yaml

from scalerl_api import RLRun, RLRunStatus
from scalerl_api.rlrun import API_VERSION, KIND
from scalerl_operator.controller.curve_config_map import CurveConfigMaps
from scalerl_operator.controller.owned_objects import NotOurs, make_child
from scalerl_operator.decide.events import Event, list_events
from scalerl_operator.kube.client import EVENTS, PODS, RUNS, Json, KubeClient, KubeError, find_object
from scalerl_operator.reconcile.cache import InformerCache
from scalerl_operator.reconcile.claim import fit_claim
from scalerl_operator.reconcile.observed_pod import parse_observed_pod
from scalerl_operator.reconcile.observed_run import Key, ObservedRun, parse_observed_run, run_key
from scalerl_operator.reconcile.pod_changes import Create, Delete
from scalerl_operator.reconcile.pod_plan import PodPlan
from scalerl_operator.reconcile.snapshot import Snapshot
from scalerl_operator.reconcile.status_write import is_due, wanted_annotations
from scalerl_operator.resources.names import COORDINATOR, FIELD_MANAGER, FORECAST_ANNOTATIONS
from scalerl_operator.resources.owner import Owner, PodOptions, reference
from scalerl_operator.resources.pod import build_pod
from scalerl_operator.resources.shared import build_common
from scalerl_operator.telemetry.poller import ProgressPoller

log = logging.getLogger(__name__)


class NotLeading(Exception):
    """Another replica leads, or may lead by now: this one must not write."""


class Cluster(Protocol):
    """The cluster as the reconciler sees it."""

    def observe(self, key: Key) -> Snapshot | None:
        """Return the current snapshot of a run; None if it is deleted."""

    async def apply(self, snapshot: Snapshot, plan: PodPlan) -> None:
        """Apply `plan`."""


@dataclass(frozen=True)
class ApplyDeps:
    """Everything from outside that applying a plan needs."""

    options: PodOptions
    token_key: bytes
    """Tokens of runs are derived from it, so the operator reads no Secret."""
    is_leading: Callable[[], bool]
    """Whether this replica holds the lease, by its own clock."""
    now: Callable[[], datetime]


def derive_token(token_key: bytes, uid: str) -> str:
    """Return the token that guards /v1 of the run's coordinator; the uid alone does not reveal it."""
    return hmac.new(token_key, uid.encode(), hashlib.sha256).hexdigest()


@dataclass
class _Written:
    """The writes that this operator has made for a run."""

    uid: str
    status_time: datetime | None = None
    common: dict[str, str] = field(default_factory=dict)
    """Kind -> digest of the shared object that was created or applied."""


class KubeCluster:
    """A cluster behind the Kubernetes API."""

    def __init__(self, kube: KubeClient, store: InformerCache, poller: ProgressPoller, deps: ApplyDeps):
        self._kube = kube
        self._store = store
        self._poller = poller
        self._deps = deps
        self._curves = CurveConfigMaps(kube)
        self._written: dict[Key, _Written] = {}

    def observe(self, key: Key) -> Snapshot | None:
        """Return the current snapshot of a run; None if it is deleted."""
        run = self._store.run(key)
        if run is None:
            self._written.pop(key, None)
            self._poller.forget(key)
            self._curves.forget(key)
            self._store.forget(key)
            return None
        return Snapshot(run, self._store.pods(run), self._poller.poll_result(run))

    async def apply(self, snapshot: Snapshot, plan: PodPlan) -> None:
        """Apply `plan`. Raises KubeError, NotLeading.

        The status is written before pods change, since it records the intent. The curve is written before a status that
        ends the run.
        """
        written = self._written.get(snapshot.run.key)
        if written is None or written.uid != snapshot.run.uid:
            written = self._written[snapshot.run.key] = _Written(snapshot.run.uid)
        try:
            if plan.status is not None:
                await self._store_curve(snapshot)
                await self._write_status(snapshot.run, plan.status, written)
            if plan.changes:
                await self._change(snapshot, plan, written)
            if plan.delete_run:
                await self._delete_run(snapshot.run)
        except KubeError as error:
            if error.status == 404 and await self._is_gone(snapshot.run):
                self._store.drop_run(snapshot.run)
                return
            raise

    async def _is_gone(self, run: ObservedRun) -> bool:
        """Whether the 404 was about the run itself."""
        found = await find_object(self._kube, RUNS, *run.key)
        return found is None or bool(found["metadata"]["uid"] != run.uid)

    def _check_leading(self) -> None:
        if not self._deps.is_leading():
            raise NotLeading

    async def _store_curve(self, snapshot: Snapshot) -> None:
        if snapshot.run.run is not None and self._curves.is_due(snapshot):
            self._check_leading()
            try:
                await self._curves.save(snapshot, Owner(snapshot.run.run, snapshot.run.uid, document="", token=""))
            except NotOurs as error:
                await self._report_refusal(snapshot.run, error)

    async def _write_status(self, run: ObservedRun, status: RLRunStatus, written: _Written) -> None:
        now = self._deps.now()
        if is_due(run.status, status, written.status_time, now):
            self._check_leading()
            document = {
                **_head(run),
                "status": status.model_dump(mode="json", by_alias=True, exclude_none=True),
            }
            stored = await self._kube.apply(RUNS, document, "status")
            written.status_time = now
            self._store.put_run(parse_observed_run(stored, run))
            for event in list_events(run.status, status):
                await self._emit(run, event)
        await self._annotate(run, wanted_annotations(status))

    async def _annotate(self, run: ObservedRun, wanted: dict[str, str]) -> None:
        """Set our annotations to `wanted`. A merge patch: null removes one, whoever wrote it."""
        if {name: text for name, text in run.annotations.items() if name in FORECAST_ANNOTATIONS} != wanted:
            self._check_leading()
            annotations = {name: wanted.get(name) for name in FORECAST_ANNOTATIONS}
            document = {"metadata": {"uid": run.uid, "annotations": annotations}}
            self._store.put_run(parse_observed_run(await self._kube.merge(RUNS, *run.key, document), run))

    async def _change(self, snapshot: Snapshot, plan: PodPlan, written: _Written) -> None:
        owner = None
        if snapshot.run.run is not None and any(isinstance(each, Create) for each in plan.changes):
            owner = self._owner(snapshot.run, snapshot.run.run, plan.status)
            await self._share(snapshot.run, owner, written)
        tasks = [self._one(snapshot.run, owner, change) for change in plan.changes if not _is_coordinators(change)]
        _raise_first(await asyncio.gather(*tasks, return_exceptions=True))
        for change in plan.changes:
            if _is_coordinators(change):  # created last: its existence proves that all members were created
                await self._one(snapshot.run, owner, change)

    async def _one(self, run: ObservedRun, owner: Owner | None, change: Create | Delete) -> None:
        self._check_leading()
        match change:
            case Create() if owner is not None:
                await self._create(run, owner, change)
            case Delete():
                await self._delete(run, change)

    def _owner(self, observed: ObservedRun, run: RLRun, status: RLRunStatus | None) -> Owner:
        document = yaml.safe_dump(observed.document, sort_keys=False, allow_unicode=True, width=120)
        token = derive_token(self._deps.token_key, observed.uid)
        excluded = tuple(each.name for each in status.excluded_nodes) if status is not None else ()
        return Owner(run, observed.uid, document, token, observed.accepted_data, excluded, fit_claim(run))

    async def _share(self, run: ObservedRun, owner: Owner, written: _Written) -> None:
        """Create or apply the shared objects whose digest has changed since this operator last wrote them."""
        tasks = [self._share_one(run, each, written) for each in build_common(owner, self._deps.options)]
        _raise_first(await asyncio.gather(*tasks, return_exceptions=True))

    async def _share_one(self, run: ObservedRun, document: Json, written: _Written) -> None:
        kind, digest = document["kind"], hashlib.sha256(repr(document).encode()).hexdigest()
        if written.common.get(kind) == digest:
            return
        self._check_leading()
        try:
            await make_child(self._kube, document, is_known=kind in written.common or _has_begun(run))
        except KubeError as error:
            await self._report_refusal(run, error)
            raise
        written.common[kind] = digest

    async def _create(self, run: ObservedRun, owner: Owner, change: Create) -> None:
        """Create a pod. An apply would change a terminating pod of the same name."""
        pod = build_pod(owner, change.pod_role, change.attempt, self._deps.options, replicas=change.replicas)
        try:
            self._put(await self._kube.create(PODS, pod))
        except KubeError as error:
            await self._report_refusal(run, error)
            raise

    async def _report_refusal(self, run: ObservedRun, error: KubeError) -> None:
        """Emit an event for what only a person can mend: quota, policy, an invalid object, a name that is taken."""
        if isinstance(error, NotOurs) or error.status in (403, 422):
            await self._emit(run, Event("FailedCreate", str(error)[:1000], "Warning"))

    def _put(self, document: Json) -> None:
        pod = parse_observed_pod(document)
        if pod is not None:
            self._store.put_pod(pod)

    async def _delete(self, run: ObservedRun, change: Delete) -> None:
        options: Json = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": change.uid}}
        if change.now:
            options["gracePeriodSeconds"] = 0
        try:
            found = await self._kube.delete(PODS, run.key[0], change.name, options)
        except KubeError as error:
            if error.status not in (404, 409):
                raise
            self._drop(run, change)
            return
        # For a pod that was terminating already the answer has no resourceVersion; the watch delivers that update.
        if found.get("kind") == "Pod" and {"deletionTimestamp", "resourceVersion"} <= found["metadata"].keys():
            self._put(found)

    def _drop(self, run: ObservedRun, change: Delete) -> None:
        """Drop the pod from the cache: it is deleted and its watch event was missed."""
        for pod in self._store.pods(run):
            if pod.uid == change.uid:
                self._store.drop_pod(pod)

    async def _delete_run(self, run: ObservedRun) -> None:
        self._check_leading()
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": run.uid},
            "propagationPolicy": "Background",
        }
        await self._kube.delete(RUNS, *run.key, options)

    async def _emit(self, run: ObservedRun, event: Event) -> None:
        """Create an Event, or increase the count of an equal one. A failed event is logged and not retried."""
        name, now = event.event_name(run.key[1], run.uid), self._deps.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        try:
            try:
                await self._kube.create(EVENTS, _event(run, event, name, now))
            except KubeError as error:
                if error.status != 409:
                    raise
                count = (await self._kube.get(EVENTS, run.key[0], name)).get("count", 1)
                await self._kube.merge(EVENTS, run.key[0], name, {"count": count + 1, "lastTimestamp": now})
        except KubeError as error:
            log.warning("%s/%s: event %s is lost: %s", *run.key, event.reason, error)


def _is_coordinators(change: Create | Delete) -> bool:
    return isinstance(change, Create) and change.pod_role == COORDINATOR


def _has_begun(run: ObservedRun) -> bool:
    """Whether a coordinator's pod was ever observed: shared objects are created before it."""
    return run.status is not None and any(each.seen for each in run.status.attempts)


def _raise_first(results: Sequence[object]) -> None:
    """Raise the first failure of tasks that have all ended."""
    for result in results:
        if isinstance(result, BaseException):
            raise result


def _head(run: ObservedRun) -> Json:
    """The run as the object of an apply; its uid makes an apply to a new run of the same name fail."""
    metadata: Json = {"name": run.key[1], "namespace": run.key[0], "uid": run.uid}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata}


def _event(run: ObservedRun, event: Event, name: str, now: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": run.key[0]},
        "involvedObject": reference(run.key, run.uid),
        "type": event.kind,
        "reason": event.reason,
        "message": event.message,
        "count": 1,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "source": {"component": FIELD_MANAGER},
        "reportingComponent": FIELD_MANAGER,
        "reportingInstance": "",
    }


async def load_store(
    kube: KubeClient, store: InformerCache, namespaces: Sequence[str | None], selector: str
) -> set[Key]:
    """List all runs and pods into the cache; return the runs that changed. Raises KubeError."""
    changed: set[Key] = set()
    for namespace in namespaces:
        runs, version = await kube.gather(
            RUNS, namespace, keep=lambda each: parse_observed_run(each, store.run(run_key(each)))
        )
        pods, _ = await kube.gather(PODS, namespace, selector, keep=parse_observed_pod)
        changed |= store.reconcile_lists(runs, [pod for pod in pods if pod is not None], version, namespace)
    return changed
