"""The client of a Prometheus server against one that answers well, badly and not at all; the real one is in
tests/prometheus."""

import json
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from scalerl_operator.cli.parser import parse_arguments
from scalerl_operator.telemetry.progress_client import TelemetryError
from scalerl_operator.telemetry.prometheus import PrometheusClient, fetch_reading
from scalerl_operator.telemetry.promql import Question

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
QUESTION = Question("tiny", "u-1", 2, NOW - timedelta(hours=2), NOW)
Answers = Callable[[str], tuple[int, bytes]]
"""PromQL -> HTTP status and body."""


def vector(*series: tuple[dict[str, str], str]) -> bytes:
    result = [{"metric": labels, "value": [0, value]} for labels, value in series]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()


@pytest.fixture
def serve(listen: Callable[..., int]) -> Callable[[Answers], tuple[str, list[Any]]]:
    """`serve(answers)`: a server's URL, and what it will be asked."""

    def start(answers: Answers) -> tuple[str, list[Any]]:
        asked: list[Any] = []

        def answer(request: BaseHTTPRequestHandler) -> tuple[int, bytes]:
            parts = urlsplit(request.path)
            given = {name: values[0] for name, values in parse_qs(parts.query).items()}
            asked.append((parts.path, given, request.headers.get("Authorization"), request.client_address[1]))
            return answers(given["query"])

        return f"http://127.0.0.1:{listen(answer)}", asked

    return start


Serve = Callable[[Answers], tuple[str, list[Any]]]


def scraped(query: str) -> tuple[int, bytes]:
    if query.startswith("min(time()"):
        return 200, vector(({}, "7.5"))
    if query.startswith("max by"):
        return 200, vector(
            ({"__name__": "scalerl_phase", "phase": "training"}, "1"), ({"__name__": "scalerl_step"}, "12")
        )
    labels = {"dataset": "held_out", "index": "0", "step": "3", "version": "3", "prompts": "9", "samples": "2"}
    labels |= {"excluded": "0", "measured_by": "1"}
    numbers = {"pass_rate": "0.5", "standard_error": "0.1", "compute_gpu_hours": "2"}
    return 200, vector(*(({**labels, "__name__": f"scalerl_eval_{name}"}, each) for name, each in numbers.items()))


def test_a_reading_is_three_questions_on_one_connection(serve: Serve) -> None:
    url, asked = serve(scraped)
    reading = fetch_reading(PrometheusClient(url + "/prom"), QUESTION)
    assert [point.step for point in reading.evals] == [3]
    assert reading.progress is not None
    assert (reading.progress.step, reading.age_seconds) == (12, 7.5)
    assert [path for path, *_ in asked] == [f"/prom/api/v1/{call}" for call in ("query_range", "query", "query")]
    assert len({port for *_, port in asked}) == 1
    assert {token for _, _, token, _ in asked} == {None}
    times = {name: float(asked[0][1][name]) for name in ("start", "end", "step")}
    assert times["start"] - times["step"] <= QUESTION.since.timestamp() <= times["end"]
    assert "time" not in asked[1][1], "the server's own clock says how old a sample is"


def test_points_without_a_coordinator_that_is_scraped(serve: Serve) -> None:
    url, _ = serve(lambda query: scraped(query) if query.startswith("last_over_time") else (200, vector()))
    reading = fetch_reading(PrometheusClient(url), QUESTION)
    assert (len(reading.evals), reading.progress) == (1, None)


def test_the_token_is_read_anew_for_every_reading(serve: Serve, tmp_path: Path) -> None:
    url, asked = serve(scraped)
    file = tmp_path / "token"
    server = PrometheusClient(url, token_file=file)
    for token in ("first", "second"):
        file.write_text(token + "\n")
        fetch_reading(server, QUESTION)
    assert [token for _, _, token, _ in asked] == ["Bearer first"] * 3 + ["Bearer second"] * 3


BAD = [
    ("the token is refused", 401, b"", "HTTP 401, 200 is needed"),
    ("the query is refused", 400, b'{"status":"error","error":"parse error"}', "HTTP 400, 200 is needed: parse error"),
    ("it moves elsewhere", 302, b"", "HTTP 302"),
    ("it is another program", 200, b"<html>", "not a Prometheus answer"),
]


@pytest.mark.parametrize(("code", "body", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_bad_answer_is_no_reading(serve: Serve, tmp_path: Path, code: int, body: bytes, message: str) -> None:
    url, _ = serve(lambda _query: (code, body))
    (tmp_path / "token").write_text("s3cret")
    with pytest.raises(TelemetryError, match=message) as caught:
        fetch_reading(PrometheusClient(url, token_file=tmp_path / "token"), QUESTION)
    assert "s3cret" not in str(caught.value)


def test_a_token_file_that_is_missing_is_no_reading(tmp_path: Path) -> None:
    with pytest.raises(TelemetryError, match="FileNotFoundError"):
        fetch_reading(PrometheusClient("http://127.0.0.1:1", token_file=tmp_path / "none"), QUESTION)


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(TelemetryError, match="ConnectionRefusedError"):
        fetch_reading(PrometheusClient(f"http://127.0.0.1:{port}"), QUESTION)


def test_somebody_who_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = PrometheusClient(f"http://127.0.0.1:{listener.getsockname()[1]}", answer_seconds=0.05)
        with pytest.raises(TelemetryError, match="TimeoutError"):
            fetch_reading(server, QUESTION)


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"HTTP/1.1 200"])
def test_somebody_who_never_comes_to_an_end(drip: Callable[[bytes], int], head: bytes) -> None:
    """Each byte comes in time; all of them together do not."""
    server = PrometheusClient(f"http://127.0.0.1:{drip(head)}", answer_seconds=1.0)
    with pytest.raises(TelemetryError, match="TimeoutError"):
        fetch_reading(server, QUESTION)


COMMAND = ["operator", "--image", "i", "--token-key-file", "k"]


def test_a_servers_url_is_taken_with_its_path() -> None:
    assert parse_arguments(COMMAND).prometheus_url is None
    found = parse_arguments([*COMMAND, "--prometheus-url", "https://prom.test:9090/tenant/"])
    assert found.prometheus_url == "https://prom.test:9090/tenant"


@pytest.mark.parametrize("url", ["prom:9090", "ftp://prom", "http://", "http://u:p@prom", "http://prom?x=1"])
def test_what_is_no_servers_url_is_refused(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments([*COMMAND, "--prometheus-url", url])
    assert "--prometheus-url" in capsys.readouterr().err
