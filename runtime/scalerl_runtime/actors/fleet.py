"""The run's processes: trainer ranks and generator engines as Ray actors, in the cluster of `ray_session`. I/O."""

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from scalerl_api.validation import InvalidRun
from scalerl_runtime.actors.generator import EngineOptions, Generator, WeightUpdate
from scalerl_runtime.actors.ray_session import MESSAGE_CHARACTERS, RaySession
from scalerl_runtime.actors.trainer import Trainer, TrainerOptions
from scalerl_runtime.algorithm.microbatch import MicroBatch
from scalerl_runtime.algorithm.results import StepResult, SyncReport
from scalerl_runtime.hub import first_line
from scalerl_runtime.models.source import ModelUnavailable
from scalerl_runtime.preflight.joining import all_started
from scalerl_runtime.preflight.readings import PreflightFailed, RankReading
from scalerl_runtime.storage.checkpoint import CheckpointError
from scalerl_runtime.storage.shards import ShardsError
from scalerl_runtime.storage.trainer_state import RankPart
from scalerl_runtime.types import (
    EngineOutput,
    Floats,
    GeneratorLost,
    Ints,
    PromptRefused,
    SamplingRequest,
    SyncFailed,
    TrainerLost,
)
from scalerl_runtime.weights.buckets import StagedWeights, Transport
from scalerl_runtime.weights.shared_memory import SharedHandle

log = logging.getLogger(__name__)

COLOCATED_GPUS = 0.5  # Ray puts both halves on the same device, and shows it to both
GROUP_TIMEOUT_SECONDS = 60.0  # of one collective; a dead peer delays it once by this
DEATH_REPORT_SECONDS = 30.0  # after a rank's fault: time in which Ray reports that a peer is dead


@dataclass(frozen=True)
class FleetOptions:
    """The actors to start."""

    trainer: TrainerOptions
    engine: EngineOptions
    ranks: int
    kv_cache: Literal["keep", "recompute"]
    transport: Transport
    colocated: bool  # trainer and generator share one device


def engine_seed(seed: int, attempt: int, index: int, num_starts: int) -> int:
    """Return the seed of generator `index` that was started `num_starts` times before in this attempt, in [0, 2**32).

    With equal seeds the k-th request of all engines would be sampled with the same noise.
    """
    return int(np.random.SeedSequence([seed, attempt, index, num_starts]).generate_state(1)[0])


class Fleet:
    """The Ray actors. Calls raise GeneratorLost, TrainerLost or InvalidRun; callers set the deadlines."""

    def __init__(self, options: FleetOptions, session: RaySession, *, attempt: int = 1):
        """Run the actors in the cluster of `session`. Engines of another `attempt` sample with other noise."""
        self.options = options
        self._attempt = attempt
        self._session = session
        self.cluster = session.cluster
        self._trainers: list[Any] = []
        self._generators: dict[int, Any] = {}
        self._num_starts: dict[int, int] = {}
        self._members: frozenset[int] = frozenset()  # connected, and the last update reached them
        self._near: frozenset[int] = frozenset()  # members that read the trainer's copy where it lies
        self._is_read = True  # no engine reads the staged copy

    async def start(self, seconds: float) -> None:
        """Start Ray and the ranks' processes; then generators may start.

        Raises ClusterUnavailable, or PreflightFailed with late ranks.
        """
        import ray

        await self._session.ready()
        own = 1.0 if self.options.trainer.device == "cuda" else 0.0
        gpus = COLOCATED_GPUS if self.options.colocated else own
        # Four threads: training; sending a copy of the weights and writing a checkpoint meanwhile; and short calls.
        ranks, place = self.options.ranks, self._role_resource("trainer")
        trainer = ray.remote(concurrency_groups={"train": 1, "send": 1, "save": 1})(Trainer)
        actor = trainer.options(num_cpus=1, num_gpus=gpus, max_restarts=0, resources=place)
        self._trainers = [actor.remote(self.options.trainer, rank, ranks) for rank in range(ranks)]
        await all_started([self._trainer(each.address.remote()) for each in self._trainers], seconds)

    async def measure_ranks(self, seconds: float) -> list[RankReading]:
        """Measure every rank's device and network; the ranks wait `seconds` for each other. Raises PreflightFailed."""
        address, port = await self._trainer(self._trainers[0].address.remote())
        return await self._on_ranks("measure", address, port, seconds)

    async def start_trainer(self) -> None:
        """Have the trainer's ranks load the model and connect to each other."""
        address, port = await self._trainer(self._trainers[0].address.remote())
        await self._on_ranks("start", address, port)

    def _role_resource(self, role: str) -> dict[str, float] | None:
        return {role: 1.0} if self.cluster is not None else None

    async def start_generator(self, index: int) -> float:
        """Start (or start again) generator `index`; return its start-up time in seconds."""
        import ray

        old = self._generators.pop(index, None)
        if old is not None:
            ray.kill(old)
        gpus = COLOCATED_GPUS if self.options.colocated else self.options.engine.tensor_parallel
        actor = ray.remote(Generator).options(
            num_cpus=1,
            num_gpus=gpus,
            max_restarts=0,
            max_concurrency=10_000,
            resources=self._role_resource("generator"),
        )
        num_starts = self._num_starts.get(index, 0)
        self._num_starts[index] = num_starts + 1
        seed = engine_seed(self.options.engine.seed, self._attempt, index, num_starts)
        options = replace(self.options.engine, seed=seed)
        started = self._generators[index] = actor.remote(options)
        self._members = self._members - {index}
        try:
            return float(await self._generator(index, "start"))
        except asyncio.CancelledError:  # no caller waits any more: the actor must not occupy a slot later
            ray.kill(started)
            raise

    async def generator_capacity(self) -> int:
        """Return how many generators fit on the cluster's nodes, running ones included."""
        import ray

        nodes = await asyncio.to_thread(ray.nodes)
        return sum(int(node["Resources"].get("generator", 0)) for node in nodes if node["Alive"])

    async def sample(self, index: int, prompt: Ints, requests: Sequence[SamplingRequest]) -> list[EngineOutput]:
        """Return one completion of `prompt` per request, from generator `index`. Raises PromptRefused."""
        samples: list[EngineOutput] = await self._generator(index, "sample", prompt, list(requests))
        return samples

    async def train(
        self, batches: Sequence[Sequence[MicroBatch]], *, learning_rate: float, kl_coefficient: float, version: int
    ) -> list[StepResult]:
        """Run one optimizer step to `version`; `batches[i]` are the micro-batches of a rank, or of ranks that share."""
        return await self._per_rank(
            "train", batches, learning_rate=learning_rate, kl_coefficient=kl_coefficient, version=version
        )

    async def logprobs(self, batches: Sequence[MicroBatch], version: int) -> list[Floats]:
        """Return the log-probabilities (nats) of all targets of `batches` on each rank, by the weights of `version`."""
        return await self._on_ranks("logprobs", list(batches), version)

    async def set_version(self, version: int) -> None:
        """Set the version of the trainer's present weights."""
        await self._on_ranks("set_version", version)

    async def train_supervised(
        self, batches: Sequence[Sequence[MicroBatch]], *, learning_rate: float
    ) -> list[StepResult]:
        """Run one supervised step."""
        return await self._per_rank("train_supervised", batches, learning_rate=learning_rate)

    async def quadratic_work(self) -> float:
        """Return the work of attention per squared token over that of the rest per token; packing balances with it."""
        results = await self._on_ranks("quadratic_work")
        return float(results[0])

    async def reset_optimizer(self) -> None:
        """Reset the optimizer's moments; another objective follows."""
        await self._on_ranks("reset_optimizer")

    async def stage(self) -> StagedWeights:
        """Copy the weights into buckets; training may continue while the copy is sent."""
        results = await self._on_ranks("stage_weights", reuse=self._is_read)
        staged: StagedWeights = results[0]
        return staged

    async def probe(self, index: int) -> None:
        """Return when the generator's engine answers."""
        await self._generator(index, "probe")

    async def push(self, members: frozenset[int], staged: StagedWeights) -> SyncReport:
        """Send the staged weights to `members` and wait until they use them. Raises SyncFailed.

        Engines on the trainer's node read them where they lie. The transfer group of the others is built again when the
        members changed, or when the last update failed.
        """
        connected, self._members = self._members, frozenset()
        self._is_read = False
        if members != connected:
            await self._connect(members, staged.shared)
        sums = await self._trainer(self._on_sender("sum_weights"))
        update = WeightUpdate(staged.version, staged.buckets, sums, self.options.kv_cache, GROUP_TIMEOUT_SECONDS)
        if self.options.transport == "nccl":  # vLLM receives and loads in one call: the trainer sends meanwhile
            calls = self._calls(members, "receive_and_load", update)
            (sent, *stalls) = await self._settle(members, [self._send(), *calls], num_trainer_calls=1)
        else:
            places = {index: staged.shared if index in self._near else None for index in sorted(members)}
            receiving = [self._generator(i, "begin_receive", staged.buckets, place) for i, place in places.items()]
            await self._settle(members, receiving)
            sends = [self._send()] if members - self._near else []
            sent = sum(await self._settle(members, sends, num_trainer_calls=len(sends)))
            stalls = await self._settle(members, self._calls(members, "load_received", update))
        self._members, self._is_read = members, True
        return SyncReport(
            version=staged.version,
            num_bytes=staged.num_bytes,
            gather_seconds=staged.seconds,
            send_seconds=sent,
            stall_seconds=max(stalls),
        )

    def _on_sender(self, method: str, *arguments: object) -> Any:
        """A call on trainer rank 0 that runs beside its training."""
        return getattr(self._trainers[0], method).options(concurrency_group="send").remote(*arguments)

    async def _send(self) -> float:
        return float(await self._trainer(self._on_sender("send_weights")))

    async def _connect(self, members: frozenset[int], shared: SharedHandle | None) -> None:
        """Find the members that can read the trainer's copy, and open a transfer group of the others."""
        self._near = frozenset()
        if shared is not None:
            can_read = await self._settle(members, self._calls(members, "can_read", shared))
            self._near = frozenset(index for index, can in zip(sorted(members), can_read, strict=True) if can)
        far = sorted(members - self._near)
        if not far:
            return
        address, port = await self._trainer(self._trainers[0].address.remote())
        each = max(1, self.options.engine.tensor_parallel)
        world_size = 1 + each * len(far)
        opened = self._trainer(self._on_sender("join_weights", address, port, world_size, GROUP_TIMEOUT_SECONDS))
        joined = [
            self._generator(index, "join_weights", address, port, 1 + each * place, world_size, GROUP_TIMEOUT_SECONDS)
            for place, index in enumerate(far)
        ]
        await self._settle(frozenset(far), [opened, *joined], num_trainer_calls=1)

    def _calls(self, members: frozenset[int], method: str, *arguments: object) -> list[Awaitable[Any]]:
        return [self._generator(index, method, *arguments) for index in sorted(members)]

    async def _settle(
        self, members: frozenset[int], calls: Sequence[Awaitable[Any]], *, num_trainer_calls: int = 0
    ) -> list[Any]:
        """Await all calls, the first `num_trainer_calls` of them the trainer's, the others the members', if any.

        Raises InvalidRun, TrainerLost, or one SyncFailed with the members that failed; all of them if only the
        trainer failed.
        """
        results = await asyncio.gather(*calls, return_exceptions=True)
        for result in results:
            if isinstance(result, InvalidRun):
                raise result
        for result in results[:num_trainer_calls]:
            if isinstance(result, TrainerLost):
                raise result
        faults = {
            index: result
            for index, result in zip(sorted(members), results[num_trainer_calls:], strict=False)
            if isinstance(result, BaseException)
        }
        if faults:
            raise SyncFailed(frozenset(faults), next(iter(faults.values())))
        for result in results[:num_trainer_calls]:
            if isinstance(result, BaseException):
                raise SyncFailed(members, result)
        return results

    async def copy_state(self) -> float:
        """Copy every rank's share of a checkpoint to host memory; return the seconds of the slowest rank."""
        return float(max(await self._on_ranks("copy_state")))

    async def write_copy(self, folder: Path) -> list[RankPart]:
        """Every rank writes its copy under `folder`, beside training; return what was written."""
        calls = [trainer.write_copy.options(concurrency_group="save").remote(folder) for trainer in self._trainers]
        return await gather_ranks([self._trainer(call) for call in calls])

    async def find_damage(self, folder: Path) -> str | None:
        """Compare the checkpoint with its manifest, each rank a share of it; return what differs."""
        return next((each for each in await self._on_ranks("find_damage", folder) if each is not None), None)

    async def load(self, folder: Path, version: int) -> None:
        """Every rank loads its share of `version`; see `find_damage`. Raises CheckpointError, InvalidRun."""
        await self._on_ranks("load", folder, version)

    async def stop(self) -> None:
        """Stop every process. Harmless when nothing runs."""
        await self._session.stop()

    async def _per_rank(self, method: str, batches: Sequence[Sequence[MicroBatch]], **options: float) -> list[Any]:
        shared = self.options.trainer.sequence_parallel  # ranks that get the same rows and return the same result
        shares = [list(each) for each in batches for _ in range(shared)]
        calls = [
            getattr(trainer, method).options(concurrency_group="train").remote(share, **options)
            for trainer, share in zip(self._trainers, shares, strict=True)
        ]
        return (await gather_ranks([self._trainer(call) for call in calls]))[::shared]

    async def _on_ranks(self, method: str, *arguments: object, **options: object) -> list[Any]:
        calls = [
            getattr(trainer, method).options(concurrency_group="train").remote(*arguments, **options)
            for trainer in self._trainers
        ]
        return await gather_ranks([self._trainer(call) for call in calls])

    async def _trainer(self, reference: Awaitable[Any]) -> Any:
        from ray.exceptions import RayActorError, RayTaskError

        try:
            return await reference
        except RayActorError as error:
            raise TrainerLost(f"a trainer rank is lost: {first_line(error, MESSAGE_CHARACTERS)}") from error
        except RayTaskError as error:
            if isinstance(error.cause, InvalidRun | ModelUnavailable | PreflightFailed | CheckpointError | ShardsError):
                raise error.cause from error
            raise RuntimeError(f"a trainer rank failed: {error.cause!r}") from error

    async def _generator(self, index: int, method: str, *arguments: object) -> Any:
        from ray.exceptions import RayActorError, RayTaskError

        try:
            return await getattr(self._generators[index], method).remote(*arguments)
        except RayActorError as error:
            raise GeneratorLost(index, first_line(error, MESSAGE_CHARACTERS)) from error
        except RayTaskError as error:
            if isinstance(error.cause, PromptRefused | InvalidRun):
                raise error.cause from error
            # An engine whose core died fails every call: it is as lost as a dead process.
            raise GeneratorLost(index, first_line(error.cause, MESSAGE_CHARACTERS)) from error


async def gather_ranks(
    calls: Sequence[Awaitable[Any]], *, death_report_seconds: float = DEATH_REPORT_SECONDS
) -> list[Any]:
    """Await every rank's result. Raises TrainerLost if a rank is gone, else the first fault of a rank.

    Over gloo the peers of a dead rank fail in a collective before Ray reports the death. Their fault must not end the
    run, so the wait continues for `death_report_seconds`. Over NCCL the peers would hang: a lost rank ends the wait.
    """
    clock = asyncio.get_running_loop().time
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        faults, deadline = _faults(done), clock() + death_report_seconds
        while waiting and not _lost(faults) and clock() < deadline:
            left = deadline - clock()
            done, waiting = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_EXCEPTION)
            faults += _faults(done)
    finally:
        for task in tasks:
            task.cancel()
    if faults:
        raise (_lost(faults) or faults)[0]
    return [task.result() for task in tasks]


def _faults(done: set["asyncio.Task[Any]"]) -> list[BaseException]:
    return [fault for task in done if (fault := task.exception()) is not None]


def _lost(faults: Sequence[BaseException]) -> list[BaseException]:
    return [fault for fault in faults if isinstance(fault, TrainerLost)]
