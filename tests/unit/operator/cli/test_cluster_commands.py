"""`scalerl status`, `report` and `logs` against a fake API server."""

import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_api
import pytest
import yaml
from http_api import HttpApi, save_kubeconfig, serve_in_thread
from PIL import Image
from stored_rollouts import write_rollouts

from scalerl_api.wire import EvalPoint
from scalerl_operator.cli import cluster_commands
from scalerl_operator.cli.main import main
from scalerl_operator.decide.halfway import compare_halfway
from scalerl_operator.local import run_folder as records
from scalerl_operator.local.run_folder import RunFolder
from scalerl_operator.reconcile.stored_curve import StoredCurve, extend_curve, format_curve
from scalerl_operator.render.text import describe_halfway
from scalerl_operator.resources.names import RUN_FOLDER, PodRole, pod_labels

Json = dict[str, Any]
CURVE = ("configmaps", "research", "adder-digits-curve")
RUNS = "/apis/scalerl.io/v1alpha1"
UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no GPU is free"}


ATTEMPTS = [
    {"number": 1, "replicas": 2, "created": "2026-03-01T07:59:00Z", "started": "2026-03-01T08:00:00Z", "exitCode": 137,
     "ended": "2026-03-01T08:05:30Z", "checkpointStep": 90},
    {"number": 2, "replicas": 2, "created": "2026-03-01T08:05:31Z", "started": "2026-03-01T08:05:40Z", "exitCode": 0,
     "ended": "2026-03-01T08:15:00Z", "said": "Finished", "checkpointStep": 240},
]  # fmt: skip


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpApi]:
    """A cluster with a kubeconfig: context `dev`, namespace `research`."""
    monkeypatch.chdir(tmp_path)
    with serve_in_thread(HttpApi) as (found, url, _):
        found.log = "2026-03-01T08:00:00.5Z step 7\n"
        save_kubeconfig(tmp_path / "config", url, "research")
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        yield found


def with_metadata(document: Json) -> Json:
    created = {"creationTimestamp": "2026-03-01T08:00:00Z", "uid": "u"}
    return {**document, "metadata": {**created, **document["metadata"]}}


@pytest.fixture
def stored(api: HttpApi, finished_folder: RunFolder) -> HttpApi:
    """The finished run of `finished_folder` on a cluster: its object, curve, pods and events."""
    run = records.load_run(finished_folder)
    document = records.to_document(run)
    document["metadata"] = {"name": run.name, "namespace": "research", "managedFields": [{"manager": "x"}]}
    document["status"]["attempts"] = ATTEMPTS
    api.store.store("rlruns", with_metadata(document))
    curve = StoredCurve()
    for step in records.load_steps(finished_folder)[9::10]:
        curve = extend_curve(curve, records.load_evals(finished_folder), step)
    owners = [{"uid": "u"}]
    curve_map = {"name": f"{run.name}-curve", "namespace": "research", "ownerReferences": owners}
    api.store.store("configmaps", with_metadata({"metadata": curve_map, "data": format_curve(curve)}))
    for place in (PodRole("trainer", 0), PodRole("trainer", 1)):
        waits = {"spec": {"containers": []}, "status": {"phase": "Pending", "conditions": [UNSCHEDULABLE]}}
        ended = {"exitCode": 0, "reason": "Completed"}
        container = {"name": "runtime", "restartCount": 0, "state": {"terminated": ended}}
        over = {
            "spec": {"nodeName": "gpu-7", "containers": [{"name": "runtime", "image": "registry.test/runtime:7"}]},
            "status": {"phase": "Succeeded", "containerStatuses": [container]},
        }
        metadata = {
            "name": f"{run.name}-{place.hostname}",
            "namespace": "research",
            "uid": f"uid-{place.hostname}",
            "labels": pod_labels(run.name, place, 2),
        }
        api.store.store("pods", with_metadata({"metadata": metadata, **(over if place.index == 0 else waits)}))
    add_event(api, {"kind": "RLRun", "uid": "u"}, "Finished", "budget spent at step 240")
    add_event(api, {"uid": "uid-trainer-1"}, "FailedScheduling", "preemption is not helpful", kind="Warning")
    return api


def add_event(api: HttpApi, about: Json, reason: str, message: str, kind: str = "Normal") -> None:
    event = {"involvedObject": about, "type": kind, "reason": reason, "message": message, "count": 3}
    metadata = {"name": f"{reason}.1", "namespace": "research"}
    api.store.store("events", with_metadata({"metadata": metadata, "lastTimestamp": "2026-03-01T08:15:00Z", **event}))


@pytest.mark.usefixtures("stored")
def test_status_of_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "adder-digits", "-n", "research"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    head, conditions, roles, attempts, pods, events = out.split("\n\n")
    rows = dict(re.split(" {2,}", line, maxsplit=1) for line in head.splitlines())
    assert re.fullmatch(r"adder-digits, namespace research of context dev \(http://127.0.0.1:\d+\)", rows["run"])
    assert rows["state"] == "Finished: budget spent at step 240"
    assert rows["step"] == "240/240"
    assert rows["forecast"].startswith("ceiling 0.7")
    assert " evaluations)" in rows["because"]
    assert rows["cost"] == "trainer 0.252 device-h (idle 13%), generator 0.252 device-h (idle 6%)"  # 907 s / 3600
    assert re.search(r"(?m)^Complete +True +Finished ", conditions)
    assert roles.splitlines()[1].split()[:2] == ["trainer", "1"]
    assert "no evaluation" not in out
    assert "trainer-0" in pods
    waits = next(line for line in pods.splitlines() if "trainer-1" in line)
    assert waits.endswith("Unschedulable: no GPU is free; FailedScheduling: preemption is not helpful")
    assert events.splitlines()[1].split()[-7:] == ["Normal", "Finished", "budget", "spent", "at", "step", "240"]
    assert attempts.splitlines()[1].split() == [
        *("1", "2026-03-01", "08:00:00", "5m30s", "90"),
        *["attempt", "1", "was", "killed", "by", "signal", "9"],
    ]


@pytest.mark.usefixtures("stored")
def test_status_of_all_runs_and_as_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "-n", "research"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split()[0] == "NAME"
    assert row.split()[:3] == ["adder-digits", "Finished", "240/240"]
    assert main(["status", "-A"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert (header.split()[0], row.split()[0]) == ("NAMESPACE", "research")
    assert main(["status", "-n", "empty"]) == 0
    assert capsys.readouterr().out.startswith("no runs in empty of context dev")
    assert main(["status", "adder-digits", "--context", "dev", "-o", "yaml"]) == 0
    document = yaml.safe_load(capsys.readouterr().out)
    assert document["status"]["progress"]["step"] == 240
    assert "managedFields" not in document["metadata"]


@pytest.mark.usefixtures("stored")
def test_watch_ends_with_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "adder-digits", "-n", "research", "--watch"]) == 0
    assert capsys.readouterr().out.count("state ") == 1


def test_a_report_equals_that_of_a_run_folder(
    stored: HttpApi, finished_folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    """Same points, forecasts and pictures, with read access only: no token, no coordinator, no Secret."""
    assert main(["report", "adder-digits", "-n", "research"]) == 0
    out, err = capsys.readouterr()
    path = Path("reports/research/adder-digits/report.html")
    assert out == f"{path}\n"
    assert err.startswith("scalerl: research/adder-digits on context dev")
    text = path.read_text()
    assert text.count("data:image/png;base64,") == 3
    with Image.open(path.parent / "training.png") as image:
        assert image.width > 1500
    found = compare_halfway(records.load_forecasts(finished_folder), records.load_evals(finished_folder))
    assert found is not None
    for label, value in describe_halfway(found.summary, "device-h"):
        assert f"<td>{label}</td><td>{value}</td>" in text
    run = records.load_run(finished_folder)
    assert run.status is not None
    assert run.status.forecast is not None
    assert f"{run.status.forecast.ceiling:.2f} [" in text
    for wanted in (
        "long-sums",
        "budget spent at step 240",
        "registry.test/runtime:7",
        "uid u",
        "reasoning_gym:chain_sum",
    ):
        assert wanted in text
    assert "may be missing" not in text
    assert main(["report", "adder-digits", "-n", "research", "--folder", "there"]) == 0
    assert Path("there/report.html").exists()
    paths = {each.split("/namespaces/research/")[1].split("/")[0] for each in stored.asked}
    assert paths == {"rlruns", "configmaps", "pods", "events"}, "readable by Kubernetes' role view"
    assert all(each.startswith("GET ") for each in stored.asked)


@pytest.mark.usefixtures("stored")
def test_logs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", "adder-digits", "-n", "research"]) == 0
    out, err = capsys.readouterr()
    assert out == "[trainer-0] step 7\n"
    assert "adder-digits-trainer-1 has no log yet: Unschedulable: no GPU is free" in err
    assert main(["logs", "adder-digits", "-n", "research", "-f", "--role", "trainer", "--index", "0"]) == 0
    assert capsys.readouterr().out == "step 7\n"
    assert main(["logs", "adder-digits", "-n", "research", "--role", "generator"]) == 1
    assert "no such log" in capsys.readouterr().err
    assert main(["logs", "adder-digits", "-n", "research", "-f", "-p"]) == 2


def test_a_name_alone_is_searched_on_this_machine_first(
    stored: HttpApi, run_folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "adder-digits"]) == 0
    assert "adder-digits, in runs/adder-digits\n" in capsys.readouterr().out
    assert stored.asked == []
    (run_folder.status).unlink()
    assert main(["status", "adder-digits"]) == 0
    assert "namespace research of context dev" in capsys.readouterr().out


@pytest.mark.usefixtures("stored")
def test_no_such_run_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "missing", "-n", "research"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("scalerl: no run 'missing' in namespace research of context dev")
    assert main(["report", "missing"]) == 2
    err = capsys.readouterr().err
    assert "no run 'missing' on this machine: neither runs/missing nor missing holds a status.yaml; and on" in err
    assert "no run 'missing' in namespace research" in err


def test_no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert main(["status", "-n", "research"]) == 2
    assert "no kubeconfig: KUBECONFIG is /nowhere, which is not there" in capsys.readouterr().err
    assert main(["logs", "tiny"]) == 2
    err = capsys.readouterr().err
    assert "no run 'tiny' on this machine" in err
    assert "no kubeconfig" in err


FORBIDDEN = 'pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "research"'


def test_a_forbidden_part_does_not_hide_the_others(stored: HttpApi, capsys: pytest.CaptureFixture[str]) -> None:
    stored.refusals["/pods"] = fake_api.refusal(403, "Forbidden", FORBIDDEN)
    assert main(["status", "adder-digits", "-n", "research"]) == 0
    out = capsys.readouterr().out
    assert f"pods: forbidden: {FORBIDDEN}" in out
    assert "budget spent" in out
    assert main(["report", "adder-digits", "-n", "research"]) == 0
    assert main(["logs", "adder-digits", "-n", "research"]) == 1
    assert FORBIDDEN in capsys.readouterr().err


def denied(resource: str) -> tuple[int, str]:
    return 403, json.dumps({"reason": "Forbidden", "message": f'User "jane" cannot get resource "{resource}"'})


REFUSALS = [
    (
        "/configmaps",
        denied("configmaps"),
        1,
        "curve is in ConfigMap adder-digits-curve, which Kubernetes' role view may",
    ),
    ("/configmaps", denied("configmaps"), 1, 'User "jane" cannot get resource "configmaps"'),
    ("/rlruns", denied("rlruns"), 1, 'User "jane" cannot get resource "rlruns"'),
    ("/rlruns", (401, "{}"), 1, "rejects your credentials (401): log in as for kubectl"),
    ("/rlruns", (500, '{"message": "etcd is away"}'), 75, "etcd is away"),
    ("/rlruns", (404, "404 page not found"), 2, "the CRD rlruns.scalerl.io is not installed"),
]


@pytest.mark.parametrize(("part", "answer", "code", "why"), REFUSALS)
def test_a_refusal_names_what_is_missing(
    stored: HttpApi, part: str, answer: tuple[int, str], code: int, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stored.refusals[part] = (*answer, {})
    assert main(["report", "adder-digits", "-n", "research"]) == code
    assert why in capsys.readouterr().err


@pytest.mark.usefixtures("stored")
def test_an_unreachable_cluster_exits_75(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = yaml.safe_load((tmp_path / "config").read_text())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        config["clusters"][0]["cluster"]["server"] = f"http://127.0.0.1:{free.getsockname()[1]}"
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    assert main(["status", "-n", "research"]) == 75
    assert "no answer from context dev" in capsys.readouterr().err


def test_a_run_without_an_evaluation_has_no_report(stored: HttpApi, capsys: pytest.CaptureFixture[str]) -> None:
    stored.store.objects[CURVE]["metadata"]["ownerReferences"] = [{"uid": "an earlier run of this name"}]
    assert main(["report", "adder-digits", "-n", "research"]) == 2
    assert "research/adder-digits on context dev" in capsys.readouterr().err
    del stored.store.objects[CURVE]
    assert main(["report", "adder-digits", "-n", "research"]) == 2
    assert "has no evaluation yet" in capsys.readouterr().err


def test_a_thinned_curve_has_a_note(stored: HttpApi, point: Callable[..., EvalPoint]) -> None:
    evals = [point(index, pass_rate=0.2 + 0.001 * index) for index in range(205)]
    stored.store.objects[CURVE]["data"] = format_curve(extend_curve(StoredCurve(), evals, None))
    assert main(["report", "adder-digits", "-n", "research"]) == 0
    text = Path("reports/research/adder-digits/report.html").read_text()
    assert "Some may be missing here" in text
    assert "training" not in text.lower().split("<h2>evaluations")[0], "no step is stored, so none is drawn"


def test_a_run_of_a_newer_version_is_refused(stored: HttpApi, capsys: pytest.CaptureFixture[str]) -> None:
    stored.store.objects["rlruns", "research", "adder-digits"]["spec"]["novel"] = 1
    assert main(["status", "adder-digits", "-n", "research"]) == 64
    assert "research/adder-digits is newer than this scalerl: spec.novel" in capsys.readouterr().err


def start_coordinator(api: HttpApi) -> None:
    """Make the container of trainer 0 run."""
    (pod,) = (pod for pod in api.store.find("pods", "research") if pod["metadata"]["name"] == "adder-digits-trainer-0")
    running = {"name": "runtime", "restartCount": 0, "state": {"running": {}}}
    api.store.store("pods", {**pod, "status": {"phase": "Running", "containerStatuses": [running]}})


def test_rollouts_are_read_from_the_coordinators_pod(
    stored: HttpApi, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rollouts(tmp_path / "there", steps=[1, 2], evals=range(0, 50, 10))
    there = (tmp_path / "there/rollouts").iterdir()
    stored.files = {f"{RUN_FOLDER}/rollouts/{path.name}": path.read_bytes() for path in there}
    start_coordinator(stored)
    command = ["rollouts", "adder-digits", "-n", "research"]
    assert main([*command, "--eval", "--wrong", "--step", "20", "--format", "json"]) == 0
    out, err = capsys.readouterr()
    assert {json.loads(line)["prompt_id"] for line in out.splitlines()} == {3, 4, 5}
    assert err.startswith("scalerl: research/adder-digits on context dev")
    monkeypatch.setattr(cluster_commands, "MAX_FETCHED", 3)
    assert main([*command, "--eval", "--prompts"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].split() == [
        "0",
        "0",
        "+",
        "1",
        "=",
        "1.00",
        "1.00",
        "1.00",
        "6",
        "0",
        "to",
        "40",
        "███",
    ]
    assert "3 of 5 stored steps or evaluations are read, evenly chosen" in err
    stored.refusals["/exec"] = (403, {"message": "no"}, {})
    assert main(command) == 1
    assert "the permission to create pods/exec is missing" in capsys.readouterr().err


@pytest.mark.usefixtures("stored")
def test_rollouts_of_a_run_that_is_over_are_in_its_claim(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollouts", "adder-digits", "-n", "research"]) == 1
    err = capsys.readouterr().err
    assert "no coordinator of research/adder-digits on context dev" in err
    assert "of the claim adder-digits-checkpoints" in err
