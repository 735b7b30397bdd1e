"""The Kubernetes API over HTTP: the calls that the operator and the command line need. I/O.

Not the official client: that is synchronous, and its 700 modules cost 100 MB of memory in every replica. Asynchronous
libraries were measured: docs/notes/057-kubernetes-client.md.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import aiohttp

from scalerl_api.rlrun import API_VERSION, PLURAL
from scalerl_operator.resources.names import FIELD_MANAGER

Json = dict[str, Any]
Body = Json | list[Json]
Item = TypeVar("Item")

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
ANSWER_SECONDS = 15.0  # longest wait for one answer; a list of 10,000 pods takes 2
PAGE = 500
LISTINGS = 3  # reads of a list whose continue token expires (410) before the last page
BUSY_TRIES = 3  # the server does nothing when it answers 429, so the same call is safe to retry
BUSY_SECONDS = 5.0  # longest wait between two tries, whatever Retry-After asks for
AWAY_SECONDS = 300.0  # a watching command gives up on a cluster that is silent for so long
MERGE, APPLY = "application/merge-patch+json", "application/apply-patch+yaml"  # JSON is YAML
STEPS = "application/json-patch+json"


class KubeError(Exception):
    """The API server refused the request, or did not answer."""

    def __init__(self, what: str, status: int, reason: str, message: str):
        super().__init__(f"{what}: {status or 'no answer'} {reason}: {message}")
        self.status = status
        """HTTP status code; 0 for no answer."""
        self.reason = reason
        self.message = message

    @property
    def is_passing(self) -> bool:
        """Whether a retry may succeed: no answer, a busy server, or a server error."""
        return self.status in (0, 429) or self.status >= 500


class KubeSilence(KubeError):
    """The API server has begun an answer and sends no more of it."""


@dataclass(frozen=True)
class Connection:
    """Address and credentials of the API server."""

    server: str
    tls: ssl.SSLContext | None
    token: Callable[[], str | None]
    """Called for every request: the kubelet replaces a service account's token every hour."""
    proxy: str | None = None
    tls_name: str | None = None
    """The name that the server's certificate must carry; None: the name in `server`."""


@dataclass(frozen=True)
class Resource:
    """The API path of a kind."""

    prefix: str
    """`/api/v1`, `/apis/policy/v1`."""
    plural: str

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """Return the path of one object, or of the list."""
        parts = [self.prefix, f"namespaces/{namespace}" if namespace else "", self.plural, name, subresource]
        return "/".join(part for part in parts if part)


RUNS = Resource(f"/apis/{API_VERSION}", PLURAL)
PODS = Resource("/api/v1", "pods")
EVENTS = Resource("/api/v1", "events")
LEASES = Resource("/apis/coordination.k8s.io/v1", "leases")
CHILDREN = {
    "Service": Resource("/api/v1", "services"),
    "ConfigMap": Resource("/api/v1", "configmaps"),
    "Secret": Resource("/api/v1", "secrets"),
    "PersistentVolumeClaim": Resource("/api/v1", "persistentvolumeclaims"),
    "PodDisruptionBudget": Resource("/apis/policy/v1", "poddisruptionbudgets"),
    "NetworkPolicy": Resource("/apis/networking.k8s.io/v1", "networkpolicies"),
}


def load_connection(environment: Mapping[str, str]) -> Connection:
    """Return the pod's own connection, else that of KUBECONFIG. Raises OSError or kubernetes' ConfigException."""
    if "KUBERNETES_SERVICE_HOST" in environment and "KUBECONFIG" not in environment:
        host, port = environment["KUBERNETES_SERVICE_HOST"], environment["KUBERNETES_SERVICE_PORT"]
        tls = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
        address = f"[{host}]" if ":" in host else host
        return Connection(f"https://{address}:{port}", tls, lambda: (ACCOUNT / "token").read_text().strip())
    return load_kubeconfig(environment.get("KUBECONFIG"))


def load_kubeconfig(path: str | None, context: str | None = None) -> Connection:
    """Return the connection of a kubeconfig's context, the current one unless named. Raises ConfigException."""
    from kubernetes import (
        client,
        config,
    )  # imported here only: it is slow, and login plugins matter on a user's machine alone

    found = client.Configuration()
    load: Callable[..., None] = config.load_kube_config
    load(config_file=path, context=context, client_configuration=found)
    tls = None
    if found.host.startswith("https:"):
        tls = ssl.create_default_context(cafile=found.ssl_ca_cert)
        if found.cert_file:
            tls.load_cert_chain(found.cert_file, found.key_file)
        if not found.verify_ssl:
            tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE

    def token() -> str | None:
        key = found.get_api_key_with_prefix("BearerToken", alias="authorization")
        return key.removeprefix("Bearer ") if key else None

    return Connection(found.host.rstrip("/"), tls, token, found.proxy or None, found.tls_server_name or None)


class KubeClient:
    """An asynchronous client. Methods raise KubeError; every request ends after `answer_seconds`."""

    def __init__(
        self,
        connection: Connection,
        *,
        parallel: int = 32,
        counted: Callable[[str, str], None] | None = None,
        answer_seconds: float = ANSWER_SECONDS,
    ):
        """Send at most `parallel` requests at a time; call `counted(verb, plural)` before every write."""
        self._connection = connection
        self._answer_seconds = answer_seconds
        self._slots = asyncio.Semaphore(parallel)
        self._counted = counted or (lambda _verb, _plural: None)
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=answer_seconds), connector=aiohttp.TCPConnector(limit=parallel)
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def get(self, resource: Resource, namespace: str, name: str) -> Json:
        """Return one object."""
        return await self._call("GET", resource.path(namespace, name))

    async def gather(
        self,
        resource: Resource,
        namespace: str | None,
        selector: str = "",
        *,
        fields: str = "",
        keep: Callable[[Json], Item],
    ) -> tuple[list[Item], int]:
        """Return `keep(object)` of all objects that labels and fields select, and the list's resourceVersion.

        Only PAGE objects are in memory at a time: 10,000 pods as dictionaries take 400 MB.
        """
        query = {"limit": str(PAGE)}
        query |= ({"labelSelector": selector} if selector else {}) | ({"fieldSelector": fields} if fields else {})
        left = LISTINGS
        while True:
            left -= 1
            try:
                return await self._gather(resource.path(namespace), dict(query), keep)
            except KubeError as error:
                if error.status != 410 or not left:
                    raise

    async def _gather(self, path: str, query: dict[str, str], keep: Callable[[Json], Item]) -> tuple[list[Item], int]:
        found: list[Item] = []
        while True:
            page = await self._call("GET", path, query=query)
            kind = {"apiVersion": page["apiVersion"], "kind": page["kind"].removesuffix("List")}
            found += [keep({**kind, **item}) for item in page["items"]]
            if not page["metadata"].get("continue"):
                return found, int(page["metadata"]["resourceVersion"])
            query["continue"] = page["metadata"]["continue"]

    async def probe(self, resource: Resource, namespace: str | None) -> None:
        """List one object: this checks that the API server answers, knows the kind and grants `list`."""
        await self._call("GET", resource.path(namespace), query={"limit": "1"})

    async def list(
        self, resource: Resource, namespace: str | None, selector: str = "", *, fields: str = ""
    ) -> tuple[list[Json], int]:
        """Return all objects that labels and fields select, and the resourceVersion at which they were read."""
        return await self.gather(resource, namespace, selector, fields=fields, keep=lambda each: each)

    async def create(self, resource: Resource, document: Json) -> Json:
        """Create an object; status 409 if the name is taken."""
        self._counted("create", resource.plural)
        path = resource.path(document["metadata"]["namespace"])
        return await self._call("POST", path, body=document, query={"fieldManager": FIELD_MANAGER})

    async def replace(self, resource: Resource, document: Json) -> Json:
        """Replace the version that the document names; status 409 if that is no longer the newest."""
        self._counted("replace", resource.plural)
        metadata = document["metadata"]
        path = resource.path(metadata["namespace"], metadata["name"])
        return await self._call("PUT", path, body=document, query={"fieldManager": FIELD_MANAGER})

    async def apply(self, resource: Resource, document: Json, subresource: str = "") -> Json:
        """Apply our fields of an object, and take over those of other managers (server-side apply)."""
        self._counted("apply", f"{resource.plural}/{subresource}" if subresource else resource.plural)
        metadata = document["metadata"]
        path = resource.path(metadata["namespace"], metadata["name"], subresource)
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._call("PATCH", path, body=document, query=query, kind=APPLY)

    async def merge(self, resource: Resource, namespace: str, name: str, document: Json) -> Json:
        """Write some fields of an object (JSON merge patch)."""
        self._counted("merge", resource.plural)
        query = {"fieldManager": FIELD_MANAGER}
        return await self._call("PATCH", resource.path(namespace, name), body=document, query=query, kind=MERGE)

    async def check(self, resource: Resource, namespace: str, name: str, values: Mapping[str, str]) -> Json:
        """Return an object whose fields equal `values` (JSON pointer -> value); status 422 if one differs.

        The patch has tests only and writes nothing. It needs the right `patch`, not `get`.
        """
        tests = [{"op": "test", "path": pointer, "value": value} for pointer, value in values.items()]
        query = {"fieldManager": FIELD_MANAGER}
        return await self._call("PATCH", resource.path(namespace, name), body=tests, query=query, kind=STEPS)

    async def delete(self, resource: Resource, namespace: str, name: str, options: Json) -> Json:
        """Delete an object with DeleteOptions; status 404 if it is gone, 409 if `options` name another uid."""
        self._counted("delete", resource.plural)
        return await self._call("DELETE", resource.path(namespace, name), body=options)

    async def read_log(
        self, namespace: str, pod: str, query: Mapping[str, str], *, silence_seconds: float
    ) -> AsyncGenerator[bytes, None]:
        """Yield a container's log in pieces, as they arrive; the limit of parallel requests does not count it.

        Raises KubeError, KubeSilence after `silence_seconds` without a piece.
        """
        path = PODS.path(namespace, pod, "log")
        what = f"GET {path}"
        patience = aiohttp.ClientTimeout(total=None, sock_connect=self._answer_seconds, sock_read=silence_seconds)
        try:
            async with self._request("GET", path, query=query, accept="*/*", timeout=patience) as answer:
                if answer.status >= 400:
                    _read(what, answer.status, await answer.text())
                async for piece in answer.content.iter_any():
                    yield piece
        except aiohttp.SocketTimeoutError as error:
            raise KubeSilence(what, 0, "Silence", f"nothing for {silence_seconds:g} s") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise KubeError(what, 0, type(error).__name__, str(error)) from error

    @asynccontextmanager
    async def open_socket(
        self, path: str, query: Sequence[tuple[str, str]], protocol: str, *, seconds: float
    ) -> AsyncGenerator[aiohttp.ClientWebSocketResponse, None]:
        """Open a WebSocket within `seconds`. Raises aiohttp's errors and TimeoutError."""
        connection = self._connection
        token = connection.token()
        opening = self._session.ws_connect(
            f"{connection.server}{path}?{urlencode(query)}",
            protocols=(protocol,),
            headers={"Authorization": f"Bearer {token}"} if token is not None else {},
            ssl=connection.tls if connection.tls is not None else True,
            proxy=connection.proxy,
            server_hostname=connection.tls_name,
            max_msg_size=0,
        )
        async with asyncio.timeout(seconds):
            socket = await opening
        try:
            yield socket
        finally:
            await socket.close()

    async def _call(
        self,
        method: str,
        path: str,
        *,
        body: Body | None = None,
        query: Mapping[str, str] | None = None,
        kind: str = "application/json",
    ) -> Json:
        what = f"{method} {path}"
        data = json.dumps(body) if body is not None else None
        for left in reversed(range(BUSY_TRIES)):
            try:
                async with self._slots, self._request(method, path, query=query, data=data, kind=kind) as answer:
                    text, status, headers = await answer.text(), answer.status, answer.headers
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise KubeError(what, 0, type(error).__name__, str(error)) from error
            if status != 429 or not left:
                break
            await asyncio.sleep(_parse_wait(headers.get("Retry-After", "")))
        return _read(what, status, text)

    def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None,
        kind: str = "application/json",
        accept: str = "application/json",
        **options: Any,
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        connection = self._connection
        headers = {"Accept": accept, "Content-Type": kind}
        token = connection.token()
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return self._session.request(
            method,
            connection.server + path,
            params=query,
            headers=headers,
            ssl=connection.tls if connection.tls is not None else True,
            proxy=connection.proxy,
            server_hostname=connection.tls_name,
            **options,
        )


async def find_object(kube: KubeClient, resource: Resource, namespace: str, name: str) -> Json | None:
    """Return one object; None if the name does not exist. Raises KubeError."""
    try:
        return await kube.get(resource, namespace, name)
    except KubeError as error:
        if error.status == 404:
            return None
        raise


def _parse_wait(text: str) -> float:
    """Return the seconds of a Retry-After header, at most BUSY_SECONDS."""
    return min(float(text), BUSY_SECONDS) if text.isdecimal() else 1.0


def _read(what: str, status: int, text: str) -> Json:
    try:
        found: Json = json.loads(text)
    except ValueError as error:
        raise KubeError(what, status, "NotJson", text[:200]) from error
    if status >= 400:
        raise KubeError(what, status, found.get("reason", ""), found.get("message", "")[:1000])
    return found
