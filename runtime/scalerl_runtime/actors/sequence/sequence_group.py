"""Sequence parallelism: the ranks of a group hold a part of each packed row (DeepSpeed-Ulysses). PURE but for `join`.

Everything but attention computes a token by itself, so a rank runs it on its part. For attention an all-to-all trades
parts of all heads for some heads of all parts; so each rank attends the whole row, whatever windows, chunks or
sequences it has, and wherever it is cut. The all-to-all is DeepSpeed's; note 095 says why no more of it is.

Letters: N tokens of a row, P of a part; `size` ranks in a group. The last parts are padded to equal length by tokens
that are a sequence of their own at the row's end.
Source: Jacobs et al. 2023, arXiv:2309.14509 (DeepSpeed-Ulysses).
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class SequenceGroup:
    """The ranks that share each row, as one of them has it; called by all of them in the same order."""

    rank: int  # inside the group: which part is this rank's
    size: int
    exchange: Callable[[Tensor], Tensor]  # all-to-all over the first axis, [size, ...] contiguous; differentiable
    sum_up: Callable[[Tensor], None]  # all-reduce in place

    def part_length(self, num_tokens: int) -> int:
        """Return P of a row of N tokens."""
        return -(-num_tokens // self.size)

    def cut(self, row: Tensor, fill: int = 0) -> Tensor:
        """Return this rank's part [P, ...] of `row` [N, ...], padded with `fill`."""
        length = self.part_length(row.shape[0])
        mine = row[self.rank * length : (self.rank + 1) * length]
        return torch.cat([mine, mine.new_full((length - mine.shape[0], *mine.shape[1:]), fill)])

    def close(self, cu_seqlens: Tensor, num_tokens: int) -> Tensor:
        """Return the ends of the sequences in all parts together: the padding is one more sequence."""
        whole = self.size * self.part_length(num_tokens)
        if whole == num_tokens:
            return cu_seqlens
        return torch.cat([cu_seqlens, cu_seqlens.new_tensor([whole])])

    def find_targets(self, select: Tensor, num_tokens: int) -> tuple[slice, int]:
        """Return which of the rising positions `select` [M] are in this rank's part, and the part's first position."""
        length = self.part_length(num_tokens)
        first = self.rank * length
        bounds = torch.searchsorted(select, select.new_tensor([first, first + length]))
        return slice(*bounds.tolist()), first

    def join_targets(self, values: Tensor, own: slice, num_targets: int) -> Tensor:
        """Return the values [M] of all targets from those of each rank's own; every rank has the loss of the whole row.

        A gradient reaches a rank's own values only: the ranks' gradients are summed.
        """
        joined: Tensor = _JoinTargets.apply(values, own, num_targets, self.sum_up)  # type: ignore[no-untyped-call]  # torch does not type apply
        return joined

    def to_heads(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return some heads of the whole row, [size P, heads / size, .], of a part's heads, each [P, heads, .].

        Key heads that `size` does not divide are repeated as often as it takes; gradients of the copies are summed.

        Raises ValueError if `size` does not divide the query's heads.
        """
        heads = query.shape[1]
        if heads % self.size:
            raise ValueError(f"a layer has {heads} heads, which {self.size} ranks of sequenceParallel do not divide")
        given = (query, self._repeat(key), self._repeat(value))
        sent = torch.cat([each.reshape(each.shape[0], self.size, -1) for each in given], dim=2)
        received = self.exchange(sent.transpose(0, 1).contiguous()).flatten(0, 1)
        shapes = [(each.shape[1] // self.size, each.shape[2]) for each in given]
        split = torch.split(received, [count * width for count, width in shapes], dim=1)
        q, k, v = (part.reshape(-1, *shape) for part, shape in zip(split, shapes, strict=True))
        return q, k, v

    def _repeat(self, keys: Tensor) -> Tensor:
        times = self.size // gcd(keys.shape[1], self.size)
        return keys if times == 1 else keys.repeat_interleave(times, dim=1)

    def own_heads(self, by_head: Tensor | None) -> Tensor | None:
        """Return the entries of this rank's heads in `by_head` [heads]."""
        if by_head is None:
            return None
        count = by_head.shape[0] // self.size
        return by_head[self.rank * count : (self.rank + 1) * count]

    def to_part(self, attended: Tensor) -> Tensor:
        """Return all heads of a part, [P, heads, E], from some of the whole row, [size P, heads / size, E]."""
        received = self.exchange(attended.reshape(self.size, -1, *attended.shape[1:]).contiguous())
        return received.transpose(0, 1).flatten(1, 2)


class _JoinTargets(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, own: slice, num_targets: int, sum_up: Callable[[Tensor], None]) -> Tensor:
        ctx.own = own
        joined = values.new_zeros(num_targets)
        joined[own] = values
        sum_up(joined)
        return joined

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad[ctx.own], None, None, None


def join(rank: int, num_ranks: int, size: int) -> SequenceGroup | None:
    """Return the group of trainer rank `rank`, of `size` ranks that follow each other; None for groups of one.

    Every rank calls it, after the gang is connected.
    """
    if size == 1:
        return None
    from deepspeed import comm
    from deepspeed.sequence.layer import _dim_zero_all_to_all, register_all_to_all_group

    groups = [comm.new_group(list(range(first, first + size))) for first in range(0, num_ranks, size)]
    mine = groups[rank // size]
    register_all_to_all_group(mine)

    def exchange(tensor: Tensor) -> Tensor:
        exchanged: Tensor = _dim_zero_all_to_all(mine, tensor)
        return exchanged

    def sum_up(tensor: Tensor) -> None:
        comm.all_reduce(tensor, group=mine)

    return SequenceGroup(rank % size, size, exchange, sum_up)
