"""The client of `/v1/progress` against a server that answers well, badly and not at all."""

import socket
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

import pytest

from scalerl_api.wire import Progress
from scalerl_operator.telemetry.http_client import MAX_BODY_BYTES
from scalerl_operator.telemetry.progress_client import TelemetryError, fetch_progress

PROGRESS = Progress(run="tiny", attempt=2, phase="training", step=7, version=6, compute_gpu_hours=0.3, time=12.0)


@pytest.fixture
def serve(listen: Callable[..., int]) -> Callable[[int, bytes], tuple[str, list[str]]]:
    """`serve(code, body)`: a server's address, and the request lines and tokens it will see."""

    def start(code: int, body: bytes) -> tuple[str, list[str]]:
        asked: list[str] = []

        def answer(request: BaseHTTPRequestHandler) -> tuple[int, bytes]:
            asked.append(f"{request.path} {request.headers['Authorization']}")
            return code, body

        return f"127.0.0.1:{listen(answer)}", asked

    return start


Serve = Callable[[int, bytes], tuple[str, list[str]]]


def test_progress_is_asked_for_with_the_token(serve: Serve) -> None:
    address, asked = serve(200, PROGRESS.model_dump_json(by_alias=True).encode())
    assert fetch_progress(address + "\n", "s3cret", 5, timeout_seconds=5.0) == PROGRESS
    assert asked == ["/v1/progress?since=5 Bearer s3cret"]


BAD = [
    ("the token is refused", 401, b"", "HTTP 401, 200 is needed"),
    ("the body is cut", 200, PROGRESS.model_dump_json().encode()[:-9], "not a Progress"),
    ("the body is something else", 200, b"<html>", "not a Progress"),
    ("the coordinator is unwell", 503, b"wait", "HTTP 503"),
]


@pytest.mark.parametrize(("code", "body", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_bad_answer_is_a_missed_one(serve: Serve, code: int, body: bytes, message: str) -> None:
    address, _ = serve(code, body)
    with pytest.raises(TelemetryError, match=message) as caught:
        fetch_progress(address, "s3cret", 0, timeout_seconds=5.0)
    assert "s3cret" not in str(caught.value)


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(TelemetryError, match="ConnectionRefusedError"):
        fetch_progress(f"127.0.0.1:{port}", "t", 0, timeout_seconds=5.0)


def test_somebody_who_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(TelemetryError, match="TimeoutError"):
        fetch_progress(f"127.0.0.1:{server.getsockname()[1]}", "t", 0, timeout_seconds=0.05)


DRIPS = [
    ("in the body", b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"),
    ("in the headers", b"HTTP/1.1 200 OK\r\nX-Padding:"),
    ("in the status line", b"HTTP/1.1 200"),
]


@pytest.mark.parametrize("head", [row[1] for row in DRIPS], ids=[row[0] for row in DRIPS])
def test_somebody_who_never_comes_to_an_end(drip: Callable[[bytes], int], head: bytes) -> None:
    """Each byte comes in time.

    All of them together do not. There are few askers: such coordinators would hold them all.
    """
    with pytest.raises(TelemetryError, match="TimeoutError"):
        fetch_progress(f"127.0.0.1:{drip(head)}", "t", 0, timeout_seconds=0.3)


def test_an_answer_longer_than_any_that_is_meant(listen: Callable[..., int]) -> None:
    port = listen(lambda _request: (200, b" " * (MAX_BODY_BYTES + 1)))
    with pytest.raises(TelemetryError, match="more than 67108864 bytes"):
        fetch_progress(f"127.0.0.1:{port}", "t", 0, timeout_seconds=60.0)


def test_an_address_that_is_none() -> None:
    with pytest.raises(TelemetryError, match="is not host:port"):
        fetch_progress("localhost", "t", 0, timeout_seconds=5.0)
