"""Fixtures of the tests on the real components."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from scalerl_api.recipe import merge

SMALL = Path(__file__).with_name("small.yaml")


@pytest.fixture
def write_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], Path]:
    """`write_run({"spec": {...}})`: the small run with some fields replaced, as a file; its data lies beside it."""
    monkeypatch.setenv("PYTHONPATH", str(SMALL.parent))  # the user's verifier is found as Python finds modules
    sums = [(a, b) for a in range(2, 12) for b in range(3, 10)]

    def write(changes: dict[str, Any]) -> Path:
        files = {
            "prompts.jsonl": [{"prompt": f"{a} + {b}", "answer": str(a + b)} for a, b in sums],
            "demonstrations.jsonl": [
                {"prompt": f"{a} + {b}", "completion": f"<think>{a}+{b}={a + b}</think>{a + b}"} for a, b in sums
            ],
        }
        for name, rows in files.items():
            (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        document = merge(yaml.safe_load(SMALL.read_text()), changes)
        document["spec"]["data"]["train"]["source"] = str(tmp_path / "prompts.jsonl")
        document["spec"]["warmStart"]["source"] = str(tmp_path / "demonstrations.jsonl")
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    return write


@pytest.fixture
def lines() -> Callable[[Path], list[dict[str, Any]]]:
    """Read a journal."""
    return lambda path: [json.loads(line) for line in path.read_text().splitlines()]
