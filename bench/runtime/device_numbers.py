"""Numbers of one device: products, attention, head, packing, checksums, copies, optimizer, memory of a training step.

`tests/gpu/lease.sh` runs it on a device that is lent for minutes; `--small` runs every line on the CPU with small
sizes. Each part's numbers are written as soon as it ends, so that a part that fails or a lease that is over costs the
later parts alone. `python bench/runtime/device_numbers.py --write FILE.json` writes the table of docs/gpu.md from the
result.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from activation_memory import LAYERS, SHAPES, measure_kept
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from scalerl_runtime.actors.activations import arrange_activations
from scalerl_runtime.actors.packed_row import PackedRow, plan_row
from scalerl_runtime.actors.policy import Policy
from scalerl_runtime.actors.varlen_attention import ATTENTION_NAME, attend_row, register_attention
from scalerl_runtime.algorithm.head import linear_logprob, plan_chunk
from scalerl_runtime.weights.checksums import checksums

PAGE = Path(__file__).parents[2] / "docs/gpu.md"
BEGIN, END = "<!-- device numbers -->\n", "<!-- end of device numbers -->\n"
Numbers = dict[str, float]


@dataclass(frozen=True)
class Sizes:
    """The sizes of the measurements; `repeats` calls are timed after one that is not."""

    device: str
    rows: int  # of square matrices
    tokens: int  # of a packed row
    heads: int
    vocabulary: int
    hidden: int
    megabytes: int  # of copies and checksums
    parameters: int  # of the optimizer
    shape: str  # of the model that trains
    layers: int
    repeats: int


DEVICE = Sizes("cuda", 8192, 16_384, 32, 151_936, 4096, 1024, 2**30, "Qwen3-0.6B", LAYERS["Qwen3-0.6B"], 5)
SMALL = Sizes("cpu", 256, 96, 4, 512, 64, 4, 2**16, "Qwen3-0.6B", 2, 2)


def time_call(work: Callable[[], object], sizes: Sizes) -> float:
    """Return the median seconds of one call, after one that compiles and allocates."""
    times = []
    for _ in range(1 + sizes.repeats):
        wait(sizes)
        began = time.perf_counter()
        work()
        wait(sizes)
        times.append(time.perf_counter() - began)
    return sorted(times[1:])[sizes.repeats // 2]


def wait(sizes: Sizes) -> None:
    """Wait for the device."""
    if sizes.device == "cuda":
        torch.cuda.synchronize()


def measure_product(sizes: Sizes) -> Numbers:
    """Return the rate of a bf16 matrix product."""
    left, right = (torch.randn(sizes.rows, sizes.rows, device=sizes.device).bfloat16() for _ in range(2))
    seconds = time_call(lambda: left @ right, sizes)
    return {"matrix product, bf16 (TFLOP/s)": 2 * sizes.rows**3 / seconds / 1e12}


def measure_attention(sizes: Sizes) -> Numbers:
    """Return rates of causal attention, forward and backward, for one long and for packed sequences."""
    found: Numbers = {}
    for name, count in (("one sequence", 1), ("8 sequences", 8)):
        lengths = torch.full((count,), sizes.tokens // count, device=sizes.device)
        row = plan_row(torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]))
        query, key, value = (
            torch.randn(sizes.tokens, sizes.heads, 128, device=sizes.device).bfloat16().requires_grad_()
            for _ in range(3)
        )

        def step(row: PackedRow = row, parts: tuple[Tensor, ...] = (query, key, value)) -> None:
            torch.autograd.backward([attend_row(parts[0], parts[1], parts[2], row).sum()])

        work = (
            3.5 * 2.0 * sizes.tokens * (sizes.tokens // count) * sizes.heads * 128
        )  # causal; backward is 2.5 forwards
        found[f"attention with backward, {name} (TFLOP/s)"] = work / time_call(step, sizes) / 1e12
    return found


def measure_head(sizes: Sizes) -> Numbers:
    """Return time and memory of the fused head."""
    hidden = torch.randn(sizes.tokens, sizes.hidden, device=sizes.device).bfloat16().requires_grad_()
    weight = (0.02 * torch.randn(sizes.vocabulary, sizes.hidden, device=sizes.device)).bfloat16().requires_grad_()
    target = torch.randint(0, sizes.vocabulary, (sizes.tokens,), device=sizes.device)
    chunk = plan_chunk(sizes.vocabulary)

    def step() -> None:
        logp, _ = linear_logprob(hidden, weight, target, precision="fp32", chunk=chunk)
        torch.autograd.backward([logp.sum()])

    seconds, peak = time_call(step, sizes), peak_bytes(step, sizes)
    return {"head with backward, fp32 (ms)": 1e3 * seconds, "head, memory beside its inputs (GiB)": peak / 2**30}


def peak_bytes(work: Callable[[], object], sizes: Sizes) -> float:
    """Return the device memory (bytes) that `work` takes beside what was allocated; 0 on the CPU, which counts none."""
    if sizes.device != "cuda":
        work()
        return 0.0
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    return float(torch.cuda.max_memory_allocated() - before)


def measure_transfers(sizes: Sizes) -> Numbers:
    """Return rates of checksums and of copies between host and device."""
    count = sizes.megabytes * 2**20
    on_device = torch.zeros(count, dtype=torch.uint8, device=sizes.device)
    on_host = torch.zeros(count, dtype=torch.uint8)
    pinned = on_host.pin_memory() if sizes.device == "cuda" else on_host.clone()
    gigabytes = count / 1e9
    calls: Mapping[str, Callable[[], object]] = {
        "checksum on the device": partial(checksums, [on_device]),
        "checksum on the host": partial(checksums, [on_host]),
        "copy within the device": on_device.clone,
        "copy to the device, pinned": partial(on_device.copy_, pinned),
        "copy to the host, pinned": partial(pinned.copy_, on_device),
        "copy to the host, pageable": partial(on_host.copy_, on_device),
    }
    return {f"{name} (GB/s)": gigabytes / time_call(call, sizes) for name, call in calls.items()}


def measure_optimizer(sizes: Sizes) -> Numbers:
    """Return time of AdamW on float32 weights."""
    weight = torch.nn.Parameter(torch.zeros(sizes.parameters, device=sizes.device))
    weight.grad = torch.ones_like(weight)
    optimizer = torch.optim.AdamW([weight], lr=1e-6, fused=True)
    seconds = time_call(optimizer.step, sizes)
    return {"AdamW, fused, float32 (ms per 1e9 parameters)": 1e3 * seconds * 1e9 / sizes.parameters}


def measure_training(sizes: Sizes) -> Numbers:
    """Return speed and memory of forward and backward over a packed row, by `trainer.activations`."""
    found: Numbers = {}
    predicted = {each: measure_kept(SHAPES[sizes.shape], each) for each in ("keep", "checkpoint")}
    for activations in ("keep", "checkpoint"):
        policy = make_policy(sizes)
        arrange_activations(policy.model, activations)
        step = partial(train_once, policy, make_row(sizes))
        seconds = time_call(step, sizes)
        peak = peak_bytes(step, sizes)
        per_token = 6.0 * sum(parameter.numel() for parameter in policy.model.parameters())
        found[f"forward and backward, {activations} (tokens/s)"] = sizes.tokens / seconds
        found[f"the same, of the matrix product's rate with 6 N per token ({activations}, TFLOP/s)"] = (
            per_token * sizes.tokens / seconds / 1e12
        )
        found[f"memory of a step beside weights and gradients, {activations} (GiB)"] = peak / 2**30
        kept = predicted[activations]
        found[f"predicted activations, {activations} (GiB)"] = kept.per_layer * sizes.layers * sizes.tokens / 2**30
        del policy, step
    return found


def make_policy(sizes: Sizes) -> Policy:
    """Return a bf16 policy with random weights."""
    register_attention()
    config = AutoConfig.for_model(
        "qwen3",
        num_hidden_layers=sizes.layers,
        head_dim=128,
        vocab_size=sizes.vocabulary,
        tie_word_embeddings=True,
        **SHAPES[sizes.shape],
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation=ATTENTION_NAME)
    model.eval()
    return Policy(model.to(sizes.device), precision="fp32", temperature=1.0)


def make_row(sizes: Sizes) -> tuple[Tensor, ...]:
    """Return a packed row of eight sequences, of which every token but the first ones is trained."""
    length = sizes.tokens // 8
    tokens = torch.randint(0, sizes.vocabulary, (sizes.tokens,), device=sizes.device)
    positions = torch.arange(sizes.tokens, device=sizes.device) % length
    bounds = torch.arange(0, sizes.tokens + 1, length, device=sizes.device)
    trained = torch.arange(sizes.tokens, device=sizes.device)[positions > 0]
    return tokens, positions, bounds, trained - 1, tokens[trained]


def train_once(policy: Policy, row: tuple[Tensor, ...]) -> None:
    """Run one forward and backward."""
    logp, _ = policy(*row)
    torch.autograd.backward([logp.mean()])


PARTS: Mapping[str, Callable[[Sizes], Numbers]] = {
    "product": measure_product,
    "attention": measure_attention,
    "head": measure_head,
    "transfers": measure_transfers,
    "optimizer": measure_optimizer,
    "training": measure_training,
}


def measure(sizes: Sizes, part: str, file: Path) -> None:
    """Run one part and add its numbers to `file`."""
    known: dict[str, object] = json.loads(file.read_text()) if file.exists() else {"numbers": {}}
    numbers = known["numbers"]
    assert isinstance(numbers, dict)
    began = time.monotonic()
    numbers[part] = PARTS[part](sizes)
    known["device"] = torch.cuda.get_device_name() if sizes.device == "cuda" else "CPU (dry run)"
    known["torch"] = str(torch.__version__)
    file.write_text(json.dumps(known, indent=1) + "\n")
    print(f"{part}: {time.monotonic() - began:.1f} s", json.dumps(numbers[part]))


def build_table(known: Mapping[str, object]) -> str:
    """Return the section of docs/gpu.md. Raises ValueError for the numbers of a dry run."""
    if "dry run" in str(known["device"]):
        raise ValueError(f"{known['device']}: these are not a device's numbers")
    numbers = known["numbers"]
    assert isinstance(numbers, dict)
    lines = [f"Measured on one {known['device']} with torch {known['torch']} by `tests/gpu/lease.sh`:", ""]
    lines += ["| what | number |", "|---|---|"]
    lines += [f"| {name} | {value:.4g} |" for part in numbers.values() for name, value in part.items()]
    return "\n".join(lines) + "\n"


def write_table(known: Mapping[str, object], page: Path) -> None:
    """Replace the section of `page` between the two marks."""
    text = page.read_text()
    head, rest = text.split(BEGIN)
    page.write_text(f"{head}{BEGIN}{build_table(known)}{END}{rest.split(END)[1]}")


def main(arguments: list[str] | None = None) -> int:
    """Measure parts, or write the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--small", action="store_true", help="on the CPU, with small sizes")
    parser.add_argument("--part", choices=PARTS, help="one part")
    parser.add_argument("--output", type=Path, help="JSON of all parts so far")
    parser.add_argument(
        "--write", type=Path, metavar="FILE.json", help="write the table of docs/gpu.md from this result"
    )
    options = parser.parse_args(arguments)
    if options.write is not None:
        write_table(json.loads(options.write.read_text()), PAGE)
        return 0
    if options.part is None or options.output is None:
        parser.error("--part and --output are needed to measure")
    measure(SMALL if options.small else DEVICE, options.part, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
