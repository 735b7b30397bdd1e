"""A run's life on a real cluster, with Helm, kubectl and real pods. The tests follow each other."""

import json
import time
from pathlib import Path

import pytest
from lab import OPERATOR_NAMESPACE, Json, Platform, make_namespace, say, wait_for
from life import Life, small_run

NAMESPACE = "research"
RUN = "quickstart"
FURTHER_POINTS = 8  # after so many the forecast may still be refused: deaths have cut the curve into pieces

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def life(platform: Platform) -> Life:
    return Life(platform, NAMESPACE, RUN)


def test_the_chart_is_installed_and_says_so(platform: Platform) -> None:
    platform.helm("test", "scalerl", "-n", OPERATOR_NAMESPACE, "--timeout", "5m")
    assert _ready_operators(platform) == 2


def test_a_run_trains_in_pods(platform: Platform, life: Life) -> None:
    make_namespace(platform, NAMESPACE)
    began = time.monotonic()
    platform.kubectl("apply", "-f", "-", text=json.dumps(whole_life(platform)), namespace=NAMESPACE)
    for phase, is_there in (
        ("pods exist", lambda: set(life.pods()) == {"trainer-0", "generator-0"}),
        ("both pods' containers run", lambda: _running(platform) == 2),
        ("the warm start begins", lambda: life.state() in ("WarmStart", "Training")),
        ("the first training step", lambda: life.step() >= 1),
    ):
        wait_for(phase, is_there)
        platform.timeline.append((phase, time.monotonic() - began))
    assert life.ready("generator") == 1
    say("\n" + life.table())


def whole_life(platform: Platform) -> Json:
    """Evaluated often enough for a forecast, after demonstrations that leave it much to learn."""
    document = small_run(platform, RUN)
    spec = document["spec"]
    spec["warmStart"] |= {"wrongSteps": 15}
    spec["data"]["heldOut"] = {"prompts": 48, "samplesPerPrompt": 4}
    spec["budget"] |= {"evalEverySteps": 25}
    spec["failurePolicy"] = {"maxRestarts": 3}
    return document


def _running(platform: Platform) -> int:
    items = platform.get("pods", "-l", f"scalerl.io/run={RUN}", namespace=NAMESPACE)["items"]
    return sum("running" in each["state"] for item in items for each in item["status"].get("containerStatuses", []))


def test_engine_and_trainer_live_in_their_own_pods(life: Life) -> None:
    look = (
        "import pathlib\n"
        "for process in pathlib.Path('/proc').glob('[0-9]*'):\n"
        "    try: print((process / 'cmdline').read_text(), '/vllm/_C' in (process / 'maps').read_text())\n"
        "    except OSError: pass"  # it has ended meanwhile
    )
    trainer, generator = life.inside("trainer-0", look), life.inside("generator-0", look)
    assert ("ray::Trainer" in trainer, "True" in trainer) == (True, False), trainer
    assert ("ray::Trainer" in generator, "True" in generator) == (False, True), generator


def test_pods_are_restricted_and_their_token_is_secret(platform: Platform, life: Life) -> None:
    """The namespace refuses any other pod; the token is in no environment, spec or log."""
    secret = platform.get("secret", f"{RUN}-token", namespace=NAMESPACE)["data"]["token"]
    token = platform.kubectl(
        "get", "secret", f"{RUN}-token", "-o", "go-template={{.data.token | base64decode}}", namespace=NAMESPACE
    )
    exposed = json.dumps(platform.get("pods,configmaps,rlruns,events", namespace=NAMESPACE))
    for pod in life.pods():
        exposed += platform.kubectl("logs", f"{RUN}-{pod}", namespace=NAMESPACE)
        exposed += life.inside(pod, "import os; print(dict(os.environ))")
    assert len(token) > 20
    assert token not in exposed
    assert secret not in exposed
    unauthorized = (
        "import urllib.request, urllib.error\n"
        "try: urllib.request.urlopen('http://127.0.0.1:8480/v1/progress')\n"
        "except urllib.error.HTTPError as error: print(error.code)"
    )
    assert life.inside("trainer-0", unauthorized).strip() == "401"


def test_generators_are_added_and_taken_away(life: Life) -> None:
    attempt = life.attempt()
    life.edit(generator={"minReplicas": 2, "maxReplicas": 2})
    wait_for("a second generator is ready", lambda: life.ready("generator") == 2)
    life.goes_on("with two generators")
    life.edit(generator={"minReplicas": 1, "maxReplicas": 1})
    wait_for("the second generator's pod is gone", lambda: set(life.pods()) == {"trainer-0", "generator-0"})
    life.goes_on("with one generator again")
    assert life.attempt() == attempt, "the trainer was not stopped for it"


def test_a_lost_generator_rejoins_beside_the_trainer(platform: Platform, life: Life) -> None:
    attempt, before = life.attempt(), life.pods()
    platform.kubectl("delete", "pod", f"{RUN}-generator-0", "--force", "--grace-period=0", namespace=NAMESPACE)
    wait_for("the generator has a new pod", lambda: life.pods().get("generator-0") not in (None, before["generator-0"]))
    wait_for("the generator is ready", lambda: life.ready("generator") == 1)
    life.goes_on("after a generator was lost")
    assert (life.attempt(), life.pods()["trainer-0"]) == (attempt, before["trainer-0"])


def test_a_killed_trainer_goes_on_from_its_checkpoint(life: Life) -> None:
    wait_for("a checkpoint", lambda: life.status().get("checkpoint", {}).get("step", 0) >= 10)
    attempt, before, saved = life.attempt(), life.pods(), life.status()["checkpoint"]["step"]
    kill = (
        "import os, pathlib, signal\n"
        "for p in pathlib.Path('/proc').glob('[0-9]*/cmdline'):\n"
        "    if p.read_bytes().startswith(b'ray::Trainer'): os.kill(int(p.parent.name), signal.SIGKILL)"
    )
    life.inside("trainer-0", kill)
    wait_for("another attempt", lambda: life.attempt() == attempt + 1)
    assert life.pods()["generator-0"] == before["generator-0"], "the generator's pod stays"
    wait_for("it trains again", lambda: life.state() == "Training")
    life.goes_on("after the trainer was killed")
    assert life.step() >= saved


def test_operators_that_are_killed_are_not_missed(platform: Platform, life: Life) -> None:
    attempt, before = life.attempt(), life.pods()
    selector = ("-l", "app.kubernetes.io/name=scalerl")
    platform.kubectl("delete", "pod", *selector, "--force", "--grace-period=0", namespace=OPERATOR_NAMESPACE)
    wait_for("two others are ready", lambda: _ready_operators(platform) == 2)
    life.goes_on("after both operators were killed")
    assert (life.attempt(), life.pods()) == (attempt, before), "nothing was made twice, nothing was lost"


def _ready_operators(platform: Platform) -> int:
    deployment = platform.get("deployment", "scalerl", namespace=OPERATOR_NAMESPACE)
    return int(deployment["status"].get("readyReplicas", 0))


def test_a_control_plane_that_dies_and_a_node_that_is_silent_are_waited_for(platform: Platform, life: Life) -> None:
    if not platform.is_ours:
        pytest.skip("the control plane of KUBECONFIG's cluster is not ours to kill")
    attempt, before = life.attempt(), life.pods()
    for program in ("etcd", "kube-apiserver"):
        platform.restart(program)
        life.goes_on(f"after {program} was killed")
    with platform.silent_node():
        wait_for("the node is not ready", lambda: _node_condition(platform) != "True")
        life.goes_on("on a node that does not answer")
    wait_for("the node is ready", lambda: _node_condition(platform) == "True")
    life.goes_on("after the node was back")
    assert (life.attempt(), life.pods()) == (attempt, before), "nothing was made twice, nothing was lost"


def _node_condition(platform: Platform) -> str:
    (node,) = platform.get("nodes")["items"]
    return next(str(each["status"]) for each in node["status"]["conditions"] if each["type"] == "Ready")


def test_suspended_it_frees_everything_and_goes_on_later(life: Life) -> None:
    reached = life.step()
    life.edit(suspend=True)
    wait_for("it is suspended", lambda: life.state() == "Suspended")
    wait_for("its pods are gone", lambda: not life.pods())
    status = life.status()
    saved = status["attempts"][-1]["checkpointStep"]
    assert status["checkpoint"]["step"] == saved >= reached, "the checkpoint was made first"
    life.edit(suspend=False)
    wait_for("it trains again", lambda: life.state() == "Training")
    life.goes_on("after it was resumed")
    assert life.step() >= saved


def test_the_forecast_is_reported(platform: Platform, life: Life) -> None:
    """A refusal as a refusal, a ceiling with its interval; everywhere alike.

    Every death above has cost compute that taught nothing, so the curve may be refused until the run has nearly ended:
    then the refusal is what is to be shown.
    """
    wait_for("a forecast of six points", lambda: _points(life) >= 6)
    wait_for("the same forecast is in status, condition, annotations and table", lambda: _is_reported(platform, life))
    last = _points(life) + FURTHER_POINTS
    wait_for("a ceiling is predicted", lambda: _verdict(life) != "NotIdentified" or _points(life) >= last)
    wait_for("the same is in all of them after that", lambda: _is_reported(platform, life))
    say(f"{_verdict(life)}: {life.condition('ForecastReady')['message']}\n{life.table()}")


def _points(life: Life) -> int:
    return int(life.status().get("forecast", {}).get("points", 0))


def _verdict(life: Life) -> str:
    return str(life.status()["forecast"]["verdict"])


def _is_reported(platform: Platform, life: Life) -> bool:
    """They are written one after another, so for a moment they may differ."""
    run = platform.get("rlrun", RUN, namespace=NAMESPACE)
    forecast, annotations = run["status"]["forecast"], run["metadata"].get("annotations", {})
    if "ceilingLow" in forecast:  # a decline has none
        assert 0.0 < forecast["ceilingLow"] < forecast["ceilingHigh"] <= 1.0
    if life.condition("ForecastReady")["message"] != forecast["reason"]:
        return False
    if forecast["verdict"] == "NotIdentified":
        assert forecast.get("ceiling") is None
        return "scalerl.io/predicted-ceiling" not in annotations
    if "scalerl.io/predicted-ceiling" not in annotations:
        return False
    ends = json.loads(annotations["scalerl.io/predicted-ceiling-interval"])
    said = [float(annotations["scalerl.io/predicted-ceiling"]), *ends]
    meant = [forecast["ceiling"], forecast["ceilingLow"], forecast["ceilingHigh"]]
    return said == pytest.approx(meant, abs=0.006) and forecast["summary"] in life.table()


def test_a_policy_ends_it(platform: Platform, life: Life) -> None:
    """`Complete`, not failed: everything is saved and freed, and it is said why."""
    policy = {"name": "good-enough", "when": {"passRate": {"above": 0.05}}, "for": 2, "mode": "Enforce"}
    life.edit(stopPolicies=[policy])
    wait_for("it is complete", lambda: life.condition("Complete").get("status") == "True")
    status = life.status()
    assert life.condition("Complete")["reason"] == "StoppedByPolicy"
    assert status["stop"]["policy"] == "good-enough"
    assert status["stop"]["savedGpuHours"] > 0
    wait_for("its generators are gone", lambda: not any("generator" in each for each in life.pods()))
    reasons = {each["reason"] for each in platform.get("events", namespace=NAMESPACE)["items"]}
    assert "StoppedByPolicy" in reasons
    say("\n" + life.table() + json.dumps(status["stop"]))


def test_deleted_it_leaves_its_checkpoints_only(platform: Platform, life: Life) -> None:
    platform.kubectl("delete", "rlrun", RUN, "--wait=true", "--timeout=120s", namespace=NAMESPACE)
    wait_for("its pods are gone", lambda: not life.pods())
    wait_for(
        "its objects are gone",
        lambda: not platform.get("services,secrets,pdb", "-l", f"scalerl.io/run={RUN}", namespace=NAMESPACE)["items"],
    )
    claims = platform.get("pvc", namespace=NAMESPACE)["items"]
    assert f"{RUN}-checkpoints" in {each["metadata"]["name"] for each in claims}


def test_a_run_that_finishes_can_be_looked_at_afterwards(platform: Platform, tmp_path: Path) -> None:
    """With what a person has at hand: the coordinator's log, its curve, its state; its pod of the generator is gone."""
    document = small_run(platform, "short")
    document["spec"]["warmStart"] |= {"steps": 20}
    document["spec"]["data"]["heldOut"] = {"prompts": 8, "samplesPerPrompt": 2}
    document["spec"]["budget"] = {"steps": 12, "evalEverySteps": 4}
    platform.kubectl("apply", "-f", "-", text=json.dumps(document), namespace=NAMESPACE)

    def state() -> str:
        run = platform.get("rlrun", "short", namespace=NAMESPACE)
        return str(run.get("status", {}).get("progress", {}).get("phase", ""))

    def pods() -> list[str]:
        items = platform.get("pods", "-l", "scalerl.io/run=short", namespace=NAMESPACE)["items"]
        return [each["metadata"]["name"] for each in items]

    wait_for("it finishes", lambda: state() == "Finished")
    wait_for("only the coordinator's pod is kept", lambda: pods() == ["short-trainer-0"])
    assert "Finished" in platform.scalerl("status", "short", "-n", NAMESPACE)
    assert platform.scalerl("logs", "short", "-n", NAMESPACE)
    platform.scalerl("report", "short", "-n", NAMESPACE, "--folder", tmp_path)
    assert (tmp_path / "pass_rate.png").stat().st_size > 10_000
    platform.scalerl("export", "short", "-n", NAMESPACE, "--to", tmp_path / "model")
    made = json.loads((tmp_path / "model" / "scalerl-export.json").read_text())
    assert made["step"] == 12
    assert {"model.safetensors", "tokenizer.json", "config.json", "README.md"} <= set(made["files"])
    assert "<!--" not in (tmp_path / "model" / "README.md").read_text(), "the card has the forecast"
    wait_for("the pod of the export is gone", lambda: pods() == ["short-trainer-0"])
