"""Log-probability and entropy of given tokens straight from hidden states, without the logits' memory. PURE.

N trained positions, H hidden size, V vocabulary. The N x V logits exist a piece at a time, in both directions. The
forward walks rows, so that a row's softmax sees its whole vocabulary at once. The backward recomputes them and walks
blocks of the vocabulary, and rows inside a block: so the weight's gradient is summed in float32 a block at a time, and
no [V, H] float32 sum is held beside a bf16 gradient.
Nothing is cached between calls: a float32 copy of the weight would be stale after the next optimizer step.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

Precision = Literal["fp32", "bf16"]

CHUNK_BYTES = 128 * 2**20  # of float32 logits in the forward; on a GPU their exponentials take as much again
STATS_LOGITS_CPU = 2**18  # logits whose statistics are taken at once: 1 MiB, so that the passes over it hit the cache
TILE_ROWS_CPU = 256  # of the backward: a few MiB at the default chunk, for the cache too
TILE_ROWS_GPU = 2048  # enough for full-speed products; temporaries stay far below N x H
TILE_MIN_COLUMNS = 256
CAST_NUMBERS = 2**22  # of a low-precision weight held in float32 at a time


@dataclass(frozen=True)
class HeadTransform:
    """Changes of the output of a head's linear layer: the scale first, then the soft cap."""

    scale: float = 1.0  # logits times scale, > 0: Cohere's `logit_scale`, Granite's 1 / `logits_scaling`
    softcap: float | None = None  # then cap * tanh(logits / cap), > 0: Gemma-2's `final_logit_softcapping`

    def apply(self, logits: Tensor) -> Tensor:
        """Return the model's logits, of the linear layer's; the fused head computes the same in place."""
        scaled = logits * self.scale
        return scaled if self.softcap is None else self.softcap * torch.tanh(scaled / self.softcap)


IDENTITY = HeadTransform()


@dataclass(frozen=True)
class Positions:
    """The M trained positions of a packed row of N tokens."""

    hidden: Tensor  # [M, H] states that predict the trained tokens; differentiable
    target: Tensor  # [M] the trained tokens
    index: Tensor  # [M] positions of the trained tokens in the row; selects their advantage, logp_gen...


def select_positions(hidden: Tensor, tokens: Tensor, trained: Tensor, cu_seqlens: Tensor) -> Positions:
    """Select the positions that the head computes; prompt, masked and forced tokens cost nothing after it.

    Args:
        hidden: [N, H] last hidden states of the row; state i predicts token i + 1.
        tokens: [N].
        trained: [N] bool, True at the tokens whose log-probability is wanted.
        cu_seqlens: [S + 1] where sequences start and end in the row.

    Raises:
        ValueError: the first token of a sequence is trained; nothing predicts it.
    """
    if bool(trained[cu_seqlens[:-1].long()].any()):
        raise ValueError("trained is True at the first token of a sequence; no hidden state predicts it")
    index = trained.nonzero().squeeze(1)
    return Positions(hidden.index_select(0, index - 1), tokens.index_select(0, index), index)


def plan_chunk(vocabulary: int, *, budget_bytes: int = CHUNK_BYTES) -> int:
    """Rows of float32 logits that fit in `budget_bytes`, at least 1."""
    return max(1, budget_bytes // (4 * vocabulary))


def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    precision: Precision,
    chunk: int,
    temperature: float = 1.0,
    bias: Tensor | None = None,
    transform: HeadTransform = IDENTITY,
) -> tuple[Tensor, Tensor]:
    """Log-probability of `target` and entropy of the distribution, each [N] float32, in nats.

    Args:
        hidden: [N, H] states of the trained positions only: the caller leaves prompt, masked and forced tokens out
            (`select_positions`).
        weight: [V, H] LM head; the embedding's own Parameter when tied, whose gradient then adds up as usual.
        target: [N] token ids, 0 <= id < V.
        precision: `fp32` never rounds logits below float32; `bf16` rounds them, after the linear layer and at the end.
        chunk: rows of logits alive at a time (`plan_chunk`); sets the size of the backward's tiles too.
        temperature: divides the logits last of all, > 0.
        bias: [V] of the linear layer.
        transform: of the linear layer's output.

    Differentiable in hidden, weight and bias, by log-probability and entropy; the entropy's gradient costs only where
    used. bf16 operands on CUDA are multiplied as they are, with float32 sums and results; there the backward rounds the
    logits' gradient to bf16, as any bf16 layer's does. All else is multiplied in float32, weights cast piece by piece.

    Raises:
        ValueError: shapes, temperature, chunk or transform are impossible.
    Source: FP32 logits, Khatri et al. 2025, arXiv:2510.13786 (ScaleRL), after MiniMax-M1, arXiv:2506.13585.
    """
    _check_shapes(_Operands(hidden, weight, bias), target)
    if temperature <= 0 or chunk < 1:
        raise ValueError(f"temperature is {temperature}, chunk {chunk}; need > 0, >= 1")
    if transform.scale <= 0 or (transform.softcap is not None and transform.softcap <= 0):
        raise ValueError(f"{transform}; scale and softcap must be > 0")
    settings = _Settings(precision, temperature, chunk, transform)
    logp, entropy = _LinearLogprob.apply(hidden, weight, bias, target, settings)  # type: ignore[no-untyped-call]  # torch
    return logp, entropy


@dataclass(frozen=True)
class _Settings:
    precision: Precision
    temperature: float
    chunk: int
    transform: HeadTransform


@dataclass(frozen=True)
class _Operands:
    """Inputs of the linear layer."""

    hidden: Tensor  # [N, H]
    weight: Tensor  # [V, H]
    bias: Tensor | None  # [V]


def _check_shapes(operands: _Operands, target: Tensor) -> None:
    hidden, weight, bias = operands.hidden, operands.weight, operands.bias
    if hidden.shape[1:] != weight.shape[1:] or target.shape != hidden.shape[:1]:
        shapes = f"hidden {list(hidden.shape)}, weight {list(weight.shape)}, target {list(target.shape)}"
        raise ValueError(f"{shapes}; need [N, H], [V, H], [N]")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias {list(bias.shape)}; need {list(weight.shape[:1])}")


class _Context(Protocol):
    """Torch's function context as used here, with the settings that the forward stores on it."""

    settings: _Settings
    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[Tensor, ...]

    def save_for_backward(self, *tensors: Tensor) -> None: ...
    def set_materialize_grads(self, value: bool) -> None: ...


class _LinearLogprob(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, settings: _Settings
    ) -> tuple[Tensor, Tensor]:
        ctx.settings = settings
        ctx.set_materialize_grads(False)  # an unused entropy then has gradient None, and costs nothing
        # Autocast would turn float32 products into bf16 ones.
        with torch.autocast(hidden.device.type, enabled=False):
            logp, entropy, logsumexp = _forward_stats(_Operands(hidden, weight, bias), target, settings)
        ctx.save_for_backward(hidden, weight, target, logsumexp, entropy, *(() if bias is None else (bias,)))
        return logp, entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: _Context, grad_logp: Tensor | None, grad_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, target, logsumexp, entropy, *bias = ctx.saved_tensors
        scale = 1.0 / ctx.settings.temperature
        upstream = _IncomingGradients(
            target,
            logsumexp,
            entropy,
            torch.zeros_like(logsumexp) if grad_logp is None else grad_logp * scale,
            None if grad_entropy is None else grad_entropy * scale,
        )
        operands = _Operands(hidden, weight, bias[0] if bias else None)
        with torch.autocast(hidden.device.type, enabled=False):
            grads = _operand_grads(operands, upstream, ctx)
        return *grads, None, None


@dataclass(frozen=True)
class _IncomingGradients:
    """Per row [N]: the forward's results, and the incoming gradients over the temperature."""

    target: Tensor
    logsumexp: Tensor
    entropy: Tensor
    grad_logp: Tensor
    grad_entropy: Tensor | None

    def rows(self, rows: slice) -> "_IncomingGradients":
        grad_entropy = None if self.grad_entropy is None else self.grad_entropy[rows]
        return _IncomingGradients(
            self.target[rows], self.logsumexp[rows], self.entropy[rows], self.grad_logp[rows], grad_entropy
        )


def _pieces(total: int, size: int) -> Iterator[slice]:
    step = max(1, size)
    return (slice(start, min(start + step, total)) for start in range(0, total, step))


def _is_native_bf16(left: Tensor, right: Tensor) -> bool:
    return left.is_cuda and left.dtype == right.dtype == torch.bfloat16


def _product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right with float32 sums and results; operands as they are, or cast as a whole."""
    if _is_native_bf16(left, right):
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()


def _finish_logits(product: Tensor, bias: Tensor | None, settings: _Settings) -> Tensor:
    """Add the bias of the product's columns, apply the transform, divide by the temperature; in place."""
    transform = settings.transform
    if bias is not None:
        product.add_(bias.float())
    _round(product, settings)
    if transform.scale != 1.0:
        product.mul_(transform.scale)
    if transform.softcap is not None:
        product.div_(transform.softcap).tanh_().mul_(transform.softcap)
    if transform != IDENTITY:
        _round(product, settings)
    return product if settings.temperature == 1.0 else product.div_(settings.temperature)


def _round(logits: Tensor, settings: _Settings) -> None:
    if settings.precision == "bf16":
        logits.copy_(logits.bfloat16())


def _forward_stats(operands: _Operands, target: Tensor, settings: _Settings) -> tuple[Tensor, ...]:
    """Log-probability of target, entropy, logsumexp; each [N]."""
    hidden, weight = operands.hidden, operands.weight
    stats = [torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device) for _ in range(3)]
    num_rows = min(settings.chunk, hidden.shape[0])
    # On a CPU a fresh buffer costs more, in page faults, than the product that fills it.
    buffer = None if _is_native_bf16(hidden, weight) else stats[0].new_empty(num_rows, weight.shape[0])
    for rows in _pieces(hidden.shape[0], settings.chunk):
        logits = _chunk_logits(hidden[rows], weight, buffer)
        _finish_logits(logits, operands.bias, settings)
        at_once = num_rows if logits.is_cuda else STATS_LOGITS_CPU // weight.shape[0]
        for part in _pieces(logits.shape[0], at_once):
            where = slice(rows.start + part.start, rows.start + part.stop)
            for whole, found in zip(stats, _row_stats(logits[part], target[where]), strict=True):
                whole[where] = found
        del logits  # else the next chunk is allocated while this one is still held
    return tuple(stats)


def _chunk_logits(hidden: Tensor, weight: Tensor, buffer: Tensor | None) -> Tensor:
    """hidden @ weight.T in float32, in the buffer's first rows if there is one."""
    if buffer is None:
        return _product(hidden, weight.t())
    logits, left = buffer[: hidden.shape[0]], hidden.float()
    if weight.dtype == torch.float32:
        return torch.mm(left, weight.t(), out=logits)
    for columns in _pieces(weight.shape[0], CAST_NUMBERS // weight.shape[1]):
        torch.mm(left, weight[columns].float().t(), out=logits[:, columns])
    return logits


def _row_stats(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability of target, entropy, logsumexp; each [rows]. Overwrites the logits."""
    peak = logits.amax(1)
    shifted = logits.sub_(peak[:, None])
    chosen = shifted.gather(1, target[:, None]).squeeze(1)
    mass = shifted.exp()
    total = mass.sum(1)
    mean = mass.mul_(shifted).sum(1) / total  # of the shifted logits under the softmax
    log_total = total.log()
    # Not from the logsumexp: beside a peak of hundreds it has lost the last digits.
    return chosen - log_total, log_total - mean, peak + log_total


def _operand_grads(operands: _Operands, upstream: _IncomingGradients, ctx: _Context) -> tuple[Tensor | None, ...]:
    """Gradients of hidden, weight and bias, each in its own dtype, None where not needed."""
    hidden, weight, bias = operands.hidden, operands.weight, operands.bias
    on_hidden, on_weight, on_bias = ctx.needs_input_grad[:3]
    native = _is_native_bf16(hidden, weight)
    # A tile of the GPU is a quarter of the forward's chunk, unless that is too thin to be worth a product.
    width = max(TILE_MIN_COLUMNS, ctx.settings.chunk * weight.shape[0] // (4 * TILE_ROWS_GPU))
    grad_hidden = torch.zeros_like(hidden, dtype=torch.float32) if on_hidden else None
    grad_weight = torch.empty_like(weight) if on_weight else None
    grad_bias = upstream.logsumexp.new_zeros(weight.shape[0]) if on_bias else None
    for columns in _pieces(weight.shape[0], width):
        block = weight[columns] if native else weight[columns].float()
        grad_block = torch.zeros_like(block, dtype=torch.float32) if on_weight else None
        for rows in _pieces(hidden.shape[0], TILE_ROWS_GPU if hidden.is_cuda else TILE_ROWS_CPU):
            tile = _product(hidden[rows], block.t())
            grad = _product_grad(tile, None if bias is None else bias[columns], upstream.rows(rows), columns, ctx)
            if grad_bias is not None:
                grad_bias[columns] += grad.sum(0)
            grad = grad.bfloat16() if native else grad
            if grad_hidden is not None:
                _add_product(grad_hidden[rows], grad, block)
            if grad_block is not None:
                _add_product(grad_block, grad.t(), hidden[rows])
        if grad_weight is not None and grad_block is not None:
            grad_weight[columns] = grad_block
    casts = ((grad_hidden, hidden), (grad_weight, weight), (grad_bias, bias))
    return tuple(None if grad is None or leaf is None else grad.to(leaf.dtype) for grad, leaf in casts)


def _product_grad(
    product: Tensor, bias: Tensor | None, upstream: _IncomingGradients, columns: slice, ctx: _Context
) -> Tensor:
    """Gradient by a tile of the linear layer's product, [rows, columns], written over it.

    The soft cap's derivative is 1 - tanh^2, and tanh is the capped logit over the cap.
    """
    settings, transform = ctx.settings, ctx.settings.transform
    logits = _finish_logits(product, bias, settings)
    slope = None
    if transform.softcap is not None:
        slope = (logits * (settings.temperature / transform.softcap)).square_().neg_().add_(1.0)
    grad = _logits_grad(logits, upstream, columns.start)
    if slope is not None:
        grad.mul_(slope)
    return grad if transform.scale == 1.0 else grad.mul_(transform.scale)


def _logits_grad(logits: Tensor, upstream: _IncomingGradients, first_column: int) -> Tensor:
    """Gradient by a tile of logits, [rows, columns], written over it.

    By logit j of a row with probabilities p: grad_logp (1[j = target] - p_j) - grad_entropy p_j (log p_j + entropy).
    """
    logp = logits.sub_(upstream.logsumexp[:, None])
    if upstream.grad_entropy is None:
        grad = logp.exp_().mul_(-upstream.grad_logp[:, None])
    else:
        factor = logp * -upstream.grad_entropy[:, None]
        factor.sub_((upstream.grad_logp + upstream.grad_entropy * upstream.entropy)[:, None])
        grad = logp.exp_().mul_(factor)
    column = upstream.target - first_column
    is_here = (column >= 0) & (column < grad.shape[1])
    at_target = torch.where(is_here, upstream.grad_logp, 0.0)
    return grad.scatter_add_(1, column.clamp(0, grad.shape[1] - 1)[:, None], at_target[:, None])


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, in float32."""
    if _is_native_bf16(left, right):
        total.add_(_product(left, right))
    else:
        total.addmm_(left.float(), right.float())
