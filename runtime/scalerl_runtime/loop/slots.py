"""The generators' slots: states, groups in flight, and which to start, to give up, to lease, to update. PURE."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from scalerl_api.evaluations import count_leases
from scalerl_api.recipe import Recipe
from scalerl_runtime.algorithm.interruption import Interruption
from scalerl_runtime.algorithm.staleness import StalenessBound
from scalerl_runtime.loop.device_time import RoleClock
from scalerl_runtime.types import EngineOutput, GeneratorRestarted, Ints, Prompt, SamplingRequest

SlotState = Literal["starting", "stale", "ready", "lost", "vacant"]


@dataclass
class Slot:
    """One generator's slot in the pool. Mutable; only the pool writes it."""

    index: int
    clock: RoleClock
    state: SlotState = "starting"
    version: int = -1
    load: int = 0  # completions in flight
    num_rollouts: int = 0  # those that belong to rollouts; the others are an evaluation's
    leased: bool = False
    restarts: int = 0
    num_checks: int = 0  # self-checks that this engine has passed

    def check_engine(self, restarts: int) -> None:
        """Raise GeneratorRestarted if the engine is another one than after `restarts` restarts."""
        if self.restarts != restarts:
            raise GeneratorRestarted(self.index, "restarted between two requests")


@dataclass(frozen=True)
class InFlightGroup:
    """A group that a generator is sampling."""

    prompt: Prompt
    epoch: int
    version: int  # of the generator's weights when the prompt was submitted
    slot: int
    budgets: tuple[int | None, ...]  # thinking budget of each completion


@dataclass(frozen=True)
class Draw:
    """How the completions of a prompt are drawn."""

    temperature: float | None = None  # None: the recipe's; 0: the likeliest token
    seeds: tuple[int, ...] = ()  # one for each completion; none: the engine's own


TRAINING_DRAW = Draw()


@dataclass(frozen=True)
class PoolOptions:
    """The pool's settings, constant during an attempt."""

    recipe: Recipe
    staleness: StalenessBound
    interruption: Interruption | None  # None: no completion is interrupted
    seed: int
    generate_seconds: float
    start_seconds: float
    max_sequences: int  # completions that an engine runs concurrently
    devices: int = 1  # of one generator
    max_bad_share: float = 0.0  # of an evaluation's prompts, for those that the engine refuses
    eval_share: float = 0.5  # of the engines, for an evaluation beside training

    @property
    def held_steps(self) -> int:
        """Steps by which a leased engine may stay behind the trainer where no other engine samples for training.

        Half of the lag that the bound allows: enough groups can still start, so that the trainer need not wait.
        """
        return 0 if self.staleness.cycle else self.staleness.max_lag // 2


@dataclass
class PoolCounters:
    """Counts since the start of the attempt."""

    restarts: int = 0
    forced_mismatches: int = 0
    graded: int = 0
    excluded: int = 0
    timed_out: int = 0  # completions that are wrong because their comparison took too long
    tokens: int = 0
    refused: int = 0  # prompts that an engine refused, each once


def plan_slots(states: Mapping[int, SlotState], capacity: int) -> tuple[list[int], list[int]]:
    """Return the indices of slots to start and of slots to give up, so that `capacity` are in use.

    A slot whose actor runs keeps its place: the capacity may be an older reading. So only slots that still wait to
    start are given up, the highest index first. If more slots than the capacity seem to run, one of their actors is
    dead, and its next call fails. Free capacity goes to vacant slots, the lowest first, then to new slots.
    """
    taken = {index: state for index, state in states.items() if state != "vacant"}
    waiting = sorted(index for index, state in taken.items() if state in ("starting", "lost"))
    excess = min(max(0, len(taken) - capacity), len(waiting))
    give_up = waiting[len(waiting) - excess :]
    unused = (index for index in range(len(states) + max(0, capacity)) if index not in taken)
    return [index for index, _ in zip(unused, range(capacity - len(taken)), strict=False)], give_up


def sort_ready(slots: Iterable[Slot]) -> list[Slot]:
    """Return the slots that may get prompts, the least loaded first."""
    # A submitted group counts at once; its requests only when its task has begun to run.
    ready = [slot for slot in slots if slot.state == "ready"]
    return sorted(ready, key=lambda slot: (max(slot.load, slot.num_rollouts), slot.index))


def choose_leases(ready: Sequence[Slot], version: int, share: float, *, whole: bool) -> list[Slot]:
    """Return the slots with `version` that an evaluation leases beside those that are leased; `whole`: all of them."""
    limit = len(ready) if whole else count_leases(len(ready), share)
    free = [slot for slot in ready if slot.version == version and not slot.leased]
    return free[: max(0, limit - sum(slot.leased for slot in ready))]


def is_shared_by_training(ready: Sequence[Slot]) -> bool:
    """Whether training has only leased slots: groups start on them, and they are updated."""
    return bool(ready) and all(slot.leased for slot in ready)


def find_outdated(slots: Collection[Slot], version: int, held_steps: int) -> frozenset[int]:
    """Return the slots whose generators run and should receive `version`.

    A leased one keeps its version, or is updated after `held_steps` steps if training has no other.
    """
    is_shared = is_shared_by_training(sort_ready(slots))
    running = [s for s in slots if s.state in ("stale", "ready") and s.version != version]
    return frozenset(s.index for s in running if not s.leased or (is_shared and version - s.version > held_steps))


def build_requests(recipe: Recipe, prompt: Prompt, budgets: Sequence[int | None], draw: Draw) -> list[SamplingRequest]:
    """Return the request of each completion of a prompt, one per thinking budget."""
    temperature = recipe.temperature if draw.temperature is None else draw.temperature
    seeds = draw.seeds or (None,) * len(budgets)
    return [
        SamplingRequest(
            recipe.length.completion_tokens,
            temperature,
            think_budget=budget,
            seed=seed,
            think_tokens=prompt.think_tokens,
        )
        for budget, seed in zip(budgets, seeds, strict=True)
    ]


class GeneratorFleet(Protocol):
    """The fleet's calls that the pool uses."""

    async def sample(self, index: int, prompt: Ints, requests: Sequence[SamplingRequest]) -> list[EngineOutput]:
        """Return one completion of `prompt` per request."""
        ...

    async def start_generator(self, index: int) -> float:
        """Start or restart a generator; return the seconds taken."""
        ...
