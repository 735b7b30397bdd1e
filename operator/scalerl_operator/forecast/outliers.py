"""Single evaluations that went wrong, found by their neighbours alone. PURE.

A curve that rises lies between its neighbours. An evaluation far above or below all four of them, two on either side,
is no property of any law here: it is set aside and said, never fitted and never dropped in silence. Two in a row are
neighbours of each other and stay: that may be the run and not the evaluation.
"""

import numpy as np
from numpy.typing import NDArray

from scalerl_operator.forecast.noise import scatter
from scalerl_operator.forecast.points import Points

MIN_POINTS = 8
SDS = 6.0  # beyond the neighbours' own range, in sd of the noise: one evaluation in many thousands
LEAST = 0.03  # pass rate: a smaller jump does no harm
MOST = 0.1  # of the points: where more jump, jumping is the noise


def find_outliers(points: Points) -> NDArray[np.bool_]:
    """Return which points are set aside, [n]. The first and the last two are never: they have no second side."""
    y, none = points.pass_rate, np.zeros(len(points), dtype=np.bool_)
    if len(y) < MIN_POINTS:
        return none
    around = np.stack([y[:-4], y[1:-3], y[3:-1], y[4:]])
    beyond = np.maximum(y[2:-2] - around.max(axis=0), around.min(axis=0) - y[2:-2])
    sd = scatter(y)
    if points.standard_error is not None:
        sd = max(sd, float(np.median(points.standard_error)))
    found = none.copy()
    found[2:-2] = beyond > max(SDS * sd, LEAST)
    return found if found.sum() <= max(1.0, MOST * len(y)) else none
