"""The 8B example with other fields, for tests of capacity."""

from pathlib import Path
from typing import Any

import yaml

from scalerl_api import RLRun, parse_run

EXAMPLE = yaml.safe_load((Path(__file__).parents[2] / "examples" / "qwen3-8b-math.yaml").read_text())


def make_run(**changes: Any) -> RLRun:
    """The example with other fields: `trainer__zeroStage=3`."""
    document = yaml.safe_load(yaml.safe_dump(EXAMPLE))
    for path, value in changes.items():
        *parents, name = path.split("__")
        place = document["spec"]
        for each in parents:
            place = place[each]
        place[name] = value
    return parse_run(document)
