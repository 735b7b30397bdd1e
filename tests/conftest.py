"""Fixtures and hooks of all tests: environment variables, markers by folder, golden files."""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

HERE = Path(__file__).parent

# The only place that sets the tests' environment; the code sets the variables that a run needs.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # sums in one order, and no fight for the cores
    "HF_HUB_OFFLINE": "1",  # a test must not reach a hub: fail at once
    "MPLBACKEND": "agg",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite-golden", action="store_true", help="write expected objects instead of comparing")


def pytest_configure() -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their folder; skip GPU tests on a machine without one."""
    for item in items:
        if HERE / "local" in item.path.parents:
            item.add_marker(pytest.mark.local)
            item.add_marker(pytest.mark.filterwarnings("default"))  # vLLM, Ray and DeepSpeed warn as they like
        if HERE / "cluster" in item.path.parents:
            item.add_marker(pytest.mark.cluster)
        if HERE / "gpu" in item.path.parents:
            item.add_marker(pytest.mark.gpu)
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if gpu_items and not _has_cuda():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def _has_cuda() -> bool:
    import torch  # takes seconds: only when a GPU test was asked for

    return torch.cuda.is_available()


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden(name, text)` compares with golden/<name> beside the test; `make golden` writes it."""
    folder = request.path.parent / "golden"

    def check(name: str, text: str) -> None:
        path = folder / name
        if request.config.getoption("--rewrite-golden"):
            folder.mkdir(exist_ok=True)
            path.write_text(text)
        assert text == path.read_text(), f"{path.name} differs; if it should, `make golden` and read the diff"

    return check


@pytest.fixture(scope="session")
def edit() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """`edit({"spec.budget.steps": 3})` is tests/admission/valid.yaml with that value there."""
    valid = yaml.safe_load((HERE / "admission/valid.yaml").read_text())

    def edited(changes: dict[str, Any]) -> dict[str, Any]:
        document = copy.deepcopy(valid)
        for path, value in changes.items():
            *parents, last = path.split(".")
            at = document
            for parent in parents:
                at = at.setdefault(parent, {})
            at[last] = copy.deepcopy(value)
        return document

    return edited
