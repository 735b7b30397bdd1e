"""Which generators' slots have a place in Ray's cluster, whose pods come and go. PURE."""

from collections.abc import Mapping
from typing import Literal

State = Literal["starting", "stale", "ready", "lost", "vacant"]


def plan_places(states: Mapping[int, State], places: int) -> tuple[list[int], list[int]]:
    """Return the indices of slots to start and of slots to give up, for `places` places.

    A slot whose actor lives has a place, whatever the count says, which may be older. So only slots that still wait
    for theirs are given up, the highest first; if too many seem to live, one of them is dead, and its next call says
    which. Free places go to vacant slots, the lowest first, then to new ones.
    """
    taken = {index: state for index, state in states.items() if state != "vacant"}
    waiting = sorted(index for index, state in taken.items() if state in ("starting", "lost"))
    excess = min(max(0, len(taken) - places), len(waiting))
    give_up = waiting[len(waiting) - excess :]
    unused = (index for index in range(len(states) + max(0, places)) if index not in taken)
    return [index for index, _ in zip(unused, range(places - len(taken)), strict=False)], give_up
