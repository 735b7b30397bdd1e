"""Kill each process of the platform in each phase of a run: `make kill-matrix ARGS="[--victims V...]"`. I/O.

For each victim five runs are brought into five phases and held there. The victim is killed. Then each run must continue
as it would have without the kill. Two operator replicas and the API server are real processes. The pods are simulated
behind `Ground`, so that a real node can take their place.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from cluster_lab import NAMESPACE, ROOT, Testbed, build_parser, build_run, build_table, find_results, write_part
from kill_ground import LOOK_SECONDS, SHRINKS, TRAINERS, Ground, Replicas, SimulatedGround, Witness
from simulated_kubelet import SCHEDULER, SimulatedKubelet

from scalerl_operator.kube.client import EVENTS, RUNS, Json, KubeClient, KubeError

DOCUMENT = ROOT / "docs/kill-matrix.md"
VICTIMS = (
    "operator leader",
    "both operators",
    "API server",
    "etcd",
    "coordinator pod",
    "trainer pod",
    SHRINKS,
    "generator pod",
    "node NotReady",
)
PHASES = ("starting", "running", "checkpointing", "suspending", "stopping")
GOES_ON = PHASES[:3]  # phases after which a run trains
COSTS_AN_ATTEMPT = ("coordinator pod", "trainer pod", SHRINKS, "node NotReady")
GENERATORS = 3
CELL_SECONDS = 600.0  # a node is given up after 50 s, its pods after their grace and a minute
GANG_SECONDS = 10.0  # that a restarted attempt waits for room for all its trainer pods
LOST_NODE_SECONDS = 10  # that pods tolerate a node which does not answer; Kubernetes' default is 300


@dataclass
class Cell:
    """The outcome of one kill in one phase."""

    victim: str
    phase: str
    recovered: bool = False
    seconds: float = 0.0
    steps_lost: int = 0
    load: float = 0.0
    """The machine's load average over a minute, at the end."""
    faults: list[str] = field(default_factory=list)


@dataclass
class Matrix:
    """The experiment: the actions on runs, and the checks afterwards."""

    kube: KubeClient
    ground: Ground
    witness: Witness

    async def row(self, victim: str) -> list[Cell]:
        """Bring a run into each phase, kill the victim, and check the recovery."""
        runs = {phase: f"{victim}-{phase}".lower().replace(" ", "-") for phase in PHASES}
        await asyncio.gather(*(self._make(run, phase) for phase, run in runs.items()))
        await asyncio.gather(*(self._bring(run, phase) for phase, run in runs.items()))
        print(f"{victim}: every run is in its phase", flush=True)
        steps = {phase: self.ground.step(run) for phase, run in runs.items()}
        struck = time.monotonic()
        await self.ground.strike(victim, list(runs.values()))
        for run in runs.values():
            self.ground.release(run)
        cells = await asyncio.gather(
            *(self._judge(Cell(victim, phase), run, steps[phase], struck) for phase, run in runs.items())
        )
        await self.ground.mend()
        for run in runs.values():
            await self._insist(lambda run=run: self.kube.delete(RUNS, NAMESPACE, run, {}))  # type: ignore[misc]
        await self._until("all pods are gone", lambda: not any(self.witness.pods.values()))
        return cells

    async def _make(self, run: str, phase: str) -> None:
        """Wait until the run hangs at its start, or has a checkpoint to lose."""
        if phase == "starting":
            await self.ground.hold(run, phase)
        await self.kube.create(RUNS, build_matrix_run(run))
        first, state = ("starting", "Starting") if phase == "starting" else ("running", "Training")
        await self._until(f"{run} is {first}", lambda: self.ground.is_in(run, first))
        await self._until(f"the status of {run} says so", lambda: self.witness.state(run) == state)

    async def _bring(self, run: str, phase: str) -> None:
        """Bring a training run into its phase and hold it there."""
        await self.ground.hold(run, phase)
        if phase == "suspending":
            await self.kube.merge(RUNS, NAMESPACE, run, {"spec": {"suspend": True}})
        await self._until(f"{run} is {phase}", lambda: self.ground.is_in(run, phase))
        if phase in ("suspending", "stopping"):
            await self._until(f"the status of {run} says so", lambda: self.witness.state(run) == "Stopping")

    async def _judge(self, cell: Cell, run: str, step: int, struck: float) -> Cell:
        try:
            if cell.phase in GOES_ON:
                await self._goes_on(cell.victim, run, step)
            elif cell.phase == "suspending":
                await self._until("it is suspended", lambda: self._is_suspended(run))
            else:
                await self._until("it is stopped", lambda: self.witness.state(run) == "StoppedByPolicy")
            cell.seconds = round(time.monotonic() - struck, 1)
            if cell.phase == "suspending":
                cell.steps_lost = max(0, step - self.ground.saved(run))
                await self._insist(lambda: self.kube.merge(RUNS, NAMESPACE, run, {"spec": {"suspend": False}}))
                await self._until(
                    "it goes on", lambda: self._trains(cell.victim, run, GENERATORS, self.ground.saved(run))
                )
            elif cell.phase == "stopping":
                cell.steps_lost = max(0, step - self.ground.saved(run))
            elif int(self.witness.status(run)["attempt"]) > 1:
                cell.steps_lost = max(0, step - self.ground.first_step(run))
            cell.recovered = True
        except TimeoutError as error:
            cell.faults.append(f"{error}; state {self.witness.state(run) or 'none'}")
        cell.load = round(os.getloadavg()[0], 1)
        cell.faults += [each async for each in self._faults(cell, run)]
        print(json.dumps(asdict(cell)), flush=True)
        return cell

    async def _goes_on(self, victim: str, run: str, step: int) -> None:
        """Check that the run trains beyond the step of the kill and that an edit made meanwhile takes effect."""
        edit = {"spec": {"generator": {"maxReplicas": GENERATORS + 1}}}
        await self._insist(lambda: self.kube.merge(RUNS, NAMESPACE, run, edit))
        await self._until("it goes on", lambda: self._trains(victim, run, GENERATORS + 1, step))

    def _trains(self, victim: str, run: str, generators: int, step: int) -> bool:
        witness, trainers = self.witness, TRAINERS - (victim == SHRINKS)
        has_pods = witness.has_pods(run, generators, trainers)
        is_whole = witness.state(run) == "Training" and has_pods and witness.is_current(run)
        return is_whole and self.ground.step(run) > step

    def _is_suspended(self, run: str) -> bool:
        return self.witness.state(run) == "Suspended" and not self.witness.pods.get(run)

    async def _faults(self, cell: Cell, run: str) -> AsyncIterator[str]:
        """Yield each fault as a sentence."""
        resumed = cell.phase == "suspending"
        wanted = 1 + resumed + (cell.victim in COSTS_AN_ATTEMPT and cell.phase in GOES_ON)
        wanted += cell.victim == SHRINKS and cell.phase != "stopping"  # one that waited for room for all ranks
        attempts = int(self.witness.status(run).get("attempt", 0))
        if attempts != wanted:
            yield f"{attempts} attempts instead of {wanted}"
        replaced = cell.victim in ("generator pod", "node NotReady")
        for each in self.witness.doubles(run, 1 + resumed + replaced):
            yield each
        if self.ground.alive_at_once(run) > 1:
            yield "two coordinators at a time"
        events, _ = await self.kube.list(EVENTS, NAMESPACE, fields=f"involvedObject.name={run}")
        for event in events:
            if event["reason"] in ("AttemptCreated", "AttemptEnded") and event["count"] > 1:
                yield f"reported {event['count']} times: {event['message']}"

    async def _insist(self, call: Callable[[], Awaitable[object]]) -> None:
        """Retry a call while the API server is away, as a user would. Raises TimeoutError."""
        async with asyncio.timeout(CELL_SECONDS):
            while True:
                try:
                    await call()
                except KubeError as error:
                    if error.status in (404, 409, 422):
                        raise
                    await asyncio.sleep(LOOK_SECONDS)
                else:
                    return

    async def _until(self, what: str, holds: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(CELL_SECONDS):
                while not holds():
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            raise TimeoutError(f"{what}: not within {CELL_SECONDS:g} s") from None


def build_matrix_run(name: str) -> Json:
    """Return a run that a stop policy can end, and whose pods tolerate a lost node only briefly."""
    document = build_run(name, "")
    tolerations = [
        {"key": f"node.kubernetes.io/{word}", "operator": "Exists", "effect": "NoExecute"}
        | {"tolerationSeconds": LOST_NODE_SECONDS}
        for word in ("not-ready", "unreachable")
    ]
    template = {"spec": {"schedulerName": SCHEDULER, "tolerations": tolerations}}
    policy = {"name": "enough", "when": {"passRate": {"above": 0.5}}, "for": 1, "mode": "Enforce"}
    document["spec"] |= {
        "trainer": {"replicas": TRAINERS, "minReplicas": 1, "gpusPerReplica": 0, "template": template},
        "generator": {"minReplicas": GENERATORS, "maxReplicas": GENERATORS, "gpusPerReplica": 0, "template": template},
        "stopPolicies": [policy],
        "deadlines": {"checkpointSeconds": 60, "gangSeconds": GANG_SECONDS},
    }
    return document


async def measure(options: argparse.Namespace, testbed: Testbed, kept: Sequence[Json]) -> Json:
    """Measure the requested rows one after the other; keep the others."""
    connection = testbed.connection()
    kube, own = KubeClient(connection), KubeClient(connection)
    witness, replicas = Witness(kube), Replicas(testbed, options.folder)
    kubelet = SimulatedKubelet(own)
    await kubelet.register()
    replicas.start()
    replicas.start()
    matrix = Matrix(kube, SimulatedGround(testbed, replicas, kubelet, witness), witness)
    helpers = [asyncio.create_task(each) for each in (kubelet.run(), witness.watch(), replicas.supervise())]
    work = asyncio.create_task(_rows(matrix, replicas, options.victims))
    try:
        await asyncio.wait([*helpers, work], return_when=asyncio.FIRST_COMPLETED)
        for helper in helpers:
            if helper.done():
                await helper  # a helper ends only by an error
        cells = await work
    finally:
        for helper in helpers:
            helper.cancel()
        work.cancel()
        for member in replicas.members:
            member.process.kill()
        await kube.close()
        await own.close()
    others = [each for each in kept if each["victim"] not in options.victims]
    new = [{**asdict(each), "date": datetime.now(UTC).strftime("%Y-%m-%d")} for each in cells]
    return {"cells": sorted([*others, *new], key=lambda each: VICTIMS.index(each["victim"]))}


async def _rows(matrix: Matrix, replicas: Replicas, victims: Sequence[str]) -> list[Cell]:
    found: list[Cell] = []
    for victim in victims:
        await replicas.leader()
        found += await matrix.row(victim)
    return found


def write_matrix(found: Json) -> None:
    """Put the results into docs/kill-matrix.md."""
    cells = {(each["victim"], each["phase"]): each for each in found["cells"]}
    victims = list(dict.fromkeys(victim for victim, _ in cells))
    rows = [
        [victim, cells[victim, PHASES[0]]["date"], f"{max(cells[victim, phase]['load'] for phase in PHASES):.1f}"]
        + [_show(cells[victim, phase]) for phase in PHASES]
        for victim in victims
    ]
    faults = [f"- {each['victim']}, {each['phase']}: {fault}" for each in found["cells"] for fault in each["faults"]]
    head = f"`make kill-matrix`, {found['machine']}. Load: of the machine, at most."
    parts = [head, build_table(["killed", "date", "load", *PHASES], rows), "\n".join(faults) or "Faults: none."]
    write_part(DOCUMENT, "operator", "\n\n".join(parts))


def _show(cell: Json) -> str:
    if not cell["recovered"]:
        return "**not recovered**"
    lost = f", {cell['steps_lost']} steps" if cell["steps_lost"] else ""
    return f"{cell['seconds']:.1f} s{lost}" + " (fault)" * bool(cell["faults"])


def main() -> int:
    """Measure and write; return 1 if a cell did not recover or has a fault."""
    parser = build_parser(__doc__, "docs/kill-matrix.md")
    parser.add_argument("--victims", nargs="+", choices=VICTIMS, default=VICTIMS, metavar="VICTIM", help="rows")
    options = parser.parse_args()
    before = options.folder / "kill_matrix.json"
    kept = json.loads(before.read_text())["cells"] if before.exists() else []
    found = find_results(options, before.name, lambda testbed: asyncio.run(measure(options, testbed, kept)), nodes=0)
    if options.write or options.only_write:
        write_matrix(found)
    return int(any(each["faults"] for each in found["cells"]))


if __name__ == "__main__":
    sys.exit(main())
