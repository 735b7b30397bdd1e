"""A gang of two trainers in pods of their own, and one generator; after the first run's life. They follow each other.

The task is so easy and the run so small that its starts are most of what it takes: each has two trainers and an engine.
"""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from lab import Json, Platform, PlatformError, make_namespace, say, wait_for
from life import Life, small_run

from scalerl_api.wire import CHECKPOINTS, LEDGER_FILE, METRICS_FILE
from scalerl_operator.resources.names import RUN_FOLDER

NAMESPACE = "pairs"
RUN = "pair"
PODS = {"trainer-0", "trainer-1", "generator-0"}

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]


def two_trainers(platform: Platform) -> Json:
    """ZeRO-3: each step and each update needs both trainers' weights."""
    document = small_run(platform, RUN)
    document["spec"]["trainer"] |= {"replicas": 2, "zeroStage": 3}
    document["spec"]["data"]["heldOut"] = {"prompts": 8, "samplesPerPrompt": 2}
    document["spec"]["failurePolicy"] = {"maxRestarts": 1}
    # The checkpoint of the suspension is looked at when the run has gone on: many steps later, since a step is short.
    document["spec"].setdefault("checkpoint", {})["keep"] = 1000
    return document


@pytest.fixture(scope="module")
def pair(platform: Platform) -> Life:
    return Life(platform, NAMESPACE, RUN)


def read_lines(pair: Life, file: str) -> list[Json]:
    """A journal in the run's folder, as the coordinator has written it so far."""
    text = pair.inside("trainer-0", f"print(open('{RUN_FOLDER}/{file}').read())")
    return [json.loads(line) for line in text.splitlines() if line]


def check_ledger(pair: Life, saved: int, attempt: int) -> None:
    """Every step was made once; those beyond `saved`, the checkpoint that `attempt` left, by attempts after it."""
    ledger = read_lines(pair, LEDGER_FILE)
    assert [line["step"] for line in ledger] == list(range(1, len(ledger) + 1))
    assert len(ledger) > saved
    assert [line["attempt"] > attempt for line in ledger] == [line["step"] > saved for line in ledger]


def test_two_trainers_in_two_pods_share_every_step(platform: Platform, pair: Life) -> None:
    make_namespace(platform, NAMESPACE)
    platform.kubectl("apply", "-f", "-", text=json.dumps(two_trainers(platform)), namespace=NAMESPACE)
    wait_for("three pods exist", lambda: set(pair.pods()) == PODS)
    wait_for("the warm start begins", lambda: pair.state() in ("WarmStart", "Training"))
    wait_for("the first steps", lambda: pair.step() >= 2)
    assert (pair.ready("trainer"), pair.ready("generator")) == (2, 1)
    look = (
        "import pathlib\n"
        "for process in pathlib.Path('/proc').glob('[0-9]*/cmdline'):\n"
        "    try: print(process.read_text())\n"
        "    except OSError: pass"  # it has ended meanwhile
    )
    ranks = {pod: pair.inside(pod, look).count("ray::Trainer") for pod in PODS}
    assert ranks == {"trainer-0": 1, "trainer-1": 1, "generator-0": 0}
    wait_for(
        "a step that there was something to learn from",
        lambda: any(line["values"].get("grad_norm", 0.0) > 0.0 for line in read_lines(pair, METRICS_FILE)),
    )
    say("\n" + pair.table())


def test_suspended_both_save_and_both_go_on_from_there(pair: Life) -> None:
    reached, attempt = pair.step(), pair.attempt()
    pair.edit(suspend=True)
    wait_for("it is suspended", lambda: pair.state() == "Suspended")
    wait_for("its pods are gone", lambda: not pair.pods())
    status = pair.status()
    saved = status["attempts"][-1]["checkpointStep"]
    assert status["checkpoint"]["step"] == saved >= reached, "the checkpoint was made first"
    pair.edit(suspend=False)
    wait_for("it trains again", lambda: pair.state() == "Training" and pair.attempt() > attempt)
    pair.goes_on("after it was resumed")
    shares = f"pathlib.Path('{RUN_FOLDER}/{CHECKPOINTS}/step-{saved:08d}').glob('optimizer/*.distcp')"
    found = pair.inside("trainer-1", f"import pathlib\nprint(*sorted(p.name for p in {shares}))").split()
    assert {name.split("_")[2] for name in found} == {"0", "1"}, "a file of each rank"
    check_ledger(pair, saved, attempt)


def test_a_member_that_is_killed_costs_a_restart_and_the_steps_since_the_checkpoint(pair: Life) -> None:
    attempt, before = pair.attempt(), pair.pods()
    kill = (
        "import os, pathlib, signal\n"
        "for process in pathlib.Path('/proc').glob('[0-9]*'):\n"
        "    if process.name != '1' and (process / 'cmdline').read_bytes().endswith(b'runtime\\0worker\\0'):\n"
        "        os.kill(int(process.name), signal.SIGKILL)"
    )
    with suppress(PlatformError):  # the command dies with its pod
        pair.inside("trainer-1", kill)
    wait_for("another attempt", lambda: pair.attempt() > attempt)
    (ended,) = (each for each in pair.status()["attempts"] if each["number"] == attempt)
    say(json.dumps(ended))
    assert (ended["exitCode"], ended.get("infrastructure", False)) == (137, False), "as a crash, not as a lost node"
    assert ended["error"].startswith("trainer-1 ended"), "the coordinator's end was not its own"
    wait_for("it trains again", lambda: pair.state() == "Training")
    pair.goes_on("after a member was killed")
    assert {each for each in PODS if pair.pods()[each] == before[each]} == {"generator-0"}, "both trainers are new"
    check_ledger(pair, ended["checkpointStep"], attempt)


def test_deleted_both_save_before_all_pods_go(platform: Platform, pair: Life) -> None:
    reached = pair.step()
    claim = platform.get("pvc", f"{RUN}-checkpoints", namespace=NAMESPACE)["spec"]["volumeName"]
    platform.kubectl("delete", "rlrun", RUN, "--wait=true", "--timeout=120s", namespace=NAMESPACE)
    wait_for("its pods are gone", lambda: not pair.pods())
    if not platform.is_ours:
        pytest.skip("the volume of KUBECONFIG's cluster cannot be looked into from here")
    (run,) = Path(platform.get("pv", claim)["spec"]["hostPath"]["path"]).glob(f"{RUN}-*")
    steps = len((run / LEDGER_FILE).read_text().splitlines())
    assert steps >= reached
    assert (run / CHECKPOINTS / f"step-{steps:08d}" / "manifest.json").exists(), "nothing that was trained is lost"
