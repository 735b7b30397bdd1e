"""The operator with many runs: `make bench-cluster ARGS="[--runs N] [--minutes M]"`. I/O.

A real API server, kwok's pods, coordinators that this process simulates; the operator is a process as in a cluster.
Runs are created, stand still, train, and are suspended and resumed at a steady rate. Each phase is printed when it
ends; in the end FOLDER/cluster.json has all of it, and with --write the tables of docs/scale.md are made from that.
`--only-write` makes them anew from the file. It exits with 1 if pods were made twice or idle runs written, and says
which.
"""

import argparse
import asyncio
import itertools
import json
import os
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil
from addresses import address
from cluster_lab import (
    GENERATORS,
    TRAINERS,
    Operator,
    Samples,
    Testbed,
    build_parser,
    build_run,
    difference,
    find_results,
    quantile,
    report_faults,
    start_operator,
    until,
    writes_by_kind,
)
from cluster_mirror import Mirror
from scale_faults import find_cluster_faults
from scale_tables import write_tables
from simulated_coordinators import SimulatedCoordinators

from scalerl_operator.kube.client import RUNS, KubeClient

QUANTILES = (0.5, 0.99)
PASSES, WAITS = "scalerl_operator_reconcile_duration_seconds", "scalerl_operator_queue_wait_seconds"
CHANGE_SECONDS = 15.0  # until every coordinator has been polled once more
Facts = dict[str, float | int]


@dataclass
class Phase:
    """The cost of one part of the measurement."""

    name: str
    seconds: float
    cpu_seconds: dict[str, float]
    """By program: ours, and `others` on this machine."""
    load: float
    """The machine's load average over a minute, at the end."""
    rss_mib: float
    """Memory of the operator at the end."""
    writes: dict[str, int]
    passes: int
    pass_seconds: dict[str, float | None]
    wait_seconds: dict[str, float | None]
    answer_seconds: dict[str, float]
    """Latency of the operator's /healthz, requested every second: the time that its loop was busy."""
    polls: dict[str, int]
    facts: Facts = field(default_factory=dict)


@dataclass
class Lab:
    """The state of one measurement."""

    testbed: Testbed
    operator: Operator
    kube: KubeClient
    mirror: Mirror
    coordinators: SimulatedCoordinators
    homes: dict[str, str]
    """Run -> its namespace."""
    phases: list[Phase] = field(default_factory=list)

    @asynccontextmanager
    async def phase(self, name: str) -> AsyncIterator[Facts]:
        """Measure the block inside; the caller adds further facts."""
        facts: Facts = {}
        answers: list[float] = []
        asking = asyncio.create_task(_ask(self.operator, answers))
        cpu, before, began = self._cpu(), await asyncio.to_thread(self.operator.metrics), time.monotonic()
        yield facts
        seconds, after = time.monotonic() - began, await asyncio.to_thread(self.operator.metrics)
        asking.cancel()
        added = difference(after, before)
        self.phases.append(
            Phase(
                name=name,
                seconds=round(seconds, 1),
                cpu_seconds={key: round(value - cpu[key], 1) for key, value in self._cpu().items()},
                load=round(os.getloadavg()[0], 1),
                rss_mib=round(self.operator.memory_mib(), 1),
                writes=writes_by_kind(added),
                passes=int(_total(added, "scalerl_operator_reconcile_total{")),
                pass_seconds={_name(share): quantile(added, PASSES, share) for share in QUANTILES},
                wait_seconds={_name(share): quantile(added, WAITS, share) for share in QUANTILES},
                answer_seconds=_summary(answers),
                polls={
                    word: int(added.get(f"scalerl_operator_polls_total{{result={word}}}", 0.0))
                    for word in ("answered", "missed")
                },
                facts=facts,
            )
        )
        print(json.dumps(asdict(self.phases[-1]), indent=1), flush=True)

    def _cpu(self) -> dict[str, float]:
        programs = {**self.testbed.programs(), "operator": psutil.Process(self.operator.process.pid)}
        programs["this benchmark"] = psutil.Process()
        found = {name: sum(process.cpu_times()[:2]) for name, process in programs.items()}
        all_of_it = psutil.cpu_times()
        busy = sum(all_of_it) - all_of_it.idle - all_of_it.iowait
        return {**found, "others": busy - sum(found.values())}


async def _ask(operator: Operator, answers: list[float]) -> None:
    while True:
        began = time.monotonic()
        with suppress(OSError):
            await asyncio.to_thread(operator.fetch, "/healthz")
        answers.append(time.monotonic() - began)
        await asyncio.sleep(1.0)


def _total(samples: Samples, start: str) -> float:
    return sum(value for name, value in samples.items() if name.startswith(start))


def _name(share: float) -> str:
    return f"p{100 * share:g}"


def _summary(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    ordered = sorted(values)
    found = {_name(share): round(ordered[int(share * (len(ordered) - 1))], 3) for share in QUANTILES}
    return {**found, "max": round(ordered[-1], 3)}


async def create_runs(lab: Lab) -> None:
    """Create all runs as fast as the API server accepts them, and wait until they train."""
    mirror, names = lab.mirror, lab.coordinators.names
    async with lab.phase("create") as facts:
        began = time.monotonic()
        facts["runs"] = len(names)
        await asyncio.gather(
            *(
                lab.kube.create(RUNS, build_run(name, address(index), namespace=lab.homes[name]))
                for index, name in enumerate(names)
            )
        )
        facts["seconds until all runs are stored"] = round(time.monotonic() - began, 1)
        wanted = mirror.pods_per_run * len(names)
        await mirror.wait("all pods are made", lambda: mirror.num_made >= wanted)
        facts["seconds until all pods are made"] = round(mirror.last_made - began, 1)
        facts["pods per second"] = round(wanted / (mirror.last_made - began), 1)
        await mirror.wait("all runs train", lambda: all(map(mirror.is_whole, names)))
        facts["seconds until all runs train"] = round(time.monotonic() - began, 1)
        facts["pods made"] = mirror.num_made


async def stand(lab: Lab, name: str, seconds: float) -> None:
    """Change nothing for a while."""
    before = await _versions(lab)
    async with lab.phase(name) as facts:
        await asyncio.sleep(seconds)
    after = await _versions(lab)
    facts["runs written"] = sum(after[key] != version for key, version in before.items())


async def _versions(lab: Lab) -> dict[str, str]:
    """Return every run's resourceVersion: any write changes it."""
    runs, _ = await lab.kube.list(RUNS, None)
    return {run["metadata"]["name"]: run["metadata"]["resourceVersion"] for run in runs}


async def turn_over(lab: Lab, *, per_second: float, seconds: float) -> None:
    """Suspend and resume runs, one after the other, at a steady rate; each only after its last edit took effect."""
    mirror, made = lab.mirror, lab.mirror.num_made
    ready = deque((name, True) for name in lab.coordinators.names)  # whether it is to be suspended next
    times: dict[bool, list[float]] = {True: [], False: []}

    async def one(name: str, suspend: bool) -> None:
        began = time.monotonic()
        await lab.kube.merge(RUNS, lab.homes[name], name, {"spec": {"suspend": suspend}})
        await mirror.wait(name, lambda: mirror.is_free(name) if suspend else mirror.is_whole(name))
        times[suspend].append(time.monotonic() - began)
        ready.append((name, not suspend))

    async with lab.phase("transitions") as facts:
        began, tasks = time.monotonic(), list[asyncio.Task[None]]()
        while (passed := time.monotonic() - began) < seconds:
            if not ready or len(tasks) > passed * per_second:
                await asyncio.sleep(0.01)
                continue
            tasks.append(asyncio.create_task(one(*ready.popleft())))
        facts["seconds of asking"] = round(time.monotonic() - began, 1)
        facts["under way at the end of asking"] = sum(not task.done() for task in tasks)
        await asyncio.gather(*tasks)
        facts["seconds until all were done"] = round(time.monotonic() - began, 1)
        facts["suspended"], facts["resumed"] = len(times[True]), len(times[False])
        facts["pods made"] = mirror.num_made - made
        facts["pods wanted"] = mirror.pods_per_run * len(times[False])
        for word, found in (("suspend", times[True]), ("resume", times[False])):
            facts |= {f"seconds to {word}, {key}": value for key, value in _summary(found).items()}


async def measure(options: argparse.Namespace, testbed: Testbed) -> dict[str, Any]:
    """Measure all phases; return the results."""
    coordinators = SimulatedCoordinators([f"run-{index:04}" for index in range(options.runs)])
    server, connection = await coordinators.serve(), testbed.connection()
    kube, mirror = KubeClient(connection, parallel=16), Mirror(TRAINERS + GENERATORS, namespace=None)
    operator = start_operator(testbed, "bench", options.folder, everywhere=True)
    homes = dict(zip(coordinators.names, itertools.cycle(name_namespaces(options)), strict=False))
    lab = Lab(testbed, operator, kube, mirror, coordinators, homes)
    try:
        await until("the operator leads", operator.is_leading)
        at_start = operator.memory_mib()
        _, version = await kube.list(RUNS, None)
        work = asyncio.create_task(_all_phases(options, lab))
        following = asyncio.create_task(mirror.follow(connection, version))
        alive = asyncio.create_task(asyncio.to_thread(operator.process.wait))
        await asyncio.wait([work, following, alive], return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise SystemExit(f"the operator or a watch has ended: {operator.log}, {following}")
        await work
        following.cancel()
        return {
            "rss_at_start_mib": round(at_start, 1),
            "rss_peak_mib": round(operator.memory_mib("VmHWM"), 1),
            "doubles": mirror.doubles(),
            "phases": [asdict(each) for each in lab.phases],
        }
    finally:
        operator.process.kill()
        await kube.close()
        server.close()


async def _all_phases(options: argparse.Namespace, lab: Lab) -> None:
    await create_runs(lab)
    await asyncio.sleep(CHANGE_SECONDS)
    await stand(lab, "idle", options.idle)
    lab.coordinators.is_training = True
    await asyncio.sleep(CHANGE_SECONDS)
    await stand(lab, "training", options.training)
    lab.coordinators.is_training = False
    await asyncio.sleep(CHANGE_SECONDS)
    await turn_over(lab, per_second=options.rate, seconds=60 * options.minutes)


def name_namespaces(options: argparse.Namespace) -> list[str]:
    """Return the namespaces that the runs are in, in turn."""
    return [f"team-{index:02}" for index in range(options.namespaces)]


def main() -> int:
    """Measure and write; return the exit status."""
    parser = build_parser(__doc__, "docs/scale.md")
    parser.add_argument("--runs", type=int, default=1000, help="of ten pods each (default: 1000)")
    parser.add_argument("--namespaces", type=int, default=20, help="that the runs are in (default: 20)")
    parser.add_argument("--rate", type=float, default=10.0, help="transitions a second (default: 10)")
    parser.add_argument("--minutes", type=float, default=5.0, help="of transitions (default: 5)")
    parser.add_argument("--idle", type=float, default=320.0, help="seconds; in 300 a sweep comes (default: 320)")
    parser.add_argument("--training", type=float, default=120.0, help="seconds (default: 120)")
    options = parser.parse_args()
    work, homes = (lambda testbed: asyncio.run(measure(options, testbed))), name_namespaces(options)
    found = find_results(options, "cluster.json", work, namespaces=homes)
    if options.write or options.only_write:
        write_tables(found)
    return report_faults(find_cluster_faults(found, pods_per_run=TRAINERS + GENERATORS))


if __name__ == "__main__":
    sys.exit(main())
