"""PromQL for a run, and points and progress out of what a Prometheus server answers."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from scalerl_api.wire import EvalPoint
from scalerl_operator.telemetry import promql as series
from scalerl_operator.telemetry.promql import (
    Question,
    Series,
    SeriesError,
    age_query,
    evals_query,
    evals_span,
    parse_answer,
    read_evals,
    read_progress,
    state_query,
)
from scalerl_runtime.process.metrics import STATE_METRICS, STEP_METRICS, Publisher

CREATED = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
QUESTION = Question("tiny", "u-1", 2, CREATED, CREATED + timedelta(days=3, hours=5))
Point = Callable[..., EvalPoint]


def scraped(publisher: Publisher) -> list[Series]:
    families = text_string_to_metric_families(publisher.render().decode())
    return [
        Series({"__name__": sample.name, "job": "runs", **sample.labels}, sample.value)
        for family in families
        for sample in family.samples
    ]


def test_a_point_that_the_runtime_shows_is_read_back_equal(point: Point) -> None:
    exported = point(
        5,
        dataset="sums",
        step=70,
        version=69,
        version_end=73,
        unsampled=57,
        compute_gpu_hours=0.1 + 0.2,
        pass_rate=2 / 3,
        prompts=191,
        samples=3,
        standard_error=0.0123456789,
        excluded=2,
        mean_tokens=31.25,
        entropy=0.7071,
        attempt=4,
    )
    publisher = Publisher()
    publisher.show_evals([exported])
    assert read_evals(scraped(publisher)) == (exported,)


def test_points_come_once_in_order_of_their_index_from_many_scrapers(point: Point) -> None:
    publisher = Publisher()
    points = [point(index, entropy=None) for index in range(11)]
    publisher.show_evals(points)
    found = scraped(publisher)
    twice = [Series({**each.labels, "prometheus_replica": name}, each.value) for each in found for name in "ab"]
    assert read_evals(twice) == tuple(points)


BROKEN: list[tuple[str, Callable[[Series], Series | None]]] = [
    ("a number is missing", lambda each: None if "pass_rate" in each.labels["__name__"] else each),
    ("a number is none", lambda each: Series(each.labels, float("nan"))),
    ("a label is missing", lambda each: Series({k: v for k, v in each.labels.items() if k != "step"}, each.value)),
    ("a label is no number", lambda each: Series({**each.labels, "prompts": "many"}, each.value)),
]


@pytest.mark.parametrize("change", [row[1] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_a_broken_point_is_left_out_alone(change: Callable[[Series], Series | None], point: Point) -> None:
    publisher = Publisher()
    publisher.show_evals([point(0), point(1)])
    found = [change(each) if each.labels.get("index") == "1" else each for each in scraped(publisher)]
    assert [each.index for each in read_evals([each for each in found if each is not None])] == [0]


def test_progress_is_what_the_coordinator_would_have_told() -> None:
    publisher = Publisher()
    publisher.choose("phase", "evaluating")
    publisher.set({"step": 90.0, "version": 89.0, "compute_gpu_hours": 0.25, "generators_ready": 3.0})
    publisher.set({"idle_fraction_trainer": 0.125, "idle_fraction_generator": 0.5})
    publisher.set_labelled("earlier_gpu_seconds", "trainer", 100.0)
    publisher.set_labelled("earlier_gpu_seconds", "generator", 1000.0)
    for role, phase, seconds in (("trainer", "train", 5.0), ("trainer", "wait", 2.0), ("generator", "sample", 30.0)):
        publisher.raise_to("gpu_seconds_total", seconds, role, phase)
    publisher.raise_to("generator_restarts_total", 4.0)
    progress = read_progress(QUESTION, scraped(publisher), 12.0)
    assert progress is not None
    assert (progress.run, progress.attempt, progress.phase) == ("tiny", 2, "evaluating")
    assert (progress.step, progress.version, progress.compute_gpu_hours) == (90, 89, 0.25)
    assert progress.gpu_seconds == {"trainer": 107.0, "generator": 1030.0}
    assert progress.idle_fraction == {"trainer": 0.125, "generator": 0.5}
    assert (progress.generators_ready, progress.generator_restarts) == (3, 4)
    assert progress.time == QUESTION.now.timestamp() - 12.0
    assert (progress.evals, progress.checkpoint) == ([], None)


def test_no_progress_of_a_coordinator_that_is_not_scraped() -> None:
    assert read_progress(QUESTION, [], 1.0) is None


def test_every_series_that_is_read_is_one_that_the_runtime_exports() -> None:
    names = {metric.name for metric in (*STEP_METRICS, *STATE_METRICS)}
    assert set(series._STATE) <= names


def test_queries_name_the_run_by_its_uid_and_the_attempt() -> None:
    odd = Question("tiny", 'u"1', 2, CREATED, CREATED)
    assert 'run_uid="u\\"1"' in evals_query(odd)
    assert "attempt" not in evals_query(odd), "points of every attempt"
    for query in (state_query(odd), age_query(odd)):
        assert 'run_uid="u\\"1"' in query
        assert 'attempt="2"' in query


@pytest.mark.parametrize("hours", [0.0, 0.5, 5.0, 21.9, 22.1, 77.0, 24 * 40.0])
def test_no_moment_is_left_out_of_a_span_nor_an_hours_difference_of_clocks(hours: float) -> None:
    """Evaluations at start, start + step .. end, each of which looks `step` back."""
    question = Question("tiny", "u", 1, CREATED, CREATED + timedelta(hours=hours))
    span = evals_span(question)
    assert span.start - span.step <= CREATED.timestamp() - 3600
    assert span.end == question.now.timestamp() + 3600
    assert span.step <= 86400
    count = (span.end - span.start) / span.step
    assert count == pytest.approx(round(count))
    assert int(evals_query(question).rsplit("[", 1)[1].split("s]")[0]) >= span.step


def answer(result: list[Any]) -> bytes:
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}}).encode()


def test_the_newest_value_of_a_series_counts() -> None:
    body = answer([{"metric": {"a": "b"}, "values": [[1, "3"], [2, "4.5"]]}, {"metric": {}, "value": [7, "1e-3"]}])
    assert parse_answer(body) == [Series({"a": "b"}, 4.5), Series({}, 0.001)]


BAD = [
    ("another's page", b"<html>", "not a Prometheus answer"),
    ("cut", answer([{"metric": {}, "value": [1, "2"]}])[:-9], "not a Prometheus answer"),
    ("no values", answer([{"metric": {}, "values": []}]), "not a Prometheus answer"),
    ("a list", b"[]", "not a Prometheus answer"),
    ("its own refusal", b'{"status": "error", "errorType": "bad_data", "error": "too old"}', "bad_data: too old"),
]


@pytest.mark.parametrize(("body", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_what_is_no_answer_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(SeriesError, match=message):
        parse_answer(body)
