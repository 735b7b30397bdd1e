"""Traces: off by default, what the variables say, over a real collector, and without one that works."""

import logging
import socket
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest
from trace_receiver import receive_traces

from scalerl_runtime.trackers import tracing as module
from scalerl_runtime.trackers.tracing import ENDPOINTS, NO_TRACING, is_wanted, open_tracing

PATIENCE = 300.0  # seconds for the last export on a busy machine
EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"


@pytest.fixture(autouse=True)
def untouched_logs(monkeypatch):
    """The SDK's logger, and its variables, are as before afterwards."""
    for name in (*ENDPOINTS, "OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_SERVICE_NAME"):
        monkeypatch.delenv(name, raising=False)
    logger = logging.getLogger("opentelemetry")
    handlers, propagate = logger.handlers[:], logger.propagate
    yield
    for thread in threading.enumerate():
        if thread.name == "traces-close":  # its retries would be in the next test's log
            thread.join(PATIENCE)
    logger.handlers[:], logger.propagate = handlers, propagate


def trace(monkeypatch, port, variable="OTEL_EXPORTER_OTLP_ENDPOINT", path=""):
    monkeypatch.setenv(variable, f"http://user:word@127.0.0.1:{port}{path}")
    return open_tracing("math", "lab", 3)


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c:4318"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "True"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "false"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_the_standard_variables_turn_traces_on(variables, wanted):
    assert is_wanted(variables) is wanted


def test_without_an_endpoint_nothing_is_imported():
    code = (
        "import sys; import scalerl_runtime.loop.pool; from scalerl_runtime.trackers.tracing import *\n"
        "tracer = open_tracing('math', 'lab', 3)\n"
        "with tracer.span('scalerl.step', {}) as span: span.set(lambda: 1 / 0); span.fail('Stopped')\n"
        "tracer.close()\n"
        "assert tracer is NO_TRACING\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PATH": ""}, timeout=PATIENCE)


def test_a_missing_package_is_one_line_that_says_how_to_install_it(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, EXPORTER, None)
    assert trace(monkeypatch, 4318) is NO_TRACING
    assert [record.getMessage() for record in caplog.records] == [
        f"no traces: {EXPORTER} is not installed: pip install 'scalerl[traces]'"
    ]
    extras = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert "opentelemetry-exporter-otlp-proto-http" in extras["traces"]


def test_a_setting_that_the_sdk_refuses_is_one_line(monkeypatch, caplog):
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")
    assert trace(monkeypatch, 4318) is NO_TRACING
    (record,) = caplog.records
    assert record.getMessage().startswith("no traces: ValueError")


@pytest.mark.parametrize(
    ("variable", "path"), [(ENDPOINTS[0], "/v1/traces"), (ENDPOINTS[1], "")], ids=["traces", "all signals"]
)
def test_spans_reach_the_collector(monkeypatch, variable, path):
    monkeypatch.setattr(module, "CLOSE_SECONDS", PATIENCE)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "our-own")
    with receive_traces() as receiver:
        tracer = trace(monkeypatch, receiver.port, variable, path)
        with tracer.span("outer", {"number": 1}) as span:
            span.set(lambda *words: {"words": words}, "a", "b")
            with tracer.span("inner", {}), pytest.raises(KeyError), tracer.span("failed", {}):
                raise KeyError("the text of a prompt")
        tracer.close()
    assert receiver.paths == {"/v1/traces"}
    (outer,), (inner,), (failed,) = map(receiver.named, ("outer", "inner", "failed"))
    assert (outer.parent, inner.parent, failed.parent) == (b"", outer.id, inner.id)
    assert outer.values == {"number": 1, "words": ["a", "b"]}
    assert (outer.is_error, inner.is_error, failed.is_error) == (False, False, True)
    assert failed.values == {"error.type": "KeyError"}
    expected = {"scalerl.run.name": "math", "scalerl.run.namespace": "lab", "scalerl.run.attempt": 3}
    assert outer.resource.items() >= {**expected, "service.name": "our-own"}.items()


def test_a_collector_that_hangs_keeps_nobody(monkeypatch, caplog):
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.05)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
    with receive_traces() as receiver:
        receiver.answering.clear()
        tracer = trace(monkeypatch, receiver.port)
        for _ in range(100):  # more than the queue holds
            with tracer.span("span", {}):
                pass
        assert receiver.waiting.wait(PATIENCE)
        tracer.close()
        assert not receiver.answering.is_set(), "the collector has not answered"
    assert "did not answer in time" in caplog.records[-1].getMessage()
    assert len(caplog.records) <= 2, "the SDK names each dropped span"
    assert len(receiver.spans) <= 8 + 2 * 4


def test_a_dead_collector_is_named_once_without_secrets(monkeypatch, caplog):
    monkeypatch.setattr(module, "CLOSE_SECONDS", PATIENCE)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        tracer = trace(monkeypatch, unused.getsockname()[1], ENDPOINTS[0], "/v1/traces?key=abc")
        with tracer.span("span", {}):
            pass
        tracer.close()
    logging.getLogger("opentelemetry.sdk").error("again")
    (record,) = caplog.records
    assert record.getMessage().startswith("traces; the run goes on: ")
    assert not any(secret in record.getMessage() for secret in ("abc", "word"))
    assert len(record.getMessage()) < 400
