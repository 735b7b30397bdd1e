"""The stage of the kill matrix: how each victim is killed, and what is observed of runs and pods meanwhile. I/O."""

import asyncio
import signal
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cluster_lab import NAMESPACE, Operator, Team, Testbed
from simulated_kubelet import SimulatedKubelet
from simulated_training import Training

from scalerl_operator.kube.client import PODS, RUNS, Json, KubeClient, KubeError

TRAINERS = 2
SHRINKS = "trainer pod and its room"  # the victim after which a run goes on with fewer ranks
LOOK_SECONDS = 0.25
STEPS_AT_STAKE = 5  # since the last checkpoint
LEAD_SECONDS = 180.0
RESTART_SECONDS = 1.0  # until a kubelet starts a dead operator again, the first time
POLL_SECONDS = 1.0


class Ground(Protocol):
    """The nodes and pods of the kill matrix. Every call names runs; none waits for the operator."""

    async def hold(self, run: str, phase: str) -> None:
        """Bring `run`, which is new or trains, into `phase` and hold it there."""

    def is_in(self, run: str, phase: str) -> bool:
        """Whether `run` is in `phase`."""

    def release(self, run: str) -> None:
        """End the hold."""

    async def strike(self, victim: str, runs: Sequence[str]) -> None:
        """Kill the victim: a pod of each run, or a process that all runs share."""

    async def mend(self) -> None:
        """Restore the victims that do not restart by themselves."""

    def step(self, run: str) -> int:
        """Return the number of the run's last step."""

    def saved(self, run: str) -> int:
        """Return the step of its newest durable checkpoint."""

    def first_step(self, run: str) -> int:
        """Return the step at which its newest attempt began."""

    def alive_at_once(self, run: str) -> int:
        """Return the largest number of the run's coordinators that were alive at one time."""


@dataclass
class Witness:
    """Runs and pods as the API server lists them, polled; the server may be away."""

    kube: KubeClient
    runs: dict[str, Json] = field(default_factory=dict)
    pods: dict[str, dict[str, Json]] = field(default_factory=lambda: defaultdict(dict))
    uids: dict[tuple[str, str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    """(run, pod, attempt; empty for generators) -> every pod that ever existed."""

    async def watch(self) -> None:
        """Poll until cancelled."""
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
        """Return the run's status; empty before the first."""
        found: Json = self.runs.get(run, {}).get("status", {})
        return found

    def state(self, run: str) -> str:
        """Return the run's state, one word."""
        return str(self.status(run).get("progress", {}).get("phase", ""))

    def is_current(self, run: str) -> bool:
        """Whether the operator has observed the last edit."""
        generation = self.runs.get(run, {}).get("metadata", {}).get("generation")
        return bool(self.status(run).get("observedGeneration") == generation)

    def has_pods(self, run: str, generators: int, trainers: int = TRAINERS) -> bool:
        """Whether exactly the expected pods exist, and all run."""
        wanted = {f"trainer-{i}" for i in range(trainers)} | {f"generator-{i}" for i in range(generators)}
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
class Replicas(Team):
    """The operator's two replicas, started again when they have died, as a kubelet does."""

    poll_seconds: float = POLL_SECONDS

    async def supervise(self) -> None:
        """Restart dead replicas until cancelled."""
        while True:
            for each in [each for each in self.members if each.process.poll() is not None]:
                self.members.remove(each)
                await asyncio.sleep(RESTART_SECONDS)
                self.start()
            await asyncio.sleep(0.1)

    async def leader(self) -> Operator:
        """Wait for a leader and return it. Raises TimeoutError."""
        async with asyncio.timeout(LEAD_SECONDS):
            while True:
                for each in list(self.members):
                    if await asyncio.to_thread(each.is_leading):
                        return each
                await asyncio.sleep(0.1)

    def kill(self, victims: Sequence[Operator]) -> None:
        """Send SIGKILL."""
        for each in victims:
            each.process.send_signal(signal.SIGKILL)


@dataclass
class SimulatedGround:
    """A ground whose pods are simulated in this process."""

    testbed: Testbed
    replicas: Replicas
    kubelet: SimulatedKubelet
    witness: Witness

    def _training(self, run: str) -> Training:
        return self.kubelet.trainings.setdefault(run, Training())

    async def hold(self, run: str, phase: str) -> None:
        """Let the run's start, or its checkpoint, never finish."""
        if phase != "running":
            self._training(run).held.add("starting" if phase == "starting" else "saving")
        if phase == "stopping":
            point = {"index": 0, "step": 5, "version": 5, "computeGpuHours": 0.05, "passRate": 0.9}
            self._training(run).evals = [{**point, "prompts": 100, "samples": 4, "standardError": 0.01}]

    def is_in(self, run: str, phase: str) -> bool:
        """As the training reports it: the API server may lag behind."""
        found = self._training(run)
        if phase == "running":
            return found.state == "training" and found.saved > 0 and found.step >= found.saved + STEPS_AT_STAKE
        if phase == "checkpointing":
            return found.state == "saving" and not found.ending and found.saved > 0
        if phase == "starting":
            return found.state == "starting"
        return found.state == "saving" and found.ending

    def release(self, run: str) -> None:
        """Let the held start or checkpoint finish."""
        self._training(run).held.clear()

    async def strike(self, victim: str, runs: Sequence[str]) -> None:
        """Kill the victim of that name."""
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
        place = {"coordinator pod": "trainer-0", "generator pod": "generator-1"}.get(victim, "trainer-1")
        uid = self.witness.pods[run][place]["metadata"]["uid"]
        if victim == "generator pod":
            options = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}
            await self.kubelet.kube.delete(PODS, NAMESPACE, f"{run}-{place}", options)
            return
        self.kubelet.killed.add(uid)
        if victim == SHRINKS:
            self.kubelet.crowded.add(run)
        if place == "trainer-1":
            self._training(run).hung = True  # collectives wait for the dead member

    async def mend(self) -> None:
        """Restart the dead node, and give room to all pods."""
        self.kubelet.dead.clear()
        self.kubelet.crowded.clear()

    def step(self, run: str) -> int:
        """Return the last step."""
        return self._training(run).step

    def saved(self, run: str) -> int:
        """Return the last durable step."""
        return self._training(run).saved

    def first_step(self, run: str) -> int:
        """Return the first step of the newest attempt."""
        found = self._training(run)
        return found.first_steps[found.attempt]

    def alive_at_once(self, run: str) -> int:
        """Return the largest number of coordinators at one time."""
        return self._training(run).alive_at_once
