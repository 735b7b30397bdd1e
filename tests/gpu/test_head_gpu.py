"""The fused head on CUDA: bf16 operands with float32 results, its error, its memory and its time."""

import pytest
import torch
from torch import Tensor

from scalerl_runtime.algorithm.head import HeadTransform, linear_logprob, plan_chunk

TOKENS, VOCABULARY, HIDDEN = 8192, 152_064, 1024
MAX_EXTRA_BYTES = 5e8  # issue 3


def _inputs(tokens: int, vocabulary: int, hidden: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator("cuda").manual_seed(0)
    states = torch.randn(tokens, hidden, generator=g, device="cuda").to(dtype)
    weight = (3.0 * hidden**-0.5 * torch.randn(vocabulary, hidden, generator=g, device="cuda")).to(dtype)
    target = torch.randint(0, vocabulary, (tokens,), generator=g, device="cuda")
    return states.requires_grad_(), weight.requires_grad_(), target


@pytest.mark.parametrize(
    ("dtype", "value_tolerance", "gradient_tolerance"),
    [(torch.float32, 1e-5, 1e-4), (torch.bfloat16, 1e-5, 2**-7)],
)
@pytest.mark.parametrize("with_entropy", [False, True])
def test_equals_dense_float64(
    *, dtype: torch.dtype, value_tolerance: float, gradient_tolerance: float, with_entropy: bool
) -> None:
    # More rows than a tile (2048), more columns than its narrowest (256).
    states, weight, target = _inputs(2100, 3000, 64, dtype)
    exact_states, exact_weight = (leaf.detach().double().requires_grad_() for leaf in (states, weight))
    exact = (exact_states @ exact_weight.T / 0.7).log_softmax(-1)
    exact_entropy = -(exact.exp() * exact).sum(-1)
    exact_logp = exact.gather(1, target[:, None]).squeeze(1)
    logp, entropy = linear_logprob(states, weight, target, precision="fp32", temperature=0.7, chunk=500)
    assert float((logp - exact_logp).detach().abs().max()) < value_tolerance
    assert float((entropy - exact_entropy).detach().abs().max()) < value_tolerance
    torch.autograd.backward([logp.sum() + with_entropy * entropy.sum()])
    torch.autograd.backward([exact_logp.sum() + with_entropy * exact_entropy.sum()])
    for leaf, expected in ((states, exact_states), (weight, exact_weight)):
        assert leaf.grad is not None
        assert expected.grad is not None
        assert float((leaf.grad - expected.grad).abs().max() / expected.grad.abs().max()) < gradient_tolerance


def test_bf16_operands_keep_float32_logits() -> None:
    # Logits 257 and 256; bf16 has only even numbers there, and would make them equal.
    states = torch.ones(1, 16, dtype=torch.bfloat16, device="cuda")
    weight = torch.zeros(16, 16, dtype=torch.bfloat16, device="cuda")
    weight[:2, 0], weight[0, 1] = 256.0, 1.0
    target = torch.tensor([0], device="cuda")
    exact, _ = linear_logprob(states, weight, target, precision="fp32", chunk=1)
    rounded, _ = linear_logprob(states, weight, target, precision="bf16", chunk=1)
    assert exact.item() == pytest.approx(-0.3132617, abs=1e-6)  # -ln(1 + 1/e)
    assert rounded.item() == pytest.approx(-0.6931472, abs=1e-6)  # -ln 2


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 2**-7)])
def test_bias_scale_and_cap_equal_dense_float64(dtype: torch.dtype, tolerance: float) -> None:
    states, weight, target = _inputs(2100, 3000, 64, dtype)
    bias = torch.randn(3000, device="cuda", generator=torch.Generator("cuda").manual_seed(3)).to(dtype).requires_grad_()
    leaves = [states, weight, bias]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    logits = 4.0 * torch.tanh(0.5 * (exact[0] @ exact[1].T + exact[2]) / 4.0)
    expected = logits.log_softmax(-1).gather(1, target[:, None]).squeeze(1)
    logp, _ = linear_logprob(
        states, weight, target, precision="fp32", chunk=500, bias=bias, transform=HeadTransform(scale=0.5, softcap=4.0)
    )
    assert float((logp - expected).detach().abs().max()) < 1e-5
    torch.autograd.backward([logp.sum()])
    torch.autograd.backward([expected.sum()])
    for leaf, other in zip(leaves, exact, strict=True):
        assert leaf.grad is not None
        assert other.grad is not None
        assert float((leaf.grad - other.grad).abs().max() / other.grad.abs().max()) < tolerance


def _extra_bytes(states: Tensor, weight: Tensor, target: Tensor) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    logp, _ = linear_logprob(states, weight, target, precision="fp32", chunk=plan_chunk(weight.shape[0]))
    forward_peak = torch.cuda.max_memory_allocated() - before
    torch.cuda.reset_peak_memory_stats()
    torch.autograd.backward([logp.sum()])
    gradients = states.nbytes + weight.nbytes
    return max(forward_peak, torch.cuda.max_memory_allocated() - before - gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extra_memory_meets_the_goal(dtype: torch.dtype) -> None:
    inputs = _inputs(TOKENS, VOCABULARY, HIDDEN, dtype)
    _extra_bytes(*_inputs(32, 64, 16, dtype))  # the libraries' workspaces
    assert _extra_bytes(*inputs) <= MAX_EXTRA_BYTES
