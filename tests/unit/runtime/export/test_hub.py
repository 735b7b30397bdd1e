"""Uploads to a hub that a local HTTP server plays: what is sent, and how its refusals are told."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from scalerl_runtime.export.hub import HubError, HubUnavailable, upload_folder

TOKEN = "hf_secret0123456789"


class HubServer(HTTPServer):
    """Answers as the hub does for small files; with `refusal` every call gets that status."""

    refusal = 0
    calls: list[tuple[str, str, bytes]]


class Handler(BaseHTTPRequestHandler):
    server: HubServer

    def log_message(self, *_arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.calls.append((self.path, self.headers.get("Authorization", ""), body))
        status, found = (self.server.refusal, {"error": f"no, {TOKEN}"}) if self.server.refusal else (200, {})
        if not self.server.refusal:
            found = self._play(body)
        data = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _play(self, body: bytes) -> dict[str, object]:
        base = f"http://127.0.0.1:{self.server.server_port}"
        if self.path.endswith("/repos/create"):
            return {"url": f"{base}/me/{json.loads(body)['name']}"}
        if "/preupload/" in self.path:
            files = [{"path": each["path"], "uploadMode": "regular"} for each in json.loads(body)["files"]]
            return {"files": [{**each, "shouldIgnore": False} for each in files]}
        if "/commit/" in self.path:
            return {"commitUrl": f"{base}/me/tiny/commit/0", "commitOid": "0" * 40, "success": True}
        return {"id": "me/tiny", "sha": "0" * 40, "siblings": []}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    server = HubServer(("127.0.0.1", 0), Handler)
    server.calls = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # this hub is a server of the test
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", endpoint)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_every_file_is_committed_to_a_private_repository(hub: HubServer, folder: Path) -> None:
    (folder / "README.md").write_text("---\nlibrary_name: transformers\n---\n# tiny\n")
    assert upload_folder(folder, "me/tiny", token=TOKEN, notify=lambda _text: None).endswith("me/tiny")
    created = next(json.loads(body) for path, _, body in hub.calls if path.endswith("/repos/create"))
    assert (created["name"], created["organization"]) == ("tiny", "me")
    assert created.get("visibility", "private" if created.get("private") else "") == "private"
    lines = next(body for path, _, body in hub.calls if "/commit/" in path).splitlines()
    assert {json.loads(line)["value"].get("path") for line in lines} == {None, "README.md", "config.json"}
    assert all(authorization == f"Bearer {TOKEN}" for _, authorization, _ in hub.calls[:1])


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, HubError, "does not know the token"),
        (403, HubError, "may not write there"),
        (404, HubError, "answers 404"),
        (503, HubUnavailable, "try again later"),
    ],
)
def test_a_refusal_is_told_without_the_token(
    hub: HubServer, folder: Path, status: int, kind: type[Exception], words: str
) -> None:
    hub.refusal = status
    with pytest.raises(kind, match=words) as caught:
        upload_folder(folder, "me/tiny", token=TOKEN, notify=lambda _text: None)
    assert TOKEN not in str(caught.value)
    assert caught.value.__cause__ is None, "the client's own error has the request's headers"


def test_without_token_or_hub_or_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(HubError, match="set HF_TOKEN"):
        upload_folder(folder, "me/tiny", token=None, notify=lambda _text: None)
    with pytest.raises(HubError, match="need hub:OWNER/NAME"):
        upload_folder(folder, "tiny", token=TOKEN, notify=lambda _text: None)
    monkeypatch.setattr(HfApi, "create_repo", lambda *_a, **_k: (_ for _ in ()).throw(ConnectionError("refused")))
    with pytest.raises(HubUnavailable, match="no answer from"):
        upload_folder(folder, "me/tiny", token=TOKEN, notify=lambda _text: None)
