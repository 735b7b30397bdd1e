"""Run one client's calls of the comparison: `python client_player.py CLIENT WORK.json`, started by clients.py. I/O.

It imports all of the operator first, so that memory is what the library adds to the operator's process. It prints JSON:
per part of the work the calls, seconds and CPU seconds of this process; memory after the imports and at the most.
"""

import asyncio
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from client_libraries import CLIENTS, Client, run_all

import scalerl_operator.controller.manager
from scalerl_operator.reconcile.observed_pod import parse_observed_pod

Parts = dict[str, dict[str, float]]

_ = scalerl_operator.controller.manager  # for the memory of its imports


def read_memory(field: str = "VmRSS") -> float:
    """Return this process's memory in MiB; `VmHWM`: the most that it ever had."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found.group(1)) / 1024


@asynccontextmanager
async def part(parts: Parts, name: str, calls: int) -> AsyncIterator[None]:
    """Measure the block inside."""
    began, cpu = time.monotonic(), time.process_time()
    yield
    parts[name] = {"calls": calls, "seconds": time.monotonic() - began, "cpu": time.process_time() - cpu}


async def play(client: Client, work: dict[str, Any], parallel: int) -> Parts:
    """Make all calls of `work` and delete the created objects."""
    parts: Parts = {}
    first, *pods = work["pods"]
    made = [await client.create(first)]  # connects

    async def create(pod: dict[str, Any]) -> None:
        made.append(await client.create(pod))

    async with part(parts, "create pods", len(pods)):
        await run_all(parallel, [partial(create, pod) for pod in pods])
    async with part(parts, "apply status", len(work["statuses"])):
        await run_all(parallel, [partial(client.apply, document, "status") for document in work["statuses"]])
    async with part(parts, "apply ConfigMap", len(work["objects"])):
        await run_all(parallel, [partial(client.apply, document) for document in work["objects"]])
    await _renew(client, parts, work["lease"], work["renewals"])
    await _read(client, parts, work)
    heads = [each["metadata"] for each in made]
    async with part(parts, "delete pods", len(heads)):
        await run_all(
            parallel, [partial(client.delete, head["namespace"], head["name"], head["uid"]) for head in heads]
        )
    return parts


async def _renew(client: Client, parts: Parts, lease: dict[str, Any], times: int) -> None:
    """Make the calls one after the other, as a leader does."""
    stored = await client.create(lease)
    async with part(parts, "update lease", times):
        for count in range(times):
            stored["spec"] = {**lease["spec"], "leaseTransitions": count}
            stored = await client.replace(dict(stored))


async def _read(client: Client, parts: Parts, work: dict[str, Any]) -> None:
    keep: Callable[[Any], object] = parse_observed_pod
    async with part(parts, "list, per pod", work["listed"]):
        found = await client.list(work["listed_in"], keep)
    assert found == work["listed"], found
    async with part(parts, "watch, per event", work["listed"]):
        await client.watch(work["listed_in"], work["listed"], keep)


async def _measure(name: str, work: dict[str, Any]) -> dict[str, Any]:
    operator = read_memory()
    client = CLIENTS[name](work["kubeconfig"], work["parallel"])
    imported = read_memory()
    parts = await play(client, work, work["parallel"])
    await client.close()
    memory = {"operator": operator, "with the library": imported, "at the most": read_memory("VmHWM")}
    return {"parts": parts, "memory": memory}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_measure(sys.argv[1], json.loads(Path(sys.argv[2]).read_text())))))
