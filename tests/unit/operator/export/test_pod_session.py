"""`scalerl export` of a run on a cluster, against an API server in memory that plays the pod."""

import hashlib
import io
import json
import tarfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from http_api import HttpApi, save_kubeconfig, serve_in_thread

from scalerl_api.wire import CARD_FORECAST
from scalerl_operator.cli.main import main
from scalerl_operator.export.model_download import ExportFault, ModelDownload
from scalerl_operator.local import run_folder as records
from scalerl_operator.local.run_folder import RunFolder

Json = dict[str, Any]
Play = Callable[[web.Request, web.WebSocketResponse], Awaitable[None]]
FILES = {"model.safetensors": bytes(range(256)) * 50, "README.md": f"# card\n{CARD_FORECAST}\n".encode()}
SUCCESS = {"status": "Success"}
FAILURE = {"status": "Failure", "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}}


def build_tar(*, spoil: bool = False) -> bytes:
    digests = {name: [len(data), hashlib.blake2b(data, digest_size=16).hexdigest()] for name, data in FILES.items()}
    manifest = json.dumps({"step": 7, "digest": "d", "attempt": None, "files": digests}).encode()
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in {**FILES, "scalerl-export.json": manifest}.items():
            content = data[::-1] if spoil and name == "model.safetensors" else data
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def play(data: bytes, status: Json | None, said: str = "model.safetensors: 0.1 MiB") -> Play:
    async def answer(_request: web.Request, socket: web.WebSocketResponse) -> None:
        await socket.send_bytes(b"\x02" + f"scalerl export: {said}\n".encode())
        for start in range(0, len(data), 1000):  # no boundary of a file is one of a message
            await socket.send_bytes(b"\x01" + data[start : start + 1000])
        if status is not None:
            await socket.send_bytes(b"\x03" + json.dumps(status).encode())
        await socket.close()

    return answer


class RunningPods(HttpApi):
    """Every pod runs as soon as it is created."""

    pods: list[Json]

    def __init__(self) -> None:
        super().__init__()
        self.pods = []
        create = self.store.create

        async def run(resource: Any, document: Json) -> Json:
            stored = await create(resource, document)
            if resource.plural == "pods":
                self.pods.append(document)
                status = {"phase": "Running", "containerStatuses": [{"state": {"running": {}}}]}
                return self.store.store("pods", {**stored, "status": status})
            return stored

        self.store.create = run  # type: ignore[method-assign]


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished_folder: RunFolder) -> Iterator[RunningPods]:
    """A cluster with the finished run `adder-digits` in namespace `research`."""
    document = records.to_document(records.load_run(finished_folder))
    document["metadata"] = {"name": "adder-digits", "namespace": "research"}
    container = {"name": "runtime", "resources": {"limits": {"cpu": "64"}}, "env": [{"name": "PROXY", "value": "p"}]}
    document["spec"].setdefault("trainer", {})["template"] = {  # type: ignore[attr-defined]
        "spec": {"nodeSelector": {"zone": "a"}, "containers": [container, {"name": "sidecar", "image": "s"}]}
    }
    monkeypatch.chdir(tmp_path)
    with serve_in_thread(RunningPods) as (found, url, _):
        assert isinstance(found, RunningPods)
        created = {"creationTimestamp": "2026-03-01T08:00:00Z", "uid": "u"}
        found.store.store("rlruns", {**document, "metadata": {**created, **document["metadata"]}})  # type: ignore[dict-item]
        annotations = {"scalerl.io/runtime-image": "registry.test/runtime:7"}
        metadata = {"name": "adder-digits-spec", "namespace": "research", "annotations": annotations}
        found.store.store("configmaps", {"metadata": metadata, "data": {}})
        save_kubeconfig(tmp_path / "config", url, "research")
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        yield found


COMMAND = ["export", "adder-digits", "-n", "research", "--best", "--to", "out"]


def test_the_model_arrives_with_its_forecast_and_the_pod_is_gone(
    api: RunningPods, capsys: pytest.CaptureFixture[str]
) -> None:
    api.exec = play(build_tar(), SUCCESS)
    assert main(COMMAND) == 0
    assert Path("out/model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert "eiling 0.7" in Path("out/README.md").read_text()
    assert {path.stat().st_mode & 0o777 for path in Path("out").iterdir()} == {0o644}
    assert "model.safetensors: 0.1 MiB" in capsys.readouterr().err
    assert api.store.names("pods") == []
    (request,) = (each for each in api.requests if each.path.endswith("/exec"))
    assert request.query["container"] == "runtime"
    assert main(COMMAND) == 0, "an older export is replaced"


def test_the_pod_can_only_read_and_trains_nothing(api: RunningPods) -> None:
    api.exec = play(build_tar(), SUCCESS)
    assert main(COMMAND) == 0
    (pod,) = api.pods
    (container,) = pod["spec"]["containers"]
    assert container["image"] == "registry.test/runtime:7"
    assert {each["name"] for each in container["env"]} == {
        *("SCALERL_SPEC", "SCALERL_FOLDER", "HOME", "PYTHONUNBUFFERED", "PROXY"),
    }
    assert {each["mountPath"]: each.get("readOnly") for each in container["volumeMounts"]} == {
        "/etc/scalerl": True, "/var/lib/scalerl/run": True, "/dev/shm": None, "/tmp": None,
    }  # fmt: skip
    assert "resources" not in container
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert not any("secret" in each for each in pod["spec"]["volumes"])
    assert pod["spec"]["nodeSelector"] == {"zone": "a"}
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["spec"]["activeDeadlineSeconds"] == 6 * 3600
    assert (pod["metadata"]["labels"]["scalerl.io/run"], "scalerl.io/role" in pod["metadata"]["labels"]) == (
        "adder-digits",
        False,
    ), "the run's NetworkPolicy selects it, and the operator does not take it for a member"
    (owner,) = pod["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"], owner["blockOwnerDeletion"]) == ("u", False, False)


def test_to_a_hub_the_token_comes_from_a_secret(api: RunningPods, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", "adder-digits", "-n", "research", "--to", "hub:me/adder"]
    assert main(command) == 2
    assert "--hub-token-secret" in capsys.readouterr().err
    api.exec = play(b"", SUCCESS)
    assert main([*command, "--hub-token-secret", "hub"]) == 0
    (variable,) = (each for each in api.pods[0]["spec"]["containers"][0]["env"] if each["name"] == "HF_TOKEN")
    assert variable["valueFrom"]["secretKeyRef"] == {"name": "hub", "key": "token"}


@pytest.mark.parametrize(
    ("played", "code", "words"),
    [
        pytest.param(play(b"", FAILURE, "checkpoint x is damaged"), 1, "checkpoint x is damaged", id="refused"),
        pytest.param(play(build_tar()[:2000], None), 75, "the connection ended before the command", id="cut"),
        pytest.param(play(build_tar()[:2000], SUCCESS), 1, "ended early", id="short"),
        pytest.param(play(build_tar(spoil=True), SUCCESS), 1, "model.safetensors has changed", id="changed"),
        pytest.param(None, 75, "exec in research/", id="exec is refused"),
    ],
)
def test_a_failure_leaves_no_pod_and_no_folder(
    api: RunningPods, capsys: pytest.CaptureFixture[str], played: Play | None, code: int, words: str
) -> None:
    api.exec = played
    if played is None:
        api.refusals["/exec"] = (503, {"kind": "Status", "reason": "ServiceUnavailable", "message": "no"}, {})
    assert main(COMMAND) == code
    assert words in capsys.readouterr().err
    assert api.store.names("pods") == []
    assert [path.name for path in Path().iterdir() if "out" in path.name] == []


def test_a_folder_with_something_else_is_never_touched(api: RunningPods) -> None:
    Path("out").mkdir()
    Path("out/thesis.tex").write_text("x")
    assert main(COMMAND) == 1
    assert api.pods == []
    assert [path.name for path in Path("out").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["../evil", "/etc/x", "a/b", ".hidden"])
def test_a_stream_cannot_write_elsewhere(tmp_path: Path, name: str) -> None:
    info = tarfile.TarInfo(name)
    with pytest.raises(ExportFault, match="no plain file"):
        ModelDownload(tmp_path / "out").feed(info.tobuf(tarfile.GNU_FORMAT))
