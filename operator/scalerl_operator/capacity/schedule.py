"""The schedule of trainer and generators as a fluid: seconds of a step, idle shares, and what limits it. PURE.

Three limits of a step in `pipeline`, and the largest is the step:

- the trainer's own time;
- the engines: the tokens of a batch over what they sample with the groups that the pace keeps outstanding (note 082);
- the lag: a group that starts at version a must be complete when the step from version a + maxLag begins, so the
  longest completion, the update before it and the step after it fit into maxLag + 1 steps.

The formulas are compared with the simulation of the real pool: `bench/runtime/fluid_schedule.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from scalerl_api.recipe import Asynchrony
from scalerl_operator.capacity.lengths import Lengths

Limit = Literal["trainer", "generators", "lag", "turns"]
BISECTIONS = 60
PRECISION = 1e-7  # relative, of the fixed points
DRAIN_STEPS = 200  # of the integral over the end of a batch


@dataclass(frozen=True)
class Demand:
    """The needs of a step, from the recipe."""

    prompts: int
    """Groups of a step."""
    completions: int
    """Of a group."""
    asynchrony: Asynchrony
    lengths: Lengths

    @property
    def sequences(self) -> int:
        """Completions of a step."""
        return self.prompts * self.completions

    @property
    def tokens(self) -> float:
        """Tokens that the engines sample for a step."""
        return self.sequences * self.lengths.mean

    @cached_property
    def longest_of_group(self) -> float:
        """Expected tokens of a group's longest completion."""
        return self.lengths.longest_of(self.completions)

    @cached_property
    def longest_of_step(self) -> float:
        """Expected tokens of a step's longest completion."""
        return self.lengths.longest_of(self.sequences)


@dataclass(frozen=True)
class Supply:
    """The abilities of trainer and engines."""

    engines: int
    max_sequences: float
    """Completions that one engine runs at once, > 0."""
    token_seconds: Callable[[float], float]
    """Seconds of one decoding step of an engine that runs so many completions; not decreasing."""
    train_seconds: float
    """Of one optimizer step, with all that the trainer does between two steps. > 0."""
    sync_seconds: float = 0.0
    """From a step's end until the engines have its weights."""
    stall_seconds: float = 0.0
    """Of them, those in which an engine makes no token."""

    def rate(self, running: float) -> float:
        """Tokens a second of all engines, each with so many running completions."""
        return self.engines * running / self.token_seconds(running)


@dataclass(frozen=True)
class StepTime:
    """A step of the schedule."""

    seconds: float
    limit: Limit
    trainer_seconds: float
    """If the engines were never waited for."""
    generator_seconds: float
    """If the trainer were never waited for, with every engine full."""
    running: float
    """Mean completions that an engine runs."""

    @property
    def trainer_idle(self) -> float:
        """Share of the time in which the trainer waits, in [0, 1)."""
        return max(0.0, 1 - self.trainer_seconds / self.seconds)

    @property
    def generator_idle(self) -> float:
        """Share of what full engines could sample that is not used, in [0, 1)."""
        return max(0.0, 1 - self.generator_seconds / self.seconds)


def time_step(demand: Demand, supply: Supply) -> StepTime:
    """Return the step of a run in its steady state."""
    if demand.asynchrony.mode == "pipeline":
        return _pipeline(demand, supply)
    steps = 1 if demand.asynchrony.mode == "synchronous" else demand.asynchrony.off_policy_steps
    batch = drain_seconds(demand.lengths, steps * demand.sequences, supply)
    seconds = supply.train_seconds + (batch + supply.sync_seconds) / steps
    return StepTime(
        seconds, "turns", supply.train_seconds, _full_seconds(demand, supply), _running(demand, supply, seconds)
    )


def drain_seconds(lengths: Lengths, sequences: float, supply: Supply) -> float:
    """Return the seconds in which engines that start empty make so many completions, and end empty.

    While more wait than fit, an engine is full. After that it drains: at length x those remain that are longer. The
    last ends with the longest of all that drain.
    """
    each = sequences / supply.engines
    fits = min(each, supply.max_sequences)
    full = (each - fits) * lengths.mean / fits * supply.token_seconds(fits)
    grid, count, place, seconds = lengths.grid, len(lengths.grid), 0, 0.0
    longest = lengths.longest_of(max(1.0, fits * supply.engines))
    width = longest / DRAIN_STEPS
    for i in range(DRAIN_STEPS):
        while place < count and grid[place] < (i + 0.5) * width:
            place += 1
        seconds += width * supply.token_seconds(max(1.0, fits * (1 - place / count)))
    return full + seconds


def _pipeline(demand: Demand, supply: Supply) -> StepTime:
    train = supply.train_seconds
    engines = _fixed_point(lambda seconds: _engine_seconds(demand, supply, seconds), train)
    lag = _fixed_point(lambda seconds: _lag_seconds(demand, supply, seconds), train)
    seconds = max(train, engines, lag)
    limit: Limit = "trainer" if seconds == train else "generators" if seconds == engines else "lag"
    return StepTime(seconds, limit, train, _full_seconds(demand, supply), _running(demand, supply, seconds))


def _fixed_point(needed: Callable[[float], float], low: float) -> float:
    """Return the least step, >= `low`, that is no shorter than what a step of its length needs."""
    if needed(low) <= low:
        return low
    high = 2 * low
    while needed(high) > high:
        high *= 2
    while high - low > PRECISION * high:
        middle = (low + high) / 2
        low, high = (middle, high) if needed(middle) > middle else (low, middle)
    return high


def _full_seconds(demand: Demand, supply: Supply) -> float:
    """Seconds in which full engines sample the tokens of a step."""
    return demand.tokens / supply.rate(supply.max_sequences) + supply.stall_seconds


def _engine_seconds(demand: Demand, supply: Supply, seconds: float) -> float:
    """Seconds in which the engines sample a step's tokens, where steps take `seconds`.

    The pace keeps 3/8 of maxLag less outstanding than the bound allows; the bound counts the P groups that the trainer
    has, too. Of the outstanding groups some are ready and wait for the rest of their batch: half a step, or until the
    longest of the batch is complete if that is sooner. A group in flight runs its mean over its longest completion.
    """
    lag = demand.asynchrony.max_lag
    outstanding = min(lag + 1 - 3 * lag // 8, lag + 1 - supply.train_seconds / seconds)
    token = supply.token_seconds(max(1.0, _running(demand, supply, seconds)))
    ready = min(0.5, (demand.longest_of_step - demand.longest_of_group) * token / seconds)
    flight = max(1 / demand.prompts, outstanding - ready) * demand.prompts
    share = demand.lengths.mean / demand.longest_of_group
    running = min(supply.max_sequences, flight * demand.completions * share / supply.engines)
    return demand.tokens / supply.rate(max(1.0, running)) + supply.stall_seconds


def _lag_seconds(demand: Demand, supply: Supply, seconds: float) -> float:
    """Seconds of a step with which the longest completion of a batch meets its deadline, where steps take `seconds`."""
    running = _running(demand, supply, seconds)
    longest = demand.longest_of_step * supply.token_seconds(max(1.0, running))
    longest *= 1 + supply.stall_seconds / seconds
    return (longest + supply.sync_seconds + supply.train_seconds) / (demand.asynchrony.max_lag + 1)


def _running(demand: Demand, supply: Supply, seconds: float) -> float:
    """Completions that an engine runs on average where steps take `seconds`: the rate times their time (Little)."""
    tokens = demand.tokens / supply.engines / seconds  # a second, of one engine
    running, before = 0.0, -1.0
    for _ in range(BISECTIONS):
        if running - before <= PRECISION * running:
            break
        before, running = running, min(supply.max_sequences, tokens * supply.token_seconds(running))
    return running
