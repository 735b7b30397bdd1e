"""Real DeepSpeed on the CPU: however the work is cut up, the update is the same."""

import json
import math
import multiprocessing
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from scalerl_api.rlrun import ScratchModel
from scalerl_runtime.data.scratch_model import make_scratch_model

sys.path.insert(0, str(Path(__file__).parent))
from trainer_rank import work  # noqa: E402

# Ranks are forked from one process that has imported DeepSpeed, and what it imports while it starts.
RANKS = multiprocessing.get_context("forkserver")
RANKS.set_forkserver_preload(["trainer_rank", "deepspeed", "deepspeed.runtime.zero.muon.muon_optimizer"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trainer")
    make_scratch_model(path / "model", ScratchModel(hidden_size=64, layers=2), context_tokens=64, seed=3)
    return path


def run_case(folder: Path, name: str, **case: Any) -> tuple[list[list[float]], dict[str, torch.Tensor]]:
    """Losses (summed over ranks), gradient norms and micro-batches by step; and the weights after the last one."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"model": str(folder / "model"), **case}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    outputs = [path.with_suffix(f".{rank}.log") for rank in range(case["ranks"])]
    ranks = [RANKS.Process(target=work, args=(path, rank, port, output)) for rank, output in enumerate(outputs)]
    for process in ranks:
        process.start()
    for process, output in zip(ranks, outputs, strict=True):
        process.join(600)
        assert process.exitcode == 0, output.read_text()[-3000:]
    by_rank = [json.loads(path.with_suffix(f".{rank}.losses").read_text()) for rank in range(case["ranks"])]
    losses = [[sum(step[0] for step in steps), steps[0][1], steps[0][2]] for steps in zip(*by_rank, strict=True)]
    return losses, torch.load(path.with_suffix(".weights"))


@pytest.fixture(scope="module")
def whole(folder: Path) -> tuple[list[list[float]], dict[str, torch.Tensor]]:
    """One rank, one micro-batch; it also leaves a checkpoint after two steps."""
    return run_case(folder, "whole", ranks=1, stage=1, budget=100_000, save=str(folder / "checkpoint"))


@pytest.mark.parametrize(
    ("name", "ranks", "stage", "budget"),
    [
        pytest.param("accumulated", 1, 1, 60, id="many micro-batches give the update of one"),
        pytest.param("stage1", 2, 1, 60, id="two ranks, ZeRO 1"),
        pytest.param("stage2", 2, 2, 60, id="two ranks, ZeRO 2"),
        pytest.param("stage3", 2, 3, 60, id="two ranks, ZeRO 3: weights gathered by bucket"),
    ],
)
def test_same_loss_curve_and_weights(folder: Path, whole: Any, name: str, ranks: int, stage: int, budget: int) -> None:
    losses, weights = run_case(folder, name, ranks=ranks, stage=stage, budget=budget, check=True)
    expected, reference = whole
    assert losses[0][2] > 1, "the case must cut the batch up"
    assert [step[0] for step in losses] == pytest.approx([step[0] for step in expected], abs=2e-6)
    assert [step[1] for step in losses] == pytest.approx([step[1] for step in expected], rel=1e-4)
    assert set(weights) == set(reference)
    for key, value in reference.items():
        assert weights[key].shape == value.shape
        torch.testing.assert_close(weights[key], value, atol=2e-5, rtol=1e-4, msg=lambda m, key=key: f"{key}: {m}")


@pytest.fixture(scope="module")
def without(folder: Path) -> dict[str, torch.Tensor]:
    """Weights of a run that never made its third step."""
    return run_case(folder, "without", ranks=1, stage=1, budget=100_000, without=2)[1]


@pytest.mark.parametrize(
    ("ranks", "stage"),
    [
        pytest.param(1, 1, id="ZeRO 1"),
        pytest.param(2, 2, id="two ranks, ZeRO 2: only one of them has the NaN"),
        pytest.param(2, 3, id="two ranks, ZeRO 3"),
    ],
)
def test_an_update_that_is_no_number_is_left_out(folder: Path, without: Any, ranks: int, stage: int) -> None:
    """The rule `nonFinite` rests on this: whatever is saved, or goes on, has the weights of the step before."""
    losses, weights = run_case(folder, f"poison{stage}", ranks=ranks, stage=stage, budget=60, poison=2)
    assert math.isnan(losses[2][0])
    assert not math.isfinite(losses[2][1])
    assert all(math.isfinite(value) for step in (0, 1, 3) for value in losses[step])
    for key, value in without.items():
        torch.testing.assert_close(weights[key], value, atol=2e-5, rtol=1e-4, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("stage", [1, 2])
def test_bf16_leaves_out_an_update_that_is_no_number(folder: Path, stage: int) -> None:
    losses, weights = run_case(folder, f"low{stage}", ranks=1, stage=stage, budget=60, poison=2, dtype="bfloat16")
    assert not math.isfinite(losses[2][1])
    assert all(math.isfinite(value) for step in (0, 1, 3) for value in losses[step])
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())


def test_bf16_gradients_are_summed_in_float32(folder: Path) -> None:
    """bf16 sums of as many micro-batches are 2e-4 off."""
    norms = [
        run_case(folder, f"sums{budget}", ranks=1, stage=2, budget=budget, dtype="bfloat16")[0][0][1]
        for budget in (100_000, 60)
    ]
    assert norms[1] == pytest.approx(norms[0], rel=6e-5)


def test_restart_from_a_checkpoint_repeats_the_run(folder: Path, whole: Any) -> None:
    losses, weights = run_case(folder, "resumed", ranks=1, stage=1, budget=100_000, resume=str(folder / "checkpoint"))
    assert [step[0] for step in losses] == [step[0] for step in whole[0][2:]], "bit for bit"
    for key, value in whole[1].items():
        assert torch.equal(weights[key], value), key
