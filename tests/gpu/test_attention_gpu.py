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
