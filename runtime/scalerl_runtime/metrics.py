"""The runtime's metrics: one table of names, units and meanings, and the Prometheus registry. I/O.

`python -m scalerl_runtime.metrics` writes docs/metrics.md from the table.
"""

import argparse
import sys
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

PREFIX = "scalerl_"
LAG_BUCKETS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 32)


@dataclass(frozen=True)
class Metric:
    """One series; `name` is also its key in metrics.jsonl where it is measured once a step."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()


STEP_METRICS = (
    Metric("reward", "gauge", "-1..1", "mean reward of the step's completions"),
    Metric("loss", "gauge", "", "the step's objective"),
    Metric("grad_norm", "gauge", "", "norm of the gradient before clipping"),
    Metric("non_finite", "gauge", "0 or 1", "loss or gradient norm was no number; the update was left out"),
    Metric("learning_rate", "gauge", "", "rate of the step"),
    Metric("kl_coefficient", "gauge", "", "weight of the KL term"),
    Metric("entropy", "gauge", "nats", "mean entropy of the policy at the trained tokens"),
    Metric("step_seconds", "gauge", "s", "wall-clock from step to step"),
    Metric("train_seconds", "gauge", "s", "forward, backward and update"),
    Metric("wait_seconds", "gauge", "s", "trainer's wait for a batch"),
    Metric("tokens_per_second", "gauge", "tokens/s", "completion tokens that the step trained, over step_seconds"),
    Metric("trainer_tokens_per_second", "gauge", "tokens/s", "packed tokens over train_seconds, prompts included"),
    Metric("completion_tokens_mean", "gauge", "tokens", "mean completion length"),
    Metric("truncation_share", "gauge", "0..1", "completions cut at the limit"),
    Metric("zero_variance_share", "gauge", "0..1", "groups whose rewards are all equal"),
    Metric("effective_prompts", "gauge", "prompts", "groups that entered the loss"),
    Metric("forced_tokens", "gauge", "tokens", "tokens forced by interruptions, masked from the loss"),
    Metric("excluded_completions", "gauge", "completions", "those the verifier could not judge"),
    Metric("lag_mean", "gauge", "steps", "mean over tokens of trained version less sampled version"),
    Metric("lag_max", "gauge", "steps", "largest lag of a token"),
    Metric("ratio_clipped_share", "gauge", "0..1", "trained tokens whose importance ratio was capped or clipped"),
    Metric("ratio_max", "gauge", "", "largest importance ratio"),
    Metric("mismatch_kl", "gauge", "nats", "k3 estimate between generator and trainer"),
    Metric("mismatch_outside", "gauge", "0..1", "tokens with a ratio outside 0.9 to 1.1"),
    Metric("rank_imbalance", "gauge", "0..1", "largest rank's work over the mean, less 1"),
    Metric("padding_share", "gauge", "0..1", "tokens that idle rows add"),
    Metric("idle_fraction_trainer", "gauge", "0..1", "share of device time without work, this attempt"),
    Metric("idle_fraction_generator", "gauge", "0..1", "share of device time without work, this attempt"),
    Metric("weight_sync_seconds", "gauge", "s", "last update: gathering, sending and loading"),
    Metric("weight_gather_seconds", "gauge", "s", "last update: copying the weights aside; the trainer waits"),
    Metric("weight_send_seconds", "gauge", "s", "last update: on the wire; nobody waits"),
    Metric("weight_stall_seconds", "gauge", "s", "last update: longest stop of an engine"),
    Metric("buffered_groups", "gauge", "groups", "complete, not yet trained"),
    Metric("in_flight_groups", "gauge", "groups", "being generated"),
    Metric("generator_tokens_per_second", "gauge", "tokens/s", "tokens sampled since the last step, evaluations too"),
    Metric("excluded_prompts", "gauge", "prompts", "prompts that no-positive-resampling has removed"),
)

STATE_METRICS = (
    Metric("step", "gauge", "steps", "optimizer steps done"),
    Metric("version", "gauge", "steps", "version of the trainer's weights"),
    Metric("compute_gpu_hours", "gauge", "h", "GPU-hours (device-hours on CPU) of the surviving history"),
    Metric("gpu_seconds_total", "counter", "s", "device time of this attempt", ("role", "phase")),
    Metric("pass_rate", "gauge", "0..1", "last evaluation", ("dataset",)),
    Metric("pass_rate_standard_error", "gauge", "0..1", "its standard error", ("dataset",)),
    Metric("token_lag", "histogram", "steps", "lag of trained tokens"),
    Metric("checkpoint_step", "gauge", "steps", "last durable checkpoint"),
    Metric("generators_ready", "gauge", "", "generators that serve"),
    Metric("generator_restarts_total", "counter", "", "generators started again in this attempt"),
    Metric("forced_mismatches_total", "counter", "", "completions whose forced phrase was not where it must be"),
    Metric("verifier_failures_total", "counter", "", "completions that a verifier could not judge"),
    Metric("mismatch_kl_by_lag", "gauge", "nats", "k3 estimate, split by token lag", ("lag",)),
    Metric("mismatch_abs_by_lag", "gauge", "nats", "mean absolute difference of log-probability", ("lag",)),
)


class _LagHistogram(Collector):
    """Tokens by lag. prometheus_client's own histogram takes one token at a time; a step has millions."""

    def __init__(self, metric: Metric):
        self._metric = metric
        self._counts = [0] * (len(LAG_BUCKETS) + 1)
        self._sum = 0

    def add(self, counts: Sequence[int]) -> None:
        for lag, count in enumerate(counts):
            self._counts[bisect_left(LAG_BUCKETS, lag)] += count
            self._sum += lag * count

    def collect(self) -> Iterator[HistogramMetricFamily]:
        bounds = [str(float(bound)) for bound in LAG_BUCKETS] + ["+Inf"]
        running = list(zip(bounds, accumulate(map(float, self._counts)), strict=True))
        yield HistogramMetricFamily(
            PREFIX + self._metric.name, self._metric.meaning, buckets=running, sum_value=self._sum
        )


class Publisher:
    """The registry behind `/metrics`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._series: dict[str, Gauge | Counter] = {}
        for metric in (*STEP_METRICS, *STATE_METRICS):
            name, text = PREFIX + metric.name, f"{metric.meaning} ({metric.unit})" if metric.unit else metric.meaning
            if metric.kind == "gauge":
                self._series[metric.name] = Gauge(name, text, metric.labels, registry=self.registry)
            elif metric.kind == "counter":
                self._series[metric.name] = Counter(name, text, metric.labels, registry=self.registry)
            else:
                self._lags = _LagHistogram(metric)
                self.registry.register(self._lags)

    def set(self, values: Mapping[str, float]) -> None:
        """Set gauges by name."""
        for name, value in values.items():
            series = self._series[name]
            assert isinstance(series, Gauge), f"{name} is not a gauge"
            series.set(value)

    def set_labelled(self, name: str, label: str, value: float) -> None:
        """Set a gauge with one label."""
        series = self._series[name]
        assert isinstance(series, Gauge), f"{name} is not a gauge"
        series.labels(label).set(value)

    def raise_to(self, name: str, value: float, *labels: str) -> None:
        """Bring a counter up to `value`; it never falls."""
        series = self._series[name]
        assert isinstance(series, Counter), f"{name} is not a counter"
        target = series.labels(*labels) if labels else series
        target.inc(max(0.0, value - target._value.get()))

    def observe_lags(self, counts: Sequence[int]) -> None:
        """Add trained tokens; `counts[lag]` have that lag."""
        self._lags.add(counts)

    def render(self) -> bytes:
        """Prometheus text."""
        return generate_latest(self.registry)


def document() -> str:
    """docs/metrics.md."""
    lines = [
        "# Metrics of a run",
        "",
        "Made by `make generate` from `runtime/scalerl_runtime/metrics.py`; do not edit.",
        "",
        "The leader serves them at `/metrics`. Those measured once a step are also the keys of `values` in",
        "`metrics.jsonl`, without the prefix. On a CPU a device is one replica's process.",
    ]
    for title, table in (("Once a step", STEP_METRICS), ("State", STATE_METRICS)):
        lines += ["", f"## {title}", "", "| name | kind | unit | labels | meaning |", "|---|---|---|---|---|"]
        lines += [f"| `{PREFIX}{m.name}` | {m.kind} | {m.unit} | {', '.join(m.labels)} | {m.meaning} |" for m in table]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the page, or with --check say whether it is stale."""
    parser = argparse.ArgumentParser(description="Write docs/metrics.md from the table of metrics.")
    parser.add_argument("--check", action="store_true", help="exit 1 if the page is stale")
    parser.add_argument("--out", type=Path, default=Path("docs/metrics.md"))
    arguments = parser.parse_args()
    if arguments.check:
        fresh = arguments.out.exists() and arguments.out.read_text() == document()
        sys.stderr.write("" if fresh else f"{arguments.out} is stale; run `make generate`\n")
        return 0 if fresh else 1
    arguments.out.write_text(document())
    return 0


if __name__ == "__main__":
    sys.exit(main())
