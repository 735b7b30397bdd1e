"""What the tests on the real components share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from scalerl_api.recipe import merge

SMALL = Path(__file__).with_name("small.yaml")


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """`write_run({"spec": {...}})`: the small run with some fields replaced, as a file."""

    def write(changes: dict[str, Any]) -> Path:
        document = merge(yaml.safe_load(SMALL.read_text()), changes)
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    return write


@pytest.fixture
def lines() -> Callable[[Path], list[dict[str, Any]]]:
    """Read a journal."""
    return lambda path: [json.loads(line) for line in path.read_text().splitlines()]
