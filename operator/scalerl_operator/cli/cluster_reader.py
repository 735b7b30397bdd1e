"""Reads runs, pods, events and curves from a cluster for `scalerl status`, `report` and `logs`. I/O.

The user's own credentials are used, and Kubernetes' role `view` is enough: no Secret is read and no coordinator is
called. See docs/notes/053-kubectl-for-people.md.
"""

import importlib.metadata
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import yaml

from scalerl_api import InvalidRun, RLRun
from scalerl_api.evaluations import held_out
from scalerl_api.rlrun import PLURAL
from scalerl_operator.cli.exit_codes import EXIT_FAILED, EXIT_INVALID, EXIT_RETRY, EXIT_USAGE, CommandError
from scalerl_operator.controller.curve_config_map import CONFIG_MAPS
from scalerl_operator.kube.client import EVENTS, PODS, RUNS, Json, KubeClient, KubeError, find_object
from scalerl_operator.kube.kubeconfig import Access
from scalerl_operator.reconcile.observed_pod import ObservedPod, parse_observed_pod
from scalerl_operator.reconcile.observed_run import Key, ObservedRun, parse_observed_run
from scalerl_operator.reconcile.pod_view import (
    EventView,
    PodView,
    build_pod_view,
    describe_wait,
    has_no_process,
    last_events,
    order_pods,
)
from scalerl_operator.reconcile.stored_curve import parse_curve
from scalerl_operator.render.describe import Overview
from scalerl_operator.render.report_data import ReportData, rebuild_forecasts
from scalerl_operator.resources.names import LABEL_RUN, Role, curve_name
from scalerl_operator.run.attempts import load_history

Fetched = TypeVar("Fetched")

_NOTE_ON_MISSING = (
    "A cluster stores a bounded number of evaluations of each set. Some may be missing here; curve and band are fitted"
    " to these."
)
EVENTS_SHOWN = 10
PENDING_PODS_EXPLAINED = 5  # pending pods whose events are read; most are pending for the same reason


@dataclass(frozen=True)
class StoredRun:
    """A run as the API server stores it, if its spec and status can be parsed."""

    observed: ObservedRun
    run: RLRun
    """With its status."""
    document: Json
    """Without `managedFields`."""

    @property
    def key(self) -> Key:
        """(namespace, name)."""
        return self.observed.key

    @property
    def created(self) -> datetime | None:
        """By the API server's clock."""
        return self.observed.created


def to_command_error(error: KubeError, access: Access) -> CommandError:
    """Return the error for the user: its message states what is missing, its exit code whether a retry may help."""
    place = access.place
    if error.status == 0:
        return CommandError(f"no answer from {place}: {error.reason}: {error.message}", EXIT_RETRY)
    if error.status == 401:
        return CommandError(f"{place} rejects your credentials (401): log in as for kubectl", EXIT_FAILED)
    if error.status == 403:
        return CommandError(f"forbidden on {place}: {error.message}", EXIT_FAILED)
    if error.status == 404 and PLURAL in str(error) and error.reason == "NotJson":
        return CommandError(f"{place} has no RLRuns: the CRD rlruns.scalerl.io is not installed", EXIT_USAGE)
    return CommandError(f"{place}: {error}", EXIT_RETRY if error.is_passing else EXIT_FAILED)


async def fetch_run(kube: KubeClient, access: Access, name: str) -> StoredRun:
    """Return the run. Raises KubeError, CommandError if the namespace has none of that name."""
    try:
        return parse_stored(await kube.get(RUNS, access.namespace, name))
    except KubeError as error:
        if error.status == 404 and error.reason == "NotFound":
            text = f"no run {name!r} in namespace {access.namespace} of {access.place}"
            raise CommandError(text, EXIT_USAGE) from error
        raise


async def fetch_runs(kube: KubeClient, namespace: str | None) -> list[StoredRun]:
    """Return the runs of a namespace (None: of all namespaces), sorted by name. Raises KubeError, CommandError."""
    documents, _ = await kube.list(RUNS, namespace)
    return sorted(map(parse_stored, documents), key=lambda each: each.key)


def parse_stored(document: Json) -> StoredRun:
    """Parse a run in the API server's JSON. Raises CommandError for one that this version cannot parse."""
    observed = parse_observed_run(document)
    name = "/".join(observed.key)
    if observed.parsed is None:
        raise CommandError(f"{name} is newer than this scalerl: {InvalidRun(observed.faults)}", EXIT_INVALID)
    if observed.is_status_foreign:
        raise CommandError(f"the status of {name} is newer than this scalerl: {observed.status_fault}", EXIT_INVALID)
    metadata = {name: each for name, each in document["metadata"].items() if name != "managedFields"}
    run = observed.parsed.model_copy(update={"status": observed.status})
    return StoredRun(observed, run, {**document, "metadata": metadata})


async def fetch_pods(
    kube: KubeClient, key: Key, *, role: Role | None = None, index: int | None = None
) -> list[ObservedPod]:
    """Return the selected pods of a run, trainers first. Raises KubeError."""
    documents, _ = await kube.list(PODS, key[0], f"{LABEL_RUN}={key[1]}")
    pods = (pod for pod in map(parse_observed_pod, documents) if pod is not None)
    return order_pods(pods, key[1], role=role, index=index)


async def fetch_overview(kube: KubeClient, access: Access, name: str, now: datetime) -> Overview:
    """Return the status, attempts, pods and events of a run; a part that is forbidden is the reason as text.

    Raises KubeError, CommandError.
    """
    found = await fetch_run(kube, access, name)
    pods = await _if_allowed(fetch_pods(kube, found.key))
    about = f"involvedObject.kind={found.run.kind},involvedObject.uid={found.observed.uid}"
    events = await _if_allowed(_fetch_events(kube, found.key[0], about))
    curve = await _if_allowed(_read_curve(kube, found))
    return Overview(
        run=found.run,
        location=f"namespace {found.key[0]} of {access.place}",
        now=now,
        started=found.created,
        attempts=load_history(found.run.status).listed,
        evals=parse_curve(curve).evals if not isinstance(curve, str) else (),
        pods=pods if isinstance(pods, str) else await _with_reasons(kube, found.key[0], pods),
        events=events,
    )


async def _if_allowed(fetching: Awaitable[Fetched]) -> Fetched | str:
    """Return the result, or the reason why it is forbidden: the other parts are shown all the same."""
    try:
        return await fetching
    except KubeError as error:
        if error.status != 403:
            raise
        return f"forbidden: {error.message}"


async def _fetch_events(kube: KubeClient, namespace: str, about: str) -> Sequence[EventView]:
    documents, _ = await kube.list(EVENTS, namespace, fields=about)
    return last_events(documents, EVENTS_SHOWN)


async def _with_reasons(kube: KubeClient, namespace: str, pods: Sequence[ObservedPod]) -> list[PodView]:
    """Return the pods.

    Those without a process get their last warning event, for example a volume that fails to mount.
    """
    reasons: dict[str, str] = {}
    for pod in [each for each in pods if has_no_process(each)][:PENDING_PODS_EXPLAINED]:
        events = await _if_allowed(_fetch_events(kube, namespace, f"involvedObject.uid={pod.uid}"))
        warnings = [each for each in events if each.kind == "Warning"] if not isinstance(events, str) else []
        if warnings and warnings[-1].message not in describe_wait(pod):
            reasons[pod.uid] = f"{warnings[-1].reason}: {warnings[-1].message}"
    return [build_pod_view(each, reasons.get(each.uid, "")) for each in pods]


async def fetch_report_data(kube: KubeClient, access: Access, name: str, now: datetime) -> ReportData:
    """Return the content of the run's report. Raises KubeError, CommandError while the run has no evaluation."""
    found = await fetch_run(kube, access, name)
    curve = parse_curve(await _fetch_curve(kube, found, access))
    if not held_out(curve.evals):
        raise CommandError(f"{'/'.join(found.key)} on {access.place} has no evaluation yet", EXIT_USAGE)
    pods = await _if_allowed(fetch_pods(kube, found.key))
    about = f"involvedObject.kind={found.run.kind},involvedObject.uid={found.observed.uid}"
    events = await _if_allowed(_fetch_events(kube, found.key[0], about))
    return ReportData(
        run=found.run,
        spec=yaml.safe_dump(found.observed.document, sort_keys=False, allow_unicode=True, width=120),
        evals=curve.evals,
        steps=curve.steps if len(curve.steps) > 1 else (),  # one step is no line
        forecasts=rebuild_forecasts(found.run, curve.evals, now.timestamp()),
        attempts=load_history(found.run.status).listed,
        environment=_environment(found, access, pods, now),
        events=events if not isinstance(events, str) else (),
        note=_NOTE_ON_MISSING if curve.is_full else "",
    )


async def _fetch_curve(kube: KubeClient, found: StoredRun, access: Access) -> dict[str, str]:
    """Return the data of the run's ConfigMap; empty while the run has none. Raises KubeError, CommandError."""
    try:
        return await _read_curve(kube, found)
    except KubeError as error:
        if error.status == 403:
            name = curve_name(found.key[1])
            text = f"the run's curve is in ConfigMap {name}, which Kubernetes' role view may read. {error.message}"
            raise CommandError(f"forbidden on {access.place}: {text}", EXIT_FAILED) from error
        raise


async def _read_curve(kube: KubeClient, found: StoredRun) -> dict[str, str]:
    """Return the data of the run's ConfigMap; empty while the run has none. Raises KubeError."""
    stored = await find_object(kube, CONFIG_MAPS, found.key[0], curve_name(found.key[1]))
    if stored is None:
        return {}
    owners = {each["uid"] for each in stored["metadata"].get("ownerReferences", [])}
    data: dict[str, str] = stored.get("data") or {}
    return data if found.observed.uid in owners else {}


def _environment(
    found: StoredRun, access: Access, pods: Sequence[ObservedPod] | str, now: datetime
) -> list[tuple[str, str]]:
    coordinator = next((each for each in pods if each.is_coordinator), None) if not isinstance(pods, str) else None
    rows = [
        ("written", f"{now:%Y-%m-%d %H:%M} UTC"),
        ("run", f"{'/'.join(found.key)}, uid {found.observed.uid}"),
        ("cluster", access.place),
        ("scalerl that wrote this", importlib.metadata.version("scalerl")),
    ]
    return rows if coordinator is None else [*rows, ("image of the coordinator", coordinator.image)]
