"""A real Prometheus server for the session, and the coordinators that it scrapes.

The runtime's own registry behind HTTP.
"""

import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import yaml

from scalerl_runtime.process.metrics import Publisher

SECONDS = 120.0  # longest wait: most take one
SCRAPE = "400ms"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker("prometheus")


def find(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.exit(f"no {program} on PATH (Debian: prometheus)", returncode=1)
    return found


@pytest.fixture(scope="session")
def promtool() -> str:
    return find("promtool")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Prometheus:
    """One server and its folder."""

    folder: Path
    arguments: list[str] = field(default_factory=list)
    process: "subprocess.Popen[bytes] | None" = None
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, config: object) -> None:
        (self.folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        self.port = free_port()
        command = [find("prometheus"), f"--config.file={self.folder}/prometheus.yaml"]
        command += [f"--storage.tsdb.path={self.folder}/data", f"--web.listen-address=127.0.0.1:{self.port}"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([*command, *self.arguments], stdout=log, stderr=log)

    def until_ready(self) -> None:
        def ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            try:
                with urlopen(f"{self.url}/-/ready", timeout=5) as answer:
                    return bool(answer.status == 200)
            except (URLError, OSError):
                return False

        wait_for("Prometheus is ready", ready)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def wait_for(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {SECONDS:g} s")
        time.sleep(0.05)


@pytest.fixture
def start_prometheus(tmp_path: Path) -> Iterator[Callable[..., Prometheus]]:
    """`start_prometheus(config, *arguments)` starts a server for one test."""
    servers = []

    def start(config: object, *arguments: str) -> Prometheus:
        server = Prometheus(tmp_path, list(arguments))
        servers.append(server)
        server.start(config)
        return server

    yield start
    for server in servers:
        server.kill()


@dataclass
class ScrapedCoordinator:
    """The metrics of the runtime's coordinator."""

    publisher: Publisher = field(default_factory=Publisher)
    is_up: bool = True
    scrapes: int = 0

    def until_scraped(self) -> None:
        """Wait until the current values are scraped: the running scrape, and one more, have ended."""
        scraped = self.scrapes
        wait_for("the coordinator is scraped", lambda: self.scrapes >= scraped + 3)


# Prometheus takes 5 s to read a change of its targets, so the addresses of all coordinators exist from the start.
PLACES = ((1, "a"), (1, "b"), (2, "a"))  # attempt, and the server of a pair that would scrape it
RUNS = 16


class Lab:
    """The session's server, and the addresses of the coordinators that it scrapes.

    Nobody answers there until one is put there.
    """

    def __init__(self, folder: Path):
        self.prometheus = Prometheus(folder)
        self.uids = [str(uuid.uuid4()) for _ in range(RUNS)]
        self.unused = list(self.uids)
        self.coordinators: dict[str, ScrapedCoordinator] = {}
        lab = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                coordinator = lab.coordinators.get(self.path)
                body = coordinator.publisher.render() if coordinator is not None and coordinator.is_up else None
                self.send_response(200 if body is not None else 503)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.end_headers()
                self.wfile.write(body or b"")
                if coordinator is not None:
                    coordinator.scrapes += 1

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def put(self, uid: str, attempt: int, replica: str) -> ScrapedCoordinator:
        """Start answering for a coordinator."""
        found = self.coordinators[f"/{uid}/{attempt}/{replica}"] = ScrapedCoordinator()
        return found

    def remove(self, coordinator: ScrapedCoordinator) -> None:
        """Stop answering, as after the pod's deletion."""
        self.coordinators = {path: each for path, each in self.coordinators.items() if each is not coordinator}

    def config(self) -> object:
        """Return targets with the labels of the chart's PodMonitor."""
        targets = [
            {
                "targets": [f"127.0.0.1:{self.server.server_port}"],
                "labels": {
                    "__metrics_path__": f"/{uid}/{attempt}/{replica}",
                    "namespace": "research",
                    "run": "tiny",
                    "run_uid": uid,
                    "attempt": str(attempt),
                    "prometheus_replica": replica,
                },
            }
            for uid in self.uids
            for attempt, replica in PLACES
        ]
        job = {"job_name": "runs", "scrape_interval": SCRAPE, "scrape_timeout": SCRAPE, "static_configs": targets}
        return {"scrape_configs": [job]}


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    found = Lab(tmp_path_factory.mktemp("prometheus"))
    found.prometheus.start(found.config())
    try:
        found.prometheus.until_ready()
        yield found
    finally:
        found.prometheus.kill()
        found.server.shutdown()
        found.server.server_close()
