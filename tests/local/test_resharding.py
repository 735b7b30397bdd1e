"""Checkpoints of real DeepSpeed ranks on the CPU: whatever ranks, stage and offload wrote one, every other loads it."""

import json
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch

from scalerl_api import InvalidRun
from scalerl_api.rlrun import ScratchModel
from scalerl_runtime.data.scratch_model import make_scratch_model
from scalerl_runtime.export.checkpoint_weights import open_weights
from scalerl_runtime.storage.checkpoint import CheckpointStore, RunState
from scalerl_runtime.storage.deepspeed_layout import require_same_ranks

sys.path.insert(0, str(Path(__file__).parent))
from rank_processes import BOTH, NONE_STAYS, OPTIMIZER, run_ranks  # noqa: E402
from trainer_rank import load_and_go_on, save_and_go_on  # noqa: E402

TRAINERS: dict[str, dict[str, Any]] = {
    "one": {"ranks": 1, "stage": 1},
    "one-3": {"ranks": 1, "stage": 3},
    "two-1-offload": {"ranks": 2, "stage": 1, "offload": OPTIMIZER},
    "two-2": {"ranks": 2, "stage": 2, "parts": 2},  # of each row
    "two-3": {"ranks": 2, "stage": 3, "deepspeed": NONE_STAYS},
    "three-2": {"ranks": 3, "stage": 2},
    "three-3-offload": {"ranks": 3, "stage": 3, "offload": BOTH},
    "low-one": {"ranks": 1, "stage": 1, "dtype": "bfloat16"},
    "low-two-3": {"ranks": 2, "stage": 3, "dtype": "bfloat16"},
    "low-three-2-offload": {"ranks": 3, "stage": 2, "dtype": "bfloat16", "offload": OPTIMIZER},
}
# As versions wrote them that saved through DeepSpeed; the last one before bfloat16 was given float32 sums.
OLDER: dict[str, dict[str, Any]] = {
    "old-two-2": {"ranks": 2, "stage": 2},
    "old-two-3": {"ranks": 2, "stage": 3},
    "old-low-two-1": {"ranks": 2, "stage": 1, "dtype": "bfloat16"},
}


# A reader loads its own checkpoint and those of some others, so many places further in the list.
# `test_readers_and_writers_cover_every_change` says what they cover.
STEPS = (0, 3, 4)


def writers_of(reader: str) -> list[str]:
    """Return the trainers whose checkpoints `reader` loads."""
    if reader in OLDER:
        return [reader]
    names = [name for name in TRAINERS if dtype_of(name) == dtype_of(reader)]
    return list(dict.fromkeys(names[(names.index(reader) + step) % len(names)] for step in STEPS))


def dtype_of(name: str) -> str:
    return "bfloat16" if "low" in name else "float32"


def run(folder: Path, name: str, target: Any, trainers: dict[str, dict[str, Any]]) -> None:
    """Run `target` on the ranks of `trainers`, those with as many ranks in the same processes."""
    for count, group in groupby(
        sorted(trainers, key=lambda each: trainers[each]["ranks"]), lambda each: trainers[each]["ranks"]
    ):
        cases = {each: trainers[each] for each in group}
        path = folder / f"{name}.json"
        path.write_text(json.dumps({"model": str(folder / "model"), "ranks": count, "trainers": cases}))
        outputs = [folder / f"{name}.{count}.{rank}.log" for rank in range(count)]
        run_ranks(target, path, outputs, seconds=900)


def found(folder: Path, name: str, ranks: int) -> dict[str, Any]:
    """Return the ranks' results: losses summed, the weights of rank 0, all parts."""
    parts = [torch.load(folder / f"{name}.{rank}.pt", weights_only=False) for rank in range(ranks)]
    losses = [sum(step) for step in zip(*(part["losses"] for part in parts), strict=True)]
    return {**parts[0], "losses": losses, "parts": [part.get("part") for part in parts]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("resharding")
    make_scratch_model(path / "model", ScratchModel(hidden_size=64, layers=2), context_tokens=64, seed=3)
    return path


@pytest.fixture(scope="module")
def writers(folder: Path) -> dict[str, dict[str, Any]]:
    """By trainer: losses and weights of a run without an interruption, and its checkpoint of step 2, sealed."""
    stores = {name: CheckpointStore(folder / f"{name}-checkpoints", keep=9) for name in TRAINERS | OLDER}
    cases = {}
    for name, case in (TRAINERS | OLDER).items():
        part = stores[name].begin(2)
        cases[name] = {**case, "folder": str(part.with_name("part")), "older": name in OLDER}
    run(folder, "write", save_and_go_on, cases)
    results = {}
    for name, case in (TRAINERS | OLDER).items():
        result = results[name] = found(folder, f"write.{name}", case["ranks"])
        part = stores[name].begin(2)
        part.rmdir()
        (part.with_name("part") / "2").rename(part)
        parts = [] if name in OLDER else result["parts"]
        result["checkpoint"] = stores[name].commit(part, parts, RunState(2, 0, 0.0), [], frozenset())
    return results


@pytest.fixture(scope="module")
def readers(folder: Path, writers: dict[str, dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """By trainer and writer: losses and weights of a trainer that loaded a writer's checkpoint."""
    cases: dict[str, dict[str, Any]] = {}
    for name, case in (TRAINERS | OLDER).items():
        cases[name] = {**case, "loads": {w: str(writers[w]["checkpoint"]) for w in writers_of(name)}}
    run(folder, "read", load_and_go_on, cases)
    return {
        (name, writer): found(folder, f"read.{name}.{writer}", case["ranks"])
        for name, case in cases.items()
        for writer in case["loads"]
    }


PAIRS = [(reader, writer) for reader in TRAINERS | OLDER for writer in writers_of(reader)]


@pytest.mark.parametrize("trait", ["ranks", "stage", "offload"])
def test_readers_and_writers_cover_every_change(trait: str) -> None:
    """Each value of a trait is loaded by a trainer with each other value of it."""
    values = {name: json.dumps(case.get(trait)) for name, case in TRAINERS.items() if dtype_of(name) == "float32"}
    pairs = {(values[r], values[w]) for r, w in PAIRS if r in values and w in values}
    assert pairs == {(r, w) for r in values.values() for w in values.values()}


@pytest.mark.parametrize(("reader", "writer"), PAIRS)
def test_a_run_goes_on_as_if_it_was_never_interrupted(writers: Any, readers: Any, reader: str, writer: str) -> None:
    expected, result = writers[writer], readers[reader, writer]
    assert set(result["saved"]) == set(expected["saved"])
    for name, value in expected["saved"].items():
        assert torch.equal(result["saved"][name], value), f"{name}: the weights that engines have had, bit for bit"
    if reader == writer:
        assert result["losses"] == expected["losses"], "bit for bit"
        assert all(torch.equal(result["end"][name], value) for name, value in expected["end"].items())
    bound = {"float32": 2e-6, "bfloat16": 2e-3}[dtype_of(reader)]
    assert result["losses"] == pytest.approx(expected["losses"], abs=bound)
    if dtype_of(reader) == "float32":
        for name, value in expected["end"].items():
            torch.testing.assert_close(result["end"][name], value, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("writer", TRAINERS)
def test_an_export_has_the_weights_that_were_trained(writers: Any, writer: str) -> None:
    expected = writers[writer]["saved"]
    weights = {each.name: each for each in open_weights(writers[writer]["checkpoint"], torch.float16)}
    assert set(weights) == set(expected)
    for name, value in expected.items():
        assert torch.equal(weights[name].load(), value), name


@pytest.mark.parametrize(
    ("ranks", "is_sharded", "field"),
    [
        pytest.param(1, False, "spec.trainer.replicas", id="fewer ranks"),
        pytest.param(2, True, "spec.trainer.zeroStage", id="weights in shares"),
    ],
)
def test_an_older_checkpoint_of_other_ranks_is_refused(writers: Any, ranks: int, is_sharded: bool, field: str) -> None:
    with pytest.raises(InvalidRun) as raised:
        require_same_ranks(writers["old-two-2"]["checkpoint"], ranks, is_sharded=is_sharded)
    (fault,) = raised.value.faults
    assert fault.path == field
    assert "the next checkpoint loads anywhere" in fault.allowed
