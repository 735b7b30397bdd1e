"""The client of the Kubernetes API, against a server whose answers the test sets."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from scalerl_operator.kube.client import (
    CHILDREN,
    EVENTS,
    PODS,
    RUNS,
    Connection,
    KubeClient,
    KubeError,
    KubeSilence,
    find_object,
    load_connection,
    load_kubeconfig,
)

Json = dict[str, Any]
RUN: Json = {"metadata": {"name": "tiny", "namespace": "research"}, "spec": {}}
HERE = "/apis/scalerl.io/v1alpha1/namespaces/research/rlruns"


async def use(api: Any, act: Callable[[KubeClient], Any], **options: Any) -> Any:
    kube = KubeClient(api.connection(), **options)
    try:
        return await act(kube)
    finally:
        await kube.close()


WRITES = [
    (lambda kube: kube.create(RUNS, RUN), "POST", HERE, "application/json", RUN),
    (lambda kube: kube.replace(RUNS, RUN), "PUT", f"{HERE}/tiny", "application/json", RUN),
    (lambda kube: kube.apply(RUNS, RUN, "status"), "PATCH", f"{HERE}/tiny/status", "application/apply-patch+yaml", RUN),
    (lambda kube: kube.merge(RUNS, "research", "tiny", {"a": 1}), "PATCH", f"{HERE}/tiny",
     "application/merge-patch+json", {"a": 1}),
    (lambda kube: kube.delete(PODS, "research", "p", {"b": 2}), "DELETE", "/api/v1/namespaces/research/pods/p",
     "application/json", {"b": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("act", "method", "path", "kind", "body"), WRITES, ids=[row[1] + row[3] for row in WRITES])
def test_writes(fake_api: Any, act: Any, method: str, path: str, kind: str, body: Json) -> None:
    counted: list[tuple[str, str]] = []

    async def story() -> None:
        async with fake_api.serving({"kind": "Any"}) as api:
            found = await use(api, act, counted=lambda verb, plural: counted.append((verb, plural)))
            assert found == {"kind": "Any"}
            (call,) = api.calls
            assert (call.method, call.path, json.loads(call.body)) == (method, path, body)
            assert call.headers["Content-Type"] == kind
            assert call.headers["Authorization"] == "Bearer t0ken"
            if method != "DELETE":
                assert call.query["fieldManager"] == "scalerl-operator"
            assert call.query.get("force") == ("true" if "apply" in kind else None)

    asyncio.run(story())
    assert len(counted) == 1


def test_ownership_is_checked_with_a_no_op_patch(fake_api: Any) -> None:
    """The check needs the right `patch` alone, not `get`."""
    counted: list[tuple[str, str]] = []

    def check(kube: KubeClient) -> Any:
        return kube.check(PODS, "research", "p", {"/metadata/labels/a~1b": "c"})

    async def story() -> None:
        async with fake_api.serving({"kind": "Any"}) as api:
            assert await use(api, check, counted=lambda *write: counted.append(write)) == {"kind": "Any"}
            (call,) = api.calls
            assert (call.method, call.path) == ("PATCH", "/api/v1/namespaces/research/pods/p")
            assert call.headers["Content-Type"] == "application/json-patch+json"
            assert json.loads(call.body) == [{"op": "test", "path": "/metadata/labels/a~1b", "value": "c"}]

    asyncio.run(story())
    assert counted == [], "no write"


def test_only_a_missing_object_is_none(fake_api: Any) -> None:
    async def story() -> None:
        async with fake_api.serving({"kind": "Pod"}, fake_api.refusal(404, "NotFound")) as api:
            assert await use(api, lambda kube: find_object(kube, PODS, "research", "p")) == {"kind": "Pod"}
            assert await use(api, lambda kube: find_object(kube, PODS, "research", "p")) is None
            assert {call.path for call in api.calls} == {"/api/v1/namespaces/research/pods/p"}
        async with fake_api.serving(fake_api.refusal(403, "Forbidden")) as api:
            with pytest.raises(KubeError, match="403 Forbidden"):
                await use(api, lambda kube: find_object(kube, PODS, "research", "p"))

    asyncio.run(story())


def test_a_list_is_read_page_by_page(fake_api: Any) -> None:
    async def story() -> None:
        async with fake_api.serving(fake_api.pods("a", "b", more="next"), fake_api.pods("c", version=9)) as api:
            found, version = await use(api, lambda kube: kube.list(PODS, None, "x=y", fields="spec.nodeName=n"))
            assert [each["metadata"]["name"] for each in found] == ["a", "b", "c"]
            assert {each["kind"] for each in found} == {"Pod"}, "a list's items do not say what they are"
            assert version == 9
            first, second = api.calls
            assert first.path == "/api/v1/pods"
            assert first.query == {"limit": "500", "labelSelector": "x=y", "fieldSelector": "spec.nodeName=n"}
            assert second.query == {**first.query, "continue": "next"}

    asyncio.run(story())


def test_a_list_whose_continue_token_expired_is_read_again(fake_api: Any) -> None:
    """410: the pages read so far are of an expired version, and are not combined with newer pages."""
    old = fake_api.refusal(410, "Expired")

    async def story() -> None:
        async with fake_api.serving(fake_api.pods("gone", more="next"), old, fake_api.pods("a")) as api:
            found, _ = await use(api, lambda kube: kube.list(PODS, "research"))
            assert [each["metadata"]["name"] for each in found] == ["a"]
            assert [call.query.get("continue") for call in api.calls] == [None, "next", None]
        async with fake_api.serving(old) as api:
            with pytest.raises(KubeError, match="410 Expired"):
                await use(api, lambda kube: kube.list(PODS, "research"))
            assert len(api.calls) == 3

    asyncio.run(story())


def test_a_request_to_a_busy_server_is_retried(fake_api: Any) -> None:
    """The server does nothing when it answers 429, so a write is retried too, a limited number of times."""
    busy = fake_api.refusal(429, "TooManyRequests", Retry_After="0")

    async def story() -> None:
        async with fake_api.serving(busy, busy, {"kind": "Pod"}) as api:
            assert await use(api, lambda kube: kube.create(PODS, RUN)) == {"kind": "Pod"}
            assert len({call.body for call in api.calls}) == 1
        async with fake_api.serving(busy) as api:
            with pytest.raises(KubeError, match="429 TooManyRequests"):
                await use(api, lambda kube: kube.get(PODS, "research", "p"))
            assert len(api.calls) == 3

    asyncio.run(story())


FINAL = [(409, "Conflict"), (403, "Forbidden"), (404, "NotFound"), (500, "InternalError"), (503, "ServiceUnavailable")]


@pytest.mark.parametrize(("code", "reason"), FINAL)
def test_any_other_refusal_is_raised(fake_api: Any, code: int, reason: str) -> None:
    async def story() -> None:
        async with fake_api.serving(fake_api.refusal(code, reason, "rlruns is odd")) as api:
            with pytest.raises(KubeError) as caught:
                await use(api, lambda kube: kube.replace(RUNS, RUN))
            assert (caught.value.status, caught.value.reason, caught.value.message) == (code, reason, "rlruns is odd")
            assert str(caught.value) == f"PUT {HERE}/tiny: {code} {reason}: rlruns is odd"
            assert len(api.calls) == 1

    asyncio.run(story())


def test_an_answer_that_is_not_json_is_an_error(fake_api: Any) -> None:
    async def story() -> None:
        async with fake_api.serving((404, "404 page not found\n", {})) as api:
            with pytest.raises(KubeError) as caught:
                await use(api, lambda kube: kube.get(RUNS, "research", "tiny"))
            assert (caught.value.status, caught.value.reason) == (404, "NotJson")

    asyncio.run(story())


def test_no_answer_is_status_0(fake_api: Any) -> None:
    async def story() -> None:
        hold = asyncio.Event()
        async with fake_api.serving(fake_api.stream(b"{", hold=hold)) as api:
            with pytest.raises(KubeError) as caught:
                await use(api, lambda kube: kube.get(PODS, "research", "p"), answer_seconds=0.2)
            hold.set()
            assert (caught.value.status, caught.value.reason) == (0, "TimeoutError")
        with pytest.raises(KubeError) as caught:  # nothing listens at that port any more
            await use(api, lambda kube: kube.get(PODS, "research", "p"))
        assert (caught.value.status, caught.value.reason) == (0, "ClientConnectorError")
        assert "no answer" in str(caught.value)

    asyncio.run(story())


def test_the_token_is_read_for_every_call(fake_api: Any) -> None:
    tokens = iter(["first", "second", None])

    async def story() -> None:
        async with fake_api.serving({}) as api:
            kube = KubeClient(api.connection(lambda: next(tokens)))
            for _ in range(3):
                await kube.get(EVENTS, "research", "e")
            await kube.close()
            given = [call.headers.get("Authorization") for call in api.calls]
            assert given == ["Bearer first", "Bearer second", None]

    asyncio.run(story())


def test_calls_in_flight_are_limited(fake_api: Any) -> None:
    async def slow(_request: Any) -> Any:
        await asyncio.sleep(0.02)
        return fake_api.web.json_response({})

    async def story() -> None:
        async with fake_api.serving(slow) as api:
            kube = KubeClient(api.connection(), parallel=2)
            await asyncio.gather(*(kube.get(PODS, "research", str(n)) for n in range(6)))
            await kube.close()
            assert (api.most, len(api.calls)) == (2, 6)

    asyncio.run(story())


def test_a_log_comes_in_pieces(fake_api: Any) -> None:
    async def story() -> None:
        async with fake_api.serving(fake_api.stream(b"one\ntw", b"o\n")) as api:
            kube = KubeClient(api.connection())
            query = {"container": "runtime", "follow": "true"}
            read = kube.read_log("research", "tiny-trainer-0", query, silence_seconds=30.0)
            assert b"".join([piece async for piece in read]) == b"one\ntwo\n"
            await kube.close()
            (call,) = api.calls
            assert call.path == "/api/v1/namespaces/research/pods/tiny-trainer-0/log"
            assert call.query == query

    asyncio.run(story())


async def collect(read: AsyncIterator[bytes], pieces: list[bytes]) -> None:
    async for piece in read:
        pieces.append(piece)


def test_a_silent_log_differs_from_one_that_ends(fake_api: Any) -> None:
    """A followed log does not count in the limit of parallel requests."""

    async def story() -> None:
        hold = asyncio.Event()
        async with fake_api.serving(fake_api.stream(b"one\n", hold=hold), {"kind": "Pod"}) as api:
            kube = KubeClient(api.connection(), parallel=1)
            pieces: list[bytes] = []
            with pytest.raises(KubeSilence):
                await collect(kube.read_log("research", "p", {}, silence_seconds=2.0), pieces)
            assert pieces == [b"one\n"]
            hold.set()
            assert await kube.get(PODS, "research", "p") == {"kind": "Pod"}
            await kube.close()

    asyncio.run(story())


def test_a_refused_log_request_has_the_servers_reason(fake_api: Any) -> None:
    waiting = fake_api.refusal(400, "BadRequest", 'container "runtime" is waiting to start: ContainerCreating')

    async def story() -> None:
        async with fake_api.serving(waiting) as api:
            kube = KubeClient(api.connection())
            with pytest.raises(KubeError, match="waiting to start") as caught:
                await collect(kube.read_log("research", "p", {}, silence_seconds=30.0), [])
            assert caught.value.status == 400
            await kube.close()

    asyncio.run(story())


def test_paths_of_children_are_those_of_kubernetes() -> None:
    assert CHILDREN["NetworkPolicy"].path("a", "b") == "/apis/networking.k8s.io/v1/namespaces/a/networkpolicies/b"
    assert CHILDREN["Secret"].path("a") == "/api/v1/namespaces/a/secrets"
    assert RUNS.path(None) == "/apis/scalerl.io/v1alpha1/rlruns"


def write_kubeconfig(path: Path) -> Path:
    def context(name: str, **more: str) -> Json:
        return {"name": name, "context": {"cluster": name, "user": name, **more}}

    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "plain",
        "contexts": [context("plain"), context("far", namespace="research")],
        "clusters": [
            {"name": "plain", "cluster": {"server": "http://127.0.0.1:8001/"}},
            {
                "name": "far",
                "cluster": {
                    "server": "https://10.0.0.1:6443",
                    "insecure-skip-tls-verify": True,
                    "tls-server-name": "kubernetes",
                    "proxy-url": "http://proxy:3128",
                },
            },
        ],
        "users": [{"name": "plain", "user": {}}, {"name": "far", "user": {"token": "s3cret"}}],
    }
    path.write_text(yaml.safe_dump(config))
    return path


def test_a_kubeconfigs_contexts(tmp_path: Path) -> None:
    path = str(write_kubeconfig(tmp_path / "config"))
    plain = load_kubeconfig(path)
    assert (plain.server, plain.tls, plain.token(), plain.proxy) == ("http://127.0.0.1:8001", None, None, None)
    far = load_kubeconfig(path, "far")
    assert (far.server, far.token()) == ("https://10.0.0.1:6443", "s3cret")
    assert (far.proxy, far.tls_name) == ("http://proxy:3128", "kubernetes")
    assert far.tls is not None
    assert not far.tls.check_hostname


def test_a_pod_uses_its_service_account_without_a_kubeconfig(tmp_path: Path) -> None:
    in_a_pod = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    found: Connection = load_connection({**in_a_pod, "KUBECONFIG": str(write_kubeconfig(tmp_path / "config"))})
    assert found.server == "http://127.0.0.1:8001"
    with pytest.raises(OSError, match="No such file"):
        load_connection(in_a_pod)  # there is no account's certificate here
