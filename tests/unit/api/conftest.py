"""A small valid run and a way to change one thing in it."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

Document = dict[str, Any]
Edit = Callable[[dict[str, Any]], Document]

VALID: Document = {
    "apiVersion": "scalerl.io/v1alpha1",
    "kind": "RLRun",
    "metadata": {"name": "small"},
    "spec": {
        "model": {"source": "Qwen/Qwen3-0.6B"},
        "data": {"train": {"source": "questions.jsonl"}},
        "reward": {"verifier": "math"},
        "budget": {"steps": 200},
    },
}


@pytest.fixture
def edit() -> Edit:
    """`edit({"spec.budget.steps": 3})` is the valid document with that value there."""

    def edited(changes: dict[str, Any]) -> Document:
        document = copy.deepcopy(VALID)
        for path, value in changes.items():
            *parents, last = path.split(".")
            at = document
            for parent in parents:
                at = at.setdefault(parent, {})
            at[last] = copy.deepcopy(value)
        return document

    return edited
