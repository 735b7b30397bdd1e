"""The runtime's metrics: one table of names, units and meanings, and the Prometheus registry. I/O.

`python -m scalerl_runtime.process.metrics` writes docs/metrics.md from the table.
"""

import sys
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from scalerl_api.pages.generated_page import write_page
from scalerl_api.wire import (
    EVAL_LABELS,
    EVAL_SERIES,
    SERIES_EARLIER,
    SERIES_PHASE,
    SERIES_PREFIX,
    SERIES_SPENT,
    EvalPoint,
)

LAG_BUCKETS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 32)
EVAL_POINTS = 256  # newest evaluations with series: 1,280 of them; the paper's 75 on three test sets are 225


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
    Metric("non_finite", "gauge", "0 or 1", "loss or gradient norm was not finite; the update was skipped"),
    Metric("learning_rate", "gauge", "", "rate of the step"),
    Metric("kl_coefficient", "gauge", "", "weight of the KL term"),
    Metric("entropy", "gauge", "nats", "mean entropy of the policy at the trained tokens"),
    Metric("step_seconds", "gauge", "s", "wall-clock from step to step"),
    Metric("train_seconds", "gauge", "s", "forward, backward and update"),
    Metric("wait_seconds", "gauge", "s", "trainer's wait for a batch"),
    Metric("tokens_per_second", "gauge", "tokens/s", "completion tokens trained in the step, over step_seconds"),
    Metric("trainer_tokens_per_second", "gauge", "tokens/s", "packed tokens over train_seconds, prompts included"),
    Metric("completion_tokens_mean", "gauge", "tokens", "mean completion length"),
    Metric("truncation_share", "gauge", "0..1", "completions cut at the limit"),
    Metric("zero_variance_share", "gauge", "0..1", "groups whose rewards are all equal"),
    Metric("effective_prompts", "gauge", "prompts", "groups that entered the loss"),
    Metric("forced_tokens", "gauge", "tokens", "tokens forced by interruptions, masked from the loss"),
    Metric("episode_turns_mean", "gauge", "turns", "mean number of the policy's turns in an episode"),
    Metric("tool_errors", "gauge", "turns", "turns that the environment marked as errors"),
    Metric("observation_share", "gauge", "0..1", "tokens of episodes that the environment wrote, masked from the loss"),
    Metric("cut_observations", "gauge", "observations", "observations cut at `observationTokens`"),
    Metric(
        "excluded_completions",
        "gauge",
        "completions",
        "left out: no reward, or a log-probability is not finite",
    ),
    Metric("lag_mean", "gauge", "steps", "mean over tokens of trained version less sampled version"),
    Metric("lag_max", "gauge", "steps", "largest lag of a token"),
    Metric("ratio_clipped_share", "gauge", "0..1", "trained tokens whose importance ratio was capped or clipped"),
    Metric("ratio_max", "gauge", "", "largest importance ratio"),
    Metric("mismatch_kl", "gauge", "nats", "k3 estimate between generator and trainer"),
    Metric("mismatch_outside", "gauge", "0..1", "tokens with a ratio outside 0.9 to 1.1"),
    Metric(
        "mismatch_lag0",
        "gauge",
        "nats",
        "mean absolute difference of log-probability, over completions that the trained version sampled",
    ),
    Metric("rank_imbalance", "gauge", "0..1", "largest rank's work over the mean, less 1"),
    Metric("padding_share", "gauge", "0..1", "tokens that idle rows add"),
    Metric("idle_fraction_trainer", "gauge", "0..1", "share of device time without work, this attempt"),
    Metric("idle_fraction_generator", "gauge", "0..1", "share of device time without work, this attempt"),
    Metric("weight_sync_seconds", "gauge", "s", "last update: gathering, sending and loading"),
    Metric("weight_gather_seconds", "gauge", "s", "last update: copying the weights; the trainer waits"),
    Metric("weight_send_seconds", "gauge", "s", "last update: sending; neither side waits"),
    Metric("weight_stall_seconds", "gauge", "s", "last update: longest pause of an engine"),
    Metric("buffered_groups", "gauge", "groups", "complete, not yet trained"),
    Metric("in_flight_groups", "gauge", "groups", "being generated"),
    Metric("generator_tokens_per_second", "gauge", "tokens/s", "tokens sampled since the last step, evaluations too"),
    Metric("excluded_prompts", "gauge", "prompts", "prompts removed by no-positive-resampling"),
)

STATE_METRICS = (
    Metric("step", "gauge", "steps", "optimizer steps done"),
    Metric("version", "gauge", "steps", "version of the trainer's weights"),
    Metric("compute_gpu_hours", "gauge", "h", "GPU-hours (device-hours on CPU) of the surviving history"),
    Metric(SERIES_PHASE, "gauge", "", "1 for the current phase", (SERIES_PHASE,)),
    Metric(SERIES_SPENT, "counter", "s", "device time of this attempt", ("role", "phase")),
    Metric(SERIES_EARLIER, "gauge", "s", "device time of the attempts before this one", ("role",)),
    Metric("pass_rate", "gauge", "0..1", "last evaluation", ("dataset",)),
    Metric("pass_rate_standard_error", "gauge", "0..1", "its standard error", ("dataset",)),
    Metric("eval_prompts", "gauge", "prompts", "of all test sets of the evaluation that runs"),
    Metric("eval_prompts_done", "gauge", "prompts", "of these, sampled and graded"),
    Metric("eval_rate_so_far", "gauge", "0..1", "its pass rate so far, of the held-out prompts"),
    Metric("eval_rate_so_far_error", "gauge", "0..1", "standard error of that"),
    Metric("late_evaluations_total", "counter", "", "evaluations that ended with a part, or are repeated"),
    Metric("token_lag", "histogram", "steps", "lag of trained tokens"),
    Metric("checkpoint_step", "gauge", "steps", "last durable checkpoint"),
    Metric("generators_ready", "gauge", "", "generators that serve the run's weights"),
    Metric("generator_restarts_total", "counter", "", "generators started again in this attempt"),
    Metric("forced_mismatches_total", "counter", "", "completions whose forced phrase is at the wrong position"),
    Metric("refused_prompts_total", "counter", "", "prompts that an engine refused: left out, and named in the log"),
    Metric("verifier_failures_total", "counter", "", "completions for which the verifier failed"),
    Metric("verifier_timeouts_total", "counter", "", "completions that are wrong because their check took too long"),
    Metric("reward_by_judge", "gauge", "-1..1", "last step's mean reward of one verifier", ("judge",)),
    Metric("mismatch_kl_by_lag", "gauge", "nats", "k3 estimate, split by token lag", ("lag",)),
    Metric("mismatch_abs_by_lag", "gauge", "nats", "mean absolute difference of log-probability", ("lag",)),
    Metric("mismatch_bound", "gauge", "nats", "bound of `watchdog.mismatch` on mismatch_lag0"),
    Metric("self_check_mean", "gauge", "nats", "last self-check: mean absolute difference, engine to trainer"),
    Metric("preflight_seconds", "gauge", "s", "duration of the preflight of the trainer ranks"),
    Metric("preflight_teraflops", "gauge", "TFLOP/s", "preflight: matrix product of the median trainer rank"),
    Metric("preflight_slowest_teraflops", "gauge", "TFLOP/s", "preflight: matrix product of the slowest trainer rank"),
    Metric("preflight_bandwidth", "gauge", "GB/s", "preflight: all-reduce over all trainer ranks, bus bandwidth"),
    Metric("preflight_node_bandwidth", "gauge", "GB/s", "preflight: all-reduce within the slowest node, bus bandwidth"),
    Metric("self_check_max", "gauge", "nats", "last self-check: largest absolute difference"),
)


EVAL_MEANINGS = {
    "pass_rate": ("0..1", "pass rate"),
    "standard_error": ("0..1", "its standard error, clustered by prompt"),
    "compute_gpu_hours": ("h", "compute of the run when the evaluated step ended"),
    "mean_tokens": ("tokens", "mean completion length"),
    "entropy": ("nats", "entropy of the policy, estimated"),
}
EVAL_METRICS = tuple(Metric(f"eval_{name}", "gauge", *EVAL_MEANINGS[name], tuple(EVAL_LABELS)) for name in EVAL_SERIES)

Values = dict[tuple[str, ...], float]
"""The samples of one metric, by its labels' values."""


class _Table(Collector):
    """Gauges and counters. A metric without a measurement has no sample; prometheus_client's own gauges begin at 0."""

    def __init__(self, metrics: Sequence[Metric]):
        self._metrics = metrics
        self.values: dict[str, Values] = {metric.name: {} for metric in metrics}

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        for metric in self._metrics:
            make = GaugeMetricFamily if metric.kind == "gauge" else CounterMetricFamily
            text = f"{metric.meaning} ({metric.unit})" if metric.unit else metric.meaning
            family = make(SERIES_PREFIX + metric.name, text, labels=metric.labels)
            for labels, value in self.values[metric.name].items():
                family.add_metric(labels, value)
            yield family


class _LagHistogram(Collector):
    """Tokens by lag. prometheus_client's histogram observes one token at a time, and a step has millions."""

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
            SERIES_PREFIX + self._metric.name, self._metric.meaning, buckets=running, sum_value=self._sum
        )


class Publisher:
    """The registry behind `/metrics`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        metrics = (*STEP_METRICS, *STATE_METRICS)
        self._kinds = {metric.name: metric.kind for metric in metrics}
        self._table = _Table([metric for metric in metrics if metric.kind != "histogram"])
        self._evals = _Table(EVAL_METRICS)
        (lags,) = [metric for metric in metrics if metric.kind == "histogram"]
        self._lags = _LagHistogram(lags)
        for each in (self._table, self._evals, self._lags):
            self.registry.register(each)

    def set(self, values: Mapping[str, float]) -> None:
        """Set gauges by name."""
        for name, value in values.items():
            self._of(name, "gauge")[()] = value

    def unset(self, *names: str) -> None:
        """Drop gauges that have no value any more."""
        for name in names:
            self._of(name, "gauge").clear()

    def set_labelled(self, name: str, label: str, value: float) -> None:
        """Set a gauge with one label."""
        self._of(name, "gauge")[label,] = value

    def choose(self, name: str, label: str) -> None:
        """Set a gauge to 1 for this label and drop its other labels."""
        series = self._of(name, "gauge")
        series.clear()
        series[label,] = 1.0

    def raise_to(self, name: str, value: float, *labels: str) -> None:
        """Raise a counter to `value`; it never falls."""
        series = self._of(name, "counter")
        series[labels] = max(value, series.get(labels, 0.0))

    def _of(self, name: str, kind: str) -> Values:
        assert self._kinds[name] == kind, f"{name} is not a {kind}"
        return self._table.values[name]

    def observe_lags(self, counts: Sequence[int]) -> None:
        """Add trained tokens; `counts[lag]` have that lag."""
        self._lags.add(counts)

    def show_evals(self, points: Sequence[EvalPoint]) -> None:
        """Set the series of the newest EVAL_POINTS points, so that a missed scrape loses none."""
        newest = points[-EVAL_POINTS:]
        for name in EVAL_SERIES:
            found = [(eval_labels(point), getattr(point, name)) for point in newest]
            self._evals.values[f"eval_{name}"] = {labels: value for labels, value in found if value is not None}

    def render(self) -> bytes:
        """Prometheus text."""
        return generate_latest(self.registry)


def eval_labels(point: EvalPoint) -> tuple[str, ...]:
    """Return the values of EVAL_LABELS."""
    return tuple(str(getattr(point, field)) for field in EVAL_LABELS.values())


def document() -> str:
    """docs/metrics.md."""
    lines = [
        "# Metrics of a run",
        "",
        "Made by `make generate` from `runtime/scalerl_runtime/process/metrics.py`; do not edit.",
        "",
        "The coordinator serves them at `/metrics`. Those measured once a step are also the keys of `values` in",
        "`metrics.jsonl`, without the prefix. On a CPU a device is one replica's process. A metric without a",
        f"measurement has no series. Each of the newest {EVAL_POINTS} evaluations has its own series, so that a missed",
        "scrape loses none.",
    ]
    tables = (("Once a step", STEP_METRICS), ("State", STATE_METRICS), ("Evaluations", EVAL_METRICS))
    for title, table in tables:
        lines += ["", f"## {title}", "", "| name | kind | unit | labels | meaning |", "|---|---|---|---|---|"]
        lines += [
            f"| `{SERIES_PREFIX}{m.name}` | {m.kind} | {m.unit} | {', '.join(m.labels)} | {m.meaning} |" for m in table
        ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the page; with --check, exit 1 if it is stale."""
    return write_page("docs/metrics.md", document)


if __name__ == "__main__":
    sys.exit(main())
