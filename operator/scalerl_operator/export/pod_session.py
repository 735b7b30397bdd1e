"""Exports a run's model through a pod of its own: creates it, executes the export in it, deletes it always. I/O."""

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scalerl_api import RLRun
from scalerl_api.wire import EXPORT_HUB, EXPORT_STREAM
from scalerl_operator.export.machine import ExportChoiceOptions, build_arguments
from scalerl_operator.export.model_download import ExportFault, ModelDownload
from scalerl_operator.kube.client import CHILDREN, PODS, Json, KubeClient, KubeError, find_object
from scalerl_operator.kube.pod_exec import STDERR, STDOUT, stream_from_pod
from scalerl_operator.resources import names
from scalerl_operator.resources.export_pod import ExportPod, build_export_pod
from scalerl_operator.resources.owner import Owner

START_SECONDS = 900.0  # for scheduling and the pull of an image of many gigabytes
EXPORT_SECONDS = 6 * 3600
POLL_SECONDS = 1.0
SILENCE_SECONDS = 3600.0  # without a message: an upload to a hub is one call

Notify = Callable[[str], None]


@dataclass(frozen=True)
class PodExport:
    """An export through a pod."""

    run: RLRun
    uid: str
    document: Json
    """The run as the API server stores it."""
    choice: ExportChoiceOptions
    target: str
    token_secret: str | None
    image: str | None

    @property
    def owner(self) -> Owner:
        """The run as its pods' builder takes it; no token is needed."""
        text = yaml.safe_dump({key: self.document[key] for key in ("apiVersion", "kind", "metadata", "spec")})
        return Owner(self.run, self.uid, text, token="")

    def command(self, target: str) -> list[str]:
        """Return the command that exports to `target` in the pod."""
        return ["python", "-m", "scalerl_runtime", "export", *build_arguments(names.RUN_FOLDER, target, self.choice)]


async def export_through_pod(kube: KubeClient, wanted: PodExport, notify: Notify) -> None:
    """Export. Raises ExportFault, KubeError; whatever happens, the pod is deleted."""
    image = wanted.image or await find_image(kube, wanted)
    pod = ExportPod(image, secrets.token_hex(3), EXPORT_SECONDS, wanted.token_secret)
    document = build_export_pod(wanted.owner, pod)
    key = (document["metadata"]["namespace"], document["metadata"]["name"])
    created = await kube.create(PODS, document)
    notify(f"pod {key[1]} is created; it is deleted at the end")
    try:
        await _wait_running(kube, key, notify)
        if wanted.target.startswith(EXPORT_HUB):
            await _execute(kube, key, wanted.command(wanted.target), lambda _data: None, notify)
            return
        download = ModelDownload(Path(wanted.target))
        try:
            await _execute(kube, key, wanted.command(EXPORT_STREAM), download.feed, notify)
            download.finish()
        finally:
            download.discard()
    finally:
        await asyncio.shield(_delete(kube, key, created, notify))


async def find_image(kube: KubeClient, wanted: PodExport) -> str:
    """Return the runtime's image: of the run's template, or as the operator noted it. Raises ExportFault, KubeError."""
    template: Any = wanted.run.spec.trainer.template.spec
    for each in template.get("containers") or []:
        if each.get("name") == names.CONTAINER and each.get("image"):
            return str(each["image"])
    config = names.config_name(wanted.run.name)
    found = await find_object(kube, CHILDREN["ConfigMap"], wanted.run.metadata.namespace, config)
    noted = ((found or {}).get("metadata", {}).get("annotations") or {}).get(names.ANNOTATION_IMAGE)
    if not noted:
        raise ExportFault(f"ConfigMap {config} does not name the runtime's image: give it with --image")
    return str(noted)


async def _wait_running(kube: KubeClient, key: tuple[str, str], notify: Notify) -> None:
    deadline, shown = asyncio.get_running_loop().time() + START_SECONDS, ""
    while True:
        status = (await kube.get(PODS, *key)).get("status", {})
        if any("running" in each.get("state", {}) for each in status.get("containerStatuses", [])):
            return
        state = _describe(status)
        if status.get("phase") in ("Failed", "Succeeded"):
            raise ExportFault(f"pod {key[1]} ended before the export: {state}")
        if asyncio.get_running_loop().time() > deadline:
            raise ExportFault(f"pod {key[1]} did not start within {START_SECONDS:g} s: {state}")
        if state != shown:
            notify(f"waiting for the pod: {state}")
            shown = state
        await asyncio.sleep(POLL_SECONDS)


def _describe(status: Json) -> str:
    """Return why a pod does not run yet, in a line."""
    for each in status.get("containerStatuses", []):
        waiting = each.get("state", {}).get("waiting")
        if waiting:
            return f"{waiting.get('reason', '')} {waiting.get('message', '')}".strip()
    refused = [each for each in status.get("conditions", []) if each.get("status") == "False" and each.get("message")]
    return str(refused[0]["message"]) if refused else str(status.get("message") or status.get("phase") or "Pending")


async def _execute(
    kube: KubeClient, key: tuple[str, str], command: list[str], receive: Callable[[bytes], None], notify: Notify
) -> None:
    """Run the export in the pod. Raises ExportFault with its last message."""
    lines = _Lines(notify)
    place = (*key, names.CONTAINER)
    receivers = {STDOUT: receive, STDERR: lines.feed}
    code = await stream_from_pod(kube, place, command, receivers, seconds=SILENCE_SECONDS)
    if code:
        raise ExportFault(
            f"the export in pod {key[1]} ended with exit code {code}: {lines.last or 'without a message'}"
        )


class _Lines:
    """Shows the export's messages as they come and keeps the last."""

    def __init__(self, notify: Notify) -> None:
        self.last = ""
        self._rest = ""
        self._notify = notify

    def feed(self, data: bytes) -> None:
        *whole, self._rest = (self._rest + data.decode(errors="replace")).split("\n")
        for line in whole:
            if line.startswith("scalerl export: "):
                self.last = line.removeprefix("scalerl export: ")
                self._notify(self.last)


async def _delete(kube: KubeClient, key: tuple[str, str], created: Json, notify: Notify) -> None:
    with contextlib.suppress(KubeError):
        preconditions = {"uid": created["metadata"]["uid"]}
        await kube.delete(PODS, *key, {"gracePeriodSeconds": 0, "preconditions": preconditions})
        return
    notify(f"pod {key[1]} could not be deleted; Kubernetes ends it after {EXPORT_SECONDS} s, or with its run")
