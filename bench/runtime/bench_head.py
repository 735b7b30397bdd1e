"""Time, peak memory and error of the fused FP32 head against the naive head and a chunk loop under autograd.

Run: python bench/runtime/bench_head.py [--tokens 8192 --vocab 152064 --hidden 128 --dtype float32 --json PATH]

Each variant runs alone in its own process, one after the other: forward, then backward of a weighted sum of the
log-probabilities. `extra` is the higher of two peaks, resident memory on a CPU and allocated memory on CUDA: of the
forward beyond the inputs, and of the backward beyond inputs and the two gradients, which any head must return.
The naive head and the loop are let off the entropy; the fused one returns it. Errors are against float64 on 64 rows.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from scalerl_runtime.algorithm.head import linear_logprob, plan_chunk

GOAL_EXTRA_BYTES = 5e8  # issue: at 8,192 tokens x 152,064 vocabulary
CHECKED_ROWS = 64
NAIVE_COPIES = 3.2  # float32 N x V tensors alive in the naive backward, with a margin


@dataclass(frozen=True)
class Shape:
    """The options of a measurement."""

    tokens: int
    vocab: int
    hidden: int
    dtype: str  # of hidden and weight; logits are float32 in every variant
    device: str
    repeats: int


@dataclass(frozen=True)
class Measured:
    """One variant's numbers."""

    variant: str
    seconds: float  # forward and backward, best of the repeats
    extra_bytes: int
    logp_error: float  # largest, nats
    gradient_error: float  # largest of hidden's gradient, over its largest entry


def naive_head(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """All logits at once, in float32."""
    return (hidden.float() @ weight.float().T).log_softmax(-1).gather(1, target[:, None]).squeeze(1)


def loop_head(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """The naive head chunk by chunk; autograd keeps every chunk."""
    chunk = plan_chunk(weight.shape[0])
    pairs = zip(torch.split(hidden, chunk), torch.split(target, chunk), strict=True)
    return torch.cat([naive_head(h, weight, t) for h, t in pairs])


def fused_head(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """The head under test; it computes the entropy as well."""
    return linear_logprob(hidden, weight, target, precision="fp32", chunk=plan_chunk(weight.shape[0]))[0]


VARIANTS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "naive": naive_head,
    "loop": loop_head,
    "fused": fused_head,
}


def make_inputs(shape: Shape) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """hidden [N, H], weight [V, H], target [N] and the gradient [N] that comes from the loss; fixed seed."""
    g = torch.Generator(shape.device).manual_seed(0)
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[shape.dtype]
    hidden = torch.randn(shape.tokens, shape.hidden, generator=g, device=shape.device).to(dtype).requires_grad_()
    weight = torch.randn(shape.vocab, shape.hidden, generator=g, device=shape.device)
    # Logits with a spread of about 3 nats, as models have them.
    weight = weight.mul_(3.0 * shape.hidden**-0.5).to(dtype).requires_grad_()
    target = torch.randint(0, shape.vocab, (shape.tokens,), generator=g, device=shape.device)
    return hidden, weight, target, torch.randn(shape.tokens, generator=g, device=shape.device)


def measure(variant: str, shape: Shape) -> Measured:
    """Run one variant in this process."""
    head = VARIANTS[variant]
    _run(head, make_inputs(Shape(8, 32, 8, shape.dtype, shape.device, 1)))  # loads libraries
    inputs = make_inputs(shape)
    hidden, weight, _, _ = inputs
    runs = [_run(head, inputs) for _ in range(shape.repeats)]
    seconds, extra = min(run.seconds for run in runs), max(run.extra_bytes for run in runs)
    return Measured(variant, seconds, extra, *_errors(runs[-1].logp, inputs))


@dataclass(frozen=True)
class _Run:
    logp: Tensor
    seconds: float
    extra_bytes: int


def _run(head: Callable[[Tensor, Tensor, Tensor], Tensor], inputs: tuple[Tensor, Tensor, Tensor, Tensor]) -> _Run:
    hidden, weight, target, upstream = inputs
    hidden.grad = weight.grad = None
    before = _reset_peak(hidden.device.type)
    started = time.perf_counter()
    logp = head(hidden, weight, target)
    _synchronize(hidden)
    halfway = time.perf_counter()
    forward_extra = _peak(hidden.device.type) - before
    _reset_peak(hidden.device.type)
    resumed = time.perf_counter()
    torch.autograd.backward(logp, upstream)
    _synchronize(hidden)
    seconds = halfway - started + time.perf_counter() - resumed
    backward_extra = _peak(hidden.device.type) - before - hidden.nbytes - weight.nbytes
    return _Run(logp.detach(), seconds, max(forward_extra, backward_extra))


def _synchronize(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()


def _errors(logp: Tensor, inputs: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[float, float]:
    hidden, weight, target, upstream = inputs
    assert hidden.grad is not None
    rows = torch.arange(0, hidden.shape[0], max(1, hidden.shape[0] // CHECKED_ROWS), device=hidden.device)
    exact = hidden.detach()[rows].double().requires_grad_()
    exact_logp = (exact @ weight.detach().double().T).log_softmax(-1).gather(1, target[rows, None]).squeeze(1)
    torch.autograd.backward(exact_logp, upstream[rows].double())
    assert exact.grad is not None
    gradient_error = (hidden.grad[rows].double() - exact.grad).abs().max() / exact.grad.abs().max()
    return float((logp[rows] - exact_logp.detach()).abs().max()), float(gradient_error)


def _reset_peak(device: str) -> int:
    """Start the peak anew; bytes in use now."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")  # Linux: resets VmHWM
    return _memory_line("/proc/self/status", "VmRSS")


def _peak(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else _memory_line("/proc/self/status", "VmHWM")


def _memory_line(path: str, name: str) -> int:
    """Bytes in the line `name: N kB` of a file under /proc."""
    (line,) = (line for line in Path(path).read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def _lacking_bytes(variant: str, shape: Shape) -> int:
    """Return the bytes that the naive variants lack on this machine, 0 or less if none.

    They must not harm other programs.
    """
    needed = 0.0 if variant == "fused" else NAIVE_COPIES * 4 * shape.tokens * shape.vocab
    on_gpu = shape.device == "cuda"
    return int(needed) - (torch.cuda.mem_get_info()[0] if on_gpu else _memory_line("/proc/meminfo", "MemAvailable"))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--vocab", type=int, default=152_064)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--variant", choices=sorted(VARIANTS), help=argparse.SUPPRESS)  # the child processes
    return parser.parse_args()


def _measure_apart(variant: str) -> Measured | None:
    child = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--variant", variant], stdout=subprocess.PIPE)
    if child.returncode:
        print(f"{variant:8} failed, exit {child.returncode} (killed for memory?)")
        return None
    return Measured(**json.loads(child.stdout))


def _print_row(row: Measured) -> None:
    size = f"{row.extra_bytes / 1e6:12,.0f}"
    print(f"{row.variant:8} {row.seconds:10.3f} {size} {row.logp_error:12.1e} {row.gradient_error:14.1e}", flush=True)


def main() -> None:
    """Measure every variant, print the table and whether the goals are met."""
    args = _parse()
    shape = Shape(args.tokens, args.vocab, args.hidden, args.dtype, args.device, args.repeats)
    if args.variant:
        print(json.dumps(asdict(measure(args.variant, shape))))
        return
    name = torch.cuda.get_device_name() if args.device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"{args.tokens} tokens x {args.vocab} vocabulary, hidden {args.hidden}, {args.dtype}, {name}")
    print(f"{'variant':8} {'seconds':>10} {'extra MB':>12} {'logp error':>12} {'gradient error':>14}", flush=True)
    rows = {}
    for variant in VARIANTS:
        if (lacking := _lacking_bytes(variant, shape)) > 0:
            print(f"{variant:8} skipped: {lacking / 1e9:.1f} GB more memory needed than is free")
        elif row := _measure_apart(variant):
            rows[variant] = row
            _print_row(row)
    if "fused" in rows:
        print(f"extra memory at most {GOAL_EXTRA_BYTES / 1e9} GB: {rows['fused'].extra_bytes <= GOAL_EXTRA_BYTES}")
    if {"fused", "naive"} <= rows.keys():
        print(f"time at most the naive head's: {rows['fused'].seconds <= rows['naive'].seconds}")
    if args.json:
        args.json.write_text(json.dumps({"shape": asdict(shape), "rows": [asdict(row) for row in rows.values()]}))


if __name__ == "__main__":
    main()
