"""Our Kubernetes client and three libraries behind one interface, each used in the leanest way it documents. I/O.

The operator keeps objects as JSON, so each library returns dictionaries, never its model classes. Where a
library has no method for a call, its lower, documented one is used. Of the libraries only the one that is measured is
installed: they are imported by name.
"""

import asyncio
import importlib
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, Protocol

import aiohttp

from scalerl_operator.kube.client import (
    APPLY,
    CHILDREN,
    LEASES,
    PAGE,
    PODS,
    RUNS,
    Connection,
    Json,
    KubeClient,
    Resource,
    load_connection,
)
from scalerl_operator.resources.names import FIELD_MANAGER

DEADLINE_SECONDS = 15.0
RESOURCES = {"Pod": PODS, "RLRun": RUNS, "ConfigMap": CHILDREN["ConfigMap"], "Lease": LEASES}
_MANAGER = {"fieldManager": FIELD_MANAGER}
_FORCED = {**_MANAGER, "force": "true"}


class Client(Protocol):
    """The operator's calls. Objects are JSON; whatever the library raises ends the measurement."""

    async def create(self, document: Json) -> Json:
        """Create an object."""

    async def apply(self, document: Json, subresource: str = "") -> Json:
        """Apply an object, or its status, on the server."""

    async def replace(self, document: Json) -> Json:
        """Replace an object of the version that it names."""

    async def delete(self, namespace: str, name: str, uid: str) -> None:
        """Delete a pod; only the one with this uid, where the client can express that."""

    async def list(self, namespace: str, keep: Callable[[Json], object]) -> int:
        """Pass each pod of a namespace to `keep`, page by page; return their number."""

    async def watch(self, namespace: str, events: int, keep: Callable[[Json], object]) -> None:
        """Pass so many pods to `keep` as a watch from version 0 delivers: all that exist, as ADDED."""

    async def close(self) -> None:
        """Close all connections."""


class Ours:
    """scalerl_operator.kube.client; a watch is kopf's in the operator, here the plain read of one response."""

    def __init__(self, kubeconfig: str, parallel: int):
        self._connection: Connection = load_connection({"KUBECONFIG": kubeconfig})
        self._kube = KubeClient(self._connection, parallel=parallel)

    async def create(self, document: Json) -> Json:
        """As Client."""
        return await self._kube.create(RESOURCES[document["kind"]], document)

    async def apply(self, document: Json, subresource: str = "") -> Json:
        """As Client."""
        return await self._kube.apply(RESOURCES[document["kind"]], document, subresource)

    async def replace(self, document: Json) -> Json:
        """As Client."""
        return await self._kube.replace(RESOURCES[document["kind"]], document)

    async def delete(self, namespace: str, name: str, uid: str) -> None:
        """As Client."""
        await self._kube.delete(PODS, namespace, name, _delete_options(uid))

    async def list(self, namespace: str, keep: Callable[[Json], object]) -> int:
        """As Client."""
        return len((await self._kube.gather(PODS, namespace, keep=keep))[0])

    async def watch(self, namespace: str, events: int, keep: Callable[[Json], object]) -> None:
        """As Client."""
        query = {"watch": "1", "resourceVersion": "0", "allowWatchBookmarks": "1"}
        url, tls = self._connection.server + PODS.path(namespace), self._connection.tls or True
        async with (
            aiohttp.ClientSession(read_bufsize=2**21) as session,
            session.get(url, params=query, ssl=tls) as answer,
        ):
            async for line in answer.content:
                keep(json.loads(line)["object"])
                events -= 1
                if not events:
                    return

    async def close(self) -> None:
        """As Client."""
        await self._kube.close()


class _OverHttp:
    """The calls as method, path, query and body, for the two libraries that have a method for exactly that."""

    async def _send(self, method: str, path: str, query: Mapping[str, str], body: Json | None, kind: str) -> Json:
        raise NotImplementedError

    async def create(self, document: Json) -> Json:
        """As Client."""
        path = RESOURCES[document["kind"]].path(document["metadata"]["namespace"])
        return await self._send("POST", path, _MANAGER, document, "application/json")

    async def apply(self, document: Json, subresource: str = "") -> Json:
        """As Client."""
        return await self._send("PATCH", _path(document, subresource), _FORCED, document, APPLY)

    async def replace(self, document: Json) -> Json:
        """As Client."""
        return await self._send("PUT", _path(document), _MANAGER, document, "application/json")

    async def delete(self, namespace: str, name: str, uid: str) -> None:
        """As Client."""
        await self._send("DELETE", PODS.path(namespace, name), {}, _delete_options(uid), "application/json")

    async def list(self, namespace: str, keep: Callable[[Json], object]) -> int:
        """As Client."""
        query, found = {"limit": str(PAGE)}, 0
        while True:
            page = await self._send("GET", PODS.path(namespace), query, None, "application/json")
            for item in page["items"]:
                keep(item)
            found += len(page["items"])
            if not page["metadata"].get("continue"):
                return found
            query["continue"] = page["metadata"]["continue"]


class KubernetesAsyncio(_OverHttp):
    """kubernetes_asyncio through ApiClient.call_api with the type `object`: no model class is made."""

    def __init__(self, kubeconfig: str, parallel: int):
        self._library = importlib.import_module("kubernetes_asyncio")
        self._kubeconfig, self._parallel = kubeconfig, parallel
        self._api: Any = None

    async def _connect(self) -> Any:
        if self._api is None:
            configuration = self._library.client.Configuration()
            await self._library.config.load_kube_config(self._kubeconfig, client_configuration=configuration)
            configuration.connection_pool_maxsize = self._parallel
            self._api = self._library.client.ApiClient(configuration)
        return self._api

    async def _send(self, method: str, path: str, query: Mapping[str, str], body: Json | None, kind: str) -> Json:
        api = await self._connect()
        found: Json = await api.call_api(
            path,
            method,
            query_params=list(query.items()),
            header_params={"Accept": "application/json", "Content-Type": kind},
            body=body,
            response_types_map=dict.fromkeys((200, 201, 202), "object"),
            auth_settings=["BearerToken"],
            _return_http_data_only=True,
            _request_timeout=DEADLINE_SECONDS,
        )
        return found

    async def watch(self, namespace: str, events: int, keep: Callable[[Json], object]) -> None:
        """As Client; the function has no return type, so that no model class is made."""
        api = await self._connect()

        async def list_pods(**options: Any) -> Any:
            return await api.call_api(
                PODS.path(namespace),
                "GET",
                query_params=[("watch", "1"), ("resourceVersion", "0"), ("allowWatchBookmarks", "1")],
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
                _preload_content=options["_preload_content"],
            )

        watch = importlib.import_module("kubernetes_asyncio.watch").Watch("object")
        async for event in watch.stream(list_pods):
            keep(event["object"])
            events -= 1
            if not events:
                break
        await watch.close()

    async def close(self) -> None:
        """As Client."""
        await (await self._connect()).close()


class Lightkube:
    """lightkube's AsyncClient with generic resources, which are dictionaries. It cannot name a uid in a delete."""

    def __init__(self, kubeconfig: str, parallel: int):
        del parallel  # its connection pool has no option for that; the caller bounds the calls
        self._library = importlib.import_module("lightkube")
        generic = importlib.import_module("lightkube.generic_resource")
        config = self._library.KubeConfig.from_file(kubeconfig)
        timeout = importlib.import_module("httpx2").Timeout(DEADLINE_SECONDS)
        self._apply = importlib.import_module("lightkube.types").PatchType.APPLY
        self._client = self._library.AsyncClient(config=config, timeout=timeout, field_manager=FIELD_MANAGER)
        self._kinds = {
            kind: generic.create_namespaced_resource(*_split(resource), kind, resource.plural)
            for kind, resource in RESOURCES.items()
        }

    async def create(self, document: Json) -> Json:
        """As Client."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            found: Json = await self._client.create(self._kinds[document["kind"]](document))
            return found

    async def apply(self, document: Json, subresource: str = "") -> Json:
        """As Client."""
        kind, head = self._kinds[document["kind"]], document["metadata"]
        async with asyncio.timeout(DEADLINE_SECONDS):
            found: Json = await self._client.patch(
                kind.Status if subresource else kind,
                head["name"],
                document,
                namespace=head["namespace"],
                patch_type=self._apply,
                force=True,
            )
            return found

    async def replace(self, document: Json) -> Json:
        """As Client."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            found: Json = await self._client.replace(self._kinds[document["kind"]](document))
            return found

    async def delete(self, namespace: str, name: str, uid: str) -> None:
        """As Client."""
        del uid
        async with asyncio.timeout(DEADLINE_SECONDS):
            await self._client.delete(self._kinds["Pod"], name, namespace=namespace)

    async def list(self, namespace: str, keep: Callable[[Json], object]) -> int:
        """As Client."""
        found = 0
        async for pod in self._client.list(self._kinds["Pod"], namespace=namespace, chunk_size=PAGE):
            keep(pod)
            found += 1
        return found

    async def watch(self, namespace: str, events: int, keep: Callable[[Json], object]) -> None:
        """As Client."""
        stream = self._client.watch(self._kinds["Pod"], namespace=namespace, resource_version="0")
        async with aclosing(stream):
            async for _, pod in stream:
                keep(pod)
                events -= 1
                if not events:
                    return

    async def close(self) -> None:
        """As Client."""
        await self._client.close()


class Kr8s(_OverHttp):
    """kr8s through Api.call_api: its objects can neither name a field manager nor be applied."""

    def __init__(self, kubeconfig: str, parallel: int):
        del parallel  # as lightkube
        self._library = importlib.import_module("kr8s.asyncio")
        self._kubeconfig = kubeconfig
        self._api: Any = None

    async def _connect(self) -> Any:
        if self._api is None:
            self._api = await self._library.api(kubeconfig=self._kubeconfig)
            self._api.timeout = DEADLINE_SECONDS
            async with self._api.call_api("GET", version="", base="/version"):
                pass  # the session exists before many calls would each make one
        return self._api

    async def _send(self, method: str, path: str, query: Mapping[str, str], body: Json | None, kind: str) -> Json:
        api = await self._connect()
        content = None if body is None else json.dumps(body)
        headers = {"Accept": "application/json", "Content-Type": kind}
        base, _, url = path.rpartition("/")
        async with (
            asyncio.timeout(DEADLINE_SECONDS),
            api.call_api(
                method, version="", base=base, url=url, params=dict(query), content=content, headers=headers
            ) as answer,
        ):
            found: Json = answer.json()
            return found

    async def watch(self, namespace: str, events: int, keep: Callable[[Json], object]) -> None:
        """As Client."""
        stream = (await self._connect()).watch("pods", namespace=namespace, since="0")
        async with aclosing(stream):
            async for _, pod in stream:
                keep(pod.raw)
                events -= 1
                if not events:
                    return

    async def close(self) -> None:
        """As Client; the library closes its session only when the process ends."""


CLIENTS: dict[str, Callable[[str, int], Client]] = {
    "ours": Ours,
    "kubernetes_asyncio": KubernetesAsyncio,
    "lightkube": Lightkube,
    "kr8s": Kr8s,
}


async def run_all(parallel: int, calls: "list[Callable[[], Awaitable[object]]]") -> None:
    """Make all calls, at most `parallel` at a time."""
    slots = asyncio.Semaphore(parallel)

    async def one(call: Callable[[], Awaitable[object]]) -> None:
        async with slots:
            await call()

    await asyncio.gather(*(one(call) for call in calls))


def _path(document: Json, subresource: str = "") -> str:
    head = document["metadata"]
    return RESOURCES[document["kind"]].path(head["namespace"], head["name"], subresource)


def _split(resource: Resource) -> tuple[str, str]:
    """Return group and version; the core group's name is empty."""
    *_, group, version = resource.prefix.split("/")
    return ("" if group == "api" else group), version


def _delete_options(uid: str) -> Json:
    return {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
