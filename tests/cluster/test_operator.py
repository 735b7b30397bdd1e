"""The operator's process on a real API server; scripted_kubelet.py sets the status of pods."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import yaml
from kubernetes import client
from kubernetes.client.exceptions import ApiException

SUPPORT = Path(__file__).parents[1] / "support"
SECONDS = 240.0  # longest wait for anything: most take one, a busy machine takes a hundred times that
GROUP = ("scalerl.io", "v1alpha1")
Document = dict[str, Any]

SPEC: Document = {
    "model": {"source": "scratch", "scratch": {}, "dtype": "float32"},
    "warmStart": {"source": "reasoning_gym:chain_sum", "steps": 30},
    "data": {
        "train": {"source": "reasoning_gym:chain_sum", "size": 5000},
        "heldOut": {"prompts": 250, "samplesPerPrompt": 4},
        "promptFormat": "plain",
    },
    "reward": {"verifier": "reasoning_gym"},
    "recipe": {"promptsPerStep": 16, "optimizer": {"warmupSteps": 3}},
    "budget": {"steps": 400, "evalEverySteps": 10},
    "trainer": {"replicas": 2, "gpusPerReplica": 0, "template": {"spec": {"schedulerName": "stand-in"}}},
    "generator": {
        "minReplicas": 3,
        "maxReplicas": 3,
        "gpusPerReplica": 0,
        "template": {"spec": {"schedulerName": "stand-in"}},
    },
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Operator:
    """One replica."""

    process: "subprocess.Popen[bytes]"
    port: int
    log: Path

    def metrics(self) -> dict[str, float]:
        with urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line[:1] != "#"}

    def writes(self) -> float:
        return sum(value for name, value in self.metrics().items() if name.startswith("scalerl_operator_writes_total"))

    def is_leading(self) -> bool:
        try:
            return self.metrics()["scalerl_operator_leader"] == 1.0
        except OSError:
            return False


@dataclass
class Lab:
    """A namespace with a scripted kubelet, and a user's actions with kubectl."""

    api: client.ApiClient
    namespace: str
    start: Callable[..., Operator]
    operators: list[Operator] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.core = client.CoreV1Api(self.api)
        self.custom = client.CustomObjectsApi(self.api)

    def apply(self, name: str, **spec: Any) -> None:
        document = {
            "apiVersion": "/".join(GROUP),
            "kind": "RLRun",
            "metadata": {"name": name},
            "spec": {**SPEC, **spec},
        }
        self.custom.create_namespaced_custom_object(*GROUP, self.namespace, "rlruns", document)

    def edit(self, name: str, spec: Document) -> None:
        self.custom.patch_namespaced_custom_object(*GROUP, self.namespace, "rlruns", name, {"spec": spec})

    def run(self, name: str) -> Document:
        found: Document = self.custom.get_namespaced_custom_object(*GROUP, self.namespace, "rlruns", name)
        return found

    def state(self, name: str) -> str:
        return str(self.run(name).get("status", {}).get("progress", {}).get("phase", ""))

    def attempts(self, name: str) -> list[Document]:
        return list(self.run(name)["status"]["attempts"])

    def condition(self, name: str, kind: str) -> Document:
        found: Document = next(each for each in self.run(name)["status"]["conditions"] if each["type"] == kind)
        return found

    def pods(self, name: str) -> dict[str, str]:
        """Return uids by pod name, shortened to `trainer-0`."""
        found = self.core.list_namespaced_pod(self.namespace, label_selector=f"scalerl.io/run={name}").items
        return {pod.metadata.name.removeprefix(f"{name}-"): pod.metadata.uid for pod in found}

    def behave(self, name: str, **coordinator: Any) -> None:
        body = {"metadata": {"name": f"behave-{name}"}, "data": {"coordinator": json.dumps(coordinator)}}
        try:
            self.core.create_namespaced_config_map(self.namespace, body)
        except ApiException as error:
            if error.status != 409:
                raise
            self.core.replace_namespaced_config_map(f"behave-{name}", self.namespace, body)

    def lease_holder(self) -> str:
        lease = client.CoordinationV1Api(self.api).read_namespaced_lease("scalerl-operator", self.namespace)
        return str(lease.spec.holder_identity)

    def events(self, name: str) -> set[str]:
        found = self.core.list_namespaced_event(self.namespace, field_selector=f"involvedObject.name={name}").items
        return {event.reason for event in found}

    def until(self, what: str, holds: Callable[[], bool], seconds: float = SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                logs = "\n".join(each.log.read_text()[-3000:] for each in self.operators)
                pytest.fail(f"{what}: not within {seconds:g} s\n{logs}")
            time.sleep(0.2)

    def until_training(self, name: str, **spec: Any) -> None:
        self.apply(name, **spec)
        self.until(f"{name} trains", lambda: self.state(name) == "Training")
        self.until("all pods are there", lambda: len(self.pods(name)) == 5)


@pytest.fixture(scope="module")
def lab(api: client.ApiClient, cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A namespace for this module, a scripted kubelet, and one operator that serves it."""
    core, namespace = client.CoreV1Api(api), f"lab-{os.getpid()}"
    core.create_namespace(
        {"metadata": {"name": namespace, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    )
    folder = tmp_path_factory.mktemp("lab")
    environment = {**os.environ, "KUBECONFIG": cluster.kubeconfig}
    (folder / "key").write_bytes(b"0123456789abcdef0123456789abcdef")
    processes: list[subprocess.Popen[bytes]] = []

    def start(identity: str) -> Operator:
        port, log = free_port(), folder / f"{identity}.log"
        command = [sys.executable, "-m", "scalerl_operator", "operator", "--image", "registry.test/runtime:1"]
        command += ["--token-key-file", str(folder / "key"), "--namespace", namespace, "--lease-namespace", namespace]
        command += ["--identity", identity, "--http", str(port), "--poll-seconds", "0.5"]
        command += ["--network-policy", json.dumps({"httpFrom": [{"podSelector": {}}], "outside": []})]
        with log.open("ab") as out:
            process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
        processes.append(process)
        found.operators.append(Operator(process, port, log))
        return found.operators[-1]

    found = Lab(api, namespace, start)
    with (folder / "kubelet.log").open("ab") as out:
        kubelet = subprocess.Popen(
            [sys.executable, str(SUPPORT / "scripted_kubelet.py"), namespace], env=environment, stdout=out, stderr=out
        )
    processes.append(kubelet)
    try:
        first = start("first")
        found.until("the first operator leads", first.is_leading)
        yield found
    finally:
        for process in processes:
            process.kill()
            process.wait()
        core.delete_namespace(namespace)
        core.delete_node(f"stand-in-{namespace}")


def test_a_run_from_apply_to_its_end(lab: Lab) -> None:
    """Pods and shared objects are created; then come a quiet time, a forecast, the end, and an event for each."""
    lab.until_training("whole")
    assert set(lab.pods("whole")) == {"trainer-0", "trainer-1", "generator-0", "generator-1", "generator-2"}
    spec = lab.core.read_namespaced_config_map("whole-spec", lab.namespace).data["run.yaml"]
    assert "reasoning_gym:chain_sum" in spec
    policy = client.NetworkingV1Api(lab.api).read_namespaced_network_policy("whole-pods", lab.namespace)
    assert policy.metadata.owner_references[0].uid == lab.run("whole")["metadata"]["uid"]
    assert [len(policy.spec.ingress), len(policy.spec.egress)] == [2, 2]
    assert "kopf" not in json.dumps(lab.run("whole")["metadata"]).lower()

    time.sleep(2.0)
    writes, version = lab.operators[0].writes(), lab.run("whole")["metadata"]["resourceVersion"]
    time.sleep(5.0)
    assert lab.operators[0].writes() == writes, "an idle run costs no write"
    assert lab.run("whole")["metadata"]["resourceVersion"] == version

    lab.behave("whole", step=300, evals=curve(300))
    lab.until("a forecast", lambda: "forecast" in lab.run("whole")["status"])
    lab.until(
        "the annotations",
        lambda: "scalerl.io/predicted-ceiling-interval" in lab.run("whole")["metadata"].get("annotations", {}),
    )
    ceiling = float(lab.run("whole")["metadata"]["annotations"]["scalerl.io/predicted-ceiling"])
    assert ceiling == pytest.approx(0.75, abs=0.05)
    assert lab.operators[0].metrics()[f'scalerl_run_ceiling{{namespace="{lab.namespace}",run="whole"}}'] == (
        pytest.approx(ceiling, abs=1e-3)
    )

    lab.behave("whole", step=400, exit=0, words={"reason": "Finished", "step": 400})
    lab.until("it is finished", lambda: lab.state("whole") == "Finished")
    lab.until("only the coordinator's log is left", lambda: set(lab.pods("whole")) == {"trainer-0"})
    conditions = {each["type"]: each["status"] for each in lab.run("whole")["status"]["conditions"]}
    assert (conditions["Complete"], conditions["Failed"]) == ("True", "False")
    assert lab.events("whole") >= {"AttemptCreated", "Training", "ForecastChanged", "AttemptEnded", "Finished"}


def curve(steps: int) -> list[Document]:
    """Return evaluations of a sigmoid from 0.2 to 0.75 with its middle at step 60, without noise."""
    return [
        {
            "index": step // 10,
            "step": step,
            "version": step,
            "computeGpuHours": 0.01 * step,
            "passRate": 0.2 + 0.55 / (1 + (60 / step) ** 2) if step else 0.2,
            "prompts": 250,
            "samples": 4,
            "standardError": 0.015,
        }
        for step in range(0, steps + 1, 10)
    ]


def test_suspend_and_resume(lab: Lab) -> None:
    lab.until_training("pause")
    lab.edit("pause", {"suspend": True})
    lab.until("it is suspended", lambda: lab.state("pause") == "Suspended")
    lab.until("all devices are free", lambda: lab.pods("pause") == {})
    first = lab.attempts("pause")[0]
    assert (first["stopCause"], first["said"], first["checkpointStep"]) == ("Suspended", "Stopped", 7)
    assert lab.run("pause")["status"]["checkpoint"]["step"] == 7
    lab.edit("pause", {"suspend": False})
    lab.until("it trains again", lambda: lab.state("pause") == "Training" and len(lab.pods("pause")) == 5)
    assert [each["number"] for each in lab.attempts("pause")] == [1, 2]


def test_a_crashed_coordinator_is_restarted_and_generators_stay(lab: Lab) -> None:
    lab.until_training("crash")
    before = lab.pods("crash")
    lab.behave("crash", attempt=1, exit=1, words={"reason": "Failed", "step": 3, "error": "no space left"})
    lab.until("the second attempt trains", lambda: lab.run("crash")["status"]["attempt"] == 2)
    lab.until("it trains", lambda: lab.state("crash") == "Training")
    after = lab.pods("crash")
    assert {name: after[name] == before[name] for name in before} == {
        "trainer-0": False,
        "trainer-1": False,
        "generator-0": True,
        "generator-1": True,
        "generator-2": True,
    }
    first = lab.attempts("crash")[0]
    assert (first["exitCode"], first["error"], first["infrastructure"]) == (1, "no space left", False)


def test_an_evicted_coordinator_costs_no_restart(lab: Lab) -> None:
    lab.until_training("evicted", failurePolicy={"maxRestarts": 0})
    lab.behave("evicted", attempt=1, exit=137, lost=True)
    lab.until("it backs off", lambda: lab.state("evicted") == "BackingOff")
    lab.until("it trains again", lambda: lab.state("evicted") == "Training")
    assert lab.attempts("evicted")[0]["infrastructure"] is True


def test_an_unfit_node_is_excluded_from_the_next_attempt(lab: Lab) -> None:
    lab.until_training("unfit", failurePolicy={"maxRestarts": 0, "backoffSeconds": 1})
    words = {"reason": "Unfit", "unfitNodes": [{"node": "gpu-3", "reason": "rank 3 computes 480 TFLOP/s"}]}
    lab.behave("unfit", attempt=1, exit=76, words=words)
    lab.until("the second attempt trains", lambda: lab.run("unfit")["status"]["attempt"] == 2)
    lab.until("it trains", lambda: lab.state("unfit") == "Training")
    (found,) = lab.run("unfit")["status"]["excludedNodes"]
    assert (found["name"], found["reason"]) == ("gpu-3", "rank 3 computes 480 TFLOP/s")
    assert lab.condition("unfit", "NodesFit")["status"] == "False"
    assert "NodeExcluded" in lab.events("unfit")
    selector = "scalerl.io/run=unfit,scalerl.io/attempt=2"
    pods = lab.core.list_namespaced_pod(lab.namespace, label_selector=selector).items
    assert len(pods) == 2
    for pod in pods:
        required = pod.spec.affinity.node_affinity.required_during_scheduling_ignored_during_execution
        (requirement,) = required.node_selector_terms[0].match_expressions
        assert (requirement.key, requirement.operator, requirement.values) == (
            "kubernetes.io/hostname",
            "NotIn",
            ["gpu-3"],
        )


def test_a_spent_restart_budget_fails_the_run(lab: Lab) -> None:
    lab.until_training("spent", failurePolicy={"maxRestarts": 0})
    lab.behave("spent", attempt=1, exit=3, words={"reason": "Failed", "step": 3})
    lab.until("it has failed", lambda: lab.state("spent") == "RestartsExhausted")
    conditions = {each["type"]: each["status"] for each in lab.run("spent")["status"]["conditions"]}
    assert (conditions["Complete"], conditions["Failed"]) == ("False", "True")


def test_a_dead_generator_is_replaced_alone(lab: Lab) -> None:
    lab.until_training("pool")
    before = lab.pods("pool")
    lab.core.delete_namespaced_pod("pool-generator-1", lab.namespace, grace_period_seconds=0)
    lab.until("it is replaced", lambda: lab.pods("pool").get("generator-1") not in (None, before["generator-1"]))
    after = lab.pods("pool")
    assert [name for name in before if after[name] != before[name]] == ["generator-1"]
    assert lab.state("pool") == "Training"


def test_generators_are_scaled_while_it_trains(lab: Lab) -> None:
    lab.until_training("scaled")
    before = lab.pods("scaled")
    lab.edit("scaled", {"generator": {"maxReplicas": 5}})
    lab.until("five", lambda: len(lab.pods("scaled")) == 7)
    lab.edit("scaled", {"generator": {"minReplicas": 1, "maxReplicas": 1}})
    lab.until("one", lambda: set(lab.pods("scaled")) == {"trainer-0", "trainer-1", "generator-0"})
    assert all(before[name] == uid for name, uid in lab.pods("scaled").items())


def test_a_policy_stops_a_run_and_that_is_no_failure(lab: Lab) -> None:
    policy = {"name": "enough", "when": {"passRate": {"above": 0.5}}, "for": 2, "mode": "Enforce"}
    lab.until_training("policy", stopPolicies=[policy])
    lab.behave("policy", step=120, evals=curve(120))
    lab.until("it is stopped", lambda: lab.state("policy") == "StoppedByPolicy")
    status = lab.run("policy")["status"]
    conditions = {each["type"]: each["status"] for each in status["conditions"]}
    assert (conditions["Complete"], conditions["Failed"], status["stop"]["policy"]) == ("True", "False", "enough")
    assert status["attempts"][0]["stopCause"] == "StoppedByPolicy"


FORECAST_POLICIES: list[tuple[str, float, float, str]] = [
    # The curve's ceiling is .75; from step 300 to the budget's 400 it rises from .7288 to .7379.
    ("ceilingUpper", 0.8, 0.75, "the ceiling's upper end"),
    ("remainingGain", 0.05, 0.009, "the gain left, at most,"),
]


@pytest.mark.parametrize(
    ("quantity", "below", "true", "words"), FORECAST_POLICIES, ids=[r[0] for r in FORECAST_POLICIES]
)
def test_a_policy_on_the_forecast_stops_a_run_once_it_is_identified(
    lab: Lab, quantity: str, below: float, true: float, words: str
) -> None:
    """Status, events and metrics have the decision and its numbers."""
    name = quantity.lower()
    lab.until_training(name, stopPolicies=[{"name": "settled", "when": {quantity: {"below": below}}, "for": 2}])
    lab.behave(name, step=50, evals=curve(50))
    lab.until("a forecast of six points", lambda: lab.run(name)["status"].get("forecast", {}).get("points") == 6)
    assert lab.run(name)["status"]["forecast"]["verdict"] == "NotIdentified"
    assert (lab.state(name), lab.condition(name, "StopRecommended")["status"]) == ("Training", "False")

    lab.behave(name, step=300, evals=curve(300))
    lab.until("it is stopped", lambda: lab.state(name) == "StoppedByPolicy")
    status = lab.run(name)["status"]
    stop, kept = status["stop"], status["stop"]["savedGpuHours"]
    assert lab.condition(name, "Complete")["status"] == "True"
    assert lab.condition(name, "Failed")["status"] == "False"
    assert (status["attempts"][0]["stopCause"], status["forecast"]["verdict"]) == ("StoppedByPolicy", "Identified")
    assert (stop["policy"], stop["mode"], stop["quantity"]) == ("settled", "Enforce", quantity)
    assert [(each["step"], each["verdict"]) for each in stop["inputs"]] == [(290, "Identified"), (300, "Identified")]
    assert all(true <= each["value"] < below for each in stop["inputs"])
    assert stop["reason"].startswith(words)
    assert kept == pytest.approx(0.01 * 100, rel=0.05)
    assert stop["reason"] in lab.condition(name, "StopRecommended")["message"]

    lab.until("its events", lambda: lab.events(name) >= {"StopRecommended", "AskedToEnd", "StoppedByPolicy"})
    where = f'namespace="{lab.namespace}"'
    metrics = next(each for each in lab.operators if each.is_leading()).metrics()
    assert metrics[f'scalerl_run_state{{{where},run="{name}",state="StoppedByPolicy"}}'] == 1.0
    saved = f'scalerl_run_saved_gpu_hours{{mode="Enforce",{where},policy="settled",run="{name}"}}'
    assert metrics[saved] == pytest.approx(kept)


def test_a_stalled_run_is_saved_and_restarted(lab: Lab) -> None:
    """The coordinator answers, but makes no step.

    It is asked to save, ends, and the next attempt trains; generators stay.
    """
    lab.until_training("still", watchdog={"noStep": {"seconds": 600}}, failurePolicy={"maxRestarts": 1})
    before = lab.pods("still")
    lab.behave("still", attempt=1, step=30, still=601.0)
    lab.until("the second attempt trains", lambda: lab.run("still")["status"]["attempt"] == 2)
    lab.until("it trains", lambda: lab.state("still") == "Training")
    first, second = lab.attempts("still")
    assert (first["stopCause"], first["said"]) == ("WatchdogRestart", "Stopped")
    assert first["stopMessage"] == "NoStep: no step has ended for 600 s; 30 are done"
    assert "stopCause" not in second
    after = lab.pods("still")
    assert [name for name in before if after[name] != before[name]] == ["trainer-0", "trainer-1"]
    assert lab.events("still") >= {"Unhealthy", "AskedToEnd", "AttemptEnded"}
    lab.until("it is well", lambda: lab.condition("still", "Healthy")["status"] == "True")


def test_a_warning_of_the_watchdog_is_a_condition_and_an_event(lab: Lab) -> None:
    lab.until_training("stale", watchdog={"staleness": {"above": 8, "steps": 2}})
    assert lab.condition("stale", "Healthy")["reason"] == "NothingFound"
    lab.behave("stale", step=30, vitals=[{"step": step, "lag": 9.0} for step in (29, 30)])
    lab.until("it is unwell", lambda: lab.condition("stale", "Healthy")["status"] == "False")
    assert lab.condition("stale", "Healthy")["reason"] == "Stale"
    lab.until("an event", lambda: "Unhealthy" in lab.events("stale"))
    assert (lab.state("stale"), len(lab.attempts("stale"))) == ("Training", 1)


def test_a_users_rule_fails_the_run_at_its_first_failure(lab: Lab) -> None:
    rule = {"name": "bad-data", "action": "FailRun", "onExitCodes": {"operator": "In", "values": [42]}}
    lab.until_training("ruled", failurePolicy={"maxRestarts": 5, "rules": [rule]})
    lab.behave("ruled", exit=42, words={"reason": "Failed", "step": 3, "error": "shard 7 is cut"})
    lab.until("it has failed", lambda: lab.state("ruled") == "FailedByRule")
    assert lab.condition("ruled", "Failed")["message"] == (
        "attempt 1 ended with exit code 42: shard 7 is cut (rule bad-data: FailRun)"
    )
    (only,) = lab.attempts("ruled")
    assert (only["rule"], only["ruled"]) == ("bad-data", "FailRun")
    lab.until("only the coordinator's log is left", lambda: set(lab.pods("ruled")) == {"trainer-0"})
    lab.until("the event", lambda: "FailedByRule" in lab.events("ruled"))


def test_pending_pods_are_released_and_retried(lab: Lab) -> None:
    lab.behave("late", waiting={"reason": "ImagePullBackOff", "message": "no such image"})
    lab.apply("late", deadlines={"pendingSeconds": 8}, failurePolicy={"maxRestarts": 0, "backoffSeconds": 15})
    lab.until("it backs off", lambda: lab.state("late") == "BackingOff")
    lab.until("it holds nothing", lambda: not lab.pods("late"))
    first = lab.attempts("late")[0]
    assert first["stopCause"] == "PendingDeadline"
    assert first["stopMessage"] == "1 of 2 trainer pods run; trainer-0: ImagePullBackOff: no such image"
    lab.until("the second attempt trains", lambda: lab.state("late") == "Training")
    assert len(lab.attempts("late")) == 2


def test_a_restarted_run_goes_on_with_the_trainers_that_have_room(lab: Lab) -> None:
    """A node is gone: the second attempt's last pod stays unscheduled. With room again, the next restart is whole."""
    trainer = {**SPEC["trainer"], "replicas": 2, "minReplicas": 1}
    lab.until_training("smaller", trainer=trainer, deadlines={"gangSeconds": 3})
    lab.behave("smaller", exit=75, lost=True, room=1, words={"reason": "Retry", "step": 3, "error": "a rank is lost"})
    lab.until("it is given up", lambda: len(lab.attempts("smaller")) >= 3)
    lab.until("the third attempt trains", lambda: lab.state("smaller") == "Training")
    lab.until("on one trainer", lambda: {each for each in lab.pods("smaller") if "trainer" in each} == {"trainer-0"})
    first, second, third = lab.attempts("smaller")
    assert (first["replicas"], second["replicas"], third["replicas"]) == (2, 2, 1)
    assert (second["stopCause"], second["room"]) == ("GangIncomplete", 1)
    assert "trainer-1: Unschedulable: 0/1 nodes" in second["stopMessage"]
    assert lab.condition("smaller", "Progressing")["message"].startswith("1 of 2 trainer pods")
    (container,) = lab.core.read_namespaced_pod("smaller-trainer-0", lab.namespace).spec.containers
    assert {each.name: each.value for each in container.env}["SCALERL_TRAINER_REPLICAS"] == "1"
    lab.behave("smaller", attempt=3, exit=75, lost=True, words={"reason": "Retry", "step": 5, "error": "again"})
    lab.until("the fourth is whole", lambda: len(lab.attempts("smaller")) == 4 and lab.state("smaller") == "Training")
    assert lab.attempts("smaller")[-1]["replicas"] == 2
    assert "AskedToEnd" in lab.events("smaller")


def test_a_strangers_secret_is_left_alone_and_reported(lab: Lab) -> None:
    def secret() -> Any:
        return lab.core.read_namespaced_secret("github-token", lab.namespace)

    body = {"metadata": {"name": "github-token"}, "stringData": {"password": "theirs"}}
    lab.core.create_namespaced_secret(lab.namespace, body)
    before = secret()
    lab.apply("github")
    lab.until("the event", lambda: "FailedCreate" in lab.events("github"))
    events = lab.core.list_namespaced_event(lab.namespace, field_selector="reason=FailedCreate").items
    (message,) = {each.message for each in events if each.involved_object.name == "github"}
    assert message.startswith("Secret github-token: 409 AlreadyExists: it is not this run's")
    assert secret() == before
    assert lab.pods("github") == {}
    lab.core.delete_namespaced_secret("github-token", lab.namespace)
    lab.until("it trains", lambda: lab.state("github") == "Training")
    assert secret().metadata.owner_references[0].uid == lab.run("github")["metadata"]["uid"]


def test_owned_objects_follow_a_change_of_the_spec(lab: Lab) -> None:
    def spec() -> str:
        return str(lab.core.read_namespaced_config_map("edited-spec", lab.namespace).data["run.yaml"])

    lab.until_training("edited")
    lab.edit("edited", {"generator": {"maxReplicas": 4}})
    lab.until("another generator", lambda: "generator-3" in lab.pods("edited"))
    assert "maxReplicas: 4" in spec()
    assert "FailedCreate" not in lab.events("edited")


def test_time_to_live(lab: Lab) -> None:
    lab.until_training("brief", ttlSecondsAfterFinished=1)
    lab.behave("brief", exit=0, words={"reason": "Finished", "step": 400})

    def is_gone() -> bool:
        try:
            lab.run("brief")
        except ApiException as error:
            return bool(error.status == 404)
        return False

    lab.until("it is deleted", is_gone)


def test_another_managers_run_is_left_alone(lab: Lab) -> None:
    lab.apply("foreign", managedBy="kueue.x-k8s.io/multikueue")
    lab.until_training("ours")  # created later, so the operator has observed the other run
    assert lab.pods("foreign") == {}
    assert "status" not in lab.run("foreign")


def test_a_refused_template_is_reported_and_a_corrected_one_used(lab: Lab) -> None:
    lab.apply("template", trainer={"replicas": 2, "gpusPerReplica": 0, "template": {"spec": {"hostname": "x"}}})
    lab.until("it is refused", lambda: lab.state("template") == "InvalidSpec")
    message = next(c["message"] for c in lab.run("template")["status"]["conditions"] if c["type"] == "Progressing")
    assert "spec.trainer.template.spec.hostname" in message
    lab.edit("template", {"trainer": {"template": {"spec": {"hostname": None, "schedulerName": "stand-in"}}}})
    lab.until("it trains", lambda: lab.state("template") == "Training")


def test_two_edits_at_once_converge(lab: Lab) -> None:
    lab.until_training("edits")
    lab.edit("edits", {"generator": {"maxReplicas": 6}})
    lab.edit("edits", {"generator": {"minReplicas": 2, "maxReplicas": 2}})
    lab.until("two", lambda: set(lab.pods("edits")) == {"trainer-0", "trainer-1", "generator-0", "generator-1"})
    generation = lab.run("edits")["metadata"]["generation"]
    lab.until("the edit is observed", lambda: lab.run("edits")["status"]["observedGeneration"] == generation)


def test_the_leader_is_killed_under_load(lab: Lab) -> None:
    """After SIGKILL the other replica takes over; no pod is lost or created twice, no attempt is spent."""
    lab.until_training("survivor")
    lab.start("second")
    lab.until("the second answers", lambda: b"0.0" in urlopen_metrics(lab.operators[-1]))
    before = lab.pods("survivor")
    names = [f"load-{index}" for index in range(5)]
    for name in names:
        lab.apply(name)
    first, second = lab.operators[-2:]
    first.process.send_signal(signal.SIGKILL)
    lab.until("the other leads", second.is_leading)
    assert lab.lease_holder() == "second"
    for name in names:
        lab.until(f"{name} trains", lambda name=name: lab.state(name) == "Training")
        assert len(lab.pods(name)) == 5
        assert [each["number"] for each in lab.attempts(name)] == [1], lab.attempts(name)
    assert lab.pods("survivor") == before
    assert lab.attempts("survivor")[0].get("ended") is None


def urlopen_metrics(operator: Operator) -> bytes:
    try:
        return str(operator.metrics()["scalerl_operator_leader"]).encode()
    except OSError:
        return b""


def test_a_terminated_leader_hands_over_at_once(lab: Lab) -> None:
    third = lab.start("third")
    lab.until("the third answers", lambda: b"0.0" in urlopen_metrics(third))
    leading = next(each for each in lab.operators if each.process.poll() is None and each.is_leading())
    leader = lab.lease_holder()
    leading.process.send_signal(signal.SIGTERM)
    assert leading.process.wait(timeout=SECONDS) == 0
    assert lab.lease_holder() != leader, "a lease that is not released is waited out"
    lab.until("the third leads", third.is_leading)


def make_commands(
    lab: Lab, cluster: Any, folder: Path, *, role: str | None
) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Return `scalerl` with the rights of Kubernetes' `role` in the namespace, or with none."""
    name = f"person-{role or 'nobody'}"
    lab.core.create_namespaced_service_account(lab.namespace, {"metadata": {"name": name}})
    if role is not None:
        binding = {
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": lab.namespace}],
        }
        client.RbacAuthorizationV1Api(lab.api).create_namespaced_role_binding(lab.namespace, binding)
    token = lab.core.create_namespaced_service_account_token(name, lab.namespace, {"spec": {}}).status.token
    settings = yaml.safe_load(Path(cluster.kubeconfig).read_text())
    settings["users"] = [{"name": user["name"], "user": {"token": token}} for user in settings["users"]]
    kubeconfig = folder / name
    kubeconfig.touch(mode=0o600)
    kubeconfig.write_text(yaml.safe_dump(settings))

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "scalerl_operator", *arguments, "-n", lab.namespace]
        environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
        return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=SECONDS)

    return run


def test_commands_read_a_run_with_the_view_role_before_and_after_its_end(
    lab: Lab, cluster: Any, tmp_path: Path
) -> None:
    """The commands print the status and write the report with its curve.

    The last point is in the coordinator's termination message only. No Secret is read.
    """
    scalerl = make_commands(lab, cluster, tmp_path, role="view")
    lab.until_training("seen")
    assert "has no evaluation yet" in scalerl("report", "seen").stderr
    lab.behave("seen", step=300, evals=curve(300)[:-1])
    lab.until("a forecast", lambda: "forecast" in lab.run("seen")["status"])
    during = scalerl("status", "seen")
    assert during.returncode == 0, during.stderr
    for wanted in ("Training", "300/400", "ceiling 0.7", "seen-trainer-1", "seen-generator-2", "AttemptCreated"):
        assert wanted in during.stdout, during.stdout
    page = tmp_path / "reports" / lab.namespace / "seen" / "report.html"
    written = scalerl("report", "seen")
    assert written.returncode == 0, written.stderr
    assert "<td>290</td>" in page.read_text()
    assert page.read_text().count("data:image/png;base64,") >= 1

    last = {**curve(300)[-1], "passRate": 0.7312}
    lab.behave("seen", step=400, exit=0, words={"reason": "Finished", "step": 400, "lastEval": last})
    lab.until("it is finished", lambda: lab.state("seen") == "Finished")
    after = scalerl("report", "seen")
    assert after.returncode == 0, after.stderr
    assert "<td>0.7312</td>" in page.read_text()
    assert "made at half" in page.read_text()
    listed = scalerl("status")
    assert "seen" in listed.stdout
    assert scalerl("status", "nothing").returncode == 2
    logs = scalerl("logs", "seen")  # the scripted node has no kubelet that serves logs
    assert logs.returncode != 0
    assert "Traceback" not in logs.stderr, logs.stderr
    account = f"system:serviceaccount:{lab.namespace}:person-view"
    assert cluster.kubectl("auth", "can-i", "get", "secrets", "-n", lab.namespace, "--as", account).stdout == "no\n"


def test_commands_without_rights_name_the_missing_right(lab: Lab, cluster: Any, tmp_path: Path) -> None:
    done = make_commands(lab, cluster, tmp_path, role=None)("status", "whole")
    assert done.returncode == 1
    for wanted in ("forbidden on context", 'cannot get resource "rlruns"', 'API group "scalerl.io"', lab.namespace):
        assert wanted in done.stderr
