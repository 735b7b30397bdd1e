"""Reads data sets of the hub, and tells a missing configuration or split from other errors. I/O."""

import re
from collections.abc import Iterable, Iterator

from scalerl_api.addresses import HubName, parse_hub_dataset
from scalerl_api.data import DatasetSpec
from scalerl_api.validation import Fault
from scalerl_runtime.data.readers import Record, RecordTable

# Errors of `datasets`, with the names that the hub has.
_CONFIGS = re.compile(r"among the available configs: \[(.*?)\]|BuilderConfig .* not found\. Available: \[(.*?)\]")
_SPLITS = re.compile(r"Unknown split .* Should be one of \[(.*?)\]|Instruction .*available: \[(.*?)\]")


def fetch_hub(spec: DatasetSpec) -> RecordTable:
    """Return the rows of a hub data set. Raises what `datasets` raises."""
    from datasets import load_dataset  # slow to import, and most runs read files

    found = parse_hub_dataset(spec.source) or HubName(spec.source)
    options = {"name": spec.config, "revision": found.revision}
    given = {name: value for name, value in options.items() if value is not None}
    dataset = load_dataset(found.name, split=spec.split, **given)
    return RecordTable(_name_rows(spec, dataset), len(dataset), is_small=True)


def find_name_fault(spec: DatasetSpec, path: str, error: BaseException) -> Fault | None:
    """Return the fault of a configuration or a split that the hub's data set does not have; None for other errors."""
    text = " ".join(str(error).split())
    match = _CONFIGS.search(text)
    if match is not None:
        names = (match[1] or match[2] or "").replace("'", "")
        return Fault(f"{path}.config", spec.config or "missing", f"a configuration of {spec.source}: {names}")
    match = _SPLITS.search(text)
    if match is not None:
        names = (match[1] or match[2] or "").replace("'", "")
        return Fault(f"{path}.split", spec.split, f"a split of {spec.source}: {names}")
    return None


def _name_rows(spec: DatasetSpec, dataset: Iterable[object]) -> Iterator[Record]:
    for number, record in enumerate(dataset, start=1):
        yield f"{spec.source}:{number}", record
