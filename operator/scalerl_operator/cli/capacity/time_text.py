"""The times of a run as lines of text. PURE."""

from collections.abc import Sequence

from scalerl_operator.capacity.cpu_rates import CpuTime
from scalerl_operator.capacity.run_time import EvalTime, RunTime
from scalerl_operator.capacity.split import GpuSplit
from scalerl_operator.capacity.trainer_speed import FlopsShare

LABEL_WIDTH = 16
LIMITS = {
    "trainer": "the trainer is the slower side",
    "generators": "the generators are the slower side",
    "lag": "maxLag is the limit: a step waits for the longest completion",
    "turns": "sampling and training take turns",
}


def describe_time(found: RunTime, *, price: float | None, split: GpuSplit | None) -> list[str]:
    """Return the lines. `price`: of a GPU-hour, in any currency; `split`: the best one of the same number of GPUs."""
    rows = [
        ("step", _step(found)),
        ("trainer", _trainer(found)),
        ("generators", _generators(found)),
        ("evaluation", describe_evaluation(found)),
        ("weight update", _push(found)),
        ("checkpoint", _checkpoint(found)),
        ("whole run", _budget(found, price)),
    ]
    if split is not None:
        rows.append(("split", _split(found, split)))
    rows += [("assumed", line) for line in list_assumptions(found)]
    return [f"{name:{LABEL_WIDTH}}{text}" for name, text in rows]


def describe_evaluation(found: RunTime) -> str:
    """Return one line on the evaluation."""
    evaluation = found.evaluation
    engines = f"{evaluation.engines} of {found.engines} engines" if found.engines > 1 else "a share of the engine"
    text = f"{format_seconds(evaluation.seconds)} for {evaluation.samples:,} completions on {engines}"
    text += f", {evaluation.share:.0%} of all completions"
    if evaluation.is_late:
        text += f"; {describe_late(evaluation)}"
    return text


def describe_late(evaluation: EvalTime) -> str:
    """Return what limits an evaluation that is late, and the part that it measures."""
    limit = f"the {format_seconds(evaluation.interval_seconds)} between two"
    if evaluation.deadline_seconds < evaluation.interval_seconds:
        limit = f"the {format_seconds(evaluation.deadline_seconds)} of deadlines.evalSeconds"
    if evaluation.is_repeated:
        return f"longer than {limit}, with too few prompts by then: each is repeated when training is over"
    return f"longer than {limit}, so each measures about {evaluation.part:.0%} of the prompts"


def list_assumptions(found: RunTime) -> list[str]:
    """Return what the spec does not say and the numbers rest on."""
    basis = found.basis
    lines = [basis.lengths.source, describe_share(basis.flops_share)]
    if basis.trained_share < 1:
        lines.append(f"{basis.trained_share:.0%} of the completions train; groups of equal rewards are dropped")
    else:
        lines.append("every completion trains; groups of equal rewards that are dropped shorten the trainer's step")
    return lines


def describe_share(share: FlopsShare) -> str:
    """Return one line on the trainer's speed."""
    if share.mfu is not None:
        return f"MFU {share.mfu:g} of the trainer ({share.source})"
    return (
        f"the trainer reaches {share.products:.2f} of the device's operations in products, {share.attention:.2f} in "
        f"attention ({share.source})"
    )


def format_seconds(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.{2 if seconds < 10 else 1 if seconds < 120 else 0}f} {unit}"
    return f"{seconds / 86_400:.1f} days"


def _step(found: RunTime) -> str:
    text = f"{format_seconds(found.step.seconds)}; {LIMITS[found.step.limit]}"
    text += f"; idle: trainer {found.step.trainer_idle:.0%}, generators {found.step.generator_idle:.0%}"
    if found.seconds > found.step.seconds * 1.001:
        text += f". {format_seconds(found.seconds)} on average, with the engines that evaluations take"
    return text


def _trainer(found: RunTime) -> str:
    train = found.train
    parts = {
        "computing": train.compute,
        "links": train.links,
        "sharing rows": train.exchange,
        "weights to all ranks": train.weights,
        "optimizer": train.optimizer,
        "host memory": train.offload,
        "launches": train.launches,
    }
    named = ", ".join(
        f"{name} {format_seconds(value)}" for name, value in parts.items() if value >= 0.005 * train.seconds
    )
    rate = train.tokens / train.seconds
    return f"{rate:,.0f} tokens/s, {rate / found.trainer_gpus:,.0f} a GPU, MFU {found.mfu:.2f}; {named}"


def _generators(found: RunTime) -> str:
    full = f"{found.engines} engines of {found.sequences:.0f} sequences (the limit is {found.sequence_limit})"
    rate = f"{found.engine_tokens_per_second:,.0f} tokens/s each when full"
    return f"{full}: {rate}; {found.step.running:.0f} run on average"


def _push(found: RunTime) -> str:
    push = found.push
    return (
        f"{push.num_bytes / 1e9:.1f} GB, {format_seconds(push.seconds)} after a step; engines stand still "
        f"{format_seconds(push.transfer_seconds)}, the trainer {format_seconds(push.copy_seconds)}"
    )


def _checkpoint(found: RunTime) -> str:
    checkpoint = found.checkpoint
    return (
        f"{checkpoint.num_bytes / 1e9:.0f} GB; the trainer waits {format_seconds(checkpoint.pause_seconds)} for the "
        f"copy, once in {1 / checkpoint.per_step:.0f} steps"
    )


def _budget(found: RunTime, price: float | None) -> str:
    budget = found.budget
    text = f"{format_seconds(budget.seconds)}, {budget.gpu_hours:,.0f} GPU-hours on {budget.gpus} GPUs; "
    text += f"{budget.steps:,} steps, ended by budget.{budget.ends_by}"
    return text if price is None else f"{text}; cost {budget.gpu_hours * price:,.0f} at {price:g} a GPU-hour"


def _split(found: RunTime, split: GpuSplit) -> str:
    now = f"now {found.trainer_gpus}:{found.generator_gpus}, {format_seconds(found.seconds)} a step"
    if split.seconds >= found.seconds * 0.99:
        return f"{now}; no other split of these GPUs is faster"
    return f"{now}; {split.trainer_gpus}:{split.generator_gpus} would give {format_seconds(split.seconds)}"


def describe_cpu_time(found: CpuTime, basis: Sequence[str], *, price: float | None) -> list[str]:
    """Return the lines of a run on CPU cores. `basis`: what the numbers rest on."""
    cpu = found.cpu
    cost = "" if price is None else f"; cost {found.device_hours * price:,.2f} at {price:g} a device-hour"
    rows = [
        (
            "step",
            f"{format_seconds(found.seconds)} on {found.cores} cores, {found.tokens_per_second:,.0f} sampled tokens/s",
        ),
        (
            "CPU-seconds",
            f"{cpu.total:.3g} a step: trainer {cpu.trainer:.3g}, engine {cpu.engine:.3g}, "
            f"loop and verifiers {cpu.loop:.3g}",
        ),
        ("engine", f"{found.running:.0f} sequences at once"),
        (
            "evaluation",
            f"{format_seconds(found.evaluation_seconds)} for {found.evaluation_samples:,} completions, "
            f"{found.evaluation_share:.0%} of all work",
        ),
        (
            "whole run",
            f"{format_seconds(found.whole_seconds)}, {found.device_hours:.3g} device-hours{cost}; starts not counted",
        ),
        *(("assumed", line) for line in basis),
    ]
    return [f"{name:{LABEL_WIDTH}}{text}" for name, text in rows]
