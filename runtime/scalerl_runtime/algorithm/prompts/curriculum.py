"""The order of prompts: each epoch's permutation, and the position in it. PURE."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Curriculum = Literal["uniform", "linear", "exponential", "staged"]

# The easy-to-hard pacing functions start with the easiest quarter and have every prompt in play by the middle of the
# epoch, so that the second half is not simply sorted. Ours; the paper compares only uniform sampling with its own
# curriculum.
_START_SHARE = 0.25
_FULL_AT = 0.5
_STAGES = 3


class AllPromptsExcludedError(RuntimeError):
    """Every prompt is excluded; none is left to train on."""


def epoch_order(kind: Curriculum, difficulty: NDArray[np.float64], *, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return a permutation of the N prompts' positions: the order of one epoch, the same for the same arguments.

    Args:
        kind: `uniform`: shuffled. `staged`: the easiest third shuffled, then the middle, then the hardest. `linear`,
            `exponential`: each prompt is drawn from the easiest share of all, which grows from 1/4 to all by the
            middle of the epoch, in even steps or by even factors.
        difficulty: [N] finite, larger is harder; equal ones are shuffled among themselves.
    """
    if not np.isfinite(difficulty).all():
        raise ValueError("difficulty has a value that is not finite; need a number for every prompt")
    rng = np.random.default_rng([seed, epoch])
    shuffled = rng.permutation(len(difficulty))
    if kind == "uniform":
        return shuffled
    easy_first = shuffled[np.argsort(difficulty[shuffled], kind="stable")]
    if kind == "staged":
        return np.concatenate([rng.permutation(stage) for stage in np.array_split(easy_first, _STAGES)])
    return _draw_from_growing_pool(easy_first, _PACING[kind], rng)


def _linear(progress: float) -> float:
    return _START_SHARE + (1.0 - _START_SHARE) * progress


def _exponential(progress: float) -> float:
    return math.pow(_START_SHARE, 1.0 - progress)


# Share of the prompts in play after a share of the pacing's time, both 0..1.
_PACING: Mapping[str, Callable[[float], float]] = {"linear": _linear, "exponential": _exponential}


def _draw_from_growing_pool(
    easy_first: NDArray[np.int64], pacing: Callable[[float], float], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw without repetition, the i-th from the easiest pacing(...) share of the prompts that remain."""
    size = len(easy_first)
    picks = rng.random(size)
    pool: list[int] = []
    order = np.empty(size, dtype=np.int64)
    for i in range(size):
        # Both pacing functions stay above i / size, so at least one prompt is always left in the pool.
        opened = math.ceil(pacing(min(1.0, i / size / _FULL_AT)) * size)
        pool.extend(easy_first[i + len(pool) : opened].tolist())
        pick = int(picks[i] * len(pool))
        order[i] = pool[pick]
        pool[pick] = pool[-1]
        pool.pop()
    return order


@dataclass(frozen=True)
class DrawnPrompt:
    """One draw from the stream."""

    prompt: int  # position in the data set
    epoch: int


@dataclass(frozen=True)
class StreamPosition:
    """Position of a stream: epoch, and place in the epoch's order."""

    epoch: int = 0
    place: int = 0  # next place in the epoch's order

    def to_dict(self) -> dict[str, object]:
        """Return a JSON-able value for `from_dict`."""
        return {"epoch": self.epoch, "place": self.place}

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> "StreamPosition":
        """Return the position that `to_dict` described. Raises ValueError on anything else."""
        match data:
            case {"epoch": int(epoch), "place": int(place)}:
                return cls(epoch, place)
        raise ValueError(f"stream position has keys {sorted(data)}; need epoch, place")


class PromptStream:
    """The endless sequence of prompts: epoch after epoch, no prompt twice in an epoch.

    The stream itself never changes; the position is a value. So a checkpoint that stores the position, and the prompts
    that were drawn but not trained, neither loses nor repeats one. The last epoch's order is cached.
    """

    def __init__(self, kind: Curriculum, difficulty: NDArray[np.float64], *, seed: int):
        if len(difficulty) == 0:
            raise ValueError("the stream has 0 prompts; need at least 1")
        self._kind: Curriculum = kind
        self._difficulty = np.asarray(difficulty, dtype=np.float64)
        self._seed = seed
        self._last: tuple[int, NDArray[np.int64]] | None = None

    @property
    def num_prompts(self) -> int:
        """Number of prompts of an epoch."""
        return len(self._difficulty)

    def draw(
        self, position: StreamPosition, excluded: Collection[int] = frozenset()
    ) -> tuple[DrawnPrompt, StreamPosition]:
        """Return the next prompt and the position after it.

        Args:
            position: position of the stream.
            excluded: prompts that are excluded; skipped. Pass a set: it is searched for every prompt.

        Raises AllPromptsExcludedError if no prompt is left.
        """
        epoch, place = position.epoch, position.place
        for _ in range(2 * len(self._difficulty)):  # the rest of this epoch and one whole epoch show every prompt
            order = self._order(epoch)
            if place >= len(order):  # a position beyond it is of a larger data set
                epoch, place = epoch + 1, 0
                continue
            prompt = int(order[place])
            place += 1
            if prompt not in excluded:
                return DrawnPrompt(prompt, epoch), StreamPosition(epoch, place)
        raise AllPromptsExcludedError(
            f"all {len(self._difficulty)} prompts have left the run at epoch {epoch}; need at least one that is not "
            "yet solved: more data, or a higher noPositiveThreshold"
        )

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if self._last is None or self._last[0] != epoch:
            self._last = epoch, epoch_order(self._kind, self._difficulty, seed=self._seed, epoch=epoch)
        return self._last[1]
