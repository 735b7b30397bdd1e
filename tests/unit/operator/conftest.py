"""Fixtures of the operator's tests: a small run, a run folder with realistic records, the fake coordinator."""

import math
import random
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType

import fake_api as fake_api_module
import pytest
import yaml

from scalerl_api import RLRun, RLRunStatus, parse_run
from scalerl_api.evaluations import held_out
from scalerl_api.status import CostStatus
from scalerl_api.wire import EVALS_FILE, HELD_OUT, METRICS_FILE, EvalPoint, Progress, StepRecord, Termination
from scalerl_operator.decide.assessment import forecast_points, summarize
from scalerl_operator.decide.lifecycle import plan_run
from scalerl_operator.local import run_folder as records
from scalerl_operator.local.run_folder import RunFolder
from scalerl_operator.run.attempts import start_attempt, termination_fields
from scalerl_operator.run.observed import ObservedState
from scalerl_operator.run.progress import budget_gpu_hours

START = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)


def _document(**spec: object) -> dict[str, object]:
    return {
        "apiVersion": "scalerl.io/v1alpha1",
        "kind": "RLRun",
        "metadata": {"name": "tiny"},
        "spec": {
            "model": {"source": "scratch", "scratch": {}, "dtype": "float32"},
            "warmStart": {"source": "reasoning_gym:chain_sum", "steps": 30},
            "data": {
                "train": {"source": "reasoning_gym:chain_sum", "size": 5000},
                "heldOut": {"prompts": 250, "samplesPerPrompt": 4},
                "promptFormat": "plain",
            },
            "reward": {"verifier": "reasoning_gym"},
            "recipe": {"promptsPerStep": 16, "optimizer": {"warmupSteps": 3}},
            "budget": {"steps": 120, "evalEverySteps": 10},
            "trainer": {"gpusPerReplica": 0},
            "generator": {"gpusPerReplica": 0},
            "checkpoint": {"everySteps": 5},
            **spec,
        },
    }


@pytest.fixture
def document() -> Callable[..., dict[str, object]]:
    """`document(budget={...})` returns an RLRun as parsed YAML, with parts of its spec replaced."""
    return _document


@pytest.fixture
def make_run() -> Callable[..., RLRun]:
    """`make_run(budget={...})` returns the parsed run."""
    return lambda **spec: parse_run(_document(**spec))


@pytest.fixture
def point() -> Callable[..., EvalPoint]:
    """`point(index, step=..)` returns a held-out evaluation."""

    def make(index: int, **values: object) -> EvalPoint:
        given = {"step": 10 * index, "compute_gpu_hours": 0.02 * index, "pass_rate": 0.3, "standard_error": 0.02}
        fixed = {"index": index, "prompts": 250, "samples": 4}
        return EvalPoint.model_validate({**fixed, "version": 10 * index, **given, **values})

    return make


@pytest.fixture
def fake_coordinator() -> list[str]:
    """The command of the stand-in for the runtime; its scenario is in FAKE_COORDINATOR."""
    return [sys.executable, str(Path(__file__).parents[2] / "support" / "fake_coordinator.py")]


@pytest.fixture(scope="session")
def fake_api() -> ModuleType:
    """The module `fake_api`: `async with fake_api.serving(answer, ...) as api`."""
    return fake_api_module


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder and no kubeconfig, so that no name is searched on a cluster."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    return tmp_path


@pytest.fixture
def run_folder(finished_folder: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of `finished_folder` to write in, at `runs/adder-digits` of the test's own folder."""
    return RunFolder(shutil.copytree(finished_folder.path, tmp_path / "runs" / "adder-digits"))


@pytest.fixture(scope="session")
def finished_folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The folder of a finished run of 240 steps with two attempts and two downstream sets; only to be read."""
    folder = RunFolder(tmp_path_factory.mktemp("finished") / "adder-digits")
    folder.path.mkdir(parents=True)
    document = _document(
        budget={"steps": 240, "evalEverySteps": 10},
        data={
            "train": {"source": "reasoning_gym:chain_sum", "size": 5000},
            "heldOut": {"prompts": 250, "samplesPerPrompt": 4},
            "downstream": [
                {"name": "long-sums", "source": "reasoning_gym:chain_sum"},
                {"name": "products", "source": "reasoning_gym:products"},
            ],
            "promptFormat": "plain",
        },
    )
    document["metadata"] = {"name": "adder-digits"}
    folder.spec.write_text(yaml.safe_dump(document, sort_keys=False))
    run, rng = parse_run(document), random.Random(4)
    points = [each for step in range(0, 241, 10) for each in _evaluate(step, rng)]
    points = [each.model_copy(update={"index": index}) for index, each in enumerate(points)]
    steps = [_train(step, rng) for step in range(1, 241)]
    _write(folder.path / EVALS_FILE, points)
    _write(folder.path / METRICS_FILE, steps)
    return _finish(folder, run, points, steps[-1])


def _evaluate(step: int, rng: random.Random) -> list[EvalPoint]:
    compute = 0.0021 * step
    found = []
    for name, start, end, middle in (
        (HELD_OUT, 0.21, 0.78, 0.13),
        ("long-sums", 0.08, 0.42, 0.2),
        ("products", 0.02, 0.11, 0.3),
    ):
        rate = start + (end - start) / (1 + (middle / compute) ** 1.9) if compute else start
        error = math.sqrt(rate * (1 - rate) / 1000)
        found.append(
            EvalPoint(
                index=0,
                dataset=name,
                step=step,
                version=step,
                compute_gpu_hours=compute,
                pass_rate=min(1.0, max(0.0, rng.gauss(rate, error))),
                prompts=250,
                samples=4,
                standard_error=error * 1.4,
                mean_tokens=30 + 9 * rate,
                entropy=0.9 - 0.6 * rate,
                attempt=1 if step <= 90 else 2,
            )
        )
    return found


def _train(step: int, rng: random.Random) -> StepRecord:
    gain = 1 / (1 + (62 / step) ** 1.9)
    rate = 0.21 + 0.57 * gain
    stall = 0.03 + 0.01 * rng.random()
    return StepRecord(
        step=step,
        time=START.timestamp() + 3.4 * step,
        attempt=1 if step <= 93 else 2,
        compute_gpu_hours=0.0021 * step,
        reward=2 * rate - 1 + rng.gauss(0, 0.09),
        values={
            "entropy": 0.75 - 0.45 * gain + rng.gauss(0, 0.02),
            "lag_mean": 1.6 + 0.5 * rng.random(),
            "lag_max": float(rng.choice((2, 3, 3, 4))),
            "tokens_per_second": rng.gauss(2100, 160),
            "generator_tokens_per_second": rng.gauss(2350, 200),
            "idle_fraction_trainer": 0.12 + 0.3 / step + rng.gauss(0, 0.005),
            "idle_fraction_generator": 0.05 + 0.2 / step + rng.gauss(0, 0.003),
            "truncation_share": max(0.0, 0.05 - 0.04 * gain + rng.gauss(0, 0.008)),
            "zero_variance_share": min(1.0, 0.18 + 0.25 * gain + rng.gauss(0, 0.06)),
            "forced_tokens": float(rng.randint(20, 90)),
            "mismatch_kl": abs(rng.gauss(2.2e-4, 6e-5)),
            **({"mismatch_lag0": 3e-7 * (1 + gain) * (1 + 0.2 * math.sin(9.0 * step))} if step % 3 else {}),
            "ratio_clipped_share": abs(rng.gauss(0.002, 0.0006)),
            "grad_norm": abs(rng.gauss(0.55, 0.09)),
            "weight_sync_seconds": stall * 2.2,
            "weight_stall_seconds": stall,
            "completion_tokens_mean": 30 + 9 * rate + rng.gauss(0, 0.6),
        },
    )


def _write(path: Path, items: "list[EvalPoint] | list[StepRecord]") -> None:
    path.write_text("".join(each.model_dump_json(by_alias=True) + "\n" for each in items))


def _finish(folder: RunFolder, run: RLRun, points: list[EvalPoint], last: StepRecord) -> RunFolder:
    lines, measured = [], held_out(points)
    for count, each in enumerate(measured, start=1):
        budget = budget_gpu_hours(run, each.step, each.compute_gpu_hours)
        lines.append(forecast_points(run, measured[:count], budget, START.timestamp() + 3.4 * each.step))
    folder.forecasts.write_text("".join(line.to_line() + "\n" for line in lines))
    first, second = start_attempt(1, START), start_attempt(2, START + timedelta(seconds=340))
    termination = Termination(reason="Finished", step=240)
    killed = {"ended": START + timedelta(seconds=330), "exit_code": 137, "checkpoint_step": 90}
    finished = {"ended": START + timedelta(seconds=900), "exit_code": 0, "checkpoint_step": 240}
    attempts = (
        first.model_copy(update=killed),
        second.model_copy(update={**finished, **termination_fields(termination)}),
    )
    records.append_attempt(folder, attempts[0])
    records.append_attempt(folder, attempts[1], termination)
    progress = Progress(
        run=run.name,
        attempt=2,
        phase="finished",
        step=240,
        version=240,
        compute_gpu_hours=last.compute_gpu_hours,
        gpu_seconds={"trainer": 907.0, "generator": 907.0},
        idle_fraction={"trainer": 0.13, "generator": 0.06},
        latest=last,
        time=last.time,
    )
    observed = ObservedState(attempts=attempts, progress=progress, evals=tuple(points))
    status = plan_run(run, observed, summarize(run, lines, points), START + timedelta(seconds=900)).status
    assert isinstance(status, RLRunStatus)
    assert isinstance(status.cost, CostStatus)
    records.save_status(folder, run.model_copy(update={"status": status}))
    return folder


@pytest.fixture
def listen() -> Iterator[Callable[[Callable[[BaseHTTPRequestHandler], tuple[int, bytes]]], int]]:
    """`listen(answer)`: the port of a new server; every GET gets the status and body that `answer(request)` returns."""
    servers = []

    def start(answer: Callable[[BaseHTTPRequestHandler], tuple[int, bytes]]) -> int:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                code, body = answer(self)
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return server.server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def drip() -> Iterator[Callable[[bytes], int]]:
    """`drip(head)`: the port of a server that sends `head`, and then a byte at a time, for longer than a test waits."""
    with ExitStack() as listeners:

        def start(head: bytes) -> int:
            listener = listeners.enter_context(socket.create_server(("127.0.0.1", 0)))
            Thread(target=_drip, args=(listener, head), daemon=True).start()
            port: int = listener.getsockname()[1]
            return port

        yield start


def _drip(listener: socket.socket, head: bytes) -> None:
    peer, _ = listener.accept()
    with peer:
        peer.recv(65536)
        peer.sendall(head)
        try:
            for _ in range(3000):
                peer.sendall(b" ")
                time.sleep(0.01)
        except OSError:  # the reader has gone
            return
