"""Evaluations and progress of a run, read from a real Prometheus server that scrapes the runtime's metrics."""

import asyncio
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from scalerl_api import parse_run
from scalerl_api.evaluations import merge_evals
from scalerl_api.wire import EvalPoint, Progress
from scalerl_operator.decide.assessment import forecast_prefix, summarize
from scalerl_operator.reconcile.cache import InformerCache
from scalerl_operator.reconcile.observed_pod import ObservedPod
from scalerl_operator.reconcile.observed_run import ObservedRun
from scalerl_operator.resources.names import PodRole
from scalerl_operator.telemetry.metrics import OperatorMetrics
from scalerl_operator.telemetry.poller import PollerDeps, ProgressPoller
from scalerl_operator.telemetry.progress_client import TelemetryError
from scalerl_operator.telemetry.prometheus import PrometheusClient, fetch_reading
from scalerl_operator.telemetry.promql import Question, Reading

QUICKSTART = Path(__file__).parents[2] / "examples/quickstart.yaml"


class Run:
    """One test's run on the session's server."""

    def __init__(self, lab: Any):
        self.lab, self.uid, self.began = lab, lab.unused.pop(), datetime.now(UTC)

    def coordinator(self, attempt: int, replica: str = "a") -> Any:
        """The coordinator of an attempt, as one of a pair of servers scrapes it."""
        found = self.lab.put(self.uid, attempt, replica)
        found.publisher.choose("phase", "training")
        return found

    def question(self, *, attempt: int = 1, clock: timedelta = timedelta()) -> Question:
        now = datetime.now(UTC) + clock
        return Question("tiny", self.uid, attempt, self.began + clock, now)

    def read(self, **options: Any) -> Reading:
        return fetch_reading(PrometheusClient(self.lab.prometheus.url), self.question(**options))


@pytest.fixture
def run(lab: Any) -> Run:
    return Run(lab)


def point(index: int, **values: Any) -> EvalPoint:
    given = {"step": 10 * index, "version": 10 * index, "compute_gpu_hours": 0.1 * index, "pass_rate": 0.1 + index / 17}
    fixed = {"index": index, "prompts": 250, "samples": 4, "standard_error": 0.02 / 3, "entropy": 0.7, "excluded": 1}
    return EvalPoint.model_validate({**fixed, **given, **values})


def test_every_number_of_every_eval_point_is_rebuilt(run: Run) -> None:
    points = [point(index, dataset=name, mean_tokens=1 / 3) for index, name in enumerate(["held_out", "sums"] * 4)]
    coordinator = run.coordinator(1)
    coordinator.publisher.show_evals(points)
    coordinator.until_scraped()
    assert run.read().evals == tuple(points)


def test_progress_is_that_of_the_scraped_attempt(run: Run) -> None:
    coordinator = run.coordinator(1)
    coordinator.publisher.set({"step": 70.0, "version": 69.0, "compute_gpu_hours": 0.3})
    coordinator.until_scraped()
    reading = run.read()
    assert reading.progress is not None
    assert (reading.progress.step, reading.progress.version) == (70, 69)
    assert (reading.progress.phase, reading.progress.compute_gpu_hours) == ("training", 0.3)
    assert run.read(attempt=2).progress is None


def test_missed_scrapes_lose_no_eval_point(run: Run) -> None:
    coordinator = run.coordinator(1)
    coordinator.publisher.show_evals([point(0)])
    coordinator.until_scraped()
    coordinator.is_up = False
    for count in range(2, 6):  # four evaluations during which every scrape fails
        coordinator.publisher.show_evals([point(index) for index in range(count)])
    coordinator.until_scraped()
    assert [each.index for each in run.read().evals] == [0]
    coordinator.is_up = True
    coordinator.until_scraped()
    assert run.read().evals == tuple(point(index) for index in range(5))


def test_a_restart_of_the_coordinator_loses_no_eval_point_and_counts_no_gpu_second_twice(run: Run) -> None:
    """Attempt 1 is killed: 10 of its 100 s were not journaled. Attempt 2's counter begins at 0 again."""
    first = run.coordinator(1)
    first.publisher.raise_to("gpu_seconds_total", 60.0, "trainer", "train")
    first.publisher.raise_to("gpu_seconds_total", 40.0, "trainer", "wait")
    first.publisher.set_labelled("earlier_gpu_seconds", "trainer", 0.0)
    first.publisher.show_evals([point(0), point(1), point(2, pass_rate=0.9)])
    first.until_scraped()
    before = run.read().progress
    assert before is not None
    assert before.gpu_seconds["trainer"] == 100.0
    run.lab.remove(first)
    second = run.coordinator(2)
    second.publisher.set_labelled("earlier_gpu_seconds", "trainer", 90.0)
    second.publisher.raise_to("gpu_seconds_total", 25.0, "trainer", "train")
    second.publisher.show_evals([point(0), point(1), point(2, pass_rate=0.9), point(3, step=20, attempt=2)])
    second.until_scraped()
    reading = run.read(attempt=2)
    assert reading.progress is not None
    assert reading.progress.gpu_seconds["trainer"] == 115.0
    assert [each.index for each in reading.evals] == [0, 1, 2, 3]
    kept = merge_evals(reading.evals)
    assert [(each.step, each.attempt) for each in kept] == [(0, 1), (10, 1), (20, 2)], (
        "the line of weights that went on"
    )


def test_two_servers_scrapes_of_one_coordinator_are_counted_once(run: Run) -> None:
    for replica in ("a", "b"):
        coordinator = run.coordinator(1, replica)
        coordinator.publisher.raise_to("gpu_seconds_total", 50.0, "trainer", "train")
        coordinator.publisher.show_evals([point(0), point(1)])
        coordinator.until_scraped()
    reading = run.read()
    assert len(reading.evals) == 2
    assert reading.progress is not None
    assert reading.progress.gpu_seconds["trainer"] == 50.0


@pytest.mark.parametrize("minutes", [-50, 50])
def test_clock_skew_loses_no_eval_point(run: Run, minutes: int) -> None:
    """The operator's clock differs from the server's, which stamps every sample, by most of an hour."""
    coordinator = run.coordinator(1)
    coordinator.publisher.show_evals([point(index) for index in range(3)])
    coordinator.until_scraped()
    reading = run.read(clock=timedelta(minutes=minutes))
    assert len(reading.evals) == 3
    assert reading.progress is not None
    assert reading.age_seconds < 600, "by the server's own clock"


def test_a_deleted_coordinator_leaves_its_points_and_no_progress(run: Run) -> None:
    coordinator = run.coordinator(1)
    coordinator.publisher.show_evals([point(index) for index in range(3)])
    coordinator.until_scraped()
    run.lab.remove(coordinator)
    deadline = time.monotonic() + 60
    while run.read().progress is not None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert len(run.read().evals) == 3


def test_a_later_run_of_the_same_name_is_kept_apart(run: Run) -> None:
    for each in (run, Run(run.lab)):
        coordinator = each.coordinator(1)
        coordinator.publisher.show_evals([point(index) for index in range(2 if each is run else 5)])
        coordinator.until_scraped()
    assert len(run.read().evals) == 2


def test_a_long_range_is_queried_in_parts(run: Run) -> None:
    coordinator = run.coordinator(1)
    coordinator.publisher.show_evals([point(0)])
    coordinator.until_scraped()
    run.began -= timedelta(days=400)
    assert len(run.read().evals) == 1


def test_a_refused_query_has_the_servers_message(run: Run) -> None:
    """Prometheus refuses a query of more than 11,000 samples a series."""
    run.began -= timedelta(days=11_001)
    with pytest.raises(TelemetryError, match="HTTP 400, 200 is needed: exceeded maximum resolution"):
        run.read()


def test_kill_of_the_server_loses_no_eval_point(run: Run) -> None:
    coordinator = run.coordinator(1)
    coordinator.publisher.show_evals([point(index) for index in range(3)])
    coordinator.until_scraped()
    run.lab.prometheus.kill()
    with pytest.raises(TelemetryError, match="ConnectionRefusedError"):
        run.read()
    run.lab.prometheus.start(run.lab.config())
    run.lab.prometheus.until_ready()
    assert len(run.read().evals) == 3


def test_the_operator_forecasts_from_what_was_scraped(run: Run) -> None:
    """The poller with a coordinator that never answers: the same forecast as from the points themselves."""
    spec = parse_run(yaml.safe_load(QUICKSTART.read_text()))
    points = tuple(point(index, pass_rate=0.1 + 0.6 * index / (index + 4), entropy=None) for index in range(12))
    coordinator = run.coordinator(1)
    coordinator.publisher.set({"step": 115.0})
    coordinator.publisher.show_evals(points)
    coordinator.until_scraped()
    store, enqueued = InformerCache(), []
    observed = ObservedRun(
        ("research", "tiny"), run.uid, 1, 1, "scalerl.io/operator", False, {}, {}, spec, created=run.began
    )
    store.put_run(observed)
    store.put_pod(
        ObservedPod(
            observed.key,
            "tiny-trainer-0",
            "p",
            version=1,
            pod_role=PodRole("trainer", 0),
            attempt=1,
            created=run.began,
            owner=run.uid,
            ip="192.0.2.1",
            started=run.began,
        )
    )

    def silent(*_: object) -> Progress:
        raise TelemetryError("out of reach")

    deps = PollerDeps(
        now=lambda: datetime.now(UTC),
        token=str,
        enqueue=enqueued.append,
        fetch_progress=silent,
        poll_seconds=0.05,
        fetch_reading=partial(fetch_reading, PrometheusClient(run.lab.prometheus.url)),
    )

    async def poll() -> ProgressPoller:
        poller = ProgressPoller(store, OperatorMetrics(), deps)
        polling = asyncio.create_task(poller.poll_forever())
        async with asyncio.timeout(120):
            while poller.poll_result(observed).assessment is None:
                await asyncio.sleep(0.01)
        polling.cancel()
        await poller.close()
        return poller

    result = asyncio.run(poll()).poll_result(observed)
    expected = summarize(spec, [forecast_prefix(spec, points, 0.0)], points)
    assert result.assessment is not None
    assert result.assessment.forecast is not None
    assert expected.forecast is not None
    assert result.assessment.forecast.model_copy(update={"updated_at": None}) == expected.forecast.model_copy(
        update={"updated_at": None}
    )
    assert result.progress is not None
    assert result.progress.step == 115
    assert result.answered is not None
    assert enqueued


def test_a_server_behind_tls_is_trusted_by_its_ca(start_prometheus: Callable[..., Any], tmp_path: Path) -> None:
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-nodes"]
    files = ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert")]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", *subject, *files]
    subprocess.run(command, check=True, capture_output=True)
    tls = {"cert_file": str(tmp_path / "cert"), "key_file": str(tmp_path / "key")}
    (tmp_path / "web.yaml").write_text(yaml.safe_dump({"tls_server_config": tls}))
    server = start_prometheus({"scrape_configs": []}, f"--web.config.file={tmp_path}/web.yaml")
    url = f"https://127.0.0.1:{server.port}"
    question = Question("tiny", "u", 1, datetime.now(UTC), datetime.now(UTC))
    assert until_read(PrometheusClient(url, ca_file=tmp_path / "cert"), question) == Reading()
    with pytest.raises(TelemetryError, match="certificate verify failed"):
        fetch_reading(PrometheusClient(url), question)


def until_read(server: PrometheusClient, question: Question) -> Reading:
    """The server's readiness page is behind TLS too."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return fetch_reading(server, question)
        except TelemetryError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
