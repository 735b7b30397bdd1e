"""Fields that may change in a run that has records."""

from collections.abc import Callable

import pytest

from scalerl_api import RLRun
from scalerl_operator.run.immutable_fields import find_fixed_changes

CHANGES: list[tuple[str, dict[str, object], list[str]]] = [
    ("nothing", {}, []),
    ("a larger budget", {"budget": {"steps": 500}}, []),
    ("a restart budget", {"failurePolicy": {"maxRestarts": 9}}, []),
    ("the recipe", {"recipe": {"promptsPerStep": 32, "optimizer": {"warmupSteps": 3}}}, []),
    ("the seed", {"seed": 3}, ["spec.seed: 3, fixed for the run's life (0)"]),
    (
        "where checkpoints are",
        {"checkpoint": {"path": "/elsewhere", "everySteps": 5}},
        ["spec.checkpoint.path: '/elsewhere', fixed for the run's life (unset)"],
    ),
    (
        "one size deep inside",
        {"model": {"source": "scratch", "scratch": {"layers": 6}, "dtype": "float32"}},
        ["spec.model.scratch.layers: 6, fixed for the run's life (4)"],
    ),
    (
        "a default that is written out is the same",
        {"model": {"source": "scratch", "scratch": {"layers": 4}, "dtype": "float32"}},
        [],
    ),
]


@pytest.mark.parametrize(("spec", "wanted"), [row[1:] for row in CHANGES], ids=[row[0] for row in CHANGES])
def test_fixed_changes(make_run: Callable[..., RLRun], spec: dict[str, object], wanted: list[str]) -> None:
    assert [str(fault) for fault in find_fixed_changes(make_run(), make_run(**spec))] == wanted


def test_the_name_is_fixed(make_run: Callable[..., RLRun]) -> None:
    run = make_run()
    other = run.model_copy(update={"metadata": run.metadata.model_copy(update={"name": "other"})})
    assert [str(fault) for fault in find_fixed_changes(run, other)] == [
        "metadata.name: other, fixed for the run's life (tiny)"
    ]
