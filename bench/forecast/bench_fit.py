"""Time of one forecast against the paper's grid of curve_fit calls, on the same points. I/O.

    OMP_NUM_THREADS=1 python bench/forecast/bench_fit.py [FILE.csv] [--x gpu_hours] [--y pass_rate] [--json OUT]

Without a file: 75 points of the curve that the paper reports for its 100,000 GPU-hour run. The reference is also what
the tests compare the forecast with.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeWarning, curve_fit

from scalerl_operator.cli.csv_curve import parse_curve
from scalerl_operator.cli.options import Columns
from scalerl_operator.forecast import Forecast, Points, fit_forecast, points

Array = NDArray[np.float64]

PAPER_A = np.linspace(0.450, 0.800, 71)  # A.5 of arXiv:2510.13786
PAPER_C_MID = np.linspace(100.0, 40_000.0, 100)
PAPER_POINTS = 75
PAPER_CURVE = {"a": 0.645, "b": 1.70, "c_mid": 10_909.0, "r0": 0.40}  # Table 1, bs2048; R0 read off figure 1
PAPER_NOISE = 0.004
REPEATS = 30


@dataclass(frozen=True)
class GridFit:
    """The fit of the paper's procedure."""

    a: float
    b: float
    c_mid: float
    rmse: float
    calls: int
    failed: int
    """Calls of curve_fit that did not converge; they are left out."""


@dataclass(frozen=True)
class Timing:
    """Times of one method on the same points."""

    name: str
    repeats: int
    milliseconds_p50: float
    milliseconds_min: float
    cpu_milliseconds_p50: float
    """CPU seconds of the thread; other processes on the same cores do not count."""
    a: float
    b: float
    c_mid: float


def sigmoid(compute: Array, a: float, b: float, c_mid: float, r0: float) -> Array:
    """Return Eq. 1 at compute > 0."""
    value: Array = r0 + (a - r0) / (1.0 + (c_mid / compute) ** b)
    return value


def paper_points(seed: int = 0) -> Points:
    """Return 75 noisy points of the paper's long run."""
    compute = np.linspace(100_000.0 / PAPER_POINTS, 100_000.0, PAPER_POINTS)
    noise = np.random.default_rng(seed).normal(0.0, PAPER_NOISE, PAPER_POINTS)
    return points(
        compute, np.clip(sigmoid(compute, **PAPER_CURVE) + noise, 0.0, 1.0), np.full(PAPER_POINTS, PAPER_NOISE)
    )


def paper_grid_fit(
    compute: Array, pass_rate: Array, r0: float, *, a_grid: Array = PAPER_A, c_mid_grid: Array = PAPER_C_MID
) -> GridFit:
    """Fit as A.5 of the paper says: for each (A, C_mid) of a grid curve_fit finds B; the least sum of squares wins.

    Args:
        compute: [n], > 0.
        pass_rate: [n].
        r0: the paper does not say how it is set; here it is given.
    """
    best, best_sse, calls, failed = (np.nan, np.nan, np.nan), np.inf, 0, 0
    with warnings.catch_warnings(), np.errstate(over="ignore"):
        warnings.simplefilter("ignore", OptimizeWarning)  # a flat direction has no covariance; only B is needed
        for a in a_grid:
            for c_mid in c_mid_grid:
                calls += 1
                try:
                    b = _fit_b(compute, pass_rate, float(a), float(c_mid), r0)
                except RuntimeError:  # curve_fit raises it without convergence
                    failed += 1
                    continue
                sse = float(((sigmoid(compute, float(a), b, float(c_mid), r0) - pass_rate) ** 2).sum())
                if sse < best_sse:
                    best, best_sse = (float(a), b, float(c_mid)), sse
    return GridFit(*best, rmse=float(np.sqrt(best_sse / len(compute))), calls=calls, failed=failed)


def _fit_b(compute: Array, pass_rate: Array, a: float, c_mid: float, r0: float) -> float:
    found, _ = curve_fit(lambda x, b: sigmoid(x, a, b, c_mid, r0), compute, pass_rate)
    return float(found[0])


def time_forecast(curve: Points, repeats: int = REPEATS) -> tuple[Timing, Forecast]:
    """Time `fit_forecast` with burn-in search, interval, rivals and verdict; a first call warms up."""
    forecast = fit_forecast(curve)
    seconds, cpu = [], []
    for _ in range(repeats):
        start, began = time.perf_counter(), time.thread_time()
        fit_forecast(curve)
        seconds.append(time.perf_counter() - start)
        cpu.append(time.thread_time() - began)
    numbers = (forecast.ceiling or np.nan, forecast.b or np.nan, forecast.c_mid or np.nan)
    times = (statistics.median(seconds) * 1e3, min(seconds) * 1e3, statistics.median(cpu) * 1e3)
    return Timing("scalerl", repeats, *times, *numbers), forecast


def time_grid(curve: Points, r0: float) -> tuple[Timing, GridFit]:
    """Time the paper's procedure once, on the points above compute 0, where Eq. 1 has no logarithm."""
    above = curve.compute > 0.0
    start, began = time.perf_counter(), time.thread_time()
    fit = paper_grid_fit(curve.compute[above], curve.pass_rate[above], r0)
    seconds, cpu = time.perf_counter() - start, time.thread_time() - began
    return Timing("paper's grid", 1, seconds * 1e3, seconds * 1e3, cpu * 1e3, fit.a, fit.b, fit.c_mid), fit


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; write JSON with --json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("csv", nargs="?", help="learning curve; default: synthetic, with the paper's parameters")
    parser.add_argument("--x", default="gpu_hours", help="column of compute")
    parser.add_argument("--y", default="pass_rate", help="column of the pass rate")
    parser.add_argument("--json", help="file for the numbers")
    args = parser.parse_args(argv)
    curve = parse_curve(Path(args.csv).read_text(), Columns(args.x, args.y), args.csv) if args.csv else paper_points()
    ours, forecast = time_forecast(curve)
    used = curve.starting_at(forecast.burn_in)
    theirs, grid = time_grid(used, forecast.r0 or 0.0)
    print(f"{len(used)} of {len(curve)} points, R0 {forecast.r0 or 0.0:.4f}")
    print(f"{grid.calls} calls of curve_fit, {grid.failed} of them without convergence")
    print(f"{'method':14s} {'ms p50':>10s} {'ms min':>10s} {'A':>8s} {'B':>8s} {'C_mid':>10s}")
    for row in (ours, theirs):
        print(
            f"{row.name:14s} {row.milliseconds_p50:10.1f} {row.milliseconds_min:10.1f} "
            f"{row.a:8.4f} {row.b:8.3f} {row.c_mid:10.0f}"
        )
    ratio = theirs.milliseconds_p50 / ours.milliseconds_p50
    low, high = forecast.ceiling_low or np.nan, forecast.ceiling_high or np.nan
    print(f"{ratio:,.0f} times faster, with the 90 % interval [{low:.4f}, {high:.4f}], 4 rivals and a verdict")
    if args.json:
        machine = {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
        body = {"points": len(curve), "machine": machine, "methods": [asdict(ours), asdict(theirs)], "ratio": ratio}
        Path(args.json).write_text(json.dumps(body, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
