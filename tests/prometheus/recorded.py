"""A Prometheus server that serves the recording of `make record`, tests/prometheus/recorded. I/O."""

import json
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

RECORDED = Path(__file__).parent / "recorded/run"
READY_SECONDS = 60.0


def load_story() -> dict[str, Any]:
    """Return the times and variables of the recording: `from` and `to` in Unix seconds, `variables`."""
    found: dict[str, Any] = json.loads(RECORDED.with_suffix(".json").read_text())
    return found


@contextmanager
def serve_recorded() -> Iterator[tuple[str, dict[str, Any]]]:
    """Serve the recording; give the server's URL and its description. Raises SystemExit without Prometheus."""
    program = shutil.which("prometheus")
    if program is None:
        raise SystemExit("no prometheus on PATH (Debian: prometheus)")
    with tempfile.TemporaryDirectory(prefix="scalerl-recorded-") as folder:
        with tarfile.open(RECORDED.with_suffix(".tar.gz")) as archive:
            archive.extractall(folder, filter="data")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        (Path(folder) / "empty.yaml").write_text("{}\n")
        command = [program, f"--config.file={folder}/empty.yaml", f"--storage.tsdb.path={folder}/data"]
        command += ["--storage.tsdb.retention.time=100y", f"--web.listen-address=127.0.0.1:{port}"]
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _until_ready(f"http://127.0.0.1:{port}", process, Path(folder) / "log")
            yield f"http://127.0.0.1:{port}", load_story()
        finally:
            process.kill()
            process.wait()


def _until_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            with urlopen(f"{url}/-/ready", timeout=5):
                return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"Prometheus does not serve the recording:\n{log.read_text()[-2000:]}") from None
            time.sleep(0.1)
