"""A run of very many evaluations as a few hundred means. PURE.

Neighbours are averaged, in blocks that are equally long in the logarithm of compute at the start and in compute later:
the fit's work stays the same, and what a block loses of the curve is far below the noise of its mean.
"""

import numpy as np

from scalerl_operator.forecast.noise import scatter
from scalerl_operator.forecast.points import Points

MOST = 160  # points that are fitted as they are; the paper's longest run has 75


def condense(points: Points) -> Points:
    """Return at most about MOST points; a run that has no more is returned as it is."""
    n = len(points)
    if n <= MOST:
        return points
    edges = np.union1d(np.geomspace(1, n, MOST // 2), np.linspace(0, n, MOST // 2)).round().astype(int)
    starts = np.unique(np.append(0, edges[edges < n]))
    count = np.diff(np.append(starts, n))

    def mean(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, starts) / count

    # Without stated errors the points' own scatter is the error: only so do blocks of unlike size weigh as they should.
    error = points.standard_error if points.standard_error is not None else np.full(n, scatter(points.pass_rate))
    return Points(
        compute=mean(points.compute),
        pass_rate=mean(points.pass_rate),
        standard_error=np.sqrt(mean(error**2) / count),
        unit=points.unit,
    )
