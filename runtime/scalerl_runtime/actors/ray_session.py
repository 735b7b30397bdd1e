"""This process's connection to Ray: it joins a cluster or starts one, beside other work. I/O."""

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scalerl_api import RLRun
from scalerl_api.recipe import Recipe
from scalerl_runtime.algorithm.microbatch import PACKED_TOKEN_BYTES
from scalerl_runtime.hub import first_line
from scalerl_runtime.types import ClusterUnavailable

MESSAGE_CHARACTERS = 1000  # of an error's first line
BASE_BYTES = 512 * 2**20  # completions on their way to the coordinator, headers of weights, log-probabilities of a step
EXPERT_BYTES = 2048  # of a token with `routerReplay`: 128 layers of 8 experts, two bytes each; few models have more
STOP_SECONDS = 60.0  # for a start in progress, which has to end before Ray can be stopped


def object_store_bytes(recipe: Recipe) -> int:
    """Return the bytes of Ray's object store, which lies in each pod's /dev/shm.

    It holds the largest batch on its way to the ranks, in which every completion is at the recipe's limit, beside all
    else. The memory is taken only when objects fill it.
    """
    sequences = recipe.prompts_per_step * recipe.completions_per_prompt
    token_bytes = PACKED_TOKEN_BYTES + (EXPERT_BYTES if recipe.router_replay else 0)
    return BASE_BYTES + sequences * recipe.length.sequence_tokens * token_bytes


@dataclass(frozen=True)
class OwnCluster:
    """Size of a cluster that this process starts."""

    actors: int
    object_store_bytes: int

    @classmethod
    def of(cls, run: RLRun) -> "OwnCluster":
        """Return the size for the trainer's ranks and the fewest generators of `run`."""
        actors = run.spec.trainer.ranks + run.spec.generator.min_replicas
        return cls(actors, object_store_bytes(run.spec.resolved_recipe()))


class RaySession:
    """Ray starts at `begin`, in a thread: its processes take seconds, in which the run's model and data are checked."""

    def __init__(self, cluster: str | None, own: OwnCluster):
        """Join `cluster`, whose nodes offer their role as a resource; None: start `own`."""
        self.cluster = cluster
        self._own = own
        self._folder: str | None = None
        self._starting: asyncio.Task[None] | None = None

    def begin(self, then: Callable[[], None] | None = None) -> None:
        """Start, unless that was done already; call `then` when Ray has started or failed to."""
        if self._starting is None:
            self._starting = asyncio.create_task(asyncio.to_thread(self._start))
        if then is not None:
            self._starting.add_done_callback(lambda _: then())

    async def ready(self) -> None:
        """Return when Ray runs; start it if need be. Raises ClusterUnavailable."""
        self.begin()
        assert self._starting is not None
        try:
            await asyncio.shield(self._starting)
        except Exception as error:  # Ray raises nothing narrower
            raise ClusterUnavailable(f"Ray did not start: {first_line(error, MESSAGE_CHARACTERS)}") from error

    async def stop(self) -> None:
        """Stop every process that was started. Harmless when nothing runs."""
        import ray

        if self._starting is not None:
            done, _ = await asyncio.wait([self._starting], timeout=STOP_SECONDS)
            for task in done:
                task.exception()  # its error is told by `ready`, or does not matter any more
        await asyncio.to_thread(ray.shutdown)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> None:
        import ray

        options: dict[str, Any] = {"address": self.cluster}
        if self.cluster is None:
            self._folder = tempfile.mkdtemp(prefix="scalerl-ray-")  # short: Ray puts unix sockets below it
            options = {
                "address": "local",
                "num_cpus": self._own.actors,
                "include_dashboard": False,
                "object_store_memory": self._own.object_store_bytes,
                "_temp_dir": self._folder,
                # Ray's default is 15: on a machine that is shared, trainer and engines would get what others leave.
                "_system_config": {"worker_niceness": 0},
            }
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
