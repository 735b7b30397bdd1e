"""Stores a run's curve in a ConfigMap that the run owns, so that a report needs no coordinator and no token. I/O.

The ConfigMap is read before it is written: an operator that has just started does not know what the last one stored.
"""

import logging
from dataclasses import dataclass

from scalerl_api.evaluations import merge_evals
from scalerl_api.wire import EvalPoint
from scalerl_operator.controller.owned_objects import NotOurs
from scalerl_operator.kube.client import CHILDREN, Json, KubeClient, KubeError, find_object
from scalerl_operator.reconcile.observed_pod import last_evals
from scalerl_operator.reconcile.observed_run import Key
from scalerl_operator.reconcile.snapshot import Snapshot
from scalerl_operator.reconcile.stored_curve import StoredCurve, extend_curve, format_curve, parse_curve
from scalerl_operator.resources.names import curve_name
from scalerl_operator.resources.owner import Owner
from scalerl_operator.resources.shared import build_curve

log = logging.getLogger(__name__)

CONFIG_MAPS = CHILDREN["ConfigMap"]


@dataclass(frozen=True)
class _StoredMark:
    """The history that this operator has stored for a run."""

    uid: str
    mark: int


class CurveConfigMaps:
    """The ConfigMaps of all curves: one write for each evaluation, none for anything else."""

    def __init__(self, kube: KubeClient):
        self._kube = kube
        self._stored: dict[Key, _StoredMark] = {}

    def is_due(self, snapshot: Snapshot) -> bool:
        """Whether an evaluation is not stored yet."""
        evals = _evals(snapshot)
        return bool(evals) and self._stored.get(snapshot.run.key) != _StoredMark(snapshot.run.uid, _mark(evals))

    async def save(self, snapshot: Snapshot, owner: Owner) -> None:
        """Store new evaluations. A failed write is retried later and never delays the run.

        Raises NotOurs, once for each evaluation, if an object of another owner has the name.
        """
        evals, progress = _evals(snapshot), snapshot.poll.progress
        try:
            stored = await self._read(snapshot)
            before = stored["data"] if stored is not None else {}
            curve = parse_curve(before) if stored is not None else StoredCurve()
            data = format_curve(extend_curve(curve, evals, progress.latest if progress is not None else None))
            if data != before:
                await self._write(build_curve(owner, data), stored)
        except NotOurs:
            self._stored[snapshot.run.key] = _StoredMark(snapshot.run.uid, _mark(evals))
            raise
        except KubeError as error:
            log.warning("%s/%s: its curve is not stored yet: %s", *snapshot.run.key, error)
        else:
            self._stored[snapshot.run.key] = _StoredMark(snapshot.run.uid, _mark(evals))

    async def _write(self, document: Json, stored: Json | None) -> None:
        """Write over the object that was read; fail if another has replaced it."""
        if stored is None:
            await self._kube.create(CONFIG_MAPS, document)
        else:
            head = {**document["metadata"], "uid": stored["metadata"]["uid"]}
            await self._kube.apply(CONFIG_MAPS, {**document, "metadata": head})

    def forget(self, key: Key) -> None:
        """Drop a deleted run."""
        self._stored.pop(key, None)

    async def _read(self, snapshot: Snapshot) -> Json | None:
        """Return the stored object of this run. Raises NotOurs for one that an earlier run of the name has left."""
        name = curve_name(snapshot.run.key[1])
        stored = await find_object(self._kube, CONFIG_MAPS, snapshot.run.key[0], name)
        if stored is None:
            return None
        owners = {each["uid"] for each in stored["metadata"].get("ownerReferences", [])}
        if snapshot.run.uid not in owners:
            raise NotOurs("ConfigMap", name)
        return {"data": {}, **stored}


def _evals(snapshot: Snapshot) -> tuple[EvalPoint, ...]:
    return merge_evals(snapshot.poll.evals, last_evals(snapshot.pods))


def _mark(evals: tuple[EvalPoint, ...]) -> int:
    """A hash that differs between two histories."""
    return hash(tuple((point.dataset, point.step, point.attempt) for point in evals))
