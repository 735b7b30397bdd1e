"""The operator's own metrics, and those of its runs. I/O (prometheus_client's registry).

`python -m scalerl_operator.telemetry.metrics` writes docs/operator-metrics.md from them.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from scalerl_api import RLRunStatus
from scalerl_api.pages.generated_page import write_page
from scalerl_operator.reconcile.observed_run import Key
from scalerl_operator.reconcile.snapshot import PollResult
from scalerl_operator.telemetry.run_metrics import RUN_METRICS, RunMetricsView, list_samples

SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
RUN = ("namespace", "run")


class OperatorMetrics:
    """Everything that is counted; names are scalerl_operator_* for the operator and scalerl_run_* for its runs."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        on = self.registry
        self.reconciles = Counter("scalerl_operator_reconcile_total", "Passes over a run.", ["result"], registry=on)
        self.reconcile_seconds = Histogram(
            "scalerl_operator_reconcile_duration_seconds", "Time of one pass.", buckets=SECONDS, registry=on
        )
        self.wait_seconds = Histogram(
            "scalerl_operator_queue_wait_seconds",
            "Time that a run was due before its pass began.",
            buckets=SECONDS,
            registry=on,
        )
        self.depth = Gauge("scalerl_operator_queue_depth", "Runs that wait for a pass, due or not.", registry=on)
        self.retries = Counter(
            "scalerl_operator_retries_total", "Passes that failed and will be tried again.", registry=on
        )
        self.writes = Counter(
            "scalerl_operator_writes_total", "Writes to the API server.", ["verb", "kind"], registry=on
        )
        self.leader = Gauge("scalerl_operator_leader", "1 while this replica leads.", registry=on)
        self.watch_age = Gauge(
            "scalerl_operator_watch_age_seconds", "Time since the last sign of the watches.", registry=on
        )
        self.polls = Counter("scalerl_operator_polls_total", "Questions to coordinators.", ["result"], registry=on)
        self.readings = Counter(
            "scalerl_operator_prometheus_readings_total",
            "Readings of the Prometheus server about coordinators that do not answer: scraped, not_scraped, or failed.",
            ["result"],
            registry=on,
        )
        self.fits = Counter("scalerl_operator_fits_total", "Forecasts that were made.", registry=on)
        self.fit_seconds = Histogram(
            "scalerl_operator_fit_duration_seconds", "Time of judging a run's new points.", buckets=SECONDS, registry=on
        )
        self._start_at_zero()
        self._runs = _Runs()
        on.register(self._runs)

    def _start_at_zero(self) -> None:
        """Create the labelled series at 0, because `rate()` does not count the first value of a new series."""
        for counter, results in (
            (self.reconciles, ("done", "error")),
            (self.polls, ("answered", "missed")),
            (self.readings, ("scraped", "not_scraped", "failed")),
        ):
            for result in results:
                counter.labels(result)

    def render(self) -> bytes:
        """Return Prometheus' text. May be called in another thread: with 1,000 runs it takes a second."""
        return generate_latest(self.registry)

    def set_leading(self, leading: bool) -> None:
        """Set whether this replica is the leader; only the leader exports the series of runs."""
        self.leader.set(float(leading))
        self._runs.shown = leading

    def count_write(self, verb: str, kind: str) -> None:
        """Count a write to the API server."""
        self.writes.labels(verb, kind).inc()

    def show_run(self, key: Key, status: RLRunStatus | None, poll: PollResult) -> None:
        """Show a run as of its last pass."""
        self._runs.views[key] = RunMetricsView(status, poll)

    def show_poll(self, key: Key, poll: PollResult) -> None:
        """Show the newest poll of a run."""
        self._runs.views[key] = replace(self._runs.views.get(key, RunMetricsView()), poll=poll)

    def forget_run(self, key: Key) -> None:
        """Drop the series of a run that is deleted."""
        self._runs.views.pop(key, None)


class _Runs(Collector):
    """Builds the samples at each scrape: a run has at most some 70, and 8 more for each of several sources."""

    def __init__(self) -> None:
        self.views: dict[Key, RunMetricsView] = {}
        self.shown = False

    def collect(self) -> Iterator[GaugeMetricFamily]:
        families = {
            each.name: GaugeMetricFamily(f"scalerl_run_{each.name}", each.meaning, labels=[*RUN, *each.labels])
            for each in RUN_METRICS
        }
        for key, view in list(self.views.items()) if self.shown else ():
            for name, labels, value in list_samples(view):
                families[name].add_metric([*key, *labels], value)
        yield from families.values()


def document() -> str:
    """docs/operator-metrics.md."""
    lines = [
        "# Metrics of the operator",
        "",
        "Made by `make generate` from `operator/scalerl_operator/telemetry/metrics.py` and `run_metrics.py` beside it; "
        "do not edit.",
        "",
        "Every replica serves them at `/metrics`; those of runs only the one that leads.",
        "",
        "## Its own",
        "",
        "| name | kind | meaning |",
        "|---|---|---|",
    ]
    for family in OperatorMetrics().registry.collect():
        if not family.name.startswith("scalerl_run_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            lines.append(f"| `{name}` | {family.type} | {family.documentation} |")
    lines += ["", "## Of its runs", "", "Gauges with the labels `namespace` and `run`.", ""]
    lines += ["| name | further labels | meaning |", "|---|---|---|"]
    lines += [f"| `scalerl_run_{m.name}` | {', '.join(m.labels)} | {m.meaning} |" for m in RUN_METRICS]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the page, or with --check say whether it is stale."""
    return write_page("docs/operator-metrics.md", document)


if __name__ == "__main__":
    sys.exit(main())
