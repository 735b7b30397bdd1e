"""Stores a run's curve in a ConfigMap that the run owns, so that a report needs no coordinator and no token. I/O.

The ConfigMap is read before it is written: an operator that has just started does not know what the last one kept.
"""

import logging
from dataclasses import dataclass

from scalerl_api.wire import EvalPoint
from scalerl_operator.controller.owned_objects import NotOurs
from scalerl_operator.kube.client import CHILDREN, Json, KubeClient, KubeError, find_object
from scalerl_operator.reconcile.snapshot import Key, Snapshot, last_evals
from scalerl_operator.reconcile.stored_curve import StoredCurve, extend_curve, format_curve, parse_curve
from scalerl_operator.resources.names import curve_name
from scalerl_operator.resources.owner import Owner
from scalerl_operator.resources.shared import build_curve
from scalerl_operator.run.evals import merge_evals

log = logging.getLogger(__name__)

CONFIG_MAPS = CHILDREN["ConfigMap"]


@dataclass(frozen=True)
class _Kept:
    """What this operator has kept of a run."""

    uid: str
    mark: int


class Archive:
    """The curves' keeper. A write for each evaluation, none for anything else."""

    def __init__(self, kube: KubeClient):
        self._kube = kube
        self._kept: dict[Key, _Kept] = {}

    def is_due(self, snapshot: Snapshot) -> bool:
        """Whether something was measured that is not kept."""
        evals = _evals(snapshot)
        return bool(evals) and self._kept.get(snapshot.run.key) != _Kept(snapshot.run.uid, _mark(evals))

    async def keep(self, snapshot: Snapshot, owner: Owner) -> None:
        """Add what was measured. A curve that cannot be written is tried again later, and never holds up the run.

        Raises NotOurs where somebody else's object has its name, once for each evaluation.
        """
        evals, progress = _evals(snapshot), snapshot.told.progress
        try:
            stored = await self._read(snapshot)
            before = stored["data"] if stored is not None else {}
            curve = parse_curve(before) if stored is not None else StoredCurve()
            data = format_curve(extend_curve(curve, evals, progress.latest if progress is not None else None))
            if data != before:
                await self._write(build_curve(owner, data), stored)
        except NotOurs:
            self._kept[snapshot.run.key] = _Kept(snapshot.run.uid, _mark(evals))
            raise
        except KubeError as error:
            log.warning("%s/%s: its curve is not kept yet: %s", *snapshot.run.key, error)
        else:
            self._kept[snapshot.run.key] = _Kept(snapshot.run.uid, _mark(evals))

    async def _write(self, document: Json, stored: Json | None) -> None:
        """Write over what was read and nothing else."""
        if stored is None:
            await self._kube.create(CONFIG_MAPS, document)
        else:
            head = {**document["metadata"], "uid": stored["metadata"]["uid"]}
            await self._kube.apply(CONFIG_MAPS, {**document, "metadata": head})

    def forget(self, key: Key) -> None:
        """The run is gone."""
        self._kept.pop(key, None)

    async def _read(self, snapshot: Snapshot) -> Json | None:
        """Return what is stored of this run. Raises NotOurs: what an earlier run of the name has left is not its."""
        name = curve_name(snapshot.run.key[1])
        stored = await find_object(self._kube, CONFIG_MAPS, snapshot.run.key[0], name)
        if stored is None:
            return None
        owners = {each["uid"] for each in stored["metadata"].get("ownerReferences", [])}
        if snapshot.run.uid not in owners:
            raise NotOurs("ConfigMap", name)
        return {"data": {}, **stored}


def _evals(snapshot: Snapshot) -> tuple[EvalPoint, ...]:
    return merge_evals(snapshot.told.evals, last_evals(snapshot.pods))


def _mark(evals: tuple[EvalPoint, ...]) -> int:
    """Tells one history from another."""
    return hash(tuple((point.dataset, point.step, point.attempt) for point in evals))
