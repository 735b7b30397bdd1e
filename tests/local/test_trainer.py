"""Real DeepSpeed on the CPU: however the work is cut up, the update is the same."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from scalerl_api.rlrun import ScratchModel
from scalerl_runtime.data.scratch_model import make_scratch_model
from scalerl_runtime.weights.buckets import view
from scalerl_runtime.weights.checksums import checksums, read_sums, word_sum

sys.path.insert(0, str(Path(__file__).parent))
from rank_processes import BOTH, NONE_STAYS, OPTIMIZER, run_ranks  # noqa: E402
from trainer_rank import push_and_go_on, sum_gradients, watch_loading, work  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trainer")
    make_scratch_model(path / "model", ScratchModel(hidden_size=64, layers=2), context_tokens=64, seed=3)
    return path


def run_on_ranks(folder: Path, name: str, target: Any, case: dict[str, Any]) -> Path:
    """Run `target` on the ranks of `case`; return the path that what they leave is named after."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"model": str(folder / "model"), **case}))
    outputs = [path.with_suffix(f".{rank}.log") for rank in range(case["ranks"])]
    run_ranks(target, path, outputs, seconds=600)
    return path


def run_case(folder: Path, name: str, **case: Any) -> tuple[list[list[float]], dict[str, torch.Tensor]]:
    """Losses (summed over ranks), gradient norms and micro-batches by step; and the weights after the last one."""
    path = run_on_ranks(folder, name, work, case)
    by_rank = [json.loads(path.with_suffix(f".{rank}.losses").read_text()) for rank in range(case["ranks"])]
    losses = [[sum(step[0] for step in steps), steps[0][1], steps[0][2]] for steps in zip(*by_rank, strict=True)]
    return losses, torch.load(path.with_suffix(".weights"))


@pytest.fixture(scope="module")
def whole(folder: Path) -> tuple[list[list[float]], dict[str, torch.Tensor]]:
    """One rank, one micro-batch, all activations kept."""
    return run_case(folder, "whole", ranks=1, stage=1, budget=100_000, activations="keep")


@pytest.mark.parametrize(
    ("name", "case"),
    [
        pytest.param("accumulated", {"ranks": 1, "stage": 1}, id="many micro-batches give the update of one"),
        pytest.param("stage1", {"ranks": 2, "stage": 1}, id="two ranks, ZeRO 1"),
        pytest.param("stage2", {"ranks": 2, "stage": 2}, id="two ranks, ZeRO 2"),
        pytest.param("stage3", {"ranks": 2, "stage": 3}, id="two ranks, ZeRO 3: weights gathered by bucket"),
        pytest.param("all3", {"ranks": 2, "stage": 3, "deepspeed": NONE_STAYS}, id="ZeRO 3, no weight stays whole"),
        pytest.param("inputs3", {"ranks": 2, "stage": 3, "activations": "offload"}, id="ZeRO 3, inputs on the host"),
        pytest.param("moments1", {"ranks": 2, "stage": 1, "offload": OPTIMIZER}, id="ZeRO 1, optimizer on the host"),
        pytest.param(
            "both3", {"ranks": 2, "stage": 3, "offload": BOTH}, id="ZeRO 3, optimizer and weights on the host"
        ),
    ],
)
def test_same_loss_curve_and_weights(folder: Path, whole: Any, name: str, case: dict[str, Any]) -> None:
    losses, weights = run_case(folder, name, budget=60, check=True, **case)
    expected, reference = whole
    assert losses[0][2] > 1, "the case must cut the batch up"
    assert [step[0] for step in losses] == pytest.approx([step[0] for step in expected], abs=2e-6)
    assert [step[1] for step in losses] == pytest.approx([step[1] for step in expected], rel=1e-4)
    assert set(weights) == set(reference)
    for key, value in reference.items():
        assert weights[key].shape == value.shape
        torch.testing.assert_close(weights[key], value, atol=2e-5, rtol=1e-4, msg=lambda m, key=key: f"{key}: {m}")


# The largest epsilon: small gradients give small updates then, so equal adapters are equal gradients; with a small one
# AdamW makes full steps of the last digits of gradients that are nearly zero. B starts as zeros, and A's gradient is as
# small as B: with this rate both move.
ADAPTERS = {"lora": {"rank": 6, "alpha": 9.0}, "epsilon": 0.01, "rate": 0.1}


@pytest.fixture(scope="module")
def whole_adapters(folder: Path) -> tuple[list[list[float]], dict[str, torch.Tensor]]:
    return run_case(folder, "whole-lora", ranks=1, stage=1, budget=100_000, activations="keep", **ADAPTERS)


@pytest.mark.parametrize(
    ("name", "case"),
    [
        pytest.param("lora1", {"stage": 1}, id="ZeRO 1"),
        pytest.param("lora2", {"stage": 2}, id="ZeRO 2"),
        pytest.param("lora3", {"stage": 3, "deepspeed": NONE_STAYS}, id="ZeRO 3, no weight stays whole"),
        pytest.param("lora-moments1", {"stage": 1, "offload": OPTIMIZER}, id="ZeRO 1, optimizer on the host"),
        pytest.param("lora-moments2", {"stage": 2, "offload": OPTIMIZER}, id="ZeRO 2, optimizer on the host"),
        pytest.param("lora-both3", {"stage": 3, "offload": BOTH}, id="ZeRO 3, optimizer and weights on the host"),
    ],
)
def test_same_loss_curve_and_adapters(folder: Path, whole_adapters: Any, name: str, case: dict[str, Any]) -> None:
    """Two ranks against one; the model's own weights stay as they are, bit for bit, which `work` asserts."""
    losses, adapters = run_case(folder, name, ranks=2, budget=60, check=True, **ADAPTERS, **case)
    expected, reference = whole_adapters
    assert losses[0][2] > 1, "the case must cut the batch up"
    assert [step[0] for step in losses] == pytest.approx([step[0] for step in expected], abs=2e-6)
    assert [step[1] for step in losses] == pytest.approx([step[1] for step in expected], rel=1e-4)
    assert set(adapters) == set(reference)
    for key, value in reference.items():
        assert value.abs().mean() > 1e-3, "B must have moved"
        torch.testing.assert_close(adapters[key], value, atol=1e-6, rtol=1e-4, msg=lambda m, key=key: f"{key}: {m}")


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


@pytest.mark.parametrize("stage", [1, 3])  # 1 is run as 2 in bf16
def test_bf16_leaves_out_an_update_that_is_no_number(folder: Path, stage: int) -> None:
    losses, weights = run_case(folder, f"low{stage}", ranks=2, stage=stage, budget=60, poison=2, dtype="bfloat16")
    assert not math.isfinite(losses[2][1])
    assert all(math.isfinite(value) for step in (0, 1, 3) for value in losses[step])
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())


def test_bf16_gradients_are_summed_in_float32(folder: Path) -> None:
    """By hand. bf16 has 8 bits: a sum of 80 loses most of its summands' last bits, and a rank's 2^-10 all of them."""
    tiny, stages = 2.0**-10, (1, 2, 3)
    over_micro_batches, over_ranks = [[80, 1.0], [80, 0.0]], [[1, 1.0], [1, tiny]]
    case = {"ranks": 2, "dtype": "bfloat16", "stages": stages}
    path = run_on_ranks(
        folder, "sums", sum_gradients, {**case, "sums": [[[1, 1.0], [1, 0.0]], over_micro_batches, over_ranks]}
    )
    norms = json.loads(path.with_suffix(".0.norms").read_text())
    for stage, one, many, both in zip(stages, norms[::3], norms[1::3], norms[2::3], strict=True):
        assert many / one == pytest.approx(80, rel=1e-5), stage
        assert both / one == pytest.approx(1 + tiny, rel=1e-5), stage


def test_no_rank_holds_more_than_its_share_and_one_layer(folder: Path) -> None:
    """While it loads: its share, and one tensor. In the start check, by the model's own forward: and one layer."""
    deep = ScratchModel(hidden_size=64, layers=8)
    make_scratch_model(folder / "deep", deep, context_tokens=64, seed=3)
    case = {"ranks": 2, "stage": 3, "model": str(folder / "deep"), "dtype": "bfloat16"}
    path = run_on_ranks(folder, "held", watch_loading, case)
    for rank in (0, 1):
        held = json.loads(path.with_suffix(f".{rank}.held").read_text())
        assert held["all"] > 20 * held["largest"], "else a share and a tensor are nearly the model"
        assert held["all"] / 2 <= held["loading"] <= held["all"] / 2 + held["largest"]
        assert held["loading"] < held["checking"] < held["all"] / 2 + held["all"] / deep.layers


LIMIT = 2**15  # of a bucket; the model has forty times as much

PUSHED = {
    "bf16 1": {"stage": 1, "dtype": "bfloat16", "transport": "nccl"},
    "fp32 1": {"stage": 1, "transport": "gloo"},
    "bf16 2": {"stage": 2, "dtype": "bfloat16", "transport": "gloo"},
    "bf16 3": {"stage": 3, "dtype": "bfloat16", "transport": "nccl"},
    "all 3": {"stage": 3, "dtype": "bfloat16", "transport": "nccl", "deepspeed": NONE_STAYS},
    "both 3": {"stage": 3, "transport": "gloo", "offload": BOTH},
}


@pytest.fixture(scope="module")
def pushed(folder: Path) -> Path:
    """Two ranks, whose trainers are pushed from, one after the other."""
    deep = ScratchModel(hidden_size=64, layers=8)
    make_scratch_model(folder / "pushed", deep, context_tokens=64, seed=3)
    case = {"ranks": 2, "model": str(folder / "pushed"), "limit": LIMIT, "trainers": PUSHED}
    return run_on_ranks(folder, "pushes", push_and_go_on, case)


@pytest.mark.parametrize("name", PUSHED)
def test_weights_arrive_as_they_were_although_training_goes_on(pushed: Path, name: str) -> None:
    found = torch.load(pushed.with_suffix(f".{name}.0.pt"), weights_only=False)
    flats, buckets = found["arrived"]
    arrived = {e.name: view(flat, e) for b, flat in zip(buckets, flats, strict=True) for e in b.entries}
    assert found["version"] == 2
    assert set(arrived) == set(found["held"])
    assert all(torch.equal(value, found["held"][key]) for key, value in arrived.items())
    assert any(not torch.equal(value, found["end"][key]) for key, value in arrived.items()), "no step was made"
    by_device = PUSHED[name]["transport"] == "nccl"
    wanted = [read_sums([word_sum(each)])[0] if by_device else checksums([each])[0] for each in arrived.values()]
    assert list(found["sums"]) == wanted, "of the kind that the receiver computes"


@pytest.mark.parametrize("name", PUSHED)
def test_no_rank_allocates_a_second_model_to_stage_it(pushed: Path, name: str) -> None:
    """A batch of gathered tensors, and what a sum or a gathering needs for one of them."""
    for rank in (0, 1):
        found = torch.load(pushed.with_suffix(f".{name}.{rank}.pt"), weights_only=False)
        size = sum(each.numel() * each.element_size() for each in found["held"].values())
        assert size > 8 * (LIMIT + found["largest"]), "else the bound is no bound"
        assert found["extra"] <= 2 * (LIMIT + found["largest"])
