"""A sequence group in one process, whose ranks are threads: to try a model in parts without ranks. I/O.

Each thread gets its own copy of a model, as transformers' code may store things on modules.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from scalerl_runtime.actors.sequence.sequence_group import SequenceGroup
from scalerl_runtime.actors.varlen_attention import forward_hidden

Result = TypeVar("Result")

MEET_SECONDS = 60.0  # that a thread waits for the others before an exchange


class _Board:
    """Where the threads leave tensors for each other."""

    def __init__(self, size: int):
        self._slots: list[Tensor] = [torch.empty(0)] * size
        self._barrier = threading.Barrier(size, timeout=MEET_SECONDS)

    def trade(self, rank: int, tensor: Tensor) -> list[Tensor]:
        """Return every rank's tensor, by rank."""
        self._slots[rank] = tensor
        self._barrier.wait()
        found = list(self._slots)
        self._barrier.wait()
        return found

    def leave(self) -> None:
        """Have no thread wait for one that failed."""
        self._barrier.abort()


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, board: _Board, rank: int) -> Tensor:
        ctx.board, ctx.rank = board, rank
        return torch.stack([each[rank] for each in board.trade(rank, tensor)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return torch.stack([each[ctx.rank] for each in ctx.board.trade(ctx.rank, grad)]), None, None


def run_threads(size: int, work: Callable[[SequenceGroup], Result]) -> list[Result]:
    """Return what `work` returns on each rank of a group of `size` threads. Raises a rank's first own error."""
    board, has_grad = _Board(size), torch.is_grad_enabled()

    def run(rank: int) -> Result:
        with torch.set_grad_enabled(has_grad):
            return work(_group(board, rank, size))

    def end(future: Future[Result]) -> None:
        if future.exception() is not None:
            board.leave()

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(run, rank) for rank in range(size)]
        for each in futures:
            each.add_done_callback(end)
        errors = [each.exception() for each in futures]
    if found := [each for each in errors if each is not None]:
        raise next((each for each in found if not isinstance(each, threading.BrokenBarrierError)), found[0])
    return [each.result() for each in futures]


def _group(board: _Board, rank: int, size: int) -> SequenceGroup:
    def exchange(tensor: Tensor) -> Tensor:
        exchanged: Tensor = _Exchange.apply(tensor, board, rank)  # type: ignore[no-untyped-call]  # torch does not type apply
        return exchanged

    def sum_up(tensor: Tensor) -> None:
        tensor.copy_(torch.stack(board.trade(rank, tensor.clone())).sum(0))

    return SequenceGroup(rank, size, exchange, sum_up)


def hidden_in_parts(models: Sequence[Any], tokens: Tensor, positions: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Return `forward_hidden` of the whole row, [N, H], computed in as many parts as there are equal `models`."""
    parts = run_threads(
        len(models), lambda group: forward_hidden(models[group.rank], tokens, positions, cu_seqlens, group)
    )
    return torch.cat(parts)[: tokens.shape[0]]
