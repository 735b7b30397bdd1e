"""The size of a run's claim: arithmetic, and the refusal of one that is too small."""

from collections.abc import Callable
from typing import Any

import pytest

from scalerl_api import RLRun
from scalerl_operator.reconcile.claim import (
    UNKNOWN_SIZE,
    check_claim,
    count_parameters,
    fit_claim,
    needed_bytes,
    parse_quantity,
)

QWEN = "Qwen/Qwen3-8B"


@pytest.fixture
def sized(make_run: Callable[..., RLRun]) -> Callable[..., RLRun]:
    def make(
        source: str = QWEN, dtype: str = "bfloat16", lora: dict[str, Any] | None = None, **checkpoint: Any
    ) -> RLRun:
        model = {"source": source, "dtype": dtype, **({} if lora is None else {"lora": lora})}
        return make_run(model=model, checkpoint=checkpoint, rollouts={"maxMegabytes": 100})

    return make


@pytest.mark.parametrize(("dtype", "num_bytes"), [("bfloat16", 14), ("float32", 16)])
def test_a_checkpoint_has_weights_and_three_floats_a_parameter(
    sized: Callable[..., RLRun], dtype: str, num_bytes: int
) -> None:
    assert sized(dtype=dtype).spec.model.checkpoint_bytes(1000) == 1000 * num_bytes


def test_the_sum_is_the_pages(sized: Callable[..., RLRun]) -> None:
    """docs/storage.md: keep + 2 checkpoints, three copies of the model, the stored completions, 1 GiB."""
    parameters = 8_190_735_360
    run = sized(keep=3)
    assert count_parameters(run) == parameters
    whole = 5 * 14 * parameters + 3 * 2 * parameters + 100_000_000 + 2**30
    assert needed_bytes(run, parameters) == whole
    assert fit_claim(run) == f"{-(-whole // 2**30)}Gi"
    assert parse_quantity(fit_claim(run)) - whole < 2**30


@pytest.mark.parametrize("source", [f"hf://{QWEN}", f"hf://{QWEN}@main"])
def test_an_address_of_the_hub_is_the_same_model(sized: Callable[..., RLRun], source: str) -> None:
    assert fit_claim(sized(source)) == fit_claim(sized())


@pytest.mark.parametrize("source", ["s3://bucket/model", "org/unknown", "/models/mine"])
def test_an_unknown_model_gets_a_fixed_size_and_no_refusal(sized: Callable[..., RLRun], source: str) -> None:
    assert fit_claim(sized(source)) == UNKNOWN_SIZE
    assert check_claim(sized(source, claimSize="1Gi")) == []


def test_the_specs_size_is_taken_and_one_that_is_too_small_refused(sized: Callable[..., RLRun]) -> None:
    assert fit_claim(sized(claimSize="777Gi")) == "777Gi"
    least = -(-4 * sized().spec.model.checkpoint_bytes(8_190_735_360) // 2**30)
    assert check_claim(sized(keep=3, claimSize=f"{least}Gi")) == []
    (fault,) = check_claim(sized(keep=3, claimSize=f"{least - 1}Gi"))
    assert (fault.path, fault.value) == ("spec.checkpoint.claimSize", f"{least - 1}Gi")
    assert "4 checkpoints of 114.7 GB (8.19 billion parameters) do not fit" in fault.allowed
    assert check_claim(sized(keep=3, claimSize="1Gi", claimName="mine")) == []
    assert check_claim(sized(keep=3, claimSize="1Gi", lora={"rank": 8})) == []


@pytest.mark.parametrize(("text", "num_bytes"), [("3Ki", 3072), ("1Gi", 2**30), ("2Ti", 2**41)])
def test_quantities(text: str, num_bytes: int) -> None:
    assert parse_quantity(text) == num_bytes
