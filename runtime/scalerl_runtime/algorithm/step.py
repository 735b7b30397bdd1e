"""From the groups of a step to the ranks' micro-batches, and from their results to the step's record. PURE."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scalerl_api.policies import MISMATCH_TOKENS, WatchAction
from scalerl_runtime.algorithm.batch import Batch
from scalerl_runtime.algorithm.loss import LossStats
from scalerl_runtime.algorithm.microbatch import MicroBatch, TrainSequence, build_micro_batch
from scalerl_runtime.algorithm.mismatch import ALL, Mismatch, fresh_tokens, measure_mismatch, sampled_tokens
from scalerl_runtime.algorithm.packing import PackStats, plan_packs
from scalerl_runtime.algorithm.results import StepResult, SyncReport
from scalerl_runtime.algorithm.schedules import KlController
from scalerl_runtime.types import Floats, Ints


class NonFinite(RuntimeError):
    """Loss or gradient norm of a step is not finite; its update was skipped, and the step is not counted."""


@dataclass(frozen=True)
class PackedStep:
    """A step's work, by rank."""

    batches: tuple[tuple[MicroBatch, ...], ...]
    stats: PackStats
    tokens: int  # packed, prompts included


def pack(sequences: Sequence[TrainSequence], *, budget: int, ranks: int, quadratic: float) -> PackedStep:
    """Distribute sequences over the ranks' micro-batches; `budget` is the tokens of one."""
    plan = plan_packs([len(s.tokens) for s in sequences], budget=budget, ranks=ranks, quadratic=quadratic)
    batches = tuple(
        tuple(build_micro_batch([sequences[index] for index in row]) for row in rows) for rows in plan.packs
    )
    return PackedStep(batches, plan.stats, sum(len(s.tokens) for s in sequences))


def mismatch_of(packed: PackedStep, results: Sequence[StepResult]) -> dict[str, Mismatch]:
    """Trainer against generator over the sampled tokens of all ranks, by lag."""
    logp, logp_gen, lag = _compared(results)
    # A rank reports its first targets only.
    keep = [sampled_tokens(rows)[: len(r.logp)] for rows, r in zip(packed.batches, results, strict=True)]
    return measure_mismatch(logp, logp_gen, lag, np.concatenate(keep))


def fresh_mismatch(packed: PackedStep, results: Sequence[StepResult]) -> float | None:
    """Return the mean |difference| (nats) over completions that the trained version sampled; None: too few tokens."""
    logp, logp_gen, lag = _compared(results)
    keep = [fresh_tokens(rows)[: len(r.logp)] for rows, r in zip(packed.batches, results, strict=True)]
    found = measure_mismatch(logp, logp_gen, lag, np.concatenate(keep)).get(ALL)
    return found.abs_mean if found is not None and found.tokens >= MISMATCH_TOKENS else None


def _compared(results: Sequence[StepResult]) -> tuple[Floats, Floats, Ints]:
    logp, logp_gen, lag = (np.concatenate([getattr(r, name) for r in results]) for name in ("logp", "logp_gen", "lag"))
    return logp, logp_gen, lag


def step_values(batch: Batch, packed: PackedStep | None, results: Sequence[StepResult]) -> dict[str, float]:
    """The step's metrics by name.

    A metric that was not measured is absent. Without results the optimizer was skipped.
    """
    stats = batch.stats
    values = {
        "completion_tokens_mean": stats.completion_tokens_mean,
        "truncation_share": stats.truncation_share,
        "zero_variance_share": stats.zero_variance_share,
        "effective_prompts": float(len(batch.decision.kept)),
        "forced_tokens": float(stats.forced_tokens),
        "excluded_completions": float(stats.excluded),
        "lag_mean": stats.lag_mean,
        "lag_max": float(stats.lag_max),
    }
    if stats.reward_mean is not None:
        values["reward"] = stats.reward_mean
    if stats.episodes is not None:
        values |= stats.episodes.values()
    if packed is None or not results:
        return values
    total = sum((result.stats for result in results), LossStats())
    seconds = max(result.seconds for result in results)
    return values | {
        "loss": total.loss,
        "entropy": total.mean(total.entropy),
        "ratio_clipped_share": total.mean(total.clipped),
        "ratio_max": total.ratio_max,
        "mismatch_kl": total.mean(total.kl),
        "mismatch_outside": total.mean(total.outside),
        "grad_norm": results[0].grad_norm,
        "train_seconds": seconds,
        "trainer_tokens_per_second": packed.tokens / seconds,
        "rank_imbalance": packed.stats.imbalance,
        "padding_share": packed.stats.padding,
    }


def check_finite(values: Mapping[str, float], what: str, action: WatchAction) -> dict[str, float]:
    """Return those of a step's `values` that are finite, and `non_finite`: 1 if loss or gradient norm is not, else 0.

    Raises NonFinite for such a step, unless `action` is Warn: DeepSpeed skips an update whose gradient is not
    finite, so the weights are those of the previous step, and continuing does no harm.
    """
    found = [f"{name} is {values[name]}" for name in ("loss", "grad_norm") if not math.isfinite(values.get(name, 0.0))]
    if found and action != "Warn":
        raise NonFinite(f"{what}: {', '.join(found)}; its update was left out")
    return {**{k: v for k, v in values.items() if math.isfinite(v)}, "non_finite": float(bool(found))}


def follow_kl(controller: KlController, results: Sequence[StepResult]) -> KlController:
    """Return the KL controller after a step; one whose KL is no number teaches it nothing."""
    total = sum((result.stats for result in results), LossStats())
    kl = total.mean(total.kl)
    return controller.update(kl) if math.isfinite(kl) else controller


def measure(
    batch: Batch, packed: PackedStep | None, results: Sequence[StepResult], *, what: str, action: WatchAction
) -> tuple[dict[str, float], list[tuple[str, str, float]]]:
    """Return the step's metrics by name, and those that are split by lag. Raises NonFinite as `check_finite` does."""
    values = check_finite(step_values(batch, packed, results), what, action)
    if packed is None or not results or values["non_finite"]:
        return values, []
    fresh = fresh_mismatch(packed, results)
    values |= {"mismatch_lag0": fresh} if fresh is not None else {}
    return values, mismatch_values(mismatch_of(packed, results))


def mismatch_values(mismatch: Mapping[str, Mismatch]) -> list[tuple[str, str, float]]:
    """(metric, lag bucket, value) of the series that are split by lag."""
    found = []
    for bucket, each in mismatch.items():
        if bucket != ALL:
            found += [("mismatch_kl_by_lag", bucket, each.kl_k3), ("mismatch_abs_by_lag", bucket, each.abs_mean)]
    return found


def sync_values(report: SyncReport) -> dict[str, float]:
    """The last weight update's metrics."""
    return {
        "weight_sync_seconds": report.gather_seconds + report.send_seconds + report.stall_seconds,
        "weight_gather_seconds": report.gather_seconds,
        "weight_send_seconds": report.send_seconds,
        "weight_stall_seconds": report.stall_seconds,
    }
