"""Runs a command in a pod and returns its output, as `kubectl exec` does. I/O."""

import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing

import aiohttp

from scalerl_operator.kube.client import PODS, KubeClient, KubeError

PROTOCOL = "v4.channel.k8s.io"  # one byte names the channel of each message; every server since 1.4 has it
STDOUT, STDERR, STATUS = 1, 2, 3
MAX_ERROR_CHARACTERS = 1000


async def run_in_pod(
    kube: KubeClient, place: tuple[str, str, str], command: Sequence[str], *, max_bytes: int, seconds: float
) -> bytes:
    """Return the standard output of `command` in (namespace, pod, container).

    Needs the permission to create `pods/exec`. Raises KubeError: the request is refused, the command fails, its output
    is larger than `max_bytes`, or nothing arrives for `seconds`.
    """
    what = _describe(place)
    output: dict[int, bytearray] = {STDOUT: bytearray(), STDERR: bytearray(), STATUS: bytearray()}
    async with aclosing(_messages(kube, place, command, seconds)) as messages:
        async for channel, data in messages:
            output.setdefault(channel, bytearray()).extend(data)
            if len(output[STDOUT]) > max_bytes:
                raise KubeError(what, 0, "TooLong", f"more than {max_bytes:,} bytes")
    _check(what, bytes(output[STATUS]), bytes(output[STDERR]))
    return bytes(output[STDOUT])


async def stream_from_pod(
    kube: KubeClient,
    place: tuple[str, str, str],
    command: Sequence[str],
    receivers: Mapping[int, Callable[[bytes], None]],
    *,
    seconds: float,
) -> int:
    """Run `command` in (namespace, pod, container) and pass on each message by its channel; return the exit code.

    Raises KubeError: the request is refused, nothing arrives for `seconds`, or the connection ends before the command.
    """
    status = bytearray()
    receive: dict[int, Callable[[bytes], None]] = {**receivers, STATUS: status.extend}
    async with aclosing(_messages(kube, place, command, seconds)) as messages:
        async for channel, data in messages:
            if channel in receive:
                receive[channel](data)
    if not status:
        raise KubeError(_describe(place), 0, "Cut", "the connection ended before the command")
    return parse_exit_code(bytes(status))


async def _messages(
    kube: KubeClient, place: tuple[str, str, str], command: Sequence[str], seconds: float
) -> AsyncGenerator[tuple[int, bytes], None]:
    """Run `command`, and yield each message with its channel. Raises KubeError."""
    namespace, pod, container = place
    query = [("container", container), ("stdout", "true"), ("stderr", "true"), *(("command", each) for each in command)]
    what = _describe(place)
    try:
        async with kube.open_socket(PODS.path(namespace, pod, "exec"), query, PROTOCOL, seconds=seconds) as socket:
            while (message := await socket.receive(timeout=seconds)).type == aiohttp.WSMsgType.BINARY:
                yield message.data[0], message.data[1:]
    except aiohttp.WSServerHandshakeError as error:
        raise KubeError(what, error.status, "Refused", _explain(error)) from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise KubeError(what, 0, type(error).__name__, str(error)) from error


def _describe(place: tuple[str, str, str]) -> str:
    namespace, pod, _ = place
    return f"exec in {namespace}/{pod}"


def parse_exit_code(status: bytes) -> int:
    """Return the exit code in a metav1.Status; 1 for a failure without one."""
    found = json.loads(status)
    if found.get("status") == "Success":
        return 0
    causes = found.get("details", {}).get("causes", [])
    return next((int(each["message"]) for each in causes if each.get("reason") == "ExitCode"), 1)


def _explain(error: aiohttp.WSServerHandshakeError) -> str:
    if error.status == 403:
        return "the permission to create pods/exec is missing; Kubernetes' role edit has it"
    return error.message


def _check(what: str, status: bytes, errors: bytes) -> None:
    """Raise KubeError unless the server says that the command succeeded."""
    try:
        found = json.loads(status)
    except ValueError:
        raise KubeError(what, 0, "Cut", "the connection ended before the command did") from None
    if found.get("status") != "Success":
        text = errors.decode(errors="replace").strip() or str(found.get("message", ""))
        raise KubeError(what, 0, str(found.get("reason", "Failed")), text[:MAX_ERROR_CHARACTERS])
