"""The groups between generators and trainer: in flight, completed, consumed, or to be generated again. PURE."""

from collections.abc import Callable, Sequence

from scalerl_runtime.algorithm.pace import groups_to_start
from scalerl_runtime.algorithm.staleness import Admission, StalenessBound, capacity, plan_resume, select_batch
from scalerl_runtime.loop.slots import InFlightGroup
from scalerl_runtime.types import Group


class GroupBuffer:
    """Holds the groups of an attempt and counts them against the staleness bound.

    Args:
        bound: the staleness bound.
        on_change: called after every change that may let a step or a generator proceed.
    """

    def __init__(self, bound: StalenessBound, on_change: Callable[[], None]):
        self._bound = bound
        self._on_change = on_change
        self._admission = Admission()
        self._completed: list[Group] = []
        self._in_flight: list[InFlightGroup] = []
        self._reissue: list[tuple[int, int]] = []  # prompts (epoch, id) that are submitted before any new one

    # -- state -----------------------------------------------------------------------------------------------------

    @property
    def completed(self) -> tuple[Group, ...]:
        """Groups that wait for a step, in the order in which they were completed."""
        return tuple(self._completed)

    @property
    def num_completed(self) -> int:
        """Groups that wait for a step."""
        return len(self._completed)

    @property
    def num_in_flight(self) -> int:
        """Groups that generators are sampling."""
        return len(self._in_flight)

    @property
    def num_outstanding(self) -> int:
        """Groups in flight or completed that no step has consumed."""
        return self._admission.outstanding

    @property
    def num_consumed(self) -> int:
        """Groups that steps have consumed, since the start of the run."""
        return self._admission.consumed

    def unfinished(self) -> tuple[tuple[int, int], ...]:
        """(epoch, prompt id) of every prompt that was drawn and has no completed group."""
        return (*self._reissue, *((work.epoch, work.prompt.id) for work in self._in_flight))

    def capacity(self, generator_version: int) -> int:
        """Groups that may be admitted now on a generator that runs `generator_version`."""
        return capacity(self._bound, self._admission, generator_version)

    def startable(self) -> int:
        """Groups that the pace lets start now."""
        return groups_to_start(self._bound, self.num_completed, self.num_in_flight)

    # -- generation ------------------------------------------------------------------------------------------------

    def restore(
        self, step: int, num_consumed: int, buffer: Sequence[Group], in_flight: Sequence[tuple[int, int]]
    ) -> None:
        """Take over the completed groups of a checkpoint of `step`.

        Prompts whose groups were `in_flight` (epoch, id), or can no longer be trained in time, are generated again,
        before any new one.
        """
        kept = set(plan_resume(self._bound, step, [group.admitted_version for group in buffer]))
        self._completed = [group for i, group in enumerate(buffer) if i in kept]
        late = [(group.epoch, group.prompt.id) for i, group in enumerate(buffer) if i not in kept]
        self._reissue = [*late, *in_flight]
        self._admission = Admission(step, num_consumed, num_consumed).resume(len(self._completed))

    def next_reissue(self) -> tuple[int, int] | None:
        """Remove and return the next prompt (epoch, id) whose group was lost; None if there is none."""
        return self._reissue.pop(0) if self._reissue else None

    def admit(self, work: InFlightGroup) -> None:
        """Count a group that a generator begins."""
        self._admission = self._admission.admit()
        self._in_flight.append(work)

    def complete(self, work: InFlightGroup, group: Group) -> None:
        """Keep a group that is generated and graded for a step."""
        self._in_flight.remove(work)
        self._completed.append(group)
        self._on_change()

    def withdraw(self, work: InFlightGroup) -> None:
        """Queue the prompt of a lost generator, before any new prompt."""
        self._in_flight.remove(work)
        self._admission = self._admission.withdraw()
        self._reissue.append((work.epoch, work.prompt.id))
        self._on_change()

    def discard(self, work: InFlightGroup) -> None:
        """Forget a group whose prompt cannot be generated for."""
        self._in_flight.remove(work)
        self._admission = self._admission.withdraw()
        self._on_change()

    # -- training --------------------------------------------------------------------------------------------------

    def select(self, version: int, num_groups: int | None = None) -> list[Group] | None:
        """Remove and return the groups of the next step; None while the step has to wait."""
        chosen = select_batch(
            self._bound,
            version,
            [g.admitted_version for g in self._completed],
            [t.version for t in self._in_flight],
            num_groups=num_groups,
        )
        if chosen is None:
            return None
        groups = [self._completed[i] for i in chosen]
        taken = set(chosen)
        self._completed = [g for i, g in enumerate(self._completed) if i not in taken]
        return groups

    def put_back(self, groups: Sequence[Group]) -> None:
        """Take back groups that `select` returned for a step that is not made."""
        self._completed = [*groups, *self._completed]

    def drop(self, num_groups: int) -> None:
        """Count selected groups that a refill replaces: others may be generated now. A negative count undoes it."""
        self._admission = self._admission.drop(num_groups)
        self._on_change()

    def consume(self, num_groups: int) -> None:
        """Count a step and the groups it consumed: the trainer's version increases by one."""
        self._admission = self._admission.step(num_groups)
        self._on_change()
