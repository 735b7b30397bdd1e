"""An HTTP connection with one deadline for all responses, which a slow stream of bytes does not extend. I/O."""

import http.client
import io
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any

MAX_BODY_BYTES = 64 * 1024 * 1024  # 100,000 eval points are 30 MB
CHUNK_BYTES = 1024 * 1024


class TooLong(http.client.HTTPException):
    """The response is larger than any valid one."""


class Peer:
    """One connection, opened by the first request.

    Args:
        seconds: from now until the last byte of the last answer.
        trust: for HTTPS; None: plain HTTP.
    """

    def __init__(self, host: str, port: int | None, seconds: float, *, trust: ssl.SSLContext | None = None):
        self._deadline = time.monotonic() + seconds
        self._connection = http.client.HTTPConnection(host, port)
        if trust is not None:
            self._connection = http.client.HTTPSConnection(host, port, context=trust)
        self._connection.response_class = self._answer  # type: ignore[assignment] # it is only called

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def remaining(self) -> float:
        """Return the seconds left. Raises TimeoutError when there are none."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("it took too long")
        return left

    def ask(self, path: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Return status and body. Raises OSError, of which TimeoutError is one, and HTTPException."""
        self._connection.timeout = self.remaining()
        if self._connection.sock is not None:
            self._connection.sock.settimeout(self.remaining())
        self._connection.request("GET", path, headers=headers)
        with self._connection.getresponse() as answer:
            body = bytearray()
            while chunk := answer.read1(CHUNK_BYTES):
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise TooLong(f"more than {MAX_BODY_BYTES} bytes")
            return answer.status, bytes(body)

    def _answer(self, connection: socket.socket, **options: Any) -> http.client.HTTPResponse:
        answer = http.client.HTTPResponse(connection, **options)
        reader = _Reader(answer.fp.detach(), lambda: connection.settimeout(self.remaining()))
        answer.fp = io.BufferedReader(reader)
        return answer


class _Reader(io.RawIOBase):
    """Reads bytes as they arrive, headers included; sets the socket's timeout before each read."""

    def __init__(self, source: io.RawIOBase, prepare: Callable[[], None]):
        self._source = source
        self._prepare = prepare

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._prepare()
        return self._source.readinto(buffer)

    def close(self) -> None:
        self._source.close()
        super().close()
