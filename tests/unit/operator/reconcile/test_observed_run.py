"""From an API server's JSON to a run."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from scalerl_operator.reconcile.observed_run import parse_observed_run

METADATA = {
    "creationTimestamp": "2026-05-04T11:58:07Z",
    "namespace": "research",
    "uid": "9f",
    "resourceVersion": "812",
    "generation": 3,
}


@pytest.fixture
def stored(document: Callable[..., dict[str, object]]) -> Callable[..., dict[str, Any]]:
    def make(spec: dict[str, Any] | None = None, **values: Any) -> dict[str, Any]:
        written = document(**(spec or {}))
        return {**written, "metadata": {"name": "tiny", **METADATA, **values.pop("metadata", {})}, **values}

    return make


def test_a_run(stored: Callable[..., dict[str, Any]]) -> None:
    observed = parse_observed_run(
        stored({"managedBy": "scalerl.io/operator"}, status={"attempt": 7, "observedGeneration": 2})
    )
    assert (observed.key, observed.uid, observed.version, observed.generation) == (("research", "tiny"), "9f", 812, 3)
    assert (observed.managed_by, observed.deleting) == ("scalerl.io/operator", False)
    assert observed.created == datetime(2026, 5, 4, 11, 58, 7, tzinfo=UTC)
    assert observed.run is not None
    assert observed.run.metadata.namespace == "research"
    assert observed.status is not None
    assert observed.status.attempt == 7
    assert observed.document["metadata"] == {"name": "tiny", "namespace": "research"}
    assert "status" not in observed.document


def test_a_run_that_is_deleted(stored: Callable[..., dict[str, Any]]) -> None:
    assert parse_observed_run(stored(metadata={"deletionTimestamp": "2026-05-04T12:00:00Z"})).deleting


def test_a_run_that_cannot_be_understood_says_why(stored: Callable[..., dict[str, Any]]) -> None:
    observed = parse_observed_run(stored({"budget": {"steps": 0}}))
    assert observed.run is None
    assert [str(fault) for fault in observed.faults] == ["spec.budget.steps: 0, at least 1"]


def test_a_template_that_is_refused_says_why(stored: Callable[..., dict[str, Any]]) -> None:
    observed = parse_observed_run(stored({"trainer": {"gpusPerReplica": 0, "template": {"spec": {"hostname": "a"}}}}))
    assert observed.run is None
    assert observed.parsed is not None, "`scalerl status` shows it"
    assert observed.faults[0].path == "spec.trainer.template.spec.hostname"


def test_what_a_newer_operator_added_is_passed_over(stored: Callable[..., dict[str, Any]]) -> None:
    attempt = {"number": 1, "replicas": 2, "created": "2026-05-04T12:00:00Z", "mood": "good"}
    observed = parse_observed_run(stored(status={"attempt": 3, "weather": {"rain": True}, "attempts": [attempt]}))
    assert observed.status is not None
    assert (observed.status.attempt, observed.status.attempts[0].replicas, observed.is_status_foreign) == (3, 2, False)


def test_a_status_that_cannot_be_understood_is_not_taken_for_none(stored: Callable[..., dict[str, Any]]) -> None:
    observed = parse_observed_run(stored(status={"conditions": [{"type": "Levitating"}]}))
    assert (observed.status, observed.is_status_foreign) == (None, True)
    assert "Levitating" in observed.status_fault
    assert not parse_observed_run(stored(status={})).is_status_foreign


def test_a_run_that_only_one_machine_can_do_is_refused(stored: Callable[..., dict[str, Any]]) -> None:
    one = {"gpusPerReplica": 1}
    generator = {**one, "colocated": True, "gpuMemoryShare": 0.4}
    observed = parse_observed_run(stored({"trainer": one, "generator": generator}))
    assert observed.run is None
    assert [each.path for each in observed.faults] == ["spec.generator.colocated"]
