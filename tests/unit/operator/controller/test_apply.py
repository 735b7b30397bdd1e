"""The actuator and its loop on an in-memory API server: the writes and their order."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from api_server import InMemoryApiServer, merge_patch

from scalerl_api import InvalidRun, parse_run
from scalerl_api.wire import EvalPoint, Termination
from scalerl_operator.controller.apply import ApplyDeps, KubeCluster, NotLeading, derive_token, load_store
from scalerl_operator.controller.reconciler import Reconciler
from scalerl_operator.decide.lifecycle import Limits
from scalerl_operator.kube.client import CHILDREN, PODS, KubeError, Resource
from scalerl_operator.reconcile.cache import InformerCache
from scalerl_operator.reconcile.observed_pod import parse_observed_pod
from scalerl_operator.reconcile.observed_run import parse_observed_run
from scalerl_operator.resources.owner import PodOptions
from scalerl_operator.run.state import state_word
from scalerl_operator.telemetry.metrics import OperatorMetrics
from scalerl_operator.telemetry.poller import PollerDeps, ProgressPoller

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
KEY = ("research", "tiny")
Json = dict[str, Any]


class Lab:
    """One operator on one server, with a clock that the test sets."""

    def __init__(self, run: Json):
        self.server, self.now, self.leading = InMemoryApiServer(), NOW, True
        self.server.store("rlruns", run)
        self.begin()

    def begin(self) -> None:
        """Restart the operator."""
        self.store, self.gauges = InformerCache(), OperatorMetrics()
        deps = PollerDeps(now=lambda: self.now, token=str, enqueue=lambda _key: None)
        self.poller = ProgressPoller(self.store, self.gauges, deps)
        deps = ApplyDeps(PodOptions("image:1", 30.0), b"key", lambda: self.leading, lambda: self.now)
        api: Any = self.server
        self.cluster = KubeCluster(api, self.store, self.poller, deps)
        self.reconciler = Reconciler(self.cluster, self.gauges, Limits(), lambda: self.now)

    async def go(self, passes: int = 1) -> None:
        """Fill the cache from the server, then reconcile the run."""
        for _ in range(passes):
            api: Any = self.server
            await load_store(api, self.store, [None], "")
            await self.reconciler.reconcile(KEY)

    def edit(self, change: Json) -> None:
        """Change the stored run."""
        self.server.store("rlruns", merge_patch(self.server.objects["rlruns", *KEY], change))

    def messages(self, reason: str) -> list[str]:
        """Return the messages of the stored events of a reason."""
        found = [each for (plural, _, _), each in self.server.objects.items() if plural == "events"]
        return [each["message"] for each in found if each["reason"] == reason]

    def names(self, resource: Resource) -> list[str]:
        return sorted(name for plural, _, name in self.server.objects if plural == resource.plural)

    @property
    def state(self) -> str:
        return state_word(parse_observed_run(self.server.objects["rlruns", *KEY]).status)


@pytest.fixture
def make_lab(document: Callable[..., Json]) -> Callable[..., Lab]:
    def make(**spec: Any) -> Lab:
        given = {
            "managedBy": "scalerl.io/operator",
            "trainer": {"replicas": 2, "gpusPerReplica": 0},
            "generator": {"minReplicas": 1, "gpusPerReplica": 0},
        }
        run = document(**{**given, **spec})
        run["metadata"] = {"name": "tiny", "namespace": "research", "generation": 1}
        return Lab(run)

    return make


def play(story: Awaitable[None]) -> None:
    async def whole() -> None:
        await story

    asyncio.run(whole())


def test_an_attempt_is_stored_before_its_pods_are_created(make_lab: Callable[..., Lab]) -> None:
    found = make_lab()
    play(found.go(passes=2))
    calls = found.server.calls
    assert calls[0] == "apply rlruns tiny/status"
    assert calls[1] == "create events AttemptCreated"
    pods = [call.removeprefix("create pods ") for call in calls if "create pods" in call]
    assert sorted(pods) == ["tiny-generator-0", "tiny-trainer-0", "tiny-trainer-1"]
    assert pods[-1] == "tiny-trainer-0", "its pod says that all others were made"
    assert calls.index("create secrets tiny-token") < calls.index("create pods " + pods[0])
    assert found.names(CHILDREN["PersistentVolumeClaim"]) == ["tiny-checkpoints"]


SUMS = {"source": "reasoning_gym:chain_sum", "size": 5000}
# Faults in data.train, which has no type in the CRD: the API server stores them.
WRONG_TRAIN: dict[str, Any] = {
    "no source": {},
    "a text": "questions.jsonl",
    "an empty list": [],
    "a list of texts": ["questions.jsonl"],
    "an unknown field": {**SUMS, "prompt_field": "question"},
    "a quoted number": {**SUMS, "size": "5000"},
    "a source of a mixture without a name": [{**SUMS, "name": "math"}, SUMS],
    "a name twice": [{**SUMS, "name": "math"}, {**SUMS, "name": "math"}],
    "a weight of nothing": [{**SUMS, "name": "math", "weight": 0}, {**SUMS, "name": "code"}],
    "an unknown verifier": {**SUMS, "verifier": "maths"},
    "two kinds of verifiers": {**SUMS, "verifier": "math", "verifiers": [{"verifier": "math"}]},
    "options of a task without a task": {"source": "a.jsonl", "verifier": "math", "task": {"min_terms": 2}},
    "held-out prompts of its own, twice": {**SUMS, "heldOut": 10, "validation": SUMS},
}


@pytest.mark.parametrize("train", WRONG_TRAIN.values(), ids=WRONG_TRAIN.keys())
def test_wrong_training_data_is_refused_in_one_pass_in_the_words_of_validate(
    make_lab: Callable[..., Lab], document: Callable[..., Json], train: Any
) -> None:
    given = document()["spec"]["data"]
    found = make_lab(data={**given, "train": train})
    with pytest.raises(InvalidRun) as refusal:
        parse_run(found.server.objects["rlruns", *KEY])
    play(found.go())
    status = found.server.objects["rlruns", *KEY]["status"]
    progressing = next(each for each in status["conditions"] if each["type"] == "Progressing")
    assert (found.state, progressing["reason"]) == ("InvalidSpec", "InvalidSpec")
    assert progressing["message"] == "; ".join(map(str, refusal.value.faults))
    assert progressing["message"].startswith("spec.data.train")
    assert found.names(PODS) == []
    assert found.messages("InvalidSpec") == [progressing["message"]]


DIGEST, OTHER = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"
REFUSAL = f"spec.data: changed since the checkpoint: 1 prompts added, accepted by scalerl.io/accept-new-data={DIGEST}"


def end_refusing(found: Lab) -> None:
    """End the coordinator, which refuses its data."""
    message = Termination(reason="Invalid", error=REFUSAL, refused_data=DIGEST)
    stored = found.server.objects["pods", KEY[0], "tiny-trainer-0"]
    state = {"terminated": {"exitCode": 64, "reason": "Error", "message": message.model_dump_json(by_alias=True)}}
    status = {"phase": "Failed", "containerStatuses": [{"name": "runtime", "restartCount": 0, "state": state}]}
    found.server.store("pods", {**stored, "status": {**stored.get("status", {}), **status}})


def progressing(found: Lab) -> str:
    conditions = found.server.objects["rlruns", *KEY]["status"]["conditions"]
    return str(next(each["message"] for each in conditions if each["type"] == "Progressing"))


def coordinator_variables(found: Lab) -> dict[str, str]:
    spec = found.server.objects["pods", KEY[0], "tiny-trainer-0"]["spec"]
    return {each["name"]: each.get("value", "") for each in spec["containers"][0]["env"]}


def test_a_run_that_refused_changed_data_goes_on_when_its_digest_is_annotated(make_lab: Callable[..., Lab]) -> None:
    found = make_lab()

    async def story() -> None:
        await found.go(passes=2)
        end_refusing(found)
        await found.go(passes=3)
        assert (found.state, progressing(found)) == ("InvalidSpec", REFUSAL)
        assert "SCALERL_ACCEPT_NEW_DATA" not in coordinator_variables(found)

        found.edit({"metadata": {"annotations": {"scalerl.io/accept-new-data": OTHER}}})
        found.now += timedelta(minutes=5)
        await found.go(passes=3)
        words = f"scalerl.io/accept-new-data is {OTHER}, and the refused data is {DIGEST}; {REFUSAL}"
        assert (found.state, progressing(found)) == ("InvalidSpec", words)

        found.edit({"metadata": {"annotations": {"scalerl.io/accept-new-data": DIGEST}}})
        found.now += timedelta(minutes=5)
        await found.go(passes=4)

    play(story())
    assert found.state not in ("InvalidSpec", "Failed")
    attempts = found.server.objects["rlruns", *KEY]["status"]["attempts"]
    assert [each["number"] for each in attempts] == [1, 2]
    assert (attempts[0]["refusedData"], attempts[1]["acceptedData"]) == (DIGEST, DIGEST)
    assert coordinator_variables(found)["SCALERL_ACCEPT_NEW_DATA"] == DIGEST
    assert found.messages("AttemptCreated")[-1] == f"attempt 2: 2 trainer pods, with the changed data {DIGEST}"


def test_an_old_annotation_accepts_no_later_change(make_lab: Callable[..., Lab]) -> None:
    found = make_lab()
    found.edit({"metadata": {"annotations": {"scalerl.io/accept-new-data": OTHER}}})

    async def story() -> None:
        await found.go(passes=2)
        end_refusing(found)
        await found.go(passes=4)

    play(story())
    assert found.state == "InvalidSpec"
    assert progressing(found).startswith(f"scalerl.io/accept-new-data is {OTHER}, and the refused data is {DIGEST}")
    assert len(found.server.objects["rlruns", *KEY]["status"]["attempts"]) == 1


def test_an_idle_run_costs_nothing(make_lab: Callable[..., Lab]) -> None:
    found = make_lab()

    async def story() -> None:
        await found.go(passes=3)
        found.server.calls.clear()
        found.now += timedelta(hours=1)
        await found.go(passes=3)

    play(story())
    assert found.server.calls == []


def test_metrics_show_a_run_from_its_pass_until_its_deletion(make_lab: Callable[..., Lab]) -> None:
    found = make_lab()
    found.gauges.set_leading(True)

    def states() -> list[str]:
        lines = found.gauges.render().decode().splitlines()
        return [line for line in lines if line.startswith("scalerl_run_state{")]

    play(found.go())
    assert states() == ['scalerl_run_state{namespace="research",run="tiny",state="Pending"} 1.0']
    stored = found.server.objects["rlruns", *KEY]
    edited = {**stored["metadata"], "generation": 2}
    found.server.store("rlruns", {**stored, "metadata": edited, "spec": {**stored["spec"], "suspend": True}})
    play(found.go())
    assert states() == [f'scalerl_run_state{{namespace="research",run="tiny",state="{found.state}"}} 1.0']
    assert "Pending" not in states()[0]
    del found.server.objects["rlruns", *KEY]
    play(found.go())
    assert states() == []


def test_another_managers_run_is_not_shown(make_lab: Callable[..., Lab]) -> None:
    found = make_lab(managedBy="kueue.x-k8s.io/multikueue")
    found.gauges.set_leading(True)
    play(found.go())
    assert b'run="tiny"' not in found.gauges.render()


def test_a_replica_that_may_not_lead_writes_nothing(make_lab: Callable[..., Lab]) -> None:
    found = make_lab()
    found.leading = False
    with pytest.raises(NotLeading):
        play(found.go())
    assert found.server.calls == []


def test_workers_of_a_replica_that_may_not_lead_log_one_line_without_a_traceback(
    make_lab: Callable[..., Lab], caplog: pytest.LogCaptureFixture
) -> None:
    found = make_lab()
    found.leading = False

    async def story() -> None:
        api: Any = found.server
        await load_store(api, found.store, [None], "")
        found.reconciler.mark(KEY)
        async with asyncio.timeout(30.0):
            await found.reconciler.work_forever()

    play(story())
    assert found.server.calls == []
    assert [each.exc_info for each in caplog.records] == [None]
    assert "must not write any more" in caplog.text


def test_a_refused_pod_is_reported_and_retried(make_lab: Callable[..., Lab]) -> None:
    found = make_lab()
    found.server.refuse["create pods tiny-trainer-1"] = KubeError("create", 403, "Forbidden", "exceeded quota")

    async def story() -> None:
        with pytest.raises(KubeError, match="exceeded quota"):
            await found.go()
        assert "tiny-trainer-0" not in found.names(PODS), "no coordinator without its members"
        assert "create events FailedCreate" in found.server.calls
        await found.go()

    play(story())
    assert found.names(PODS) == ["tiny-generator-0", "tiny-trainer-0", "tiny-trainer-1"]


REFUSED = [
    ("create", KubeError("create", 403, "Forbidden", "exceeded quota"), "exceeded quota"),
    ("apply", KubeError("apply", 422, "Invalid", "storageClassName is immutable"), "immutable"),
]


@pytest.mark.parametrize(("verb", "error", "words"), REFUSED, ids=["a quota", "a kept claim of another class"])
def test_a_refused_shared_object_is_reported_and_retried(
    make_lab: Callable[..., Lab], verb: str, error: KubeError, words: str
) -> None:
    found = make_lab()
    claims, name = CHILDREN["PersistentVolumeClaim"], "tiny-checkpoints"
    if verb == "apply":
        labels = {"app.kubernetes.io/managed-by": "scalerl-operator", "scalerl.io/run": "tiny"}
        found.server.store(claims.plural, {"metadata": {"name": name, "namespace": "research", "labels": labels}})
    found.server.refuse[f"{verb} persistentvolumeclaims {name}"] = error

    async def story() -> None:
        with pytest.raises(KubeError, match=words):
            await found.go()
        assert found.names(PODS) == []
        (message,) = found.messages("FailedCreate")
        assert words in message
        found.server.calls.clear()
        await found.go()

    play(story())
    assert len(found.names(PODS)) == 3
    assert found.names(claims) == [name]
    assert "create secrets tiny-token" not in found.server.calls, "what was made is not made again"


STRANGERS = [
    ("Service", "tiny"),
    ("ConfigMap", "tiny-spec"),
    ("Secret", "tiny-token"),
    ("PodDisruptionBudget", "tiny-trainer"),
    ("PersistentVolumeClaim", "tiny-checkpoints"),
]


@pytest.mark.parametrize(("kind", "name"), STRANGERS, ids=[kind for kind, _ in STRANGERS])
def test_a_strangers_object_is_left_alone_and_reported(make_lab: Callable[..., Lab], kind: str, name: str) -> None:
    found = make_lab()
    resource = CHILDREN[kind]
    theirs = found.server.store(
        resource.plural, {"metadata": {"name": name, "namespace": "research"}, "data": {"token": "x"}}
    )

    async def story() -> None:
        for _ in range(2):
            with pytest.raises(KubeError, match=f"{kind} {name}: .* it is not this run's"):
                await found.go()
        assert found.server.objects[resource.plural, "research", name] == theirs
        assert found.names(PODS) == []
        (message,) = found.messages("FailedCreate")
        assert f"{kind} {name}" in message
        del found.server.objects[resource.plural, "research", name]
        await found.go()

    play(story())
    assert len(found.names(PODS)) == 3


def test_a_new_run_costs_one_write_for_each_shared_object(make_lab: Callable[..., Lab]) -> None:
    found = make_lab()
    play(found.go(passes=3))
    shared = [call for call in found.server.calls if call.split()[1] in {each.plural for each in CHILDREN.values()}]
    assert sorted(shared) == [
        "create configmaps tiny-spec",
        "create persistentvolumeclaims tiny-checkpoints",
        "create poddisruptionbudgets tiny-trainer",
        "create secrets tiny-token",
        "create services tiny",
    ]


@pytest.mark.parametrize(
    ("passes", "wanted"),
    [(3, ["check", "apply"]), (1, ["create", "check", "apply"])],
    ids=["its coordinator was seen: a create would only be refused", "nothing says that it has begun"],
)
def test_a_restarted_operator_adopts_the_runs_objects(
    make_lab: Callable[..., Lab], passes: int, wanted: list[str]
) -> None:
    found = make_lab()

    async def story() -> None:
        await found.go(passes=passes)
        found.begin()
        del found.server.objects["pods", "research", "tiny-generator-0"]
        found.server.calls.clear()
        await found.go()

    play(story())
    for thing in ("secrets tiny-token", "persistentvolumeclaims tiny-checkpoints"):
        assert [call.split()[0] for call in found.server.calls if thing in call] == wanted
    assert "create pods tiny-generator-0" in found.server.calls
    assert found.messages("FailedCreate") == []


def finish_coordinator(found: Lab, last: EvalPoint) -> None:
    """Let the coordinator's pod succeed at step 120, with `last` in its termination message."""
    words = Termination(reason="Finished", step=120, last_eval=last).model_dump_json(by_alias=True)
    ended = {"exitCode": 0, "startedAt": "2026-05-04T12:00:00Z", "reason": "Completed", "message": words}
    coordinator = found.server.objects["pods", "research", "tiny-trainer-0"]
    container = {"name": "runtime", "state": {"terminated": ended}}
    found.server.store("pods", {**coordinator, "status": {"phase": "Succeeded", "containerStatuses": [container]}})


def test_a_strangers_curve_is_left_alone_and_blocks_nothing(
    make_lab: Callable[..., Lab], point: Callable[..., EvalPoint]
) -> None:
    found = make_lab()
    curves = CHILDREN["ConfigMap"]
    theirs = found.server.store(
        curves.plural, {"metadata": {"name": "tiny-curve", "namespace": "research"}, "data": {}}
    )

    async def story() -> None:
        await found.go(passes=3)
        finish_coordinator(found, point(12))
        await found.go(passes=3)

    play(story())
    assert found.state == "Finished"
    assert found.server.objects["configmaps", "research", "tiny-curve"] == theirs
    assert ["ConfigMap tiny-curve" in each for each in found.messages("FailedCreate")] == [True]


def test_a_refused_ceiling_is_removed_from_the_annotations(make_lab: Callable[..., Lab]) -> None:
    found = make_lab()
    known = {"verdict": "Weak", "reason": "wide", "points": 9, "ceiling": 0.61, "ceilingLow": 0.59, "ceilingHigh": 0.63}
    refused = {**dict.fromkeys(known), "verdict": "NotIdentified", "reason": "it rises", "points": 9}

    def annotations() -> Json:
        return dict(found.server.objects["rlruns", *KEY]["metadata"]["annotations"])

    async def story() -> None:
        await found.go(passes=3)
        found.edit({"metadata": {"annotations": {"team": "rl"}}, "status": {"forecast": known}})
        await found.go(passes=3)
        assert annotations() == {
            "team": "rl",
            "scalerl.io/predicted-ceiling": "0.6100",
            "scalerl.io/predicted-ceiling-interval": "[0.5900,0.6300]",
        }
        found.edit({"status": {"forecast": refused}})
        found.server.calls.clear()
        await found.go(passes=3)
        assert found.server.calls.count("merge rlruns") == 1
        found.server.calls.clear()
        await found.go(passes=3)

    play(story())
    assert annotations() == {"team": "rl"}
    assert found.server.calls == []


def test_a_missed_pod_end_is_found_at_its_deletion(make_lab: Callable[..., Lab]) -> None:
    found = make_lab()

    async def story() -> None:
        await found.go(passes=3)
        del found.server.objects["pods", "research", "tiny-generator-0"]
        found.server.objects["rlruns", *KEY]["spec"]["suspend"] = True
        found.server.store("rlruns", found.server.objects["rlruns", *KEY])
        found.store.put_run(parse_observed_run(found.server.objects["rlruns", *KEY]))
        for _ in range(3):
            await found.reconciler.reconcile(KEY)

    play(story())
    assert found.names(PODS) == []
    assert found.state == "Suspended"


def test_a_pod_that_already_terminates_is_left_to_the_watch(make_lab: Callable[..., Lab]) -> None:
    """The API server's answer to such a delete has no resourceVersion."""
    found = make_lab()

    async def story() -> None:
        await found.go(passes=3)
        found.server.leaving = "tiny-generator-0"
        run = found.server.objects["rlruns", *KEY]
        generation = {**run["metadata"], "generation": 2}
        found.server.store("rlruns", {**run, "metadata": generation, "spec": {**run["spec"], "suspend": True}})
        await found.go(passes=3)

    play(story())
    assert "delete pods tiny-generator-0" in found.server.calls
    assert found.names(PODS) == ["tiny-generator-0"]


def test_a_deleted_run_is_dropped_without_a_log_line(make_lab: Callable[..., Lab]) -> None:
    found = make_lab()

    async def story() -> None:
        await found.go(passes=3)
        del found.server.objects["rlruns", *KEY]
        found.server.refuse["delete pods tiny-generator-0"] = KubeError("delete", 404, "NotFound", "namespace")
        stored = found.store.run(KEY)
        assert stored is not None
        found.server.refuse["apply rlruns tiny/status"] = KubeError("apply", 404, "NotFound", "rlruns tiny")
        pod = parse_observed_pod(found.server.objects["pods", "research", "tiny-trainer-0"])
        assert pod is not None
        found.store.drop_pod(pod)
        await found.reconciler.reconcile(KEY)
        assert found.store.run(KEY) is None
        assert await found.reconciler.reconcile(KEY) is None

    play(story())


def test_the_curve_is_stored_before_the_final_state(
    make_lab: Callable[..., Lab], point: Callable[..., EvalPoint]
) -> None:
    """A finished run is not reconciled again."""
    found = make_lab()

    async def story() -> None:
        await found.go(passes=3)
        finish_coordinator(found, point(12))
        found.server.calls.clear()
        await found.go()

    play(story())
    assert found.state == "Finished"
    calls = found.server.calls
    assert calls.index("create configmaps tiny-curve") < calls.index("apply rlruns tiny/status")


def test_the_same_event_is_counted(make_lab: Callable[..., Lab]) -> None:
    found = make_lab()

    async def story() -> None:
        for _ in range(2):
            found.server.refuse["create pods tiny-trainer-1"] = KubeError("create", 403, "Forbidden", "exceeded quota")
            with pytest.raises(KubeError):
                await found.go()

    play(story())
    events = [each for (plural, _, _), each in found.server.objects.items() if plural == "events"]
    assert {each["reason"]: each["count"] for each in events} == {"AttemptCreated": 1, "FailedCreate": 2}


@pytest.mark.parametrize(
    ("error", "has_trace"),
    [(KubeError("apply", 500, "InternalError", "etcd is away"), False), (KeyError("a fault of ours"), True)],
    ids=["of the API server", "of ours"],
)
def test_a_failing_pass_is_retried_and_delays_no_other_run(
    make_lab: Callable[..., Lab], caplog: pytest.LogCaptureFixture, error: Exception, has_trace: bool
) -> None:
    found = make_lab()
    found.server.refuse["apply rlruns tiny/status"] = error

    async def story() -> None:
        api: Any = found.server
        await load_store(api, found.store, [None], "")
        found.reconciler.mark(KEY)
        working = asyncio.create_task(found.reconciler.work_forever())
        async with asyncio.timeout(30.0):
            while found.names(PODS) == []:
                await asyncio.sleep(0.01)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)

    play(story())
    text = found.gauges.render().decode()
    assert 'scalerl_operator_reconcile_total{result="error"} 1.0' in text
    assert "scalerl_operator_retries_total 1.0" in text
    (retried,) = [each for each in caplog.records if "research/tiny: retry in" in each.getMessage()]
    assert bool(retried.exc_info) == has_trace


def test_tokens_differ_by_run_and_by_key() -> None:
    # HMAC-SHA256 of "uid-1" under "key", by openssl
    assert derive_token(b"key", "uid-1") == "1d139dbdbb4b313580c78b8c2b2d46abe919ba5004e9ec7cbfa4b94aade1ee1b"
    assert len({derive_token(b"key", "a"), derive_token(b"key", "b"), derive_token(b"other", "a")}) == 3
