"""A command in a pod over the API server's WebSocket."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import fake_api
import pytest
from aiohttp import web

from scalerl_operator.kube.client import Connection, KubeClient, KubeError
from scalerl_operator.kube.pod_exec import PROTOCOL, run_in_pod

DONE = json.dumps({"status": "Success"}).encode()
FAILED = json.dumps({"status": "Failure", "reason": "NonZeroExitCode", "message": "exit code 1"}).encode()


def execute(handle: Callable[[web.Request], Awaitable[web.StreamResponse]], *, max_bytes: int = 1000) -> bytes:
    async def whole() -> bytes:
        async with fake_api.serving(handle) as server:
            # The limit of an ordinary answer, which does not hold for a command's output.
            kube = KubeClient(Connection(server.url, None, lambda: "secret"), answer_seconds=0.3)
            try:
                place = ("research", "tiny-trainer-0", "runtime")
                return await run_in_pod(kube, place, ["cat", "a b"], max_bytes=max_bytes, seconds=30.0)
            finally:
                await kube.close()

    return asyncio.run(whole())


def respond(*messages: bytes, pause: float = 0.0) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        assert request.path == "/api/v1/namespaces/research/pods/tiny-trainer-0/exec"
        assert request.query.getall("command") == ["cat", "a b"]
        assert (request.query["container"], request.query["stdout"]) == ("runtime", "true")
        assert request.headers["Authorization"] == "Bearer secret"
        socket = web.WebSocketResponse(protocols=(PROTOCOL,))
        await socket.prepare(request)
        for message in messages:
            await asyncio.sleep(pause)
            await socket.send_bytes(message)
        await socket.close()
        return socket

    return handle


def test_output_is_joined() -> None:
    assert execute(respond(b"\x01PAR", b"\x02noise", b"\x01\x001", b"\x03" + DONE)) == b"PAR\x001"


def test_a_long_output_may_take_longer_than_an_answer() -> None:
    assert execute(respond(b"\x01a", b"\x01b", b"\x03" + DONE, pause=0.25)) == b"ab"


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([b"\x02cat: no such file", b"\x03" + FAILED], "cat: no such file"),
        ([b"\x03" + FAILED], "exit code 1"),
        ([b"\x01part"], "the connection ended before the command did"),
        ([b"\x01" + 2000 * b"x"], "more than 1,000 bytes"),
    ],
)
def test_failures_are_errors(messages: list[bytes], error: str) -> None:
    with pytest.raises(KubeError, match=error):
        execute(respond(*messages))


def test_a_missing_permission_is_named() -> None:
    async def refuse(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"message": "no"}, status=403)

    with pytest.raises(KubeError, match="permission to create pods/exec is missing") as found:
        execute(refuse)
    assert found.value.status == 403
