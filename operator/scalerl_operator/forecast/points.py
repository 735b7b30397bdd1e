"""The measured points of one run, checked once. PURE.

Letters of this package: n points, m grid nodes, k columns of weights (noise levels, prefixes or suffixes of the run).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Numbers = Sequence[float] | Array


class FitError(ValueError):
    """The points are not a learning curve; the message names the index, the value and what is allowed."""


@dataclass(frozen=True, eq=False)
class Points:
    """A learning curve; made by `points`, which checks it."""

    compute: Array
    """[n], >= 0, strictly increasing, in `unit`. A point at 0 is the evaluation before the first step."""
    pass_rate: Array
    """[n], in [0, 1]."""
    standard_error: Array | None = None
    """[n], >= 0: spread of `pass_rate` over repeats on the same prompts. None: estimated from the curve."""
    unit: str = "GPU-h"
    """Unit of `compute`, for sentences."""

    def __len__(self) -> int:
        """Return n."""
        return len(self.compute)

    def where(self, keep: NDArray[np.bool_]) -> "Points":
        """Return the points that `keep` [n] marks."""
        error = None if self.standard_error is None else self.standard_error[keep]
        return Points(self.compute[keep], self.pass_rate[keep], error, self.unit)

    def starting_at(self, compute: float) -> "Points":
        """Return the points at `compute` or later."""
        return self.where(self.compute >= compute)

    def until(self, compute: float) -> "Points":
        """Return the points at `compute` or earlier."""
        return self.where(self.compute <= compute)


def points(
    compute: Numbers, pass_rate: Numbers, standard_error: Numbers | None = None, *, unit: str = "GPU-h"
) -> Points:
    """Check the columns of a learning curve and return them as Points.

    Args:
        compute: [n], >= 0, strictly increasing.
        pass_rate: [n], in [0, 1] (not in percent).
        standard_error: [n], >= 0; see `binomial_standard_error`.
        unit: of compute; only used in sentences.

    Raises FitError. Few points, or none, are not an error here: the verdict of the forecast reports them.
    """
    x = parse_column("compute", compute)
    y = parse_column("pass_rate", pass_rate, size=len(x))
    reject("compute", x, x < 0.0, "a number of at least 0")
    after = np.diff(x, prepend=-np.inf) <= 0.0
    reject("compute", x, after, "more than the one before it: sort the points and drop repeats")
    reject("pass_rate", y, (y < 0.0) | (y > 1.0), "a share in [0, 1]; divide percentages by 100")
    if standard_error is None:
        return Points(x, y, None, unit)
    error = parse_column("standard_error", standard_error, size=len(x))
    reject("standard_error", error, error < 0.0, "a number of at least 0")
    return Points(x, y, error, unit)


def binomial_standard_error(pass_rate: float, completions: int) -> float:
    """Return the standard error of a pass rate over independent completions.

    Args:
        pass_rate: in [0, 1].
        completions: prompts times samples per prompt, >= 1.

    One success and one failure are added first: a pass rate of exactly 0 or 1 still has an error. This, not the error
    clustered by prompt, is what `points` wants: every evaluation uses the same prompts, so which prompts were drawn
    moves the whole curve and does not scatter its points.
    """
    if completions < 1:
        raise FitError(f"completions is {completions}; need at least 1")
    p = (pass_rate * completions + 1.0) / (completions + 2.0)
    return math.sqrt(p * (1.0 - p) / completions)


def parse_column(name: str, values: Numbers, *, size: int | None = None) -> Array:
    """Return one column as an array [n] of finite numbers; `size`: the n of compute. Raises FitError."""
    column = np.array(values, dtype=np.float64)
    if column.ndim != 1:
        raise FitError(f"{name} has {column.ndim} dimensions; need 1")
    if size is not None and len(column) != size:
        raise FitError(f"{name} has {len(column)} values and compute has {size}; need as many")
    reject(name, column, ~np.isfinite(column), "a finite number")
    return column


def reject(name: str, column: Array, bad: NDArray[np.bool_], allowed: str) -> None:
    """Raise FitError about the first value that `bad` [n] marks, if it marks one."""
    if bad.any():
        index = int(np.argmax(bad))
        raise FitError(f"{name}[{index}] is {column[index]:g}; need {allowed}")
