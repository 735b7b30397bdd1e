"""Real servers of object stores on this machine: moto's for S3, gcp-storage-emulator's for Google Cloud Storage."""

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from scalerl_api import InvalidRun

START_SECONDS = 60.0
BUCKET = "lab"
KEY, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"  # of AWS's documentation
S3_COMMAND = (sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p")
GCS_CODE = (
    "import sys, threading; from gcp_storage_emulator.server import create_server as make; "
    "make('127.0.0.1', int(sys.argv[1]), in_memory=True).start(); threading.Event().wait()"
)


@contextmanager
def serve(command: Callable[[int], list[str]], log: Path) -> Iterator[str]:
    """Run a server as a process on a free port and yield its address when it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("wb") as output:
        process = subprocess.Popen(command(port), stdout=output, stderr=output, env={**os.environ})
        try:
            end = time.monotonic() + START_SECONDS
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"the server does not start: {log.read_text()[-2000:]}")
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        connection.getresponse().read()
    except OSError:
        return False
    finally:
        connection.close()
    return True


def serve_s3(log: Path) -> Any:
    """A server of S3's protocol."""
    return serve(lambda port: [*S3_COMMAND, str(port)], log)


def serve_gcs(log: Path) -> Any:
    """A server of Google Cloud Storage's protocol."""
    return serve(lambda port: [sys.executable, "-W", "ignore", "-c", GCS_CODE, str(port)], log)


def s3_variables(endpoint: str, key: str = KEY, secret: str = SECRET) -> dict[str, str]:
    """The variables with which s3fs finds `endpoint`."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def s3_client(endpoint: str, service: str = "s3") -> Any:
    """A client of AWS's own library."""
    import boto3

    return boto3.client(
        service,
        endpoint_url=endpoint,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
    )


def put_folder(endpoint: str, bucket: str, folder: Path, prefix: str) -> None:
    """Upload the files of `folder` below `prefix`."""
    client = s3_client(endpoint)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            client.put_object(Bucket=bucket, Key=f"{prefix}/{path.relative_to(folder)}", Body=path.read_bytes())


def use(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    """Set variables, and forget clients that were made with others."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def put(endpoint: str, key: str, data: bytes) -> None:
    """Write an object of the bucket."""
    s3_client(endpoint).put_object(Bucket=BUCKET, Key=key, Body=data)


def same_files(folder: Path, model: Path) -> bool:
    """Whether `folder` has the files of `model`, and no others."""
    names = sorted(path.name for path in folder.iterdir())
    return names == sorted(path.name for path in model.iterdir()) and all(
        (folder / name).read_bytes() == (model / name).read_bytes() for name in names
    )


def refusal(source: str) -> str:
    """Return the words in which the model is refused."""
    from scalerl_runtime.models.source import resolve_model

    with pytest.raises(InvalidRun) as caught:
        resolve_model(source)
    (fault,) = caught.value.faults
    assert fault.path == "spec.model.source"
    return fault.allowed


def require_keys(endpoint: str) -> dict[str, str]:
    """Make the server check keys and signatures from now on; return variables with a key that it knows."""
    iam = s3_client(endpoint, "iam")
    iam.create_user(UserName="trainer")
    policy = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}'
    iam.put_user_policy(UserName="trainer", PolicyName="s3", PolicyDocument=policy)
    made = iam.create_access_key(UserName="trainer")["AccessKey"]
    reset_keys(endpoint, 0)
    return s3_variables(endpoint, made["AccessKeyId"], made["SecretAccessKey"])


def reset_keys(endpoint: str, num_free: float) -> None:
    """Let the server check keys after `num_free` further requests."""
    request = urllib.request.Request(
        f"{endpoint}/moto-api/reset-auth", data=str(num_free).encode(), headers={"Content-Type": "text/plain"}
    )
    urllib.request.urlopen(request, timeout=30).read()


@dataclass
class Faults:
    """A proxy's answers to requests, and the requests that came."""

    answer: Callable[[str, str, int], str | None] = lambda _method, _path, _number: None
    """Verdict by method, path and number of the request: "500", "403", "reset", "cut" (half a body), or none."""
    seen: list[tuple[str, str]] = field(default_factory=list)
    num_bytes: Counter[str] = field(default_factory=Counter)
    """Bytes of bodies that were forwarded, by path."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def judge(self, method: str, path: str) -> str | None:
        """Record the request and return its verdict."""
        with self._lock:
            self.seen.append((method, path))
            number = len(self.seen)
        return self.answer(method, path, number)

    def count(self, path: str, num_bytes: int) -> None:
        """Record a body."""
        with self._lock:
            self.num_bytes[path.partition("?")[0]] += num_bytes


class _Forwarding(BaseHTTPRequestHandler):
    """Forwards requests to the server's `upstream`, but for those that its `faults` spoil."""

    protocol_version = "HTTP/1.1"
    server: "_Proxy"

    def do_GET(self) -> None:
        verdict = self.server.faults.judge(self.command, self.path)
        if verdict == "reset":
            self.close_connection = True
        elif verdict == "500":
            self.reply(500, {}, b"")
        elif verdict == "403":
            self.reply(403, {"Content-Length": str(len(DENIED))}, DENIED)
        else:
            self.forward(is_cut=verdict == "cut")

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def forward(self, *, is_cut: bool) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else None
        connection = http.client.HTTPConnection(self.server.upstream, timeout=60)
        connection.request(self.command, self.path, body, dict(self.headers))
        found = connection.getresponse()
        data = found.read()
        connection.close()
        headers = {name: value for name, value in found.getheaders() if name.lower() not in SKIPPED}
        if self.command == "HEAD":
            headers["Content-Length"] = found.getheader("Content-Length") or "0"
        else:
            headers["Content-Length"] = str(len(data))
        self.server.faults.count(self.path, len(data))
        self.reply(found.status, headers, data, is_cut=is_cut)

    def reply(self, status: int, headers: Mapping[str, str], data: bytes, *, is_cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if is_cut else data)
        self.close_connection = is_cut

    def log_message(self, *_arguments: object) -> None:
        pass


class _Proxy(ThreadingHTTPServer):
    def __init__(self, endpoint: str, faults: Faults):
        super().__init__(("127.0.0.1", 0), _Forwarding)
        self.upstream = endpoint.removeprefix("http://")
        self.faults = faults


@contextmanager
def proxy(endpoint: str, faults: Faults) -> Iterator[str]:
    """Forward requests to `endpoint`, but for those that `faults` spoils."""
    with _Proxy(endpoint, faults) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
SKIPPED = {"transfer-encoding", "connection", "content-length", "date", "server"}
