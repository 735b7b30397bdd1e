"""A server with one data set of the Hugging Face hub's protocol: its tree, and ranges of its files."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

NAME, COMMIT, TOKEN = "org/rows", "c" * 40, "hf_fiveWordsThatAreATokenHere"


@dataclass
class HubFiles:
    """The data set's files, and the requests that came."""

    files: dict[str, bytes]
    is_private: bool = False
    """Asks for TOKEN."""
    num_reads: int = 0
    methods: list[str] = field(default_factory=list)


class _Answers(BaseHTTPRequestHandler):
    server: "_Hub"

    def do_GET(self) -> None:
        hub = self.server.hub
        path = unquote(self.path.partition("?")[0])
        if hub.is_private and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.reply(401, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "no such data set"})
        elif path.startswith(f"/api/datasets/{NAME}/tree/"):
            self.list_tree(path.split("/", 7)[7] if path.count("/") > 6 else "")
        elif path.startswith(f"/api/datasets/{NAME}"):
            self.reply(200, json.dumps({"id": NAME, "sha": COMMIT, "siblings": []}).encode())
        elif path.startswith(f"/datasets/{NAME}/resolve/"):
            self.send_file(hub.files[path.split("/", 6)[6]])
        else:
            self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "no such data set"})

    do_HEAD = do_GET

    def list_tree(self, folder: str) -> None:
        prefix, is_deep = f"{folder}/" if folder else "", "recursive=true" in self.path.lower()
        below = {name: data for name, data in self.server.hub.files.items() if name.startswith(prefix)}
        folders = {name.rpartition("/")[0] for name in below} - {folder, ""}
        found: list[dict[str, object]] = [
            {"type": "directory", "oid": "0" * 40, "size": 0, "path": each} for each in folders
        ]
        found += [_describe(n, data) for n, data in below.items() if is_deep or "/" not in n.removeprefix(prefix)]
        if found:
            self.reply(200, json.dumps(found).encode())
        else:
            self.reply(404, b"{}", {"X-Error-Code": "EntryNotFound"})

    def send_file(self, data: bytes) -> None:
        self.server.hub.num_reads += self.command == "GET"
        start, _, end = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        part = data[int(start) : int(end) + 1 if end else None]
        commit = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(data, usedforsecurity=False).hexdigest()}"'}
        self.reply(206 if "Range" in self.headers else 200, part, commit)

    def reply(self, status: int, data: bytes, headers: Mapping[str, str] = {}) -> None:  # noqa: B006 # never changed
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_arguments: object) -> None:
        pass


def _describe(name: str, data: bytes) -> dict[str, object]:
    blob = hashlib.sha1(f"blob {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()
    described: dict[str, object] = {"type": "file", "oid": blob, "size": len(data), "path": name}
    if name.endswith(".parquet"):
        described["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return described


class _Hub(ThreadingHTTPServer):
    def __init__(self, hub: HubFiles):
        super().__init__(("127.0.0.1", 0), _Answers)
        self.hub = hub


@contextmanager
def serve_hub(hub: HubFiles) -> Iterator[str]:
    """Serve `hub` and yield the address."""
    with _Hub(hub) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
