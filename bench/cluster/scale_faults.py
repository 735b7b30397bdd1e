"""Faults that the results of the two scale benchmarks must not show on any machine. PURE.

Speed depends on the machine: docs/scale.md has it beside its goal, and it fails nothing.
"""

from collections.abc import Iterable
from typing import Any

TAKE_OVER_SECONDS = 20.0  # a killed leader keeps its lease for 14 s
Found = dict[str, Any]


def find_takeover_faults(found: Found) -> list[str]:
    """Return the faults in the results of bench_takeover.py as sentences."""
    checked = found["check"]
    late = [
        f"the other led after {each['leads']:.1f} s; less than {TAKE_OVER_SECONDS:g} s are allowed"
        for key in ("kills", "terms")
        for each in found[key]
        if each["leads"] >= TAKE_OVER_SECONDS
    ]
    made, wanted = checked["pods made"], checked["pods wanted"]
    return [
        *late,
        *([f"{made} pods were made, {wanted} were wanted"] if made != wanted else []),
        *_list("made twice for one attempt", checked["made twice for one attempt"]),
        *_list("made twice for one attempt", checked["generators made twice for one attempt"]),
        *_list("a wrong number of attempts", checked["runs with a wrong number of attempts"]),
        *_list("not one event for each attempt", checked["runs whose attempts' events are not one each"]),
    ]


def find_cluster_faults(found: Found, *, pods_per_run: int) -> list[str]:
    """Return the faults in the results of bench_cluster.py as sentences."""
    phases: dict[str, Found] = {each["name"]: each for each in found["phases"]}
    created, moved, idle = phases["create"]["facts"], phases["transitions"]["facts"], phases["idle"]
    counts = {
        "pods too many when runs were made": created["pods made"] - pods_per_run * created["runs"],
        "pods too many when runs were resumed": moved["pods made"] - moved["pods wanted"],
        "writes while runs were idle": sum(idle["writes"].values()),
        "idle runs that were written": idle["facts"]["runs written"],
    }
    return [
        *_list("made twice for one attempt", found["doubles"]),
        *(f"{what}: {count}" for what, count in counts.items() if count > 0),
    ]


def _list(what: str, names: Iterable[str]) -> list[str]:
    return [f"{what}: {name}" for name in names]
