"""The store of a run's curve on an in-memory API server: its writes, its appends, and strangers' objects."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from api_server import InMemoryApiServer

from scalerl_api import RLRun
from scalerl_api.wire import EvalPoint, Progress, StepRecord, Termination
from scalerl_operator.controller.curve_config_map import CurveConfigMaps
from scalerl_operator.controller.owned_objects import NotOurs
from scalerl_operator.kube.client import KubeError
from scalerl_operator.reconcile.observed_pod import ObservedPod
from scalerl_operator.reconcile.observed_run import ObservedRun
from scalerl_operator.reconcile.snapshot import PollResult, Snapshot
from scalerl_operator.reconcile.stored_curve import parse_curve
from scalerl_operator.resources.names import COORDINATOR
from scalerl_operator.resources.owner import Owner

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
Json = dict[str, Any]
Point = Callable[..., EvalPoint]
CURVE = ("configmaps", "research", "tiny-curve")


class Desk:
    """An operator with one run."""

    def __init__(self, run: RLRun, server: InMemoryApiServer):
        self.server = server
        api: Any = server
        self.curves = CurveConfigMaps(api)
        self.owner = Owner(run, "u1", "", "")
        self.snapshot = Snapshot(ObservedRun(("research", "tiny"), "u1", 1, 1, "", False, {}, {}, run))

    def tell(self, evals: tuple[EvalPoint, ...], step: int = 40) -> None:
        latest = StepRecord(step=step, time=0.0, attempt=1, compute_gpu_hours=0.1, values={"entropy": 0.5})
        given = {"run": "tiny", "attempt": 1, "phase": "training", "step": step, "version": step, "time": 0.0}
        progress = Progress(**given, compute_gpu_hours=0.1, latest=latest)
        self.snapshot = replace(self.snapshot, poll=PollResult(polled=True, attempt=1, progress=progress, evals=evals))

    def keep(self) -> None:
        assert self.curves.is_due(self.snapshot)
        asyncio.run(self.curves.save(self.snapshot, self.owner))

    @property
    def stored(self) -> Json:
        return self.server.objects[CURVE]

    @property
    def kept(self) -> list[int]:
        return [each.step for each in parse_curve(self.stored["data"]).evals]


@pytest.fixture
def desk(make_run: Callable[..., RLRun]) -> Callable[..., Desk]:
    server = InMemoryApiServer()
    run = make_run()
    run = run.model_copy(update={"metadata": run.metadata.model_copy(update={"namespace": "research"})})
    return lambda: Desk(run, server)


def test_each_evaluation_is_written_exactly_once(desk: Callable[..., Desk], point: Point) -> None:
    found = desk()
    found.tell(())
    assert not found.curves.is_due(found.snapshot), "nothing was measured"
    found.tell((point(0), point(1)))
    found.keep()
    found.tell((point(0), point(1)), step=41)
    assert not found.curves.is_due(found.snapshot), "a step is no evaluation"
    found.tell((point(0), point(1), point(2)), step=42)
    found.keep()
    assert found.server.reads == ["get configmaps tiny-curve"] * 2
    assert found.server.calls == ["create configmaps tiny-curve", "apply configmaps tiny-curve"]
    assert found.server.written[-1]["metadata"]["uid"] == "uid-tiny-curve", "only what was read is written over"
    assert found.kept == [0, 10, 20]
    curve = parse_curve(found.stored["data"])
    assert [each.step for each in curve.steps] == [40, 42]
    (owner,) = found.stored["metadata"]["ownerReferences"]
    assert owner["uid"] == "u1"


def test_the_next_operator_continues_the_stored_curve(desk: Callable[..., Desk], point: Point) -> None:
    first = desk()
    first.tell((point(0), point(1)), step=12)
    first.keep()
    second = desk()
    second.server.calls.clear()
    second.server.reads.clear()
    second.tell((point(0), point(1)), step=12)
    second.keep()
    assert (second.server.reads, second.server.calls) == (["get configmaps tiny-curve"], []), (
        "what is there is not written again"
    )
    second.tell((point(0), point(1), point(2)), step=23)
    second.keep()
    assert [each.step for each in parse_curve(second.stored["data"]).steps] == [12, 23]


def test_the_last_evaluation_may_be_in_the_termination_message_only(desk: Callable[..., Desk], point: Point) -> None:
    """The operator was away when the coordinator ended.

    It was told nothing, and adds the one point to those of before.
    """
    desk_before = desk()
    desk_before.tell((point(0), point(1)))
    desk_before.keep()
    found = desk()
    words = Termination(reason="Finished", step=20, last_eval=point(2)).model_dump_json(by_alias=True)
    coordinator = ObservedPod(
        ("research", "tiny"), "tiny-trainer-0", "p", "u1", 1, COORDINATOR, 1, NOW, termination_message=words
    )
    found.snapshot = replace(found.snapshot, pods=(coordinator,))
    found.keep()
    assert found.kept == [0, 10, 20]


def test_a_failed_write_of_the_curve_is_retried(
    desk: Callable[..., Desk], point: Point, caplog: pytest.LogCaptureFixture
) -> None:
    found = desk()
    refused = KubeError("PATCH", 403, "Forbidden", "exceeded quota")
    found.server.refuse["create configmaps tiny-curve"] = refused
    found.tell((point(0),))
    found.keep()
    assert "research/tiny: its curve is not stored yet: PATCH: 403 Forbidden: exceeded quota" in caplog.text
    found.keep()
    assert found.kept == [0]


def test_a_run_of_the_same_name_does_not_inherit_the_curve(desk: Callable[..., Desk], point: Point) -> None:
    first = desk()
    first.tell((point(0), point(1), point(2)))
    first.keep()
    second = desk()
    second.snapshot = replace(second.snapshot, run=replace(second.snapshot.run, uid="u2"))
    second.owner = replace(second.owner, uid="u2")
    second.tell((point(0, pass_rate=0.1),))
    with pytest.raises(NotOurs, match="ConfigMap tiny-curve"):
        second.keep()
    assert second.kept == [0, 10, 20], "what the earlier run has left goes with it"
    assert not second.curves.is_due(second.snapshot), "it is said once for each evaluation"
    del second.server.objects[CURVE]
    second.tell((point(0, pass_rate=0.1), point(1)))
    second.keep()
    assert second.kept == [0, 10]


def test_a_forgotten_run_is_read_again(desk: Callable[..., Desk], point: Point) -> None:
    found = desk()
    found.tell((point(0),))
    found.keep()
    found.curves.forget(("research", "tiny"))
    assert found.curves.is_due(found.snapshot)
