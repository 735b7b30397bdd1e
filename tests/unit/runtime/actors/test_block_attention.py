"""Attention by blocks equals attention written out, by value and gradient, for every combination of its terms."""

import itertools
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scalerl_runtime.actors import block_attention
from scalerl_runtime.actors.block_attention import AttentionRule, attend_blocks
from scalerl_runtime.actors.packed_row import plan_row
from scalerl_runtime.actors.varlen_attention import attend_row

TERMS = list(itertools.product([None, 1, 6], [None, 5], [None, 1.5], [False, True]))  # window, chunk, cap, sinks


def _written_out(query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None, rule: AttentionRule) -> Tensor:
    """[T, heads, .] of one sequence; each query's visible keys in a loop."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    rows = []
    for i in range(query.shape[0]):
        visible = [
            j
            for j in range(i + 1)
            if (rule.window is None or i - j < rule.window)
            and (rule.chunk is None or i // rule.chunk == j // rule.chunk)
        ]
        scores = torch.einsum("hd,jhd->hj", query[i], key[visible]) * rule.scale
        if rule.softcap is not None:
            scores = rule.softcap * torch.tanh(scores / rule.softcap)
        if sinks is not None:
            scores = torch.cat([scores, sinks[:, None]], -1)
        weights = scores.softmax(-1)[:, : len(visible)]
        rows.append(torch.einsum("hj,jhd->hd", weights, value[visible]))
    return torch.stack(rows)


def _leaves(length: int, *, heads: int = 4, keys: int = 2, wide: int = 8, out: int = 6, seed: int = 1) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    shapes = [(length, heads, wide), (length, keys, wide), (length, keys, out), (heads,)]
    return [torch.randn(shape, generator=g, dtype=torch.float64).requires_grad_() for shape in shapes]


def _assert_equal(lengths: list[int], rule: AttentionRule, *, has_sinks: bool, **sizes: int) -> None:
    packed = _leaves(sum(lengths), **sizes)
    alone = [leaf.detach().clone().requires_grad_() for leaf in packed]
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    out = attend_row(*packed[:3], plan_row(bounds), rule=rule, sinks=packed[3] if has_sinks else None)
    sinks = alone[3] if has_sinks else None
    parts = [_written_out(*(leaf[a:b] for leaf in alone[:3]), sinks, rule) for a, b in pairwise(bounds.tolist())]
    expected = torch.cat(parts)
    torch.testing.assert_close(out, expected, atol=1e-11, rtol=0.0)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    for one, other in zip(packed[: 3 + has_sinks], alone, strict=False):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-11, rtol=0.0)


@pytest.mark.parametrize(("window", "chunk", "softcap", "has_sinks"), TERMS)
def test_every_combination_equals_attention_written_out(
    monkeypatch: pytest.MonkeyPatch, window: int | None, chunk: int | None, softcap: float | None, *, has_sinks: bool
) -> None:
    monkeypatch.setattr(block_attention, "BLOCK_NUMBERS_CPU", 600)  # several blocks in the longest sequence
    rule = AttentionRule(0.7, window, chunk, softcap)
    _assert_equal([5, 1, 37, 3, 20], rule, has_sinks=has_sinks)


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    window=st.none() | st.integers(1, 45),
    chunk=st.none() | st.integers(1, 45),
    softcap=st.none() | st.floats(0.3, 50.0),
    has_sinks=st.booleans(),
    sizes=st.sampled_from([(4, 4), (4, 1), (6, 2), (1, 1)]),
    out=st.integers(1, 9),
)
def test_any_row_equals_attention_written_out(
    *, lengths: list[int], window: int | None, chunk: int | None, softcap: float | None, has_sinks: bool,
    sizes: tuple[int, int], out: int,
) -> None:  # fmt: skip
    rule = AttentionRule(0.4, window, chunk, softcap)
    _assert_equal(lengths, rule, has_sinks=has_sinks, heads=sizes[0], keys=sizes[1], out=out)


def test_window_and_sink_by_hand() -> None:
    # Zero queries: every score is 0. Window 2 sees two values, and the sink's score ln 2 weighs as much as both.
    value = torch.tensor([2.0, 4.0, 8.0]).view(1, 1, 3, 1)
    zeros = torch.zeros(1, 1, 3, 1)
    out = attend_blocks(zeros, zeros, value, torch.tensor([2.0]).log(), AttentionRule(1.0, window=2))
    torch.testing.assert_close(out.flatten(), torch.tensor([2 / 3, 6 / 4, 12 / 4]))


def test_chunks_are_of_the_sequence_not_of_the_row() -> None:
    value = torch.tensor([1.0, 3.0, 5.0, 7.0, 9.0]).view(5, 1, 1)
    zeros = torch.zeros(5, 1, 1)
    row = plan_row(torch.tensor([0, 1, 5]))
    out = attend_row(zeros, zeros, value, row, rule=AttentionRule(1.0, chunk=2))
    assert out.flatten().tolist() == [1.0, 3.0, 4.0, 7.0, 8.0]


@pytest.mark.parametrize(("window", "squared"), [(None, True), (8, False)])
def test_memory_is_a_block(monkeypatch: pytest.MonkeyPatch, window: int | None, *, squared: bool) -> None:
    """No tensor of all scores exists; with a window, no block is wider than it and the block's own rows."""
    monkeypatch.setattr(block_attention, "BLOCK_NUMBERS_CPU", 2**12)
    shapes = []
    real = block_attention._scores

    def record(*arguments: object) -> Tensor:
        shapes.append(real(*arguments).shape)  # type: ignore[arg-type]  # as called
        return real(*arguments)  # type: ignore[arg-type]  # as called

    monkeypatch.setattr(block_attention, "_scores", record)
    query, key, value, _ = (leaf[None].transpose(1, 2) if leaf.ndim == 3 else leaf for leaf in _leaves(512))
    attend_blocks(query, key, value, None, AttentionRule(1.0, window=window, softcap=2.0)).sum().backward()
    assert max(shape.numel() for shape in shapes) <= 16 * 4 * 512
    assert (max(shape[-1] for shape in shapes) == 512) == squared
    assert len(shapes) == 2 * 512 // 16


def test_bf16_is_attended_in_float32() -> None:
    leaves = [leaf.detach().to(torch.bfloat16) for leaf in _leaves(30)]
    row = plan_row(torch.tensor([0, 30]))
    out = attend_row(*leaves[:3], row, rule=AttentionRule(1.0, softcap=3.0), sinks=leaves[3])
    exact = attend_row(*(x.double() for x in leaves[:3]), row, rule=AttentionRule(1.0, softcap=3.0), sinks=leaves[3])
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), exact, atol=2**-8, rtol=2**-8)
