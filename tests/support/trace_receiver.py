"""A collector of traces on this machine: takes OTLP over HTTP and keeps what it got. I/O."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status


@dataclass(frozen=True)
class ReceivedSpan:
    """One span as it came over the wire."""

    name: str
    id: bytes
    parent: bytes
    """Empty: none."""
    start: int
    end: int
    """Unix time, ns."""
    values: dict[str, Any]
    is_error: bool
    resource: dict[str, Any]

    @property
    def step(self) -> int:
        """The step that it is of."""
        return int(self.values["scalerl.step"])


@dataclass
class TraceReceiver:
    """Collects spans. While `answering` is not set, it takes requests and answers none."""

    port: int = 0
    spans: list[ReceivedSpan] = field(default_factory=list)
    paths: set[str] = field(default_factory=set)
    answering: threading.Event = field(default_factory=threading.Event)
    waiting: threading.Event = field(default_factory=threading.Event)
    """A request has come."""

    def named(self, name: str) -> list[ReceivedSpan]:
        """Return the spans of one name, by their start."""
        return sorted((each for each in self.spans if each.name == name), key=lambda each: each.start)

    def children(self, parent: ReceivedSpan, name: str) -> list[ReceivedSpan]:
        """Return the spans of one name whose parent is `parent`."""
        return [each for each in self.named(name) if each.parent == parent.id]

    def add(self, body: bytes) -> None:
        """Keep the spans of one request."""
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _read_values(group.resource.attributes)
            for scope in group.scope_spans:
                self.spans += [_read_span(each, resource) for each in scope.spans]


def _read_span(span: Any, resource: dict[str, Any]) -> ReceivedSpan:
    return ReceivedSpan(
        name=span.name,
        id=span.span_id,
        parent=span.parent_span_id,
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        values=_read_values(span.attributes),
        is_error=span.status.code == Status.STATUS_CODE_ERROR,
        resource=resource,
    )


def _read_values(attributes: Any) -> dict[str, Any]:
    return {each.key: _read_value(each.value) for each in attributes}


def _read_value(value: Any) -> Any:
    if value.WhichOneof("value") == "array_value":
        return [_read_value(each) for each in value.array_value.values]
    return getattr(value, value.WhichOneof("value"))


@contextmanager
def receive_traces() -> Iterator[TraceReceiver]:
    """Run a receiver, which answers."""
    receiver = TraceReceiver()
    receiver.answering.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # noqa: N802 # the name that the server calls
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.waiting.set()
            receiver.answering.wait()
            receiver.paths.add(self.path)
            receiver.add(body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.answering.set()
        server.shutdown()
        thread.join()
        server.server_close()
