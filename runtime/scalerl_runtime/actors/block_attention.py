"""Exact causal attention with a window or chunks, a soft cap and sinks, a block of scores at a time. PURE.

Letters: S sequences of L tokens, heads of queries and of keys (K of them), D wide; values E wide.
The scores of one block of queries exist at a time, in both directions: the backward recomputes them from the
log-sum-exps, as flash attention does. Torch's fused kernels have neither sinks nor, with gradients, a soft cap.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BLOCK_NUMBERS_CPU = 2**20  # scores alive at a time: 4 MiB, for the cache
BLOCK_NUMBERS_GPU = 2**26  # 256 MiB; a few temporaries are as large
MIN_ROWS = 16  # of a block: thinner products are not worth their start


@dataclass(frozen=True)
class AttentionRule:
    """Which keys a query sees, and what happens to a score."""

    scale: float  # of the products of query and key
    window: int | None = None  # a token sees itself and the window - 1 tokens before it
    chunk: int | None = None  # a token sees its own chunk of the sequence only, up to itself
    softcap: float | None = None  # then cap * tanh(score / cap)

    def is_plain(self, length: int) -> bool:
        """Whether a sequence of `length` tokens has plain causal attention under this rule."""
        return self.softcap is None and all(size is None or size >= length for size in (self.window, self.chunk))

    def first_key(self, query: int) -> int:
        """Return the first key that the token at position `query` sees."""
        first = 0 if self.window is None else max(0, query - self.window + 1)
        return first if self.chunk is None else max(first, query // self.chunk * self.chunk)


def attend_blocks(query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None, rule: AttentionRule) -> Tensor:
    """Attention [S, heads, L, E] of `query` [S, heads, L, D], `key` [S, K, L, D] and `value` [S, K, L, E].

    Args:
        query, key, value: differentiable; K divides heads. Scores and sums are float32, or float64 for float64 inputs.
        sinks: [heads] a score for each head that takes its share of the softmax and has no value; differentiable.
        rule: as for every sequence alone.
    """
    heads, keys = query.shape[1], key.shape[1]
    grouped = query.reshape(query.shape[0], keys, heads // keys, *query.shape[2:])
    limit = BLOCK_NUMBERS_GPU if query.is_cuda else BLOCK_NUMBERS_CPU
    at_once = max(1, limit // (heads * query.shape[2] * MIN_ROWS))
    parts = [
        _BlockAttention.apply(q, k, v, sinks, rule, limit)  # type: ignore[no-untyped-call]  # torch does not type apply
        for q, k, v in zip(*(torch.split(tensor, at_once) for tensor in (grouped, key, value)), strict=True)
    ]
    out: Tensor = torch.cat(parts)
    return out.flatten(1, 2)


@dataclass(frozen=True)
class _Block:
    """Some queries, and all keys that any of them sees."""

    queries: slice
    keys: slice

    def hidden(self, rule: AttentionRule, device: torch.device) -> Tensor:
        """[queries, keys] bool: the keys that a query does not see."""
        query = torch.arange(self.queries.start, self.queries.stop, device=device)[:, None]
        key = torch.arange(self.keys.start, self.keys.stop, device=device)
        hidden = key > query
        if rule.window is not None:
            hidden |= key <= query - rule.window
        if rule.chunk is not None:
            hidden |= key // rule.chunk < query // rule.chunk
        return hidden


def _blocks(query: Tensor, rule: AttentionRule, limit: int) -> Iterator[_Block]:
    sequences, keys, group, length = query.shape[:4]
    rows = max(MIN_ROWS, limit // (sequences * keys * group * length))
    for start in range(0, length, rows):
        stop = min(start + rows, length)
        yield _Block(slice(start, stop), slice(rule.first_key(start), stop))


def _product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right of two [S, K, ., .] with sums and results in float32, or float64 for float64."""
    if left.is_cuda and right.dtype == torch.bfloat16:
        flat = torch.bmm(left.to(right.dtype).flatten(0, 1), right.flatten(0, 1), out_dtype=torch.float32)
        return flat.view(*left.shape[:3], -1)
    work = torch.float64 if right.dtype == torch.float64 else torch.float32
    return torch.matmul(left.to(work), right.to(work))


def _grouped_product(left: Tensor, right: Tensor) -> Tensor:
    """[S, K, group, rows, .] of `left` [S, K, group, rows, X] and `right` [S, K, X, .]."""
    return _product(left.flatten(2, 3), right).view(*left.shape[:4], -1)


def _summed_product(left: Tensor, right: Tensor) -> Tensor:
    """[S, K, X, Y] of two [S, K, group, rows, X or Y], summed over group and rows."""
    return _product(left.flatten(2, 3).transpose(-1, -2), right.flatten(2, 3))


def _scores(query: Tensor, key: Tensor, block: _Block, rule: AttentionRule) -> Tensor:
    """[S, K, group, queries, keys] scaled, capped, -inf where hidden."""
    scores = _grouped_product(query[..., block.queries, :], key[:, :, block.keys].transpose(-1, -2))
    scores.mul_(rule.scale)
    if rule.softcap is not None:
        scores.div_(rule.softcap).tanh_().mul_(rule.softcap)
    return scores.masked_fill_(block.hidden(rule, scores.device), -torch.inf)


class _BlockAttention(torch.autograd.Function):
    """`query` is [S, K, group, L, D] here."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None, rule: AttentionRule, limit: int
    ) -> Tensor:
        out = value.new_empty(*query.shape[:-1], value.shape[-1])
        sums = []
        for block in _blocks(query, rule, limit):
            scores = _scores(query, key, block, rule)
            logsumexp = scores.logsumexp(-1)
            if sinks is not None:
                logsumexp = torch.logaddexp(logsumexp, _by_head(sinks, logsumexp))
            weights = scores.sub_(logsumexp[..., None]).exp_()
            out[..., block.queries, :] = _grouped_product(weights, value[:, :, block.keys]).to(out.dtype)
            sums.append(logsumexp)
        ctx.rule, ctx.limit = rule, limit
        ctx.save_for_backward(query, key, value, sinks, out, torch.cat(sums, -1))
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, sinks, out, logsumexp = ctx.saved_tensors
        rule: AttentionRule = ctx.rule
        # By a score: weight * (gradient by the weight - its mean under the weights). A sink has a weight and no value.
        mean = (grad_out.to(logsumexp.dtype) * out.to(logsumexp.dtype)).sum(-1)
        grad_query = torch.empty_like(query)
        grad_key, grad_value = (torch.zeros_like(tensor, dtype=logsumexp.dtype) for tensor in (key, value))
        for block in _blocks(query, rule, ctx.limit):
            rows, keys = block.queries, block.keys
            scores = _scores(query, key, block, rule)
            # A hidden score is -inf and its slope too; 0 keeps its gradient, whose weight is 0, from being nan.
            slope = None if rule.softcap is None else 1.0 - (scores / rule.softcap).nan_to_num(neginf=1.0).square()
            weights = scores.sub_(logsumexp[..., rows, None]).exp_()
            upstream = grad_out[..., rows, :]
            grad_value[:, :, keys] += _summed_product(weights, upstream)
            by_score = _grouped_product(upstream, value[:, :, keys].transpose(-1, -2))
            by_score.sub_(mean[..., rows, None]).mul_(weights).mul_(rule.scale)
            if slope is not None:
                by_score.mul_(slope)
            grad_query[..., rows, :] = _grouped_product(by_score, key[:, :, keys]).to(query.dtype)
            grad_key[:, :, keys] += _summed_product(by_score, query[..., rows, :])
        grad_sinks = None if sinks is None else _grad_sinks(sinks, logsumexp, mean)
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), grad_sinks, None, None


def _by_head(sinks: Tensor, like: Tensor) -> Tensor:
    """[heads] as [1, K, group, 1], in the dtype of `like` [S, K, group, L]."""
    return sinks.to(like.dtype).view(1, *like.shape[1:3], 1)


def _grad_sinks(sinks: Tensor, logsumexp: Tensor, mean: Tensor) -> Tensor:
    weight = (_by_head(sinks, logsumexp) - logsumexp).exp()
    return -(weight * mean).sum((0, 3)).flatten().to(sinks.dtype)
