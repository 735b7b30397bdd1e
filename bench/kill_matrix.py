"""What dies, and when, and what becomes of the run: `python bench/kill_matrix.py [--victims V...] [--write]`. I/O.

For each victim five runs are brought into five phases and held there; the victim is killed; then each run must do what
it would have done. The operator's half: two replicas and the API server are real processes, pods are played. What plays
them is behind `Ground`, so that a real node can take its place.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from cluster_lab import (
    NAMESPACE,
    ROOT,
    Operator,
    Testbed,
    build_run,
    build_table,
    describe_machine,
    start_operator,
    started_testbed,
    write_part,
)
from played_kubelet import SCHEDULER, PlayedKubelet
from played_training import Training

from scalerl_operator.kube import EVENTS, PODS, RUNS, Json, Kube, KubeError

DOCUMENT = ROOT / "docs/kill-matrix.md"
VICTIMS = (
    "operator leader",
    "both operators",
    "API server",
    "etcd",
    "leader pod",
    "trainer pod",
    "generator pod",
    "node NotReady",
)
PHASES = ("starting", "running", "checkpointing", "suspending", "stopping")
GOES_ON = PHASES[:3]  # phases after which a run trains
COSTS_AN_ATTEMPT = ("leader pod", "trainer pod", "node NotReady")
TRAINERS, GENERATORS = 2, 3
LOOK_SECONDS = 0.25
STEPS_AT_STAKE = 5  # since the last checkpoint
CELL_SECONDS = 180.0
RESTART_SECONDS = 1.0  # until a kubelet starts a dead operator again, the first time
POLL_SECONDS = 1.0
LOST_NODE_SECONDS = 10  # that pods tolerate a node which does not answer; Kubernetes' default is 300


class Ground(Protocol):
    """Where the pods run. All calls name runs; nothing here waits for the operator."""

    async def hold(self, run: str, phase: str) -> None:
        """See to it that `run`, which is made or trains, gets into `phase` and stays there."""

    def is_in(self, run: str, phase: str) -> bool:
        """Whether it is."""

    def release(self, run: str) -> None:
        """Hold it no longer."""

    async def strike(self, victim: str, runs: Sequence[str]) -> None:
        """Kill the victim: a pod of each of the runs, or the one that all have in common."""

    async def mend(self) -> None:
        """Bring back what does not come back by itself."""

    def step(self, run: str) -> int:
        """Steps that the run has done."""

    def saved(self, run: str) -> int:
        """Step of its newest durable checkpoint."""

    def first_step(self, run: str) -> int:
        """The step that its newest attempt has gone on from."""

    def alive_at_once(self, run: str) -> int:
        """Most leaders of the run that ever were alive at one time."""


@dataclass
class Cell:
    """What came of one kill in one phase."""

    victim: str
    phase: str
    recovered: bool = False
    seconds: float = 0.0
    steps_lost: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass
class Witness:
    """What the API server says of runs and pods, read again and again; it may be away."""

    kube: Kube
    runs: dict[str, Json] = field(default_factory=dict)
    pods: dict[str, dict[str, Json]] = field(default_factory=lambda: defaultdict(dict))
    uids: dict[tuple[str, str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    """(run, pod, attempt; empty for generators) -> every pod that ever was there."""

    async def watch(self) -> None:
        """Read until cancelled."""
        while True:
            try:
                runs, _ = await self.kube.list(RUNS, NAMESPACE)
                pods, _ = await self.kube.list(PODS, NAMESPACE)
            except KubeError:
                await asyncio.sleep(LOOK_SECONDS)
                continue
            self.runs = {run["metadata"]["name"]: run for run in runs}
            self.pods = defaultdict(dict)
            for pod in pods:
                labels, name = pod["metadata"]["labels"], pod["metadata"]["name"]
                run = labels["scalerl.io/run"]
                self.pods[run][name.removeprefix(f"{run}-")] = pod
                self.uids[run, name, labels.get("scalerl.io/attempt", "")].add(pod["metadata"]["uid"])
            await asyncio.sleep(LOOK_SECONDS)

    def status(self, run: str) -> Json:
        """The run's status; empty before there is one."""
        found: Json = self.runs.get(run, {}).get("status", {})
        return found

    def state(self, run: str) -> str:
        """The run's one word."""
        return str(self.status(run).get("progress", {}).get("phase", ""))

    def is_current(self, run: str) -> bool:
        """Whether the operator has seen the last edit."""
        generation = self.runs.get(run, {}).get("metadata", {}).get("generation")
        return bool(self.status(run).get("observedGeneration") == generation)

    def has_pods(self, run: str, generators: int) -> bool:
        """Whether all pods, and no others, are there and run."""
        wanted = {f"trainer-{i}" for i in range(TRAINERS)} | {f"generator-{i}" for i in range(generators)}
        pods = self.pods.get(run, {})
        return set(pods) == wanted and all(
            pod.get("status", {}).get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
            for pod in pods.values()
        )

    def doubles(self, run: str, allowed: int) -> Iterator[str]:
        """Yield trainers made twice for one attempt, and generators made more often than `allowed`."""
        for (owner, name, attempt), uids in self.uids.items():
            if owner == run and len(uids) > (1 if attempt else allowed):
                yield f"{name.removeprefix(f'{run}-')} was made {len(uids)} times" + f" in attempt {attempt}" * bool(
                    attempt
                )


@dataclass
class Replicas:
    """The operator's two replicas, started again when they have died, as a kubelet does."""

    testbed: Testbed
    folder: Path
    members: list[Operator] = field(default_factory=list)
    started: int = 0

    def start(self) -> None:
        """Start one."""
        self.started += 1
        found = start_operator(self.testbed, f"replica-{self.started}", self.folder, poll_seconds=POLL_SECONDS)
        self.members.append(found)

    async def supervise(self) -> None:
        """Go on until cancelled."""
        while True:
            for each in [each for each in self.members if each.process.poll() is not None]:
                self.members.remove(each)
                await asyncio.sleep(RESTART_SECONDS)
                self.start()
            await asyncio.sleep(0.1)

    async def leader(self) -> Operator:
        """The one that leads; waits until one does. Raises TimeoutError."""
        async with asyncio.timeout(CELL_SECONDS):
            while True:
                for each in list(self.members):
                    if await asyncio.to_thread(each.is_leading):
                        return each
                await asyncio.sleep(0.1)

    def kill(self, victims: Sequence[Operator]) -> None:
        """SIGKILL."""
        for each in victims:
            each.process.send_signal(signal.SIGKILL)


@dataclass
class PlayedGround:
    """Pods are played in this process."""

    testbed: Testbed
    replicas: Replicas
    kubelet: PlayedKubelet
    witness: Witness

    def _training(self, run: str) -> Training:
        return self.kubelet.trainings.setdefault(run, Training())

    async def hold(self, run: str, phase: str) -> None:
        """A start, or a checkpoint, that takes for ever."""
        if phase != "running":
            self._training(run).held.add("starting" if phase == "starting" else "saving")
        if phase == "stopping":
            point = {"index": 0, "step": 5, "version": 5, "computeGpuHours": 0.05, "passRate": 0.9}
            self._training(run).evals = [{**point, "prompts": 100, "samples": 4, "standardError": 0.01}]

    def is_in(self, run: str, phase: str) -> bool:
        """By what the training does: the API server may not know yet."""
        found = self._training(run)
        if phase == "running":
            return found.state == "training" and found.saved > 0 and found.step >= found.saved + STEPS_AT_STAKE
        if phase == "checkpointing":
            return found.state == "saving" and not found.ending and found.saved > 0
        if phase == "starting":
            return found.state == "starting"
        return found.state == "saving" and found.ending

    def release(self, run: str) -> None:
        """Time passes again."""
        self._training(run).held.clear()

    async def strike(self, victim: str, runs: Sequence[str]) -> None:
        """By name."""
        if victim == "operator leader":
            self.replicas.kill([await self.replicas.leader()])
        elif victim == "both operators":
            self.replicas.kill(self.replicas.members)
        elif victim in ("API server", "etcd"):
            program = "kube-apiserver" if victim == "API server" else "etcd"
            await asyncio.to_thread(self.testbed.restart, program)
        elif victim == "node NotReady":
            self.kubelet.die("played-a")
        else:
            await asyncio.gather(*(self._strike_pod(victim, run) for run in runs))

    async def _strike_pod(self, victim: str, run: str) -> None:
        place = {"leader pod": "trainer-0", "trainer pod": "trainer-1", "generator pod": "generator-1"}[victim]
        uid = self.witness.pods[run][place]["metadata"]["uid"]
        if victim == "generator pod":
            options = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}
            await self.kubelet.kube.delete(PODS, NAMESPACE, f"{run}-{place}", options)
            return
        self.kubelet.killed.add(uid)
        if victim == "trainer pod":
            self._training(run).hung = True  # collectives wait for the dead member

    async def mend(self) -> None:
        """The node comes back."""
        self.kubelet.dead.clear()

    def step(self, run: str) -> int:
        """Steps done."""
        return self._training(run).step

    def saved(self, run: str) -> int:
        """Durable ones."""
        return self._training(run).saved

    def first_step(self, run: str) -> int:
        """Where the newest attempt began."""
        found = self._training(run)
        return found.first_steps[found.attempt]

    def alive_at_once(self, run: str) -> int:
        """Leaders at one time."""
        return self._training(run).alive_at_once


@dataclass
class Matrix:
    """The experiment: what is done to runs, and what is then true of them."""

    kube: Kube
    ground: Ground
    witness: Witness

    async def row(self, victim: str) -> list[Cell]:
        """Bring a run into each phase, kill the victim, and see."""
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
        """Until it starts for ever, or has something to lose."""
        if phase == "starting":
            await self.ground.hold(run, phase)
        await self.kube.create(RUNS, build_matrix_run(run))
        first, state = ("starting", "Starting") if phase == "starting" else ("running", "Training")
        await self._until(f"{run} is {first}", lambda: self.ground.is_in(run, first))
        await self._until(f"the status of {run} says so", lambda: self.witness.state(run) == state)

    async def _bring(self, run: str, phase: str) -> None:
        """From running into its phase, where it is held."""
        await self.ground.hold(run, phase)
        if phase == "suspending":
            await self.kube.merge(RUNS, NAMESPACE, run, {"spec": {"suspend": True}})
        await self._until(f"{run} is {phase}", lambda: self.ground.is_in(run, phase))
        if phase in ("suspending", "stopping"):
            await self._until(f"the status of {run} says so", lambda: self.witness.state(run) == "Stopping")

    async def _judge(self, cell: Cell, run: str, step: int, struck: float) -> Cell:
        try:
            if cell.phase in GOES_ON:
                await self._goes_on(run, step)
            elif cell.phase == "suspending":
                await self._until("it is suspended", lambda: self._is_suspended(run))
            else:
                await self._until("it is stopped", lambda: self.witness.state(run) == "StoppedByPolicy")
            cell.seconds = round(time.monotonic() - struck, 1)
            if cell.phase == "suspending":
                cell.steps_lost = max(0, step - self.ground.saved(run))
                await self._insist(lambda: self.kube.merge(RUNS, NAMESPACE, run, {"spec": {"suspend": False}}))
                await self._until("it goes on", lambda: self._trains(run, GENERATORS, self.ground.saved(run)))
            elif cell.phase == "stopping":
                cell.steps_lost = max(0, step - self.ground.saved(run))
            elif int(self.witness.status(run)["attempt"]) > 1:
                cell.steps_lost = max(0, step - self.ground.first_step(run))
            cell.recovered = True
        except TimeoutError as error:
            cell.faults.append(f"{error}; state {self.witness.state(run) or 'none'}")
        cell.faults += [each async for each in self._faults(cell, run)]
        print(json.dumps(asdict(cell)), flush=True)
        return cell

    async def _goes_on(self, run: str, step: int) -> None:
        """It trains beyond the step of the kill, and an edit that was made meanwhile is obeyed."""
        edit = {"spec": {"generator": {"maxReplicas": GENERATORS + 1}}}
        await self._insist(lambda: self.kube.merge(RUNS, NAMESPACE, run, edit))
        await self._until("it goes on", lambda: self._trains(run, GENERATORS + 1, step))

    def _trains(self, run: str, generators: int, step: int) -> bool:
        seen = self.witness
        is_whole = seen.state(run) == "Training" and seen.has_pods(run, generators) and seen.is_current(run)
        return is_whole and self.ground.step(run) > step

    def _is_suspended(self, run: str) -> bool:
        return self.witness.state(run) == "Suspended" and not self.witness.pods.get(run)

    async def _faults(self, cell: Cell, run: str) -> AsyncIterator[str]:
        """Yield what must not have happened."""
        resumed = cell.phase == "suspending"
        wanted = 1 + resumed + (cell.victim in COSTS_AN_ATTEMPT and cell.phase in GOES_ON)
        attempts = int(self.witness.status(run).get("attempt", 0))
        if attempts != wanted:
            yield f"{attempts} attempts instead of {wanted}"
        replaced = cell.victim in ("generator pod", "node NotReady")
        for each in self.witness.doubles(run, 1 + resumed + replaced):
            yield each
        if self.ground.alive_at_once(run) > 1:
            yield "two leaders at a time"
        events, _ = await self.kube.list(EVENTS, NAMESPACE, fields=f"involvedObject.name={run}")
        for event in events:
            if event["reason"] in ("AttemptCreated", "AttemptEnded") and event["count"] > 1:
                yield f"told {event['count']} times: {event['message']}"

    async def _insist(self, call: Callable[[], Awaitable[object]]) -> None:
        """Do what a person does who is told that the API server is away. Raises TimeoutError."""
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
    """A run that a stop policy can end, whose pods do not wait long for a node that is gone."""
    document = build_run(name, "")
    tolerations = [
        {"key": f"node.kubernetes.io/{word}", "operator": "Exists", "effect": "NoExecute"}
        | {"tolerationSeconds": LOST_NODE_SECONDS}
        for word in ("not-ready", "unreachable")
    ]
    template = {"spec": {"schedulerName": SCHEDULER, "tolerations": tolerations}}
    policy = {"name": "enough", "when": {"passRate": {"above": 0.5}}, "for": 1, "mode": "Enforce"}
    document["spec"] |= {
        "trainer": {"replicas": TRAINERS, "gpusPerReplica": 0, "template": template},
        "generator": {"minReplicas": GENERATORS, "maxReplicas": GENERATORS, "gpusPerReplica": 0, "template": template},
        "stopPolicies": [policy],
        "deadlines": {"checkpointSeconds": 60},
    }
    return document


async def measure(options: argparse.Namespace, testbed: Testbed) -> Json:
    """All rows, one after the other."""
    connection = testbed.connection()
    kube, own = Kube(connection), Kube(connection)
    witness, replicas = Witness(kube), Replicas(testbed, options.folder)
    kubelet = PlayedKubelet(own)
    await kubelet.register()
    replicas.start()
    replicas.start()
    matrix = Matrix(kube, PlayedGround(testbed, replicas, kubelet, witness), witness)
    helpers = [asyncio.create_task(each) for each in (kubelet.run(), witness.watch(), replicas.supervise())]
    work = asyncio.create_task(_rows(matrix, replicas, options.victims))
    try:
        await asyncio.wait([*helpers, work], return_when=asyncio.FIRST_COMPLETED)
        for helper in helpers:
            if helper.done():
                await helper  # none ends but by its fault
        cells = await work
    finally:
        for helper in helpers:
            helper.cancel()
        work.cancel()
        for member in replicas.members:
            member.process.kill()
        await kube.close()
        await own.close()
    return {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": describe_machine(),
        "load": os.getloadavg()[0],
        "cells": [asdict(each) for each in cells],
    }


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
    rows = [[victim, *(_show(cells[victim, phase]) for phase in PHASES)] for victim in victims]
    faults = [f"- {each['victim']}, {each['phase']}: {fault}" for each in found["cells"] for fault in each["faults"]]
    head = f"`{found['command']}`, {found['date']}, {found['machine']}, load {found['load']:.1f}."
    parts = [head, build_table(["killed", *PHASES], rows), "\n".join(faults) or "Faults: none."]
    write_part(DOCUMENT, "operator", "\n\n".join(parts))


def _show(cell: Json) -> str:
    if not cell["recovered"]:
        return "**not recovered**"
    lost = f", {cell['steps_lost']} steps" if cell["steps_lost"] else ""
    return f"{cell['seconds']:.1f} s{lost}" + " (fault)" * bool(cell["faults"])


def main() -> int:
    """Measure and write; 1 if a cell did not recover or something happened that must not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--victims", nargs="+", choices=VICTIMS, default=VICTIMS, metavar="VICTIM", help="rows")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs/scale", help="of results and logs")
    parser.add_argument("--state", type=Path, default=ROOT / ".cluster-bench", help="of the cluster")
    parser.add_argument("--write", action="store_true", help="put the results into docs/kill-matrix.md")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the cluster is stopped
    with started_testbed(options.state, nodes=0) as testbed:
        found = asyncio.run(measure(options, testbed))
    (options.folder / "kill_matrix.json").write_text(json.dumps(found, indent=1))
    if options.write:
        write_matrix(found)
    return int(any(each["faults"] for each in found["cells"]))


if __name__ == "__main__":
    sys.exit(main())
