"""Stop policies replayed on finished runs: compute saved, and runs stopped that should have gone on. PURE.

Runs come in groups that are compared with each other, as a sweep's trials are. Every policy sees each run's evaluations
up to a decision and nothing else; forecast policies decide through `decide_stop`, as the operator does.

Two questions, each with its own wrong stop:
- *selection* (hopeless, median, ASHA): end runs that will not be among the best. Wrong: a run that would have ended
  within MARGIN of its group's best.
- *saturation* (flat, patience): end runs that have nothing left to gain. Wrong: a run that would have gained more than
  MARGIN.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.special import betaincinv
from simulated_curves import Array

from scalerl_api.policies import Bound, StopCondition, StopPolicy
from scalerl_operator.decide.stop_policy import Observation, RunHistory, decide_stop
from scalerl_operator.forecast import Points, fit_forecast

MARGIN = 0.02  # the paper's, between equal runs
FIRST = 0.25  # of the budget: the first decision
DECISIONS = 9
SMOOTH = 3  # evaluations whose mean stands for a run's true pass rate where that is not known
REPEATS = 2  # decisions in a row that a forecast policy must hold
PATIENCE = 5  # evaluations without a new best by MIN_DELTA
MIN_DELTA = 0.005
ETA = 3  # ASHA keeps the best third at each rung
RUNGS = (1 / 9, 1 / 3)
WEAK = ", `Weak` too"  # what `minEvidence: {verdict: Weak}` adds to the default
SELECTION = ("forecast: ceilingUpper", f"forecast: ceilingUpper{WEAK}", "median rule", "ASHA")


@dataclass(frozen=True)
class Run:
    """A finished run; its last point is the budget's end."""

    points: Points
    truth: Array
    """[n]: its pass rate without noise where that is known, else a running mean."""


@dataclass(frozen=True)
class Outcome:
    """The effect of a policy on runs."""

    policy: str
    runs: int
    stopped: int
    wrong: int
    saved: float
    """Share of all runs' budgets."""

    @property
    def wrong_at_most(self) -> float:
        """Share of runs wrongly stopped that is not exceeded, with 95 % confidence (Clopper and Pearson)."""
        return float(betaincinv(self.wrong + 1, self.runs - self.wrong, 0.95)) if self.wrong < self.runs else 1.0


def from_curve(curve: Points) -> Run:
    """Return a real run, its truth a running mean."""
    y = np.convolve(np.pad(curve.pass_rate, SMOOTH // 2, mode="edge"), np.full(SMOOTH, 1 / SMOOTH), mode="valid")
    return Run(curve, y)


def replay(groups: Sequence[Sequence[Run]]) -> list[Outcome]:
    """Return the outcome of every policy over all groups."""
    policies: dict[str, Callable[[Sequence[Run], list[list[tuple[int, Observation]]]], Stops]] = {
        "forecast: ceilingUpper": _hopeless,
        f"forecast: ceilingUpper{WEAK}": partial(_hopeless, verdict="Weak"),
        "median rule": _median_rule,
        "ASHA": _asha,
        "forecast: remainingGain": _flat,
        f"forecast: remainingGain{WEAK}": partial(_flat, verdict="Weak"),
        "patience": _patience,
    }
    outcomes = []
    forecasts = [[_decisions(run) for run in group] for group in groups]
    for name, policy in policies.items():
        stops = [policy(group, made) for group, made in zip(groups, forecasts, strict=True)]
        outcomes.append(_outcome(name, groups, stops))
    return outcomes


Stops = list[int | None]
"""Index of the evaluation after which each run of a group was stopped."""


def _outcome(name: str, groups: Sequence[Sequence[Run]], stops: list[Stops]) -> Outcome:
    stopped = wrong = runs = 0
    saved = 0.0
    for group, found in zip(groups, stops, strict=True):
        best = max(float(run.truth[-1]) for run in group)
        for run, at in zip(group, found, strict=True):
            runs += 1
            if at is None:
                continue
            stopped += 1
            saved += 1.0 - float(run.points.compute[at] / run.points.compute[-1])
            missed = run.truth[-1] > best - MARGIN if name in SELECTION else run.truth[-1] - run.truth[at] > MARGIN
            wrong += bool(missed)
    return Outcome(name, runs, stopped, wrong, saved / runs)


def _decisions(run: Run) -> list[tuple[int, Observation]]:
    """Return (index, observation) at each decision."""
    n, budget = len(run.points), float(run.points.compute[-1])
    found = []
    for k in sorted({round(each) for each in np.linspace(max(FIRST * n, 4), n - 2, DECISIONS)}):
        known = run.points.until(float(run.points.compute[k]))
        forecast = fit_forecast(known, budget=budget)
        found.append((k, Observation(float(known.pass_rate[-1]), float(known.compute[-1]), forecast)))
    return found


def _first_hit(policy: StopPolicy, made: list[tuple[int, Observation]]) -> int | None:
    for i in range(len(made)):
        if decide_stop([policy], RunHistory([each for _, each in made[: i + 1]])) is not None:
            return made[i][0]
    return None


def _policy(name: str, when: StopCondition, verdict: str) -> StopPolicy:
    evidence = {"verdict": verdict}
    return StopPolicy.model_validate({"name": name, "when": when, "for": REPEATS, "minEvidence": evidence})


def _hopeless(group: Sequence[Run], made: list[list[tuple[int, Observation]]], *, verdict: str = "Identified") -> Stops:
    """The user's threshold is MARGIN below the best that the group will reach: the hardest that is still fair."""
    bound = Bound(below=max(float(run.truth[-1]) for run in group) - MARGIN)
    policy = _policy("hopeless", StopCondition(ceiling_upper=bound), verdict)
    return [_first_hit(policy, each) for each in made]


def _flat(group: Sequence[Run], made: list[list[tuple[int, Observation]]], *, verdict: str = "Identified") -> Stops:
    del group
    policy = _policy("flat", StopCondition(remaining_gain=Bound(below=0.01)), verdict)
    return [_first_hit(policy, each) for each in made]


def _patience(group: Sequence[Run], made: list[list[tuple[int, Observation]]]) -> Stops:
    """Last-value early stopping, from the first decision on."""
    stops: Stops = []
    for run, decisions in zip(group, made, strict=True):
        best, since, at = -np.inf, 0, None
        for k, value in enumerate(run.points.pass_rate):
            best, since = (float(value), 0) if value > best + MIN_DELTA else (best, since + 1)
            if since >= PATIENCE and k >= decisions[0][0] and k < len(run.points) - 1:
                at = k
                break
        stops.append(at)
    return stops


def _median_rule(group: Sequence[Run], made: list[list[tuple[int, Observation]]]) -> Stops:
    """Katib's median stopping: end a run whose best so far is below the median of the others' running means by then.

    Katib takes the median over trials that have ended; here all of the group have, as the runs are finished ones.
    """
    stops: Stops = []
    for i, run in enumerate(group):
        others, at = [other for j, other in enumerate(group) if j != i], None
        for k, _ in made[i]:
            share = float(run.points.compute[k] / run.points.compute[-1])
            averages = [float(o.points.until(share * float(o.points.compute[-1])).pass_rate.mean()) for o in others]
            if run.points.pass_rate[: k + 1].max() < np.median(averages):
                at = k
                break
        stops.append(at)
    return stops


def _asha(group: Sequence[Run], made: list[list[tuple[int, Observation]]]) -> Stops:
    """Successive halving, ASHA's rule with all runs abreast: at each rung the best 1/ETA of those still there go on."""
    del made
    stops: Stops = [None] * len(group)
    for rung in RUNGS:
        alive = [i for i, at in enumerate(stops) if at is None]
        at = {i: int(np.argmin(np.abs(group[i].points.compute - rung * group[i].points.compute[-1]))) for i in alive}
        ranked = sorted(alive, key=lambda i: -float(group[i].points.pass_rate[at[i]]))
        for i in ranked[max(1, round(len(alive) / ETA)) :]:
            stops[i] = at[i]
    return stops
