"""The whole process on an API server of a hundred lines: what it answers while it waits, leads, and ends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
import yaml

SECONDS = 60.0
LEASE = "/apis/coordination.k8s.io/v1/namespaces/ops/leases"
Json = dict[str, Any]


class Api:
    """Leases are stored; runs and pods are there to be listed and watched, and there are none."""

    def __init__(self) -> None:
        self.lease: Json | None = None
        self.lists_fail = self.lists_are_nonsense = self.lease_fails = False
        self.objects: dict[str, list[Json]] = {"rlruns": [], "pods": []}
        self.prometheus: list[str] = []
        self.closing, self.gone = Event(), Event()
        self.asked: list[tuple[str, str]] = []
        """(who, what) of the lists, in order."""
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        Handler.api = self
        Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def read(self, path: str) -> tuple[Json, int]:
        if path.startswith(LEASE):
            return (self.lease or {}, 503 if self.lease_fails else 200 if self.lease is not None else 404)
        if path.endswith(("/rlruns", "/pods")):
            kind = "RLRun" if path.endswith("/rlruns") else "Pod"
            head = {"apiVersion": "v1", "kind": f"{kind}List", "metadata": {"resourceVersion": "9"}}
            head["items"] = self.objects[path.rsplit("/", 1)[1]]
            return ({} if self.lists_are_nonsense else head), 503 if self.lists_fail else 200
        if path.startswith("/prom/"):
            self.prometheus.append(path)
            return {"status": "success", "data": {"resultType": "vector", "result": []}}, 200
        return DISCOVERY.get(path.rstrip("/"), {}), 200

    def write_lease(self, given: Json) -> tuple[Json, int]:
        if self.lease_fails:
            return {}, 503
        version = str(int(given["metadata"].get("resourceVersion", "0")) + 1)
        self.lease = {**given, "metadata": {**given["metadata"], "resourceVersion": version}}
        return self.lease, 200

    def holder(self) -> str:
        return str(self.lease["spec"]["holderIdentity"]) if self.lease is not None else ""


class Handler(BaseHTTPRequestHandler):
    api: Api
    protocol_version = "HTTP/1.1"

    def answer(self, document: Json, code: int) -> None:
        body = json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if "watch=" in self.path:
            while not self.api.closing.wait(0.05) and not self.api.gone.is_set():  # nothing ever happens
                pass
            self.close_connection = True
            if self.api.gone.is_set():
                self.answer({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}, 200)
        else:
            name = urlsplit(self.path).path.rsplit("/", 1)[1]
            if name in self.api.objects:
                who = "kopf" if self.headers["User-Agent"].startswith("kopf") else "us"
                self.api.asked.append((who, name))
            self.answer(*self.api.read(urlsplit(self.path).path))

    def do_POST(self) -> None:
        self.answer(*self.api.write_lease(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

    do_PUT = do_POST

    def do_PATCH(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer({}, 503)

    def log_message(self, *_: object) -> None:
        pass


def resource(name: str, kind: str) -> Json:
    return {"name": name, "kind": kind, "namespaced": True, "singularName": "", "verbs": ["list", "watch", "patch"]}


GROUP = {"groupVersion": "scalerl.io/v1alpha1", "version": "v1alpha1"}
DISCOVERY: dict[str, Json] = {
    "/api": {"versions": ["v1"]},
    "/api/v1": {"resources": [resource("namespaces", "Namespace"), resource("pods", "Pod")]},
    "/apis": {"groups": [{"name": "scalerl.io", "versions": [GROUP], "preferredVersion": GROUP}]},
    "/apis/scalerl.io": {"name": "scalerl.io", "versions": [GROUP], "preferredVersion": GROUP},
    "/apis/scalerl.io/v1alpha1": {"resources": [resource("rlruns", "RLRun")]},
}


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
    found = Api()
    yield found
    found.closing.set()
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def start(api: Api, tmp_path: Path) -> Iterator[Callable[..., Replica]]:
    """`start(name, ...)`: a replica, with further arguments."""
    replicas: list[Replica] = []
    kubeconfig = {
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{api.server.server_port}"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    (tmp_path / "kubeconfig").chmod(0o600)
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
    api.lists_fail = True
    leader = start("one")
    leader.until("it leads", lambda: api.holder() == "one")
    leader.until("it says so", lambda: leader.ask("/readyz") == (503, "the caches are not filled"))
    assert leader.ask("/healthz") == (200, "ok")
    before = len(api.asked)
    leader.until("it tries again", lambda: len(api.asked) > before)
    api.lists_fail = False
    leader.until("it is ready", lambda: leader.ask("/readyz") == (200, "ok"))
    text = leader.ask("/metrics")[1]
    assert "scalerl_operator_leader 1.0" in text
    leader.process.send_signal(signal.SIGTERM)
    assert leader.process.wait(SECONDS) == 0
    assert api.holder() == "", "it is released: another need not wait"


def test_a_standby_is_ready_and_shows_no_run(api: Api, start: Callable[..., Replica]) -> None:
    spec = {"holderIdentity": "another", "leaseDurationSeconds": 14, "leaseTransitions": 0}
    api.lease = {"metadata": {"name": "scalerl-operator", "namespace": "ops", "resourceVersion": "1"}, "spec": spec}
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
    api.lease_fails = True
    assert leader.process.wait(SECONDS) == 1
    assert "no longer leads" in leader.log.read_text()


def test_a_leader_that_does_not_understand_the_first_lists_ends_with_an_error(
    api: Api, start: Callable[..., Replica]
) -> None:
    """It would act on empty caches: every run would look deleted."""
    api.lists_are_nonsense = True
    leader = start("one")
    assert leader.process.wait(SECONDS) == 1
    text = leader.log.read_text()
    assert "the work ended" in text
    assert "load_store" in text, "the trace says where"


def test_the_caches_are_read_after_every_watch_has_begun_and_again_when_one_begins_anew(
    api: Api, start: Callable[..., Replica]
) -> None:
    """What is deleted between the caches' lists and those of the watches, nobody tells."""
    leader = start("one")
    leader.until("it is ready", lambda: leader.ask("/readyz")[0] == 200)
    leader.until("it leads", lambda: "scalerl_operator_leader 1.0" in leader.ask("/metrics")[1])
    leader.until("both lists were read", lambda: len(api.asked) >= 5)
    by_kopf = ("kopf", "rlruns"), ("kopf", "pods")
    assert sorted(api.asked[1:3]) == sorted(by_kopf)
    assert [api.asked[0], *api.asked[3:5]] == [("us", "rlruns"), ("us", "rlruns"), ("us", "pods")]
    api.gone.set()
    leader.until(
        "a watch lists anew, then the operator", lambda: api.asked[5:][-2:] == [("us", "rlruns"), ("us", "pods")]
    )
    assert set(api.asked[5:]) >= set(by_kopf)


def test_a_coordinator_that_does_not_answer_is_asked_about_at_the_named_prometheus(
    api: Api, start: Callable[..., Replica], document: Callable[..., Json]
) -> None:
    """The pod's address is nobody's."""
    born = {"namespace": "research", "creationTimestamp": "2026-05-04T12:00:00Z", "resourceVersion": "3"}
    run = {**document(managedBy="scalerl.io/operator"), "metadata": {"name": "tiny", "uid": "u1", **born}}
    labels = {"scalerl.io/run": "tiny", "scalerl.io/role": "trainer", "scalerl.io/index": "0"}
    owner = {"controller": True, "uid": "u1", "name": "tiny", "kind": "RLRun"}
    running = {"name": "runtime", "state": {"running": {"startedAt": born["creationTimestamp"]}}}
    api.objects["rlruns"] = [run]
    api.objects["pods"] = [
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
        }
    ]
    url = f"http://127.0.0.1:{api.server.server_port}/prom"
    leader = start("one", "--prometheus-url", url, "--poll-seconds", "0.2")
    leader.until("it is read", lambda: 'readings_total{result="not_scraped"} 1.0' in leader.ask("/metrics")[1])
    assert api.prometheus == [f"/prom/api/v1/{call}" for call in ("query_range", "query", "query")]


def test_a_key_that_is_too_short_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("short\n")
    command = [sys.executable, "-m", "scalerl_operator", "operator", "--image", "i"]
    done = subprocess.run([*command, "--token-key-file", str(tmp_path / "key")], capture_output=True, text=True)
    assert done.returncode == 1
    assert "holds 5 bytes; need 16" in done.stderr
