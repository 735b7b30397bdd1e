"""The slots of generators: their state, what they work on, which of them to start or give up. PURE."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from scalerl_api.recipe import Recipe
from scalerl_runtime.algorithm.staleness import StalenessBound
from scalerl_runtime.loop.device_time import RoleClock
from scalerl_runtime.types import Prompt

SlotState = Literal["starting", "stale", "ready", "lost", "vacant"]


@dataclass
class Slot:
    """One generator's place; changes as it lives."""

    index: int
    clock: RoleClock
    state: SlotState = "starting"
    version: int = -1
    load: int = 0  # completions in flight
    num_rollouts: int = 0  # those of them that will be trained on
    leased: bool = False
    restarts: int = 0


@dataclass(frozen=True)
class InFlightGroup:
    """A prompt that a generator works on."""

    prompt: Prompt
    epoch: int
    version: int  # of the generator when it was handed over
    slot: int
    budgets: tuple[int | None, ...]  # thinking budget of each completion


@dataclass(frozen=True)
class ThinkTags:
    """Token ids that mark thinking, and the phrase that ends it by force."""

    start: tuple[int, ...]
    end: tuple[int, ...]
    phrase: tuple[int, ...]


@dataclass(frozen=True)
class PoolOptions:
    """What does not change during an attempt."""

    recipe: Recipe
    staleness: StalenessBound
    tags: ThinkTags
    seed: int
    generate_seconds: float
    start_seconds: float
    max_sequences: int  # completions that an engine runs at once
    devices: int = 1  # of one generator


@dataclass
class PoolCounters:
    """What went wrong, since the start of the attempt."""

    restarts: int = 0
    forced_mismatches: int = 0
    graded: int = 0
    excluded: int = 0
    tokens: int = 0


def plan_slots(states: Mapping[int, SlotState], capacity: int) -> tuple[list[int], list[int]]:
    """Return the indices of slots to start and of slots to give up, for `capacity` places.

    A slot whose actor lives has a place, whatever the count says, which may be older. So only slots that still wait
    for theirs are given up, the highest first; if too many seem to live, one of them is dead, and its next call says
    which. Free places go to vacant slots, the lowest first, then to new ones.
    """
    taken = {index: state for index, state in states.items() if state != "vacant"}
    waiting = sorted(index for index, state in taken.items() if state in ("starting", "lost"))
    excess = min(max(0, len(taken) - capacity), len(waiting))
    give_up = waiting[len(waiting) - excess :]
    unused = (index for index in range(len(states) + max(0, capacity)) if index not in taken)
    return [index for index, _ in zip(unused, range(capacity - len(taken)), strict=False)], give_up
