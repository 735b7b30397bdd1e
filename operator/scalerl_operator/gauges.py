"""The operator's own metrics. I/O (prometheus_client's registry)."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from scalerl_operator.sights import Key, Told

SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
RUN = ("namespace", "run")


class Gauges:
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
        self.polls = Counter("scalerl_operator_polls_total", "Questions to leaders.", ["result"], registry=on)
        self.readings = Counter(
            "scalerl_operator_prometheus_readings_total",
            "Readings of the Prometheus server about leaders that do not answer: scraped, not_scraped, or failed.",
            ["result"],
            registry=on,
        )
        self.fits = Counter("scalerl_operator_fits_total", "Forecasts that were made.", registry=on)
        self.fit_seconds = Histogram(
            "scalerl_operator_fit_duration_seconds", "Time of judging a run's new points.", buckets=SECONDS, registry=on
        )
        self.pass_rate = Gauge("scalerl_run_pass_rate", "Last held-out pass rate.", RUN, registry=on)
        self.compute = Gauge("scalerl_run_compute_gpu_hours", "Compute spent (device-hours on CPU).", RUN, registry=on)
        self.step = Gauge("scalerl_run_step", "Optimizer steps.", RUN, registry=on)
        self.ceiling = Gauge("scalerl_run_ceiling", "Predicted ceiling; absent without a fit.", RUN, registry=on)
        self.ceiling_low = Gauge("scalerl_run_ceiling_low", "Lower end of its 90 % interval.", RUN, registry=on)
        self.ceiling_high = Gauge("scalerl_run_ceiling_high", "Upper end of its 90 % interval.", RUN, registry=on)

    def render(self) -> bytes:
        """Return Prometheus' text."""
        return generate_latest(self.registry)

    def count_write(self, verb: str, kind: str) -> None:
        """Count a write to the API server."""
        self.writes.labels(verb, kind).inc()

    def show_run(self, key: Key, told: Told) -> None:
        """Show what a run's leader has told."""
        if told.progress is None:
            return
        self.compute.labels(*key).set(told.progress.compute_gpu_hours)
        self.step.labels(*key).set(told.progress.step)
        measured = [point.pass_rate for point in told.evals if point.dataset == "held_out"]
        if measured:
            self.pass_rate.labels(*key).set(measured[-1])
        found = told.judged.forecast if told.judged is not None else None
        for gauge, value in (
            (self.ceiling, found.ceiling if found is not None else None),
            (self.ceiling_low, found.ceiling_low if found is not None else None),
            (self.ceiling_high, found.ceiling_high if found is not None else None),
        ):
            if value is not None:
                gauge.labels(*key).set(value)
            else:
                gauge.remove_by_labels(dict(zip(RUN, key, strict=True)))

    def forget_run(self, key: Key) -> None:
        """Drop the series of a run that is deleted."""
        labels = dict(zip(RUN, key, strict=True))
        for gauge in (self.pass_rate, self.compute, self.step, self.ceiling, self.ceiling_low, self.ceiling_high):
            gauge.remove_by_labels(labels)
