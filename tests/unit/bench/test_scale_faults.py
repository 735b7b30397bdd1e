"""A scale benchmark fails on faults, not on slow results."""

import importlib
from types import ModuleType
from typing import Any

import pytest

Found = dict[str, Any]


@pytest.fixture(scope="module")
def faults() -> ModuleType:
    return importlib.import_module("scale_faults")


def takeover(*, kill: float = 15.1, term: float = 2.5, **checked: Any) -> Found:
    check = {
        "pods made": 2100,
        "pods wanted": 2100,
        "made twice for one attempt": [],
        "generators made twice for one attempt": [],
        "runs with a wrong number of attempts": [],
        "runs whose attempts' events are not one each": [],
        "transitions": 220,
    }
    return {"kills": [{"leads": 14.2}, {"leads": kill}], "terms": [{"leads": term}], "check": check | checked}


TAKEOVERS: list[tuple[Found, list[str], str]] = [
    (takeover(), [], "as it should be"),
    (takeover(kill=19.9), [], "slow, and still allowed"),
    (
        takeover(kill=20.0),
        ["the other led after 20.0 s; less than 20 s are allowed"],
        "a death that is noticed too late",
    ),
    (takeover(term=31.0), ["the other led after 31.0 s; less than 20 s are allowed"], "a lease that was not released"),
    (takeover(**{"pods made": 2101}), ["2101 pods were made, 2100 were wanted"], "a pod too many"),
    (takeover(**{"pods made": 2099}), ["2099 pods were made, 2100 were wanted"], "a pod that is missing"),
    (
        takeover(**{"made twice for one attempt": ["run-0007-trainer-1, attempt 3"]}),
        ["made twice for one attempt: run-0007-trainer-1, attempt 3"],
        "a trainer's pod twice",
    ),
    (
        takeover(**{"generators made twice for one attempt": ["run-0002-generator-4: 3 instead of 2"]}),
        ["made twice for one attempt: run-0002-generator-4: 3 instead of 2"],
        "a generator's pod twice",
    ),
    (
        takeover(**{"runs with a wrong number of attempts": ["run-0005", "run-0009"]}),
        ["a wrong number of attempts: run-0005", "a wrong number of attempts: run-0009"],
        "attempts that nobody asked for",
    ),
    (
        takeover(**{"runs whose attempts' events are not one each": ["run-0006"]}),
        ["not one event for each attempt: run-0006"],
        "an attempt that is reported twice",
    ),
]


@pytest.mark.parametrize(("found", "wanted"), [r[:2] for r in TAKEOVERS], ids=[r[2] for r in TAKEOVERS])
def test_takeover(faults: ModuleType, found: Found, wanted: list[str]) -> None:
    assert faults.find_takeover_faults(found) == wanted


def cluster(
    *,
    created: int = 600,
    moved: int = 350,
    writes: Found | None = None,
    written: int = 0,
    doubles: tuple[str, ...] = (),
) -> Found:
    """Results of 200 runs of three pods, far slower and larger than any goal."""
    facts: dict[str, Found] = {
        "create": {"runs": 200, "pods made": created, "pods per second": 0.5},
        "idle": {"runs written": written},
        "training": {"runs written": 200},
        "transitions": {"pods made": moved, "pods wanted": 350},
    }
    spent: dict[str, Found] = {"idle": writes or {}}
    phases = [
        {
            "name": name,
            "facts": each,
            "writes": spent.get(name, {"apply rlruns/status": 400}),
            "pass_seconds": {"p99": 99.0},
        }
        for name, each in facts.items()
    ]
    return {"phases": phases, "doubles": list(doubles), "rss_peak_mib": 4096.0}


CLUSTERS: list[tuple[Found, list[str], str]] = [
    (cluster(), [], "slow is no fault, and runs that train are written"),
    (
        cluster(doubles=("run-0003-trainer-0, attempt 2",)),
        ["made twice for one attempt: run-0003-trainer-0, attempt 2"],
        "a pod twice",
    ),
    (cluster(created=602), ["pods too many when runs were made: 2"], "too many at the start"),
    (cluster(moved=353), ["pods too many when runs were resumed: 3"], "too many at a restart"),
    (cluster(writes={"create events": 4, "apply secrets": 1}), ["writes while runs were idle: 5"], "our own writes"),
    (cluster(written=7), ["idle runs that were written: 7"], "runs whose version moved, whoever wrote"),
]


@pytest.mark.parametrize(("found", "wanted"), [r[:2] for r in CLUSTERS], ids=[r[2] for r in CLUSTERS])
def test_cluster(faults: ModuleType, found: Found, wanted: list[str]) -> None:
    assert faults.find_cluster_faults(found, pods_per_run=3) == wanted
