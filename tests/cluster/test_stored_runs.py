"""Runs as the API server stores them: immutable fields, defaults, kubectl's columns, roles."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from scalerl_api import parse_run

Document = dict[str, Any]
Edit = Callable[[Document], Document]
ROOT = Path(__file__).parents[2]
RUNS = {"group": "scalerl.io", "version": "v1alpha1", "plural": "rlruns"}
NAME = "small"


class Runs:
    """RLRuns of one namespace."""

    def __init__(self, api: client.ApiClient, namespace: str):
        self._api = client.CustomObjectsApi(api)
        self._where = {**RUNS, "namespace": namespace}

    def create(self, document: Document) -> Document:
        created: Document = self._api.create_namespaced_custom_object(
            body=document, field_validation="Strict", **self._where
        )
        return created

    def get(self) -> Document:
        found: Document = self._api.get_namespaced_custom_object(name=NAME, **self._where)
        return found

    def change(self, changes: Document) -> str | None:
        """Replace the run by one with `changes` at their paths (None removes); return the refusal."""
        document = self.get()
        for path, value in changes.items():
            *parents, last = path.split(".")
            at = document
            for parent in parents:
                at = at[parent]
            at.update({last: value}) if value is not None else at.pop(last)
        try:
            self._api.replace_namespaced_custom_object(name=NAME, body=document, **self._where)
        except ApiException as refusal:
            message: str = json.loads(refusal.body)["message"]
            return message
        return None

    def write_status(self, status: Document) -> Document:
        body = {**self.get(), "status": status}
        written: Document = self._api.replace_namespaced_custom_object_status(name=NAME, body=body, **self._where)
        return written


@pytest.fixture
def runs(api: client.ApiClient, namespace: str) -> Runs:
    return Runs(api, namespace)


@pytest.fixture
def tuned(edit: Edit) -> Document:
    """A run with a value in every immutable field."""
    return edit(
        {
            "spec.model": {"source": "scratch", "scratch": {"layers": 3}},
            "spec.warmStart": {"source": "traces.jsonl", "steps": 50},
            "spec.data": {
                "train": {"source": "reasoning_gym:chain_sum", "task": {"min_terms": 2}},
                "promptFormat": "plain",
            },
            "spec.seed": 7,
            "spec.checkpoint": {"path": "/checkpoints", "everySteps": 5},
        }
    )


FIXED: dict[str, tuple[Document, str]] = {
    "another model": ({"spec.model.source": "Qwen/Qwen3-4B", "spec.model.scratch": None}, "spec.model"),
    "one size deep inside": ({"spec.model.scratch.layers": 4}, "spec.model"),
    "another dtype": ({"spec.model.dtype": "float32"}, "spec.model"),
    "another warm start": ({"spec.warmStart.steps": 51}, "spec.warmStart"),
    "other data, whose type no schema knows": ({"spec.data.train.size": 20_000}, "spec.data"),
    "an option of the task": ({"spec.data.train.task.min_terms": 3}, "spec.data"),
    "a further option of the task": ({"spec.data.train.task.max_terms": 3}, "spec.data"),
    "a list of sources": (
        {"spec.data.train": [{"name": "a", "source": "a"}, {"name": "b", "source": "b"}]},
        "spec.data",
    ),
    "other held-out prompts": ({"spec.data.heldOut.prompts": 20}, "spec.data"),
    "another judge": ({"spec.reward.verifier": "code"}, "spec.reward"),
    "another seed": ({"spec.seed": 8}, "spec.seed"),
    "other checkpoints": ({"spec.checkpoint.path": "/elsewhere"}, "spec.checkpoint.path"),
    "the default place of checkpoints": ({"spec.checkpoint.path": None}, "spec.checkpoint.path"),
    "another manager": ({"spec.managedBy": "kueue.x-k8s.io/multikueue"}, "spec.managedBy"),
}


@pytest.mark.parametrize(("changes", "path"), FIXED.values(), ids=FIXED.keys())
def test_immutable_fields(changes: Document, path: str, runs: Runs, tuned: Document) -> None:
    runs.create(tuned)
    message = runs.change(changes)
    assert message is not None
    assert f"{path}: Invalid value" in message
    assert "fixed for the run's life" in message


def test_a_source_of_a_mixture_is_immutable(runs: Runs, tuned: Document) -> None:
    sources = [{"name": name, "source": "reasoning_gym:chain_sum"} for name in ("math", "code")]
    tuned["spec"]["data"]["train"] = sources
    runs.create(tuned)
    for changed in ([{**sources[0], "weight": 2.0}, sources[1]], sources[::-1], sources[:1], sources[0]):
        assert "spec.data: Invalid value: fixed for the run's life" in (runs.change({"spec.data.train": changed}) or "")


def test_warm_start_is_neither_added_nor_taken_away(runs: Runs, edit: Edit) -> None:
    runs.create(edit({}))
    assert "spec.warmStart: Invalid value" in (runs.change({"spec.warmStart": {"source": "x", "steps": 5}}) or "")


MAY_CHANGE: dict[str, Document] = {
    "a larger budget": {"spec.budget.steps": 500},
    "a smaller one": {"spec.budget.gpuHours": 1.5},
    "how often checkpoints are made": {"spec.checkpoint.everySteps": 6},
    "the pool": {"spec.generator.minReplicas": 2, "spec.generator.maxReplicas": 4},
    "a rate": {"spec.recipe.optimizer": {"learningRate": 1e-7}},
    "a stop policy": {"spec.stopPolicies": [{"name": "flat", "when": {"remainingGain": {"below": 0.01}}}]},
    "a deadline": {"spec.deadlines.activeSeconds": 3600},
}


@pytest.mark.parametrize("changes", MAY_CHANGE.values(), ids=MAY_CHANGE.keys())
def test_may_change_in_a_live_run(changes: Document, runs: Runs, tuned: Document) -> None:
    runs.create(tuned)
    assert runs.change(changes) is None
    assert runs.get()["metadata"]["generation"] == 2


def test_a_change_obeys_the_rules_too(runs: Runs, tuned: Document) -> None:
    runs.create(tuned)
    assert "generator.maxReplicas" in (runs.change({"spec.generator.minReplicas": 2}) or "")
    assert "spec.recipe.promptsPerStep: 48, must be a multiple of the 5 data-parallel ranks" in (
        runs.change({"spec.trainer.replicas": 5}) or ""
    )


def without_empty(value: Any) -> Any:
    """Return the value without empty lists and mappings, which stay absent: every reader treats them as empty."""
    if not isinstance(value, dict):
        return value
    found = {key: without_empty(each) for key, each in value.items()}
    return {key: each for key, each in found.items() if each not in ([], {})}


def test_server_and_types_set_the_same_defaults(runs: Runs, edit: Edit) -> None:
    document = edit(
        {"spec.recipe": {"preset": "gspo"}, "spec.stopPolicies": [{"name": "x", "when": {"passRate": {"above": 0.9}}}]}
    )
    stored = runs.create(document)["spec"]
    ours = parse_run(document).spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    ours["data"]["train"] = document["spec"]["data"]["train"]  # has no type in the CRD, so it is stored as written
    assert without_empty(stored) == without_empty(ours)
    assert parse_run({**document, "spec": stored}) == parse_run(document)


FLOATS = {
    "spec.recipe.optimizer": {"learningRate": 5e-7, "epsilon": 1e-15, "beta1": 0.9, "weightDecay": 0.1},
    "spec.reward.timeoutSeconds": 0.30000000000000004,
    "spec.budget.gpuHours": 123456789.12345679,
    "spec.data.train": {"source": "reasoning_gym:chain_sum", "task": {"share": 0.1, "small": 1e-300, "whole": 3}},
}


def test_floats_survive(runs: Runs, edit: Edit) -> None:
    document = edit(FLOATS)
    runs.create(document)
    stored = runs.get()["spec"]
    assert stored["recipe"]["optimizer"] == FLOATS["spec.recipe.optimizer"]
    assert stored["reward"]["timeoutSeconds"] == 0.30000000000000004
    assert stored["budget"]["gpuHours"] == 123456789.12345679
    assert stored["data"]["train"]["task"] == {"share": 0.1, "small": 1e-300, "whole": 3}
    assert parse_run({**document, "spec": stored}) == parse_run(document)


def test_floats_survive_kubectl(runs: Runs, cluster: Any, namespace: str, edit: Edit) -> None:
    """5e-7 without a point is a number for kubectl, and what it prints can be applied again."""
    document = json.dumps(edit({"spec.recipe": {"optimizer": {"learningRate": "RATE"}}})).replace('"RATE"', "5e-7")
    assert cluster.kubectl("apply", "-n", namespace, "-f", "-", text=document).returncode == 0
    printed = cluster.kubectl("get", "rlrun", NAME, "-n", namespace, "-o", "yaml").stdout
    assert cluster.kubectl("replace", "-n", namespace, "-f", "-", text=printed).returncode == 0
    stored = runs.get()
    assert stored["spec"]["recipe"]["optimizer"]["learningRate"] == 5e-7
    assert stored["metadata"]["generation"] == 1


STATUS: Document = {
    "observedGeneration": 1,
    "conditions": [
        {
            "type": "Progressing",
            "status": "True",
            "reason": "Training",
            "message": "Step 340 of 500.",
            "lastTransitionTime": "2026-01-02T03:04:05Z",
            "observedGeneration": 1,
        }
    ],
    "roles": [{"name": "trainer", "desired": 2, "ready": 1, "restarts": 3}],
    "attempt": 2,
    "progress": {"phase": "Training", "step": 340, "version": 338, "passRate": 0.57, "computeGpuHours": 12.5},
    "forecast": {
        "verdict": "Identified",
        "reason": "4 points after the bend.",
        "points": 14,
        "ceiling": 0.612,
        "ceilingLow": 0.588,
        "ceilingHigh": 0.634,
        "summary": "0.61 [0.59,0.63]",
    },
    "cost": {"gpuSeconds": {"trainer": 1.5}, "idleFraction": {"trainer": 0.25}},
}


def test_kubectl_get_prints_the_forecast(runs: Runs, cluster: Any, namespace: str, edit: Edit) -> None:
    runs.create(edit({}))
    runs.write_status(STATUS)
    header, row = cluster.kubectl("get", "rlruns", "-n", namespace).stdout.splitlines()
    assert header.split() == ["NAME", "STATE", "STEP", "PASS", "CEILING", "GPU-H", "AGE"]
    assert row.split()[:-1] == ["small", "Training", "340", "0.57", "0.61", "[0.59,0.63]", "12.5"]
    wide = cluster.kubectl("get", "rlruns", "-n", namespace, "-o", "wide").stdout.splitlines()
    assert wide[1].split()[-2:] == ["Identified", "Qwen/Qwen3-0.6B"]


@pytest.mark.parametrize("word", ["rlrun", "rlr", "scalerl", "all"])
def test_kubectl_accepts_the_names_of_the_kind(word: str, runs: Runs, cluster: Any, namespace: str, edit: Edit) -> None:
    runs.create(edit({}))
    assert "rlrun.scalerl.io/small" in cluster.kubectl("get", word, "-n", namespace, "-o", "name").stdout.split()


def test_status_and_spec_are_written_apart(runs: Runs, edit: Edit) -> None:
    runs.create(edit({}))
    written = runs.write_status(STATUS)
    assert written["metadata"]["generation"] == 1
    assert written["status"] == STATUS
    assert runs.change({"status": None, "spec.budget.steps": 300}) is None
    after = runs.get()
    assert after["status"] == STATUS
    assert (after["spec"]["budget"]["steps"], after["metadata"]["generation"]) == (300, 2)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("forecast.verdict", "Sure", 'status.forecast.verdict: Unsupported value: "Sure"'),
        ("progress.step", "many", "status.progress.step"),
        ("conditions", [STATUS["conditions"][0]] * 2, "status.conditions[1]: Duplicate value"),
    ],
    ids=["a verdict that does not exist", "a word for a number", "a condition twice"],
)
def test_wrong_status_is_refused(path: str, value: object, message: str, runs: Runs, edit: Edit) -> None:
    runs.create(edit({}))
    status = copy.deepcopy(STATUS)
    *parents, last = path.split(".")
    at = status
    for parent in parents:
        at = at[parent]
    at[last] = value
    with pytest.raises(ApiException) as refusal:
        runs.write_status(status)
    assert message in json.loads(refusal.value.body)["message"]


@pytest.mark.parametrize(
    ("role", "may"),
    [
        ("view", {"get rlruns", "list rlruns", "watch rlruns", "get rlruns/status"}),
        ("edit", {"get rlruns", "list rlruns", "watch rlruns", "get rlruns/status", "create rlruns", "delete rlruns"}),
        ("admin", {"get rlruns", "list rlruns", "watch rlruns", "get rlruns/status", "create rlruns", "delete rlruns"}),
    ],
    ids=["view", "edit", "admin"],
)
@pytest.mark.usefixtures("cluster")
def test_role_of_kubernetes_may(
    role: str,
    may: set[str],
    api: client.ApiClient,
    namespace: str,
    wait_for: Callable[[str, Callable[[], bool]], None],
) -> None:
    subjects = [{"kind": "User", "name": "ada", "apiGroup": "rbac.authorization.k8s.io"}]
    binding = {
        "metadata": {"name": "ada"},
        "subjects": subjects,
        "roleRef": {"kind": "ClusterRole", "name": role, "apiGroup": "rbac.authorization.k8s.io"},
    }
    client.RbacAuthorizationV1Api(api).create_namespaced_role_binding(namespace, binding)
    wait_for("the API server's authorizer knows the binding", lambda: _may(api, namespace, "ada", "list", "rlruns"))
    rights = [
        f"{verb} {resource}"
        for resource in ("rlruns", "rlruns/status")
        for verb in ("get", "list", "watch", "create", "delete", "patch")
    ]
    allowed = {each for each in rights if _may(api, namespace, "ada", *each.split())}
    patches = {"patch rlruns"} if "create rlruns" in may else set()
    assert allowed == may | patches


def _may(api: client.ApiClient, namespace: str, user: str, verb: str, resource: str) -> bool:
    name, _, subresource = resource.partition("/")
    attributes = {"namespace": namespace, "verb": verb, "group": "scalerl.io", "resource": name}
    review = {"spec": {"user": user, "resourceAttributes": {**attributes, "subresource": subresource}}}
    answer = client.AuthorizationV1Api(api).create_subject_access_review(review)
    allowed: bool = answer.status.allowed
    return allowed


def test_run_of_an_older_release_can_still_be_labelled_and_repaired(
    runs: Runs, cluster: Any, edit: Edit, wait_for: Callable[[str, Callable[[], bool]], None]
) -> None:
    """A rule that is newer than the run must not block its labels, its finalizers and its deletion."""
    broken = edit({"spec.budget.steps": 100})  # the warm-up never ends
    policy = str(ROOT / "crds/scalerl.io_rlruns_policy.yaml")

    def is_refused() -> bool:
        done = cluster.kubectl("create", "--dry-run=server", "-f", "-", text=json.dumps(broken))
        return "warmupSteps" in done.stderr

    assert cluster.kubectl("delete", "-f", policy).returncode == 0
    try:
        wait_for("the policy is gone", lambda: not is_refused())
        runs.create(broken)
    finally:
        assert cluster.kubectl("apply", "--server-side", "-f", policy).returncode == 0
    wait_for("the policy is back", is_refused)
    assert runs.change({"metadata.labels": {"team": "maths"}}) is None
    assert "spec.recipe.optimizer.warmupSteps: 100, less than budget.steps (99)" in (
        runs.change({"spec.budget.steps": 99}) or ""
    )
    assert runs.change({"spec.budget.steps": 200}) is None


def test_status_of_a_run_with_a_name_no_longer_allowed_can_be_written(
    namespace: str, cluster: Any, edit: Edit, wait_for: Callable[[str, Callable[[], bool]], None]
) -> None:
    """A name cannot be changed, so the server must not refuse the writes that its deletion needs."""
    definition = yaml.safe_load((ROOT / "crds/scalerl.io_rlruns.yaml").read_text())
    older = copy.deepcopy(definition)
    del older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["x-kubernetes-validations"]
    run = json.dumps(edit({"metadata.name": "7b-math"}))

    def install(crd: Document) -> None:
        options = ("--server-side", "--force-conflicts", "--field-manager=scalerl-tests")
        assert cluster.kubectl("apply", *options, "-f", "-", text=json.dumps(crd)).returncode == 0

    def is_refused(name: str) -> bool:
        text = run.replace("7b-math", name)
        done = cluster.kubectl("create", "-n", namespace, "--dry-run=server", "-f", "-", text=text)
        return "with a letter first" in done.stderr

    install(older)
    try:
        wait_for("the rule is gone", lambda: not is_refused("7b-math"))
        assert cluster.kubectl("create", "-n", namespace, "-f", "-", text=run).returncode == 0
    finally:
        install(definition)
    wait_for("the rule is back", lambda: is_refused("8b-math"))
    labelled = cluster.kubectl("label", "-n", namespace, "rlrun/7b-math", "team=maths")
    assert (labelled.returncode, labelled.stderr) == (0, "")
