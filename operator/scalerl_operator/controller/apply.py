"""The actuator for a cluster: what is seen of a run, and carrying a plan out. I/O.

Sights come from the watch caches; nothing is read from the API server to look at a run.
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
from scalerl_operator.controller.curve_config_map import Archive
from scalerl_operator.controller.owned_objects import NotOurs, make_child
from scalerl_operator.decide.events import Happening, list_happenings
from scalerl_operator.kube.client import EVENTS, PODS, RUNS, Json, Kube, KubeError
from scalerl_operator.reconcile.cache import Store
from scalerl_operator.reconcile.pod_plan import Create, Delete, PodPlan
from scalerl_operator.reconcile.snapshot import Key, SeenRun, Sight, parse_seen_pod, parse_seen_run, run_key
from scalerl_operator.reconcile.status_write import is_due, wanted_annotations
from scalerl_operator.resources.names import FIELD_MANAGER, FORECAST_ANNOTATIONS, LEADER
from scalerl_operator.resources.owner import Owner, PodOptions, reference
from scalerl_operator.resources.pod import build_pod
from scalerl_operator.resources.shared import build_common
from scalerl_operator.telemetry.poller import Leaders

log = logging.getLogger(__name__)


class NotLeading(Exception):
    """Another replica leads, or may do so by now: nothing may be written."""


class Cluster(Protocol):
    """What the reconciler works on."""

    def observe(self, key: Key) -> Sight | None:
        """Return everything of one run as of now; None if it is gone."""

    async def apply(self, sight: Sight, plan: PodPlan) -> None:
        """Carry `plan` out."""


@dataclass(frozen=True)
class Rights:
    """What the operator acts with."""

    options: PodOptions
    token_key: bytes
    """From it the runs' tokens are derived: no Secret has to be read."""
    is_leading: Callable[[], bool]
    """Whether this replica holds the lease, by its own clock."""
    now: Callable[[], datetime]


def derive_token(token_key: bytes, uid: str) -> str:
    """Return the token that guards /v1 of the run's leader. Without the key nobody can tell it from the uid."""
    return hmac.new(token_key, uid.encode(), hashlib.sha256).hexdigest()


@dataclass
class _Written:
    """What this operator has written of a run."""

    uid: str
    status_time: datetime | None = None
    common: dict[str, str] = field(default_factory=dict)
    """Digest of each shared object that was made, by kind."""


class KubeCluster:
    """A real cluster, or whatever speaks its API."""

    def __init__(self, kube: Kube, store: Store, leaders: Leaders, rights: Rights):
        self._kube = kube
        self._store = store
        self._leaders = leaders
        self._rights = rights
        self._archive = Archive(kube)
        self._written: dict[Key, _Written] = {}

    def observe(self, key: Key) -> Sight | None:
        """Return everything of one run as of now; None if it is gone."""
        run = self._store.run(key)
        if run is None:
            self._written.pop(key, None)
            self._leaders.forget(key)
            self._archive.forget(key)
            self._store.forget(key)
            return None
        return Sight(run, self._store.pods(run), self._leaders.told(run))

    async def apply(self, sight: Sight, plan: PodPlan) -> None:
        """Carry `plan` out. Raises KubeError, NotLeading.

        The status comes before pods, for it holds the intention; the curve before a status by which the run is over.
        """
        written = self._written.get(sight.run.key)
        if written is None or written.uid != sight.run.uid:
            written = self._written[sight.run.key] = _Written(sight.run.uid)
        try:
            if plan.status is not None:
                await self._keep_curve(sight)
                await self._write_status(sight.run, plan.status, written)
            if plan.changes:
                await self._change(sight, plan, written)
            if plan.delete_run:
                await self._delete_run(sight.run)
        except KubeError as error:
            if error.status == 404 and await self._is_gone(sight.run):
                self._store.drop_run(sight.run)
                return
            raise

    async def _is_gone(self, run: SeenRun) -> bool:
        """Whether the run itself is what was not found."""
        try:
            found = await self._kube.get(RUNS, *run.key)
        except KubeError as error:
            if error.status == 404:
                return True
            raise
        return bool(found["metadata"]["uid"] != run.uid)

    def _check_leading(self) -> None:
        if not self._rights.is_leading():
            raise NotLeading

    async def _keep_curve(self, sight: Sight) -> None:
        if sight.run.run is not None and self._archive.is_due(sight):
            self._check_leading()
            try:
                await self._archive.keep(sight, Owner(sight.run.run, sight.run.uid, document="", token=""))
            except NotOurs as error:
                await self._tell_refusal(sight.run, error)

    async def _write_status(self, run: SeenRun, status: RLRunStatus, written: _Written) -> None:
        now = self._rights.now()
        if is_due(run.status, status, written.status_time, now):
            self._check_leading()
            document = {
                **_head(run),
                "status": status.model_dump(mode="json", by_alias=True, exclude_none=True),
            }
            stored = await self._kube.apply(RUNS, document, "status")
            written.status_time = now
            self._store.put_run(parse_seen_run(stored, run))
            for happening in list_happenings(run.status, status, now):
                await self._tell(run, happening)
        await self._annotate(run, wanted_annotations(status))

    async def _annotate(self, run: SeenRun, wanted: dict[str, str]) -> None:
        """Make our annotations be `wanted` and nothing else. Merged: null takes one away, whoever has written it."""
        if {name: text for name, text in run.annotations.items() if name in FORECAST_ANNOTATIONS} != wanted:
            self._check_leading()
            annotations = {name: wanted.get(name) for name in FORECAST_ANNOTATIONS}
            document = {"metadata": {"uid": run.uid, "annotations": annotations}}
            self._store.put_run(parse_seen_run(await self._kube.merge(RUNS, *run.key, document), run))

    async def _change(self, sight: Sight, plan: PodPlan, written: _Written) -> None:
        owner = None
        if sight.run.run is not None and any(isinstance(each, Create) for each in plan.changes):
            owner = self._owner(sight.run, sight.run.run)
            await self._share(sight.run, owner, written)
        tasks = [self._one(sight.run, owner, change) for change in plan.changes if not _is_leaders(change)]
        _raise_first(await asyncio.gather(*tasks, return_exceptions=True))
        for change in plan.changes:
            if _is_leaders(change):  # its pod says that all others were made
                await self._one(sight.run, owner, change)

    async def _one(self, run: SeenRun, owner: Owner | None, change: Create | Delete) -> None:
        self._check_leading()
        match change:
            case Create() if owner is not None:
                await self._create(run, owner, change)
            case Delete():
                await self._delete(run, change)

    def _owner(self, seen: SeenRun, run: RLRun) -> Owner:
        document = yaml.safe_dump(seen.document, sort_keys=False, allow_unicode=True, width=120)
        return Owner(run, seen.uid, document, derive_token(self._rights.token_key, seen.uid))

    async def _share(self, run: SeenRun, owner: Owner, written: _Written) -> None:
        """Make what the pods share, unless this operator has done so with the same words."""
        tasks = [self._share_one(run, each, written) for each in build_common(owner, self._rights.options)]
        _raise_first(await asyncio.gather(*tasks, return_exceptions=True))

    async def _share_one(self, run: SeenRun, document: Json, written: _Written) -> None:
        kind, digest = document["kind"], hashlib.sha256(repr(document).encode()).hexdigest()
        if written.common.get(kind) == digest:
            return
        self._check_leading()
        try:
            await make_child(self._kube, document, is_known=kind in written.common or _has_begun(run))
        except KubeError as error:
            await self._tell_refusal(run, error)
            raise
        written.common[kind] = digest

    async def _create(self, run: SeenRun, owner: Owner, change: Create) -> None:
        """Make a pod. Not applied: that would change one of the same name that is on its way out."""
        pod = build_pod(owner, change.place, change.attempt, self._rights.options)
        try:
            self._put(await self._kube.create(PODS, pod))
        except KubeError as error:
            await self._tell_refusal(run, error)
            raise

    async def _tell_refusal(self, run: SeenRun, error: KubeError) -> None:
        """Quota, policy, what the API server finds invalid, a name that is taken: a person must do something."""
        if isinstance(error, NotOurs) or error.status in (403, 422):
            await self._tell(run, Happening("FailedCreate", str(error)[:1000], "Warning"))

    def _put(self, document: Json) -> None:
        pod = parse_seen_pod(document)
        if pod is not None:
            self._store.put_pod(pod)

    async def _delete(self, run: SeenRun, change: Delete) -> None:
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
        # Of a pod that was on its way out already the answer has no version; the watch tells of that.
        if found.get("kind") == "Pod" and {"deletionTimestamp", "resourceVersion"} <= found["metadata"].keys():
            self._put(found)

    def _drop(self, run: SeenRun, change: Delete) -> None:
        """The pod is no longer stored: its event was missed."""
        for pod in self._store.pods(run):
            if pod.uid == change.uid:
                self._store.drop_pod(pod)

    async def _delete_run(self, run: SeenRun) -> None:
        self._check_leading()
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": run.uid},
            "propagationPolicy": "Background",
        }
        await self._kube.delete(RUNS, *run.key, options)

    async def _tell(self, run: SeenRun, happening: Happening) -> None:
        """Make an Event, or count one with the same words. An event that cannot be written is not worth a retry."""
        name, now = happening.event_name(run.key[1], run.uid), self._rights.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        try:
            try:
                await self._kube.create(EVENTS, _event(run, happening, name, now))
            except KubeError as error:
                if error.status != 409:
                    raise
                count = (await self._kube.get(EVENTS, run.key[0], name)).get("count", 1)
                await self._kube.merge(EVENTS, run.key[0], name, {"count": count + 1, "lastTimestamp": now})
        except KubeError as error:
            log.warning("%s/%s: event %s is lost: %s", *run.key, happening.reason, error)


def _is_leaders(change: Create | Delete) -> bool:
    return isinstance(change, Create) and change.place == LEADER


def _has_begun(run: SeenRun) -> bool:
    """Whether a leader's pod was ever seen: what pods share is made before it."""
    return run.status is not None and any(each.seen for each in run.status.attempts)


def _raise_first(results: Sequence[object]) -> None:
    """Raise the first failure of tasks that have all ended."""
    for result in results:
        if isinstance(result, BaseException):
            raise result


def _head(run: SeenRun) -> Json:
    """The run as the object of an apply; with its uid, so that a new run of the same name is not taken for it."""
    metadata: Json = {"name": run.key[1], "namespace": run.key[0], "uid": run.uid}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata}


def _event(run: SeenRun, happening: Happening, name: str, now: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": run.key[0]},
        "involvedObject": reference(run.key, run.uid),
        "type": happening.kind,
        "reason": happening.reason,
        "message": happening.message,
        "count": 1,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "source": {"component": FIELD_MANAGER},
        "reportingComponent": FIELD_MANAGER,
        "reportingInstance": "",
    }


async def load_store(kube: Kube, store: Store, namespaces: Sequence[str | None], selector: str) -> set[Key]:
    """Bring the caches to what is stored now; return the runs of which something was news. Raises KubeError."""
    news: set[Key] = set()
    for namespace in namespaces:
        runs, version = await kube.gather(
            RUNS, namespace, keep=lambda each: parse_seen_run(each, store.run(run_key(each)))
        )
        pods, _ = await kube.gather(PODS, namespace, selector, keep=parse_seen_pod)
        news |= store.reconcile_lists(runs, [pod for pod in pods if pod is not None], version, namespace)
    return news
