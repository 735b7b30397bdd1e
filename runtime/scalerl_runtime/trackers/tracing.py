"""Traces of a run by OpenTelemetry: spans that a thread of the SDK exports over OTLP/HTTP. I/O.

OpenTelemetry's own variables apply. Without an endpoint nothing is traced, and the package is not imported.
"""

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

log = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
SERVICE = "scalerl"
CLOSE_SECONDS = 5.0  # for the spans that are not sent at the end of an attempt
LOG_SECONDS = 600.0  # between two log lines on a collector that does not work
MAX_LOGGED = 300  # characters of one such line

Values = Mapping[str, str | int | float | bool | Sequence[str] | Sequence[float]]


class TraceSpan(Protocol):
    """A timed part of the run. An exception that leaves its block, a cancellation too, makes it an error."""

    def set(self, build: Callable[..., Values], *inputs: object) -> None:
        """Add the attributes `build(*inputs)`; it is called only if the run is traced."""
        ...

    def fail(self, kind: str) -> None:
        """Mark an error that raises nothing. `kind`: the error's type; its text may hold a prompt."""
        ...


class Tracer(Protocol):
    """Makes spans. No call waits for the collector, but for `close`."""

    def span(self, name: str, values: Values) -> AbstractContextManager[TraceSpan]:
        """Time a block. Its parent is the span around it, also that of the task that began the present one."""
        ...

    def close(self) -> None:
        """Send what waits, within `CLOSE_SECONDS`."""
        ...


class _Untraced:
    """The span and the tracer of a run without traces."""

    def set(self, build: Callable[..., Values], *inputs: object) -> None:
        """See `TraceSpan`."""

    def fail(self, kind: str) -> None:
        """See `TraceSpan`."""

    def span(self, name: str, values: Values) -> AbstractContextManager[TraceSpan]:
        """See `Tracer`."""
        del name, values
        return _NO_SPAN

    def close(self) -> None:
        """See `Tracer`."""


NO_TRACING = _Untraced()
_NO_SPAN: AbstractContextManager[TraceSpan] = nullcontext(NO_TRACING)


def is_wanted(variables: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's variables ask for traces."""
    is_off = variables.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    is_off |= variables.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"
    return not is_off and any(variables.get(name, "").strip() for name in ENDPOINTS)


def open_tracing(name: str, namespace: str, attempt: int) -> Tracer:
    """Return the tracer of an attempt. A package or setting that is missing costs a log line and the traces."""
    if not is_wanted(os.environ):
        return NO_TRACING
    resource: dict[str, str | int] = {
        "service.name": SERVICE,
        "service.instance.id": f"{namespace}/{name}/{attempt}",
        "scalerl.run.name": name,
        "scalerl.run.namespace": namespace,
        "scalerl.run.attempt": attempt,
    }
    try:
        return _OtelTracer(resource)
    except ImportError as error:
        log.warning("no traces: %s is not installed: pip install 'scalerl[traces]'", error.name)
    except Exception as error:  # noqa: BLE001 # a setting of the SDK that it cannot read must not end the run
        log.warning("no traces: %s: %s", type(error).__name__, _shorten(str(error)))
    return NO_TRACING


class _OtelTracer:
    """Spans of the SDK. Its queue is bounded: what a slow collector does not take in time is dropped."""

    def __init__(self, resource: Mapping[str, str | int]):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        _limit_logs()
        everything = Resource.create(dict(resource)).merge(OTELResourceDetector().detect())  # the user's names win
        # Without the SDK's hook at exit, which would wait 30 s for a collector that hangs. The provider is not made
        # the global one: spans of other packages are not part of the run's traces.
        self._provider = TracerProvider(resource=everything, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("scalerl_runtime")

    @contextmanager
    def span(self, name: str, values: Values) -> Iterator[TraceSpan]:
        """See `Tracer`."""
        started = self._tracer.start_as_current_span(
            name, attributes=dict(values), record_exception=False, set_status_on_exception=False
        )
        with started as inner, _OtelSpan(inner) as span:
            yield span

    def close(self) -> None:
        """See `Tracer`."""
        # A daemon: a collector that hangs must not keep the process.
        closing = threading.Thread(target=self._provider.shutdown, name="traces-close", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)
        if closing.is_alive():
            log.warning("the trace collector did not answer in time: spans that are not sent are lost")


class _OtelSpan:
    """A span of the SDK."""

    def __init__(self, span: Any):
        self._span = span

    def __enter__(self) -> "_OtelSpan":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.fail(kind.__name__)

    def set(self, build: Callable[..., Values], *inputs: object) -> None:
        """See `TraceSpan`."""
        self._span.set_attributes(dict(build(*inputs)))

    def fail(self, kind: str) -> None:
        """See `TraceSpan`."""
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("error.type", kind)
        self._span.set_status(StatusCode.ERROR, kind)


class _LimitedHandler(logging.Handler):
    """Passes on one line of the SDK's own log in `LOG_SECONDS`: an export that fails logs at each try."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._next = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record's text, without what an address may hold of secrets."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + LOG_SECONDS
            log.warning("traces; the run goes on: %s", _shorten(record.getMessage()))


def _limit_logs() -> None:
    logger = logging.getLogger("opentelemetry")
    if not any(isinstance(each, _LimitedHandler) for each in logger.handlers):
        logger.addHandler(_LimitedHandler())
    logger.propagate = False


def _shorten(text: str) -> str:
    """Return `text` in one line, without the user and the query of addresses."""
    plain = re.sub(r"\?\S+", "?...", re.sub(r"//[^/\s]*@", "//...@", text))
    return " ".join(plain.split())[:MAX_LOGGED]
