"""The whole process on an in-memory API server: its answers while it waits, leads and ends."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from aiohttp import web
from http_api import HttpApi, save_kubeconfig, serve_in_thread

SECONDS = 60.0
LEASE = ("leases", "ops", "scalerl-operator")
Json = dict[str, Any]


class Api:
    """An API server for replicas that are processes, with the state that tests set and read from another thread."""

    def __init__(self, http: HttpApi, url: str, loop: asyncio.AbstractEventLoop):
        self.http, self.url, self._loop = http, url, loop
        self.prometheus: list[str] = []
        http.extra["/prom/"] = self._answer_prometheus

    def _answer_prometheus(self, request: web.Request) -> web.Response:
        self.prometheus.append(request.path)
        return web.json_response({"status": "success", "data": {"resultType": "vector", "result": []}})

    def refuse_lists(self, status: int, body: Json) -> None:
        self.http.refusals |= {f"/{plural}": (status, body, {}) for plural in ("rlruns", "pods")}

    @property
    def lists(self) -> list[tuple[str, str]]:
        """(agent, plural) of every list of runs and pods, in order."""
        found = [each for each in self.http.requests if each.is_list and each.path.endswith(("/rlruns", "/pods"))]
        return [("kopf" if each.agent.startswith("kopf") else "us", each.path.rsplit("/", 1)[1]) for each in found]

    def expire_watches(self) -> None:
        self._loop.call_soon_threadsafe(self.http.expire_watches)

    def holder(self) -> str:
        lease = self.http.store.objects.get(LEASE)
        return str(lease["spec"]["holderIdentity"]) if lease is not None else ""


@dataclass
class Replica:
    """One process."""

    process: "subprocess.Popen[bytes]"
    log: Path
    port: int = field(init=False)

    def ask(self, path: str) -> tuple[int, str]:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not holds():
            if time.monotonic() > deadline or self.process.poll() is not None:
                pytest.fail(f"{what}: not within {SECONDS:g} s; {self.process.poll()}\n{self.log.read_text()[-3000:]}")
            time.sleep(0.05)


@pytest.fixture
def api() -> Iterator[Api]:
    with serve_in_thread(HttpApi) as found:
        yield Api(*found)


@pytest.fixture
def start(api: Api, tmp_path: Path) -> Iterator[Callable[..., Replica]]:
    """`start(name, ...)` starts a replica with further arguments."""
    replicas: list[Replica] = []
    save_kubeconfig(tmp_path / "kubeconfig", api.url)
    (tmp_path / "key").write_bytes(b"0123456789abcdef")

    def run(name: str, *more: str) -> Replica:
        with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as probe:
            port = probe.server_port
        command = [sys.executable, "-m", "scalerl_operator", "operator", "--image", "i", "--identity", name]
        command += ["--token-key-file", str(tmp_path / "key"), "--lease-namespace", "ops", "--http", str(port), *more]
        environment = {**os.environ, "KUBECONFIG": str(tmp_path / "kubeconfig")}
        log = tmp_path / f"{name}.log"
        with log.open("wb") as out:
            replicas.append(Replica(subprocess.Popen(command, env=environment, stdout=out, stderr=out), log))
        replicas[-1].port = port
        return replicas[-1]

    yield run
    for each in replicas:
        each.process.kill()
        each.process.wait()


def test_a_leader_is_ready_once_its_caches_are_filled(api: Api, start: Callable[..., Replica]) -> None:
    api.refuse_lists(503, {})
    leader = start("one")
    leader.until("it leads", lambda: api.holder() == "one")
    leader.until("it says so", lambda: leader.ask("/readyz") == (503, "the caches are not filled"))
    assert leader.ask("/healthz") == (200, "ok")
    before = len(api.lists)
    leader.until("it tries again", lambda: len(api.lists) > before)
    api.http.refusals.clear()
    leader.until("it is ready", lambda: leader.ask("/readyz") == (200, "ok"))
    text = leader.ask("/metrics")[1]
    assert "scalerl_operator_leader 1.0" in text
    leader.process.send_signal(signal.SIGTERM)
    assert leader.process.wait(SECONDS) == 0
    assert api.holder() == "", "it is released: another need not wait"


def test_a_standby_is_ready_and_reports_no_run(api: Api, start: Callable[..., Replica]) -> None:
    spec = {"holderIdentity": "another", "leaseDurationSeconds": 14, "leaseTransitions": 0}
    api.http.store.store("leases", {"metadata": {"name": "scalerl-operator", "namespace": "ops"}, "spec": spec})
    standby = start("two")
    standby.until("it answers", lambda: standby.ask("/readyz") == (200, "ok"))
    assert standby.ask("/healthz") == (200, "ok")
    text = standby.ask("/metrics")[1]
    assert "scalerl_operator_leader 0.0" in text
    assert "scalerl_run_state{" not in text
    standby.process.send_signal(signal.SIGTERM)
    assert standby.process.wait(SECONDS) == 0
    assert api.holder() == "another"


def test_a_leader_that_cannot_renew_ends_with_an_error(api: Api, start: Callable[..., Replica]) -> None:
    leader = start("one")
    leader.until("it leads", lambda: "scalerl_operator_leader 1.0" in leader.ask("/metrics")[1])
    leader.until("it is ready", lambda: leader.ask("/readyz")[0] == 200)
    api.http.refusals["/leases"] = (503, {}, {})
    assert leader.process.wait(SECONDS) == 1
    assert "no longer leads" in leader.log.read_text()


def test_a_leader_that_cannot_parse_the_first_lists_ends_with_an_error(api: Api, start: Callable[..., Replica]) -> None:
    """With empty caches it would treat every run as deleted."""
    api.refuse_lists(200, {})
    leader = start("one")
    assert leader.process.wait(SECONDS) == 1
    text = leader.log.read_text()
    assert "the work ended" in text
    assert "load_store" in text, "the trace says where"


def test_caches_are_filled_once_every_watch_has_begun_and_again_after_a_restart(
    api: Api, start: Callable[..., Replica]
) -> None:
    """No event reports a deletion between the caches' lists and those of the watches."""
    leader = start("one")
    leader.until("it is ready", lambda: leader.ask("/readyz")[0] == 200)
    leader.until("it leads", lambda: "scalerl_operator_leader 1.0" in leader.ask("/metrics")[1])
    leader.until("both lists were read", lambda: len(api.lists) >= 5)
    by_kopf = ("kopf", "rlruns"), ("kopf", "pods")
    assert sorted(api.lists[1:3]) == sorted(by_kopf)
    assert [api.lists[0], *api.lists[3:5]] == [("us", "rlruns"), ("us", "rlruns"), ("us", "pods")]
    api.expire_watches()
    leader.until(
        "a watch lists anew, then the operator", lambda: api.lists[5:][-2:] == [("us", "rlruns"), ("us", "pods")]
    )
    assert set(api.lists[5:]) >= set(by_kopf)


def test_prometheus_is_queried_for_a_coordinator_that_does_not_answer(
    api: Api, start: Callable[..., Replica], document: Callable[..., Json]
) -> None:
    """Nothing listens at the pod's address."""
    born = {"namespace": "research", "creationTimestamp": "2026-05-04T12:00:00Z", "resourceVersion": "3"}
    run = {**document(managedBy="scalerl.io/operator"), "metadata": {"name": "tiny", "uid": "u1", **born}}
    labels = {"scalerl.io/run": "tiny", "scalerl.io/role": "trainer", "scalerl.io/index": "0"}
    owner = {"controller": True, "uid": "u1", "name": "tiny", "kind": "RLRun"}
    running = {"name": "runtime", "state": {"running": {"startedAt": born["creationTimestamp"]}}}
    api.http.store.store("rlruns", run)
    api.http.store.store(
        "pods",
        {
            "metadata": {
                "name": "tiny-trainer-0",
                "uid": "p1",
                "labels": {**labels, "scalerl.io/attempt": "1"},
                "ownerReferences": [owner],
                **born,
            },
            "spec": {},
            "status": {"phase": "Running", "podIP": "127.250.250.250", "containerStatuses": [running]},
        },
    )
    url = f"{api.url}/prom"
    leader = start("one", "--prometheus-url", url, "--poll-seconds", "0.2")
    leader.until("it is read", lambda: 'readings_total{result="not_scraped"} 1.0' in leader.ask("/metrics")[1])
    assert api.prometheus == [f"/prom/api/v1/{call}" for call in ("query_range", "query", "query")]


def test_a_short_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("short\n")
    command = [sys.executable, "-m", "scalerl_operator", "operator", "--image", "i"]
    done = subprocess.run([*command, "--token-key-file", str(tmp_path / "key")], capture_output=True, text=True)
    assert done.returncode == 1
    assert "holds 5 bytes; need 16" in done.stderr
