"""Every family of causal LMs in transformers is trained exactly or refused; docs/models.md is the measurement.

The reference is transformers' own eager forward, one sequence at a time, through the model's own head, with autograd.
`make models` writes the page's columns anew. No engine runs here.
"""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from model_table import TRAINER, merge_columns, read_table, round_up, write_table
from torch import Tensor

from scalerl_api import InvalidRun
from scalerl_runtime.actors.policy import Policy
from scalerl_runtime.actors.start_check import compare, pack_all, plan_sequences

PAGE = Path(__file__).parents[2] / "docs/models.md"
LOGPROB_BOUND, GRADIENT_BOUND = 1e-5, 1e-4  # nats in the mean; of a parameter's gradient, relative
UPDATE = 0.3  # length of the update's step
FAMILIES = [family for family in tiny_models.CAUSAL if family not in tiny_models.UNBUILDABLE]
LOW_PRECISION = ["qwen3", "gemma2", "gpt_oss", "granite", "mixtral", "deepseek_v3", "llama4_text"]


def logprobs_alone(model: Any, sequences: list[Tensor]) -> Tensor:
    """As in the start check, with gradients."""
    logits = [model(input_ids=tokens[None], use_cache=False).logits[0, :-1].float() for tokens in sequences]
    pairs = zip(logits, sequences, strict=True)
    return torch.cat([each.log_softmax(-1).gather(1, tokens[1:, None]).squeeze(1) for each, tokens in pairs])


def logprobs_packed(policy: Policy, sequences: list[Tensor]) -> Tensor:
    logp: Tensor = policy(*pack_all(sequences))[0]
    return logp


def gradient_error(policy: Policy, reference: Any) -> float:
    """The largest difference of a parameter's gradient over that gradient's length; every gradient counts."""
    expected = dict(reference.named_parameters())
    whole = torch.stack([p.grad.norm() for p in expected.values() if p.grad is not None]).norm()
    errors = [0.0]
    for name, parameter in policy.model.named_parameters():
        wanted = expected[name].grad
        if wanted is None or parameter.grad is None:
            assert wanted is None or float(wanted.norm()) == 0.0, f"{name} gets no gradient"
            continue
        # One that is rounding alone, such as a key's bias, has no digits to compare.
        errors.append(float((parameter.grad - wanted).norm() / max(wanted.norm(), 1e-3 * whole)))
    return max(errors)


def update(model: torch.nn.Module) -> None:
    """One step along the gradient, of a fixed length."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    length = torch.stack([gradient.norm() for gradient in gradients]).norm()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.add_(parameter.grad, alpha=float(UPDATE / length))


def mean_error(left: Tensor, right: Tensor) -> float:
    return float((left - right).detach().abs().mean())


def measure(family: str) -> dict[str, str]:
    """The family's cells in TRAINER's columns. Raises AssertionError where it trains, and wrong."""
    reference = tiny_models.build_model(family)
    name = type(reference).__name__
    refused = dict(zip(TRAINER, (name, "", "–", "–", "–"), strict=True))
    try:
        policy, report = compare(copy.deepcopy(reference))
    except InvalidRun as error:
        return {**refused, "trainer": f"refused: {words_of(error.faults[0].value)}"}
    if report.faults:
        return {**refused, "trainer": f"refused: {words_of(report.faults[-1])}"}
    reference.set_attn_implementation("eager")
    sequences = plan_sequences(reference)
    expected, packed = logprobs_alone(reference, sequences), logprobs_packed(policy, sequences)
    weights = torch.randn(len(packed), generator=torch.Generator().manual_seed(3))
    for logp in (expected, packed):
        (logp @ weights).backward()
    gradient = gradient_error(policy, reference)
    for model in (reference, policy):
        update(model)
    with torch.no_grad():
        later, later_packed = logprobs_alone(reference, sequences), logprobs_packed(policy, sequences)
    assert mean_error(later, expected) > 0.01, "the update must be visible"
    before, after = mean_error(packed, expected), mean_error(later_packed, later)
    assert before < LOGPROB_BOUND, f"{family}: {before}"
    assert after < 10 * LOGPROB_BOUND, f"{family}: {after} after an update"
    assert gradient < GRADIENT_BOUND, f"{family}: {gradient} of a gradient"
    cells = (
        round_up(before, floor=LOGPROB_BOUND),
        round_up(after, floor=10 * LOGPROB_BOUND),
        round_up(gradient, floor=GRADIENT_BOUND),
    )
    return dict(zip(TRAINER, (name, "trained", *cells), strict=True))


def words_of(text: str) -> str:
    """The words without the class's name and without what rounding and sizes change."""
    return re.sub(r"\b[0-9][0-9.e-]*\b", "N", text.split(": ", 1)[-1] if re.match(r"\w+: ", text) else text)


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, str]]:
    torch.set_num_threads(1)
    return {family: measure(family) for family in FAMILIES}


def test_page_is_what_is_measured(request: pytest.FixtureRequest, measured: dict[str, dict[str, str]]) -> None:
    page = PAGE.read_text()
    table = read_table(page)
    if request.config.getoption("--rewrite-golden"):
        PAGE.write_text(write_table(page, merge_columns(table, measured, TRAINER)))
        return
    found = {family: {name: row[name] for name in TRAINER} for family, row in table.items() if family in measured}
    assert found == measured, "docs/models.md differs; if it should, `make models` and read the diff"


def test_what_the_audit_found_wrong_is_trained(measured: dict[str, dict[str, str]]) -> None:
    names = "qwen2 gemma2 gpt_oss phi mistral gemma3_text olmo3 qwen3_moe mixtral deepseek_v3 gemma3 phi3 gpt_neox"
    assert {name: measured[name]["trainer"] for name in names.split()} == dict.fromkeys(names.split(), "trained")


def test_state_between_tokens_outside_attention_is_refused(measured: dict[str, dict[str, str]]) -> None:
    names = ["qwen3_next", "qwen3_5_text", "falcon_h1", "mamba", "jamba", "bamba", "lfm2_moe", "recurrent_gemma"]
    assert all("neighbours in a packed row" in measured[name]["trainer"] for name in names)


@pytest.mark.parametrize("family", LOW_PRECISION)
def test_bf16_is_within_its_rounding(family: str) -> None:
    _, report = compare(tiny_models.build_model(family).to(torch.bfloat16))
    assert report.faults == []
    assert report.difference < 2.5 * report.noise
