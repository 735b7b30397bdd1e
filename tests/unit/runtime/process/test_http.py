import asyncio

import aiohttp
import pytest

from scalerl_api.wire import Progress
from scalerl_runtime.process.http import HttpServer


def progress(since):
    return Progress(run="unit", attempt=2, phase="training", step=since, version=1, compute_gpu_hours=0.5, time=1.0)


def ask(tmp_path, path, headers=None, *, ready=True):
    """(status, body) of one request."""

    async def main():
        server = HttpServer(progress, lambda: b"scalerl_step 3\n", "secret")
        server.is_ready = ready
        await server.start("127.0.0.1", 0, tmp_path / "coordinator.address")
        address = (tmp_path / "coordinator.address").read_text()
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://{address}{path}", headers=headers) as response,
            ):
                return response.status, await response.text()
        finally:
            await server.stop()

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("path", "token", "status", "rule"),
    [
        ("/v1/progress?since=4", "Bearer secret", 200, "the token opens it"),
        ("/v1/progress", "Bearer secret", 200, "since is 0 by default"),
        ("/v1/progress", None, 401, "no token"),
        ("/v1/progress", "Bearer wrong", 401, "another token"),
        ("/v1/progress", "Bearer ", 401, "an empty token"),
        ("/v1/progress?since=4", "Bearer sécret", 401, "a token that is not ASCII"),
        ("/v1/progress?since=-1", "Bearer secret", 400, "a negative number"),
        ("/v1/progress?since=x", "Bearer secret", 400, "no number"),
        ("/v1/progress?since=", "Bearer secret", 400, "an empty one"),
        ("/v1/progress?since=%C2%B2", "Bearer secret", 400, "a digit to Unicode, no number to int()"),
        ("/healthz", None, 200, "health needs no token"),
        ("/metrics", None, 200, "metrics need no token"),
        ("/readyz", None, 200, "ready"),
        ("/elsewhere", "Bearer secret", 404, "nothing else is served"),
    ],
)
def test_status(tmp_path, path, token, status, rule):
    assert ask(tmp_path, path, {"Authorization": token} if token else None)[0] == status, rule


def test_progress_is_of_the_asked_index(tmp_path):
    _, body = ask(tmp_path, "/v1/progress?since=4", {"Authorization": "Bearer secret"})
    found = Progress.model_validate_json(body)
    assert (found.run, found.attempt, found.step) == ("unit", 2, 4)
    assert '"computeGpuHours":0.5' in body, "names as in the API"


def test_a_starting_coordinator_is_not_ready(tmp_path):
    assert ask(tmp_path, "/readyz", ready=False) == (503, "starting")


def test_metrics_are_those_of_the_publisher(tmp_path):
    assert ask(tmp_path, "/metrics")[1] == "scalerl_step 3\n"
