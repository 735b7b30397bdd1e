"""How far a fit may be believed, in one word and one sentence. PURE."""

from dataclasses import dataclass

import numpy as np

from scalerl_operator.forecast.laws import SIGMOID
from scalerl_operator.forecast.noise import noise_of, scatter
from scalerl_operator.forecast.points import Points
from scalerl_operator.forecast.result import Forecast, Verdict
from scalerl_operator.forecast.rivals import Rival

MIN_POINTS = 4  # the curve's parameters
MIN_TRUSTED = 8  # twice the parameters: fewer points leave nothing to check the law with
IDENTIFIED_WIDTH = 0.10  # of the ceiling's 90 % interval; the paper's own margin between equal runs is +-0.02
WEAK_WIDTH = 0.20  # a window that ends at C_mid leaves .28, one to 2 C_mid .05 (noise .005, C_mid known to nobody)
WIDTH_OF_GAIN = 0.5  # an interval wider than half of the whole gain is of little use, however narrow
RISE = 16.0  # fall of chi2 from a constant to the curve, 3 more parameters: chance 1 in 900
REACH = 2.0  # a run to 2 C_mid identifies its ceiling at the paper's noise
FURTHER = 1.5  # times the last compute: a shorter way on would hardly change the interval
BETTER = 0.75  # a rival whose back-test error is below this share of the sigmoid's is clearly better
BETTER_BY = 1.0  # and by this many noise sd: less is luck, or of no use
MIN_RIVAL_WEIGHT = 0.01  # weight below which a rival has no vote: the points themselves rule it out
DECLINE_SDS = 4.0  # of the difference of two means; a run has many pairs
MIN_DECLINE = 0.02  # the paper's margin: a smaller fall is no decline
COLLAPSE = 0.5  # of the gain that was reached


@dataclass(frozen=True)
class _VerdictInputs:
    """The numbers that a verdict rests on; computes in `unit`."""

    points: int
    last_compute: float
    unit: str
    ceiling: float
    low: float
    high: float
    gain: float
    c_mid: float
    c_mid_high: float
    rise: float
    sigma: float
    backtest_error: float | None
    rivals: tuple[Rival, ...]


def judge(forecast: Forecast, *, rise: float, contested: bool) -> tuple[Verdict, str]:
    """Return the verdict on a fitted forecast and its reason, with what would settle it.

    Args:
        forecast: with its numbers, sigma and rivals.
        rise: fall of chi2 from the best constant to the best curve, in units of the noise variance.
        contested: whether a better rival lowers the verdict.
    """
    evidence = _evidence(forecast, rise=rise, contested=contested)
    refusal = _refusal(evidence)
    if refusal:
        return "NotIdentified", refusal
    doubt = _doubt(evidence)
    if doubt:
        return "Weak", doubt
    ratio = evidence.last_compute / evidence.c_mid
    return (
        "Identified",
        f"the run is {ratio:.1f} times as far as its midpoint and the ceiling is in {_interval(evidence)}"
        + ("" if forecast.law == SIGMOID.name else f"; the {forecast.law} describes it best"),
    )


def _evidence(f: Forecast, *, rise: float, contested: bool) -> _VerdictInputs:
    return _VerdictInputs(
        points=f.points,
        last_compute=_known(f.last_compute),
        unit=f.unit,
        ceiling=_known(f.ceiling),
        low=_known(f.ceiling_low),
        high=_known(f.ceiling_high),
        gain=_known(f.ceiling) - _known(f.r0),
        c_mid=_known(f.c_mid),
        c_mid_high=_known(f.c_mid_high),
        rise=rise,
        sigma=_known(f.sigma),
        backtest_error=f.backtest_error,
        rivals=f.rivals if contested else (),
    )


def _known(value: float | None) -> float:
    assert value is not None  # a fitted forecast has all its numbers
    return value


def _refusal(e: _VerdictInputs) -> str | None:
    if e.rise < RISE:
        return f"no rise beyond the noise (sd {e.sigma:.3f}) in {e.points} points; needs a longer run or less noise"
    if e.last_compute < e.c_mid:
        return (
            f"the run has not reached its bend: midpoint near {_amount(e.c_mid, e)}, "
            f"last point at {_amount(e.last_compute, e)}; {_more(e)}"
        )
    if _width(e) > WEAK_WIDTH:
        return f"the ceiling could be anywhere in {_interval(e)}; {_more(e)}"
    return None


def _doubt(e: _VerdictInputs) -> str | None:
    if e.points < MIN_TRUSTED:
        return f"{e.points} points cannot check the law; needs at least {MIN_TRUSTED}"
    if _width(e) > IDENTIFIED_WIDTH:
        return f"the ceiling is only known to be in {_interval(e)}; {_more(e)}"
    if _width(e) > WIDTH_OF_GAIN * e.gain:
        return f"the interval {_interval(e)} is wide against the gain of {e.gain:.3f}; {_more(e)}"
    if e.c_mid_high > e.last_compute:
        return f"the midpoint may lie past the last point, as far as {_amount(e.c_mid_high, e)}; {_more(e)}"
    return _contested(e)


def _contested(e: _VerdictInputs) -> str | None:
    """A rival that the points allow, that forecast this run's past clearly better and ends elsewhere."""
    if e.backtest_error is None:
        return None
    limit = min(BETTER * e.backtest_error, e.backtest_error - BETTER_BY * e.sigma)
    for rival in e.rivals:
        if rival.weight < MIN_RIVAL_WEIGHT:
            continue
        outside = not e.low <= rival.ceiling <= e.high
        if outside and rival.backtest_error is not None and rival.backtest_error < limit:
            return (
                f"the {rival.name} forecast this run's past better (error {rival.backtest_error:.3f}, sigmoid "
                f"{e.backtest_error:.3f}) and puts the ceiling at {rival.ceiling:.3f}, outside {_interval(e)}; "
                f"{_more(e)}"
            )
    return None


def _width(e: _VerdictInputs) -> float:
    return e.high - e.low


def _interval(e: _VerdictInputs) -> str:
    return f"[{e.low:.3f}, {e.high:.3f}]"


def _amount(compute: float, e: _VerdictInputs) -> str:
    return f"{compute:.3g} {e.unit}" if compute < 1000 else f"{compute:,.0f} {e.unit}"


def _more(e: _VerdictInputs) -> str:
    """The remedy: a longer run, or, past the bend, less noise as well."""
    longer = f"needs evals up to about {_amount(max(REACH * e.c_mid, FURTHER * e.last_compute), e)}"
    return longer if e.last_compute < REACH * e.c_mid else f"{longer}, or with less noise than sd {e.sigma:.3f}"


def find_decline(points: Points) -> str | None:
    """Return the sentence about a run that fell from its best, or None.

    Compares the mean of the last points with the best mean of as many neighbours before them. The lowest of the last
    is left out where the fall is judged: one evaluation that went wrong is no decline, and `outliers` cannot tell at
    the end of a run.
    """
    y, size = points.pass_rate, int(np.clip(len(points) // 8, 2, 5))
    if len(y) < max(2 * size, MIN_POINTS):
        return None
    means = np.convolve(y, np.full(size, 1.0 / size), mode="valid")
    before, now = means[:-size], float(means[-1])
    at = int(np.argmax(before))
    best, where = float(before[at]), float(points.compute[at + size - 1])
    sd = scatter(y)
    if points.standard_error is not None:  # which may be too large: noise.py allows for that
        noise = noise_of(points)
        sd = max(sd, noise.smallest * float(np.sqrt(np.median(noise.variance))))
    sound = float(np.sort(y[-size:])[1:].mean())
    if best - sound < max(DECLINE_SDS * sd * np.sqrt(2.0 / size), MIN_DECLINE):
        return None
    word = "collapsed" if best - now > COLLAPSE * (best - float(y[0])) else "declined"
    return (
        f"the pass rate {word} from {best:.3f} near {where:.4g} {points.unit} to {now:.3f}: a rising law does not "
        "describe it; needs a run that does not fall"
    )
