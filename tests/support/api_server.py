"""An in-memory API server with the methods of KubeClient: objects, versions, optimistic locking, refusals."""

import asyncio
import copy
import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from scalerl_operator.kube.client import EVENTS, KubeError, Resource

Json = dict[str, Any]
Name = tuple[str, str, str]
"""(plural, namespace, name) of an object."""


class InMemoryApiServer:
    """Stores objects and answers as an API server does; one request at a time, but for `delay_seconds`."""

    def __init__(self) -> None:
        self.objects: dict[Name, Json] = {}
        self.reads: list[str] = []
        """`get PLURAL NAME`, in order."""
        self.calls: list[str] = []
        """Writes: `VERB PLURAL NAME`, in order; of an event its reason stands for its name."""
        self.written: list[Json] = []
        """The document of each create, replace and apply, as received."""
        self.refuse: dict[str, Exception] = {}
        """Call -> the error that it raises once."""
        self.leaving = ""
        """Name of a pod whose deletion does not finish: it stays, and the answer has a deletionTimestamp."""
        self.is_away = False
        """Whether every request fails as without an answer."""
        self.delay_seconds = 0.0
        """Pause before a replace takes effect."""
        self._versions = itertools.count(1)
        self._deleted: Counter[Name] = Counter()

    def store(self, plural: str, document: Json) -> Json:
        """Store an object, under a new resourceVersion; its uid and its time of creation stay."""
        metadata = document["metadata"]
        earlier = self._deleted[plural, metadata.get("namespace", ""), metadata["name"]]  # another object, another uid
        known = {
            "uid": f"uid-{metadata['name']}" + f"-{earlier}" * (earlier > 0),
            "creationTimestamp": "2026-05-04T12:00:00Z",
        }
        stored = {**document, "metadata": {**known, **metadata, "resourceVersion": str(next(self._versions))}}
        self.objects[plural, metadata.get("namespace", ""), metadata["name"]] = copy.deepcopy(stored)
        return stored

    def names(self, plural: str) -> list[str]:
        """Return the names of the stored objects of a kind, in order."""
        return sorted(name for kind, _, name in self.objects if kind == plural)

    def find(self, plural: str, namespace: str | None) -> list[Json]:
        """Return the objects of a kind in a namespace, or in all."""
        keys = [key for key in self.objects if key[0] == plural and namespace in (None, key[1])]
        return [copy.deepcopy(self.objects[key]) for key in keys]

    def _call(self, verb: str, resource: Resource, name: str) -> None:
        if self.is_away:
            raise KubeError(verb, 0, "ClientConnectorError", "no route")
        call = f"{verb} {resource.plural} {name}".strip()
        (self.reads if verb == "get" else self.calls).append(call)
        if call in self.refuse:
            raise self.refuse.pop(call)

    def _found(self, verb: str, resource: Resource, namespace: str, name: str) -> Json:
        found = self.objects.get((resource.plural, namespace, name))
        if found is None:
            raise KubeError(verb, 404, "NotFound", name)
        return copy.deepcopy(found)

    async def get(self, resource: Resource, namespace: str, name: str) -> Json:
        """Return one object. Raises KubeError, as all of these do."""
        self._call("get", resource, name)
        return self._found("get", resource, namespace, name)

    async def gather(
        self, resource: Resource, namespace: str | None, _selector: str = "", *, keep: Callable[[Json], Any]
    ) -> tuple[list[Any], int]:
        """Return what `keep` makes of each object, and the list's resourceVersion."""
        found, version = await self.list(resource, namespace)
        return [keep(each) for each in found], version

    async def list(self, resource: Resource, namespace: str | None, _selector: str = "") -> tuple[list[Json], int]:
        """Return all objects and the list's resourceVersion."""
        return self.find(resource.plural, namespace), next(self._versions)

    async def create(self, resource: Resource, document: Json) -> Json:
        """Store an object whose name is free, else 409."""
        metadata = document["metadata"]
        self._call("create", resource, metadata["name"] if resource != EVENTS else document["reason"])
        if (resource.plural, metadata["namespace"], metadata["name"]) in self.objects:
            raise KubeError("create", 409, "AlreadyExists", metadata["name"])
        self.written.append(document)
        return self.store(resource.plural, document)

    async def replace(self, resource: Resource, document: Json) -> Json:
        """Replace the object of that resourceVersion; 409 if it has changed since."""
        await asyncio.sleep(self.delay_seconds)
        metadata = document["metadata"]
        self._call("replace", resource, metadata["name"])
        old = self._found("replace", resource, metadata["namespace"], metadata["name"])
        if metadata["resourceVersion"] != old["metadata"]["resourceVersion"]:
            raise KubeError("replace", 409, "Conflict", metadata["name"])
        self.written.append(document)
        return self.store(resource.plural, document)

    async def apply(self, resource: Resource, document: Json, subresource: str = "") -> Json:
        """Merge the top-level fields; 409 if the document names another object's uid."""
        name = document["metadata"]["name"]
        self._call("apply", resource, f"{name}/{subresource}" if subresource else name)
        old = self.objects.get((resource.plural, document["metadata"]["namespace"], name), {})
        if document["metadata"].get("uid") not in (None, old.get("metadata", {}).get("uid")):
            raise KubeError("apply", 409, "Conflict", name)
        self.written.append(document)
        metadata = {**old.get("metadata", {}), **document["metadata"]}
        return self.store(resource.plural, {**old, **document, "metadata": metadata})

    async def merge(self, resource: Resource, namespace: str, name: str, document: Json) -> Json:
        """Apply a JSON merge patch."""
        self._call("merge", resource, "")
        return self.store(resource.plural, merge_patch(self._found("merge", resource, namespace, name), document))

    async def check(self, resource: Resource, namespace: str, name: str, values: Mapping[str, str]) -> Json:
        """Check a JSON patch of tests only; 422 if a value differs."""
        self._call("check", resource, name)
        found = self._found("check", resource, namespace, name)
        for pointer, value in values.items():
            if resolve_pointer(found, pointer) != value:
                raise KubeError("check", 422, "Invalid", "the server rejected our request")
        return found

    async def delete(self, resource: Resource, namespace: str, name: str, options: Json) -> Json:
        """Remove the object with the uid of the preconditions; 404 for any other."""
        self._call("delete", resource, name)
        if name == self.leaving:
            pod = self._found("delete", resource, namespace, name)
            metadata = {**pod["metadata"], "deletionTimestamp": "2026-05-04T12:00:30Z"}
            return {**pod, "metadata": {key: metadata[key] for key in metadata if key != "resourceVersion"}}
        found = self.objects.pop((resource.plural, namespace, name), None)
        if found is None or found["metadata"]["uid"] != options["preconditions"]["uid"]:
            raise KubeError("delete", 404, "NotFound", name)
        self._deleted[resource.plural, namespace, name] += 1
        return {"kind": "Status", "metadata": {}}


def merge_patch(old: Json, new: Json) -> Json:
    """Return the merge by RFC 7386: null removes a key."""
    changed = {key: merge_patch(old.get(key, {}), to) if isinstance(to, dict) else to for key, to in new.items()}
    return {key: value for key, value in {**old, **changed}.items() if value is not None}


def resolve_pointer(document: Any, pointer: str) -> Any:
    """Return the value at a pointer (RFC 6901); None if it does not exist."""
    for part in pointer.removeprefix("/").split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        known = document if isinstance(document, dict) else dict(enumerate(document or ()))
        document = known.get(int(name) if name.isdecimal() else name)
    return document
