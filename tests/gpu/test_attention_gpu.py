"""The varlen kernel on CUDA against the padded batches in float64, by value and gradient."""

import pytest
import torch

from scalerl_runtime.actors.block_attention import AttentionRule
from scalerl_runtime.actors.packed_row import plan_row
from scalerl_runtime.actors.varlen_attention import attend_row

LENGTHS = [5, 1, 170, 33, 64]


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.bfloat16, 2**-6), (torch.float16, 2**-9), (torch.float32, 1e-4)],
)
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (8, 2)])
def test_row_equals_float64(dtype: torch.dtype, tolerance: float, heads: int, key_heads: int) -> None:
    g = torch.Generator("cuda").manual_seed(1)
    row = plan_row(torch.tensor([0, *LENGTHS], device="cuda").cumsum(0))
    packed = [
        torch.randn(sum(LENGTHS), n, 64, generator=g, device="cuda").to(dtype).requires_grad_()
        for n in (heads, key_heads, key_heads)
    ]
    exact = [tensor.detach().cpu().double().requires_grad_() for tensor in packed]
    out = attend_row(packed[0], packed[1], packed[2], row, rule=AttentionRule(0.2))
    exact_row = plan_row(torch.tensor([0, *LENGTHS]).cumsum(0))
    expected = attend_row(exact[0], exact[1], exact[2], exact_row, rule=AttentionRule(0.2))
    assert out.dtype == dtype
    assert float((out.detach().cpu().double() - expected.detach()).abs().max()) < tolerance * float(
        expected.detach().abs().max()
    )
    upstream = torch.randn(out.shape, generator=g, device="cuda").to(dtype)
    torch.autograd.backward([out], [upstream])
    torch.autograd.backward([expected], [upstream.cpu().double()])
    for one, other in zip(packed, exact, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        error = (one.grad.cpu().double() - other.grad).abs().max() / other.grad.abs().max()
        assert float(error) < 2 * tolerance


def test_a_sequence_does_not_see_its_neighbours() -> None:
    g = torch.Generator("cuda").manual_seed(2)
    row = plan_row(torch.tensor([0, 40, 70], device="cuda"))
    query, key, value = (torch.randn(70, 2, 64, generator=g, device="cuda").bfloat16() for _ in range(3))
    before = attend_row(query, key, value, row)
    value[:40] += 1.0
    key[:40] *= -1.0
    after = attend_row(query, key, value, row)
    assert torch.equal(before[40:], after[40:])
    assert not torch.equal(before[:40], after[:40])


SPECIAL = [
    AttentionRule(0.2, window=16),
    AttentionRule(0.2, chunk=16),
    AttentionRule(0.2, softcap=2.0),
    AttentionRule(0.2, window=16, softcap=2.0),
]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2**-6), (torch.float32, 1e-3)])
@pytest.mark.parametrize("rule", [AttentionRule(0.2), *SPECIAL])
@pytest.mark.parametrize("has_sinks", [False, True])
@pytest.mark.parametrize("value_dim", [64, 32])
def test_special_terms_equal_float64(
    dtype: torch.dtype, tolerance: float, rule: AttentionRule, value_dim: int, *, has_sinks: bool
) -> None:
    """Windows run in the varlen kernel in bf16; the rest by blocks, on the CPU and here."""
    g = torch.Generator("cuda").manual_seed(1)
    shapes = [(sum(LENGTHS), 8, 64), (sum(LENGTHS), 2, 64), (sum(LENGTHS), 2, value_dim), (8,)]
    leaves = [torch.randn(shape, generator=g, device="cuda").to(dtype).requires_grad_() for shape in shapes]
    exact = [leaf.detach().cpu().double().requires_grad_() for leaf in leaves]
    bounds = torch.tensor([0, *LENGTHS]).cumsum(0)
    sinks = (leaves[3], exact[3]) if has_sinks else (None, None)
    out = attend_row(leaves[0], leaves[1], leaves[2], plan_row(bounds.cuda()), rule=rule, sinks=sinks[0])
    expected = attend_row(exact[0], exact[1], exact[2], plan_row(bounds), rule=rule, sinks=sinks[1])
    error = (out.detach().cpu().double() - expected.detach()).abs().max() / expected.detach().abs().max()
    assert float(error) < tolerance
    upstream = torch.randn(out.shape, generator=g, device="cuda").to(dtype)
    torch.autograd.backward([out], [upstream])
    torch.autograd.backward([expected], [upstream.cpu().double()])
    for one, other in zip(leaves[: 3 + has_sinks], exact, strict=False):
        assert one.grad is not None
        assert other.grad is not None
        assert float((one.grad.cpu().double() - other.grad).norm() / other.grad.norm()) < 2 * tolerance
