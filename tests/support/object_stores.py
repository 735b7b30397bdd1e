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

START_SECONDS = 60.0
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
    """What a proxy does to requests, and those that it has seen."""

    answer: Callable[[str, str, int], str | None] = lambda _method, _path, _number: None
    """Of method, path and number of the request: "500", "reset", "cut" (half of the body), "slow"; None: forwarded."""
    seen: list[tuple[str, str]] = field(default_factory=list)
    num_bytes: Counter[str] = field(default_factory=Counter)
    """Bytes of bodies that were forwarded, by path."""


@contextmanager
def proxy(endpoint: str, faults: Faults) -> Iterator[str]:
    """Forward requests to `endpoint`, but for those that `faults` spoils."""
    host = endpoint.removeprefix("http://")
    lock = threading.Lock()

    class Forwarding(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            with lock:
                faults.seen.append((self.command, self.path))
                number = len(faults.seen)
            verdict = faults.answer(self.command, self.path, number)
            if verdict == "reset":
                self.close_connection = True
                return
            if verdict == "500":
                self.reply(500, {}, b"")
                return
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length) if length else None
            connection = http.client.HTTPConnection(host, timeout=60)
            connection.request(self.command, self.path, body, dict(self.headers))
            found = connection.getresponse()
            data = found.read()
            connection.close()
            headers = {name: value for name, value in found.getheaders() if name.lower() not in SKIPPED}
            with lock:
                faults.num_bytes[path] += len(data)
            self.reply(found.status, headers, data, is_cut=verdict == "cut")

        do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

        def reply(self, status: int, headers: Mapping[str, str], data: bytes, *, is_cut: bool = False) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            length = headers.get("Content-Length", len(data)) if self.command == "HEAD" else len(data)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[: len(data) // 2] if is_cut else data)
            self.close_connection = is_cut

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Forwarding) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


SKIPPED = {"transfer-encoding", "connection", "content-length", "date", "server"}
