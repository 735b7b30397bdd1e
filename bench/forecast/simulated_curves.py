"""Curves to assess the forecaster on: public ones from files, simulated ones with their truth. I/O (reads files)."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scalerl_operator.forecast import Points, binomial_standard_error, points

Array = NDArray[np.float64]

SHIPPED = Path(__file__).parent / "curves"
PAPER_COMPLETIONS = 16_000  # 1,000 prompts of 16 samples
MATH_COMPLETIONS = 500
GARG_FILE = "garg_qwen25math1.5b_grpo_math_eval.csv"  # no licence: measured where it lies, not shipped
GARG_COMPLETIONS = 1024
DEMO_COMPLETIONS = 768  # 192 prompts of 4 samples
LAST = 1000.0  # compute of a simulated run's last point


@dataclass(frozen=True)
class RealCurve:
    """A public curve."""

    name: str
    points: Points


@dataclass(frozen=True)
class Truth:
    """A simulated run."""

    points: Points
    ceiling: float
    curve: Callable[[Array], Array]
    """Compute -> pass rate without noise."""
    reach: float
    """Last compute over the law's own scale: C_mid, tau or the middle; 1 for a power law, which has none."""


def load_paper(name: str) -> tuple[Points, Points]:
    """Return the points that the paper fitted and all of them; `name` is 8b_dense or scout."""
    with (SHIPPED / f"scalerl_{name}.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    table = [(float(row["gpu_hours"]), float(row["pass_rate_mean16"])) for row in rows]
    whole = _points(table, PAPER_COMPLETIONS, "GPU-h")
    return whole.where(np.array([row["split"] == "fit" for row in rows])), whole


def load_real(folder: Path | None) -> list[RealCurve]:
    """Return the shipped curves and those in `folder` that are not shipped."""
    found = [RealCurve(f"ScaleRL {name.replace('_', ' ')}", load_paper(name)[1]) for name in ("8b_dense", "scout")]
    for path in sorted(SHIPPED.glob("rasbt_*.csv")):
        with path.open(encoding="utf-8") as file:
            rows = [(float(row["step"]), float(row["accuracy"])) for row in csv.DictReader(file)]
        found.append(RealCurve(path.stem.replace("_", " ", 1), _points(rows, MATH_COMPLETIONS)))
    if folder is None or not (folder / GARG_FILE).exists():
        return found
    runs: dict[str, dict[float, float]] = {}
    with (folder / GARG_FILE).open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            runs.setdefault(row["run_name"], {})[float(row["step"])] = float(row["eval_reward_accuracy"])
    return found + [
        RealCurve(f"garg {name}", _points(sorted(run.items()), GARG_COMPLETIONS)) for name, run in runs.items()
    ]


def _points(rows: list[tuple[float, float]], completions: int, unit: str = "steps") -> Points:
    x, y = zip(*rows, strict=True)
    return points(x, y, [binomial_standard_error(each, completions) for each in y], unit=unit)


@dataclass(frozen=True)
class Scenario:
    """A kind of simulated run."""

    law: str
    """sigmoid, exponential, logistic or power law."""
    wandering: bool = False
    """Whether AR(1) errors of correlation .3 to .8 with the sampling's sd come on top."""
    stated: float | None = 1.0
    """Standard error that is stated over the sampling's sd; None: none is."""

    @property
    def name(self) -> str:
        """For a table."""
        stated = {1.0: "", None: ", no errors stated"}.get(self.stated, f", errors stated {self.stated} times as large")
        return f"{self.law}{', wandering errors' if self.wandering else ''}{stated}"


def simulate(kind: Scenario, rng: np.random.Generator, *, num_points: int | None = None) -> Truth:
    """Return a run of a law with random parameters.

    Gain .15 to .6, B .8 to 3 about C_mid at .1 to 2 of the last compute (log-uniform), 8 to 59 points, sd .004 to .03.
    Half of the runs have a point at 0.

    Args:
        kind: of run.
        rng: where the randomness is from.
        num_points: instead of a random number.
    """
    n = num_points or int(rng.integers(8, 60))
    x = np.linspace(0.0 if rng.random() < 0.5 else 1.0 / n, 1.0, n) * LAST
    gain = rng.uniform(0.15, 0.6)
    low = rng.uniform(0.05, 0.95 - gain)
    share, reach = _share(kind.law, rng)
    sd = _log_uniform(rng, 0.004, 0.03)
    error = rng.normal(0.0, sd, n)
    if kind.wandering:
        error = error + sd * _ar1(rng, n, rng.uniform(0.3, 0.8))

    def curve(compute: Array) -> Array:
        return low + gain * share(np.asarray(compute) / LAST)

    stated = None if kind.stated is None else np.full(n, kind.stated * sd)
    return Truth(points(x, np.clip(curve(x) + error, 0.0, 1.0), stated), low + gain, curve, reach)


def _share(law: str, rng: np.random.Generator) -> tuple[Callable[[Array], Array], float]:
    """Return the share of the gain over compute in units of the last, and the reach."""
    if law == "sigmoid":
        ratio, b = _log_uniform(rng, 0.5, 10.0), _log_uniform(rng, 0.8, 3.0)
        return lambda t: 1.0 / (1.0 + (1.0 / (ratio * np.maximum(t, 1e-12))) ** b), ratio
    if law == "exponential":
        ratio = _log_uniform(rng, 0.5, 8.0)
        return lambda t: 1.0 - np.exp(-t * ratio), ratio
    if law == "logistic":
        middle, width = rng.uniform(0.1, 0.8), rng.uniform(0.05, 0.25)
        return lambda t: 1.0 / (1.0 + np.exp(-(t - middle) / width)), 1.0 / middle
    exponent = _log_uniform(rng, 0.3, 1.5)
    return lambda t: 1.0 - (0.03 / np.maximum(t, 0.03)) ** exponent, 1.0


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _ar1(rng: np.random.Generator, n: int, correlation: float) -> Array:
    """Return n values of sd 1."""
    fresh = rng.normal(size=n)
    found = fresh.copy()
    for i in range(1, n):
        found[i] = correlation * found[i - 1] + np.sqrt(1.0 - correlation**2) * fresh[i]
    return found


def demo_run(rng: np.random.Generator) -> Points:
    """Return a run as `make demo` makes it: 30 points of 768 completions, from .1 to about .7, 3 to 6 times C_mid."""
    x, gain, b = np.linspace(0.0, rng.uniform(3.0, 6.0), 30), rng.uniform(0.57, 0.65), rng.uniform(1.2, 2.2)
    y = rng.binomial(DEMO_COMPLETIONS, 0.1 + gain / (1.0 + (1.0 / np.maximum(x, 1e-9)) ** b)) / DEMO_COMPLETIONS
    return points(x, y, [binomial_standard_error(each, DEMO_COMPLETIONS) for each in y])


def noisy_run(rng: np.random.Generator) -> Points:
    """Return a run with less signal: 30 points of sd .02, a rise of .35 to .6, five times past C_mid."""
    x = np.linspace(0.0, 5.0, 30)
    y = 0.2 + rng.uniform(0.35, 0.6) / (1.0 + (1.0 / np.maximum(x, 1e-9)) ** 1.7) + rng.normal(0.0, 0.02, 30)
    return points(x, np.clip(y, 0.0, 1.0), np.full(30, 0.02))
