"""`/v1/progress` of coordinators that train nothing: one listener, any number of addresses. I/O."""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from scalerl_api.wire import PORT_HTTP

Answer = Callable[[str, int], dict[str, Any]]
"""(address of the request, since) -> the body."""


async def serve_progress(hosts: Sequence[str], answer: Answer, *, token: str | None = None) -> asyncio.Server:
    """Listen on PORT_HTTP of `hosts`; without the bearer `token`, where one is named, the answer is 401."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        if token is not None and f"authorization: bearer {token.lower()}" not in request.lower():
            writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        else:
            query = parse_qs(urlsplit(request.split(" ", 2)[1]).query)
            since = int(query.get("since", ["0"])[0])
            body = json.dumps(answer(writer.get_extra_info("sockname")[0], since)).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    return await asyncio.start_server(respond, list(hosts), PORT_HTTP, backlog=16)
