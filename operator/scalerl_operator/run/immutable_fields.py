"""The fixed fields of a run that has records: points before and after a change would be of different runs. PURE."""

from collections.abc import Iterator

from scalerl_api import Fault, RLRun
from scalerl_api.cross_field_rules import FIXED, FIXED_MESSAGE


def find_fixed_changes(old: RLRun, new: RLRun) -> list[Fault]:
    """Return one fault for every fixed value that differs between a run's records and its new spec."""
    faults = []
    if old.name != new.name:
        faults.append(Fault("metadata.name", new.name, f"{FIXED_MESSAGE} ({old.name})"))
    before, after = dict(_fixed_leaves(old)), dict(_fixed_leaves(new))
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path):
            value = repr(after[path]) if path in after else "missing"
            was = repr(before[path]) if path in before else "unset"
            faults.append(Fault(path, value, f"{FIXED_MESSAGE} ({was})"))
    return faults


def _fixed_leaves(run: RLRun) -> Iterator[tuple[str, object]]:
    for path, value in _leaves(run.spec.model_dump(mode="json", by_alias=True, exclude_none=True), "spec"):
        if any(f"{path}.".startswith(f"spec.{fixed}.") for fixed in FIXED):
            yield path, value


def _leaves(value: object, path: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{index}]")
    else:
        yield path, value
