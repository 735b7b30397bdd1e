"""Assess the forecaster and write the tables of docs/forecast.md and its figures. I/O.

    make bench-forecast
    python bench/forecast/bench_forecast.py [--curves FOLDER] [--runs N] [--groups N] [--part NAME ...]

FOLDER may hold public curves that have no licence to be shipped; without it the shipped ones are measured. Tables stand
between `<!-- bench: NAME -->` and `<!-- end -->` in the document; a part that is not named keeps its old one.
"""

import argparse
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from bench_fit import paper_grid_fit, paper_points, time_forecast, time_grid
from figures import draw_paper, draw_real, draw_simulated
from held_back import VERDICTS, Assessment, HeldBack, hold_back, judge_simulated, share_inside
from simulated_curves import Scenario, Truth, demo_run, load_paper, load_real, noisy_run, simulate
from stop_replay import MARGIN, SELECTION, Outcome, Run, from_curve, replay

from scalerl_operator.cli.fit_compare import COMPARE_HEADER
from scalerl_operator.forecast import (
    Forecast,
    Points,
    ceiling_interval,
    compare,
    curve_band,
    estimate_margin,
    fit_forecast,
    point_band,
    points,
)
from scalerl_operator.forecast.laws import POWER_LAW
from scalerl_operator.forecast.linear import Target, solve
from scalerl_operator.render.compare_table import comparison_lines, comparison_rows

ROOT = Path(__file__).parents[2]
DOCUMENT, IMAGES = ROOT / "docs" / "forecast.md", ROOT / "docs" / "images"
OTHER_CURVES = ROOT.parent / "shared" / "curves"
BURN_INS = (0.0, 1500.0, 5000.0)  # the paper's A.7
SCENARIOS = (
    Scenario("sigmoid"),
    Scenario("sigmoid", wandering=True),
    Scenario("exponential"),
    Scenario("logistic"),
    Scenario("power law"),
)
MISSTATED = (Scenario("sigmoid", stated=0.5), Scenario("sigmoid", stated=2.0), Scenario("sigmoid", stated=None))
GROUP_RUNS, GROUP_POINTS = 8, 24
BASELINE, COMPARED_POINTS = "garg len_norm_mean", 40
MANY = 10_000
SEED = 20251015
Row = Sequence[str]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the requested parts."""
    parts: dict[str, Callable[[argparse.Namespace], str]] = {
        "paper": _paper,
        "simulation": _simulation,
        "real": _real,
        "stops": _stops,
        "compare": _compare,
        "time": _time,
    }
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--curves", type=Path, default=OTHER_CURVES, help="folder of curves that are not shipped")
    parser.add_argument("--runs", type=int, default=600, help="simulated runs of each kind")
    parser.add_argument("--groups", type=int, default=30, help="simulated groups for the stop policies")
    parser.add_argument("--part", choices=tuple(parts), action="append", help="only these")
    args = parser.parse_args(argv)
    for name in args.part or parts:
        start = time.perf_counter()
        table = parts[name](args)
        if table:
            _write(name, table)
        print(f"-- {name}, {time.perf_counter() - start:.0f} s\n{table}\n", flush=True)
    return 0


def _write(name: str, text: str) -> None:
    pattern = re.compile(rf"(<!-- bench: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    document = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(pattern.sub(lambda found: f"{found[1]}{text}\n{found[2]}", document), encoding="utf-8")


def _table(header: Row, rows: Sequence[Row]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _paper(_: argparse.Namespace) -> str:
    rows, pictures = [], []
    for name, title in (("8b_dense", "8B dense"), ("scout", "Scout")):
        fitted, whole = load_paper(name)
        for start in BURN_INS:
            if fitted.starting_at(start).compute[-1] > start and len(fitted.starting_at(start)) >= 12:
                found = fit_forecast(fitted, burn_in=start)
                rows.append(_paper_row(f"{title}, from {start:g}", found, fitted, whole))
                if start == BURN_INS[1]:
                    pictures.append((title, fitted, whole, found))
                    rows.append(_grid_row(f"{title}, the paper's grid", found, fitted, whole))
    (IMAGES / "forecast_paper.png").write_bytes(draw_paper(pictures))
    header = ("points", "verdict", "A", "80 %", "90 %", "B", "C_mid", "later: mean abs. error", "inside the 90 % band")
    return _table(header, rows) + "\n\n" + _power_laws()


def _paper_row(title: str, found: Forecast, fitted: Points, whole: Points) -> Row:
    later = whole.compute > fitted.compute[-1]
    x, y = whole.compute[later], whole.pass_rate[later]
    middle, low, high = point_band(found, x)
    _, low80, high80 = ceiling_interval(found, level=0.8)
    inside = int(((y >= low) & (y <= high)).sum())
    return (
        title,
        found.verdict,
        f"{found.ceiling:.3f}",
        f"{low80:.3f} to {high80:.3f}",
        f"{found.ceiling_low:.3f} to {found.ceiling_high:.3f}",
        f"{found.b:.2f}",
        f"{found.c_mid:,.0f}",
        f"{np.abs(middle - y).mean():.4f}",
        f"{inside} of {len(y)}",
    )


def _grid_row(title: str, found: Forecast, fitted: Points, whole: Points) -> Row:
    used = fitted.starting_at(BURN_INS[1])
    grid = paper_grid_fit(used.compute, used.pass_rate, found.r0 or 0.0)
    later = whole.compute > fitted.compute[-1]
    x, r0 = whole.compute[later], found.r0 or 0.0
    miss = r0 + (grid.a - r0) / (1.0 + (grid.c_mid / x) ** grid.b) - whole.pass_rate[later]
    return (title, "", f"{grid.a:.3f}", "", "", f"{grid.b:.2f}", f"{grid.c_mid:,.0f}", f"{np.abs(miss).mean():.4f}", "")


def _power_laws() -> str:
    """The paper's A.4: the power law's ceiling by least squares depends on where the fit begins."""
    fitted, _ = load_paper("8b_dense")
    found = []
    for start in BURN_INS[1:]:
        used = fitted.starting_at(start)
        x, exponents = used.compute / used.compute[-1], np.log(np.geomspace(0.02, 5.0, 4000))
        gain = POWER_LAW.gain(x, exponents, np.full_like(exponents, np.log(x[0])))
        one = np.ones(len(used))
        best = solve(gain, Target(one, used.pass_rate, one[:, None]))
        ceiling = best.ceiling[int(np.argmin(best.chi2[:, 0])), 0]
        weights = {rival.name: rival.weight for rival in fit_forecast(fitted, burn_in=start).rivals}
        found.append(f"{ceiling:.3f} from {start:g} GPU-hours on (its weight here: {weights['power law']:.2f})")
    return f"The power law's ceiling on the 8B curve by least squares: {', '.join(found)}."


def _simulation(args: argparse.Namespace) -> str:
    assessments = {}
    for number, kind in enumerate((*SCENARIOS, *MISSTATED)):
        rng = np.random.default_rng(SEED + number)
        assessments[kind] = judge_simulated([simulate(kind, rng) for _ in range(args.runs)])
    rows = [
        _simulation_row(kind.name, verdict, [each for each in found if each.forecast.verdict == verdict], len(found))
        for kind, found in assessments.items()
        for verdict in VERDICTS
    ]
    (IMAGES / "forecast_simulation.png").write_bytes(draw_simulated(assessments[SCENARIOS[0]]))
    header = (
        "truth",
        "verdict",
        "share",
        "90 % interval holds A",
        "bias of A",
        "mean abs. error",
        "median width",
        "at 2 C",
    )
    return f"{_table(header, rows)}\n\n{_simulation_summary(assessments, args.runs)}"


def _simulation_summary(assessments: dict[Scenario, list[Assessment]], runs: int) -> str:
    identified = {
        kind: [each for each in assessments[kind] if each.forecast.verdict == "Identified"] for kind in SCENARIOS
    }
    every = [each for found in identified.values() for each in found]
    others = [each for kind, found in identified.items() if kind.law != "sigmoid" for each in found]
    false = sum(not each.covered for each in others)
    far = sum(not each.covered and abs(each.error) > MARGIN for each in others)
    sigmoids = assessments[SCENARIOS[0]]
    early = sum(each.forecast.verdict == "Identified" and each.truth.reach < 1.0 for each in sigmoids)
    fallen = [each for found in assessments.values() for each in found if not each.known]
    rng = np.random.default_rng(SEED)
    demo, noisy = (
        sum(fit_forecast(make(rng)).verdict == "Identified" for _ in range(runs)) / runs
        for make in (demo_run, noisy_run)
    )
    closing = [
        f"Over all `Identified` runs of the first five kinds the interval held the ceiling in {share_inside(every)}.",
        f"False `Identified` under another law: the interval missed in {false} of {len(others)} "
        f"({false / len(others):.1%}), in {far} of these the ceiling is off by more than {MARGIN:g}.",
        f"{early} of the {len(sigmoids)} sigmoids were `Identified` before C_mid.",
        f"{len(fallen)} of all {sum(map(len, assessments.values()))} runs, none of which falls, were called declined "
        "or collapsed.",
        f"Runs as `make demo` makes them (30 points of 768 completions, .1 to .7): {demo:.0%} `Identified`; with "
        f"sd .02 and a rise of .35 to .6: {noisy:.0%}.",
    ]
    return " ".join(closing)


def _simulation_row(truth: str, verdict: str, found: list[Assessment], total: int) -> Row:
    known = [each for each in found if each.known]
    if not known:
        return (truth, f"`{verdict}`", f"{len(found) / total:.0%}", "", "", "", "", "")
    errors = np.array([each.error for each in known])
    return (
        truth,
        f"`{verdict}`",
        f"{len(found) / total:.0%}",
        share_inside(known),
        f"{errors.mean():+.3f}",
        f"{np.abs(errors).mean():.3f}",
        f"{statistics.median(each.width for each in known):.3f}",
        f"{statistics.mean(each.covered_later for each in known):.0%}",
    )


def _real(args: argparse.Namespace) -> str:
    held = [hold_back(c.name, c.points, float(c.points.compute[-1]) / 2.0) for c in load_real(args.curves)]
    (IMAGES / "forecast_real.png").write_bytes(draw_real(held))
    header = ("curve", "fitted + later", "verdict", "law", "A", "90 %", "later: error", "bias", "in the 90 % band")
    known = [row for row in held if row.covered is not None]
    return f"{_table(header, [_real_row(row) for row in held])}\n\n{_real_summary(known)}"


def _real_row(row: HeldBack) -> Row:
    found = row.forecast
    size = f"{len(row.points) - row.num_later} + {row.num_later}"
    if row.covered is None:
        return (row.name, size, f"`{found.verdict}`", "", "", "", "", "", found.reason.split(":")[0].split(";")[0])
    return (
        row.name,
        size,
        f"`{found.verdict}`",
        found.law,
        f"{found.ceiling:.3f}",
        f"{found.ceiling_low:.2f} to {found.ceiling_high:.2f}",
        f"{row.error:.4f}",
        f"{row.bias:+.4f}",
        f"{row.covered:.0%}",
    )


def _real_summary(known: list[HeldBack]) -> str:
    rows = []
    for verdict in (*VERDICTS, "all"):
        found = [row for row in known if verdict in (row.forecast.verdict, "all")]
        if found:
            later = sum(row.num_later for row in found)
            inside = sum((row.covered or 0.0) * row.num_later for row in found)
            error = statistics.mean(row.error or 0.0 for row in found)
            name = f"`{verdict}`" if verdict != "all" else "all"
            rows.append((name, str(len(found)), f"{inside / later:.1%} of {later}", f"{error:.5f}"))
    laws = {name: statistics.mean(row.law_errors[name] for row in known) for name in known[0].law_errors}
    singles = ", ".join(f"{name} {error:.5f}" for name, error in sorted(laws.items(), key=lambda item: item[1]))
    table = _table(("verdict", "curves", "later points in the 90 % band", "mean abs. error"), rows)
    return f"{table}\n\nEach law alone, mean absolute error over the same curves: {singles}."


def _compare(args: argparse.Namespace) -> str:
    """Recipes of one study beside the first; empty without its curves."""
    curves = [c for c in load_real(args.curves) if c.name.startswith("garg") and len(c.points) >= COMPARED_POINTS]
    if not curves:
        return ""
    curves.sort(key=lambda each: each.name != BASELINE)
    forecasts = [fit_forecast(each.points) for each in curves]
    margin = estimate_margin(forecasts)
    found = compare([each.name for each in curves], [each.points for each in curves], forecasts, margin=margin)
    lines = comparison_lines(found, "estimated from the runs' own intervals").strip().splitlines()
    return _table(COMPARE_HEADER, comparison_rows(found)) + "\n\n" + "\n".join(lines)


def _stops(args: argparse.Namespace) -> str:
    rng = np.random.default_rng(SEED)
    kinds = [SCENARIOS[i % len(SCENARIOS)] for i in range(args.groups)]
    groups = [[_simulated_run(kind, rng) for _ in range(GROUP_RUNS)] for kind in kinds]
    real = [from_curve(c.points) for c in load_real(args.curves) if c.name.startswith("garg") and len(c.points) >= 20]
    rows = [_stop_row("simulated", each) for each in replay(groups)]
    if real:
        rows += [_stop_row("garg", each) for each in replay([real])]
    return _table(("runs", "question", "policy", "stopped", "wrongly stopped", "at most", "compute saved"), rows)


def _simulated_run(kind: Scenario, rng: np.random.Generator) -> Run:
    truth: Truth = simulate(kind, rng, num_points=GROUP_POINTS)
    return Run(truth.points, truth.curve(truth.points.compute))


def _stop_row(runs: str, found: Outcome) -> Row:
    question = "selection" if found.policy in SELECTION else "saturation"
    stopped = f"{found.stopped} of {found.runs}"
    return (
        runs,
        question,
        found.policy,
        stopped,
        f"{found.wrong} ({found.wrong / found.runs:.1%})",
        f"{found.wrong_at_most:.1%}",
        f"{found.saved:.0%}",
    )


def _time(_: argparse.Namespace) -> str:
    curve = paper_points()
    ours, forecast = time_forecast(curve)
    theirs, _grid = time_grid(curve, forecast.r0 or 0.0)
    rng = np.random.default_rng(SEED)
    x = np.linspace(1.0, 100_000.0, MANY)
    clean = curve_band(forecast, x)[0]
    many = points(x, np.clip(clean + rng.normal(0.0, 0.01, MANY), 0.0, 1.0), np.full(MANY, 0.01))
    large, _found = time_forecast(many)
    rows = [
        (
            "75 points: interval, rivals, back-test, verdict",
            f"{ours.milliseconds_p50:.1f}",
            f"{ours.milliseconds_min:.1f}",
            f"{ours.cpu_milliseconds_p50:.1f}",
        ),
        (
            f"{MANY:,} points",
            f"{large.milliseconds_p50:.1f}",
            f"{large.milliseconds_min:.1f}",
            f"{large.cpu_milliseconds_p50:.1f}",
        ),
        (
            "75 points: the paper's 7,100 `curve_fit` calls, no interval",
            f"{theirs.milliseconds_p50:,.0f}",
            "",
            f"{theirs.cpu_milliseconds_p50:,.0f}",
        ),
    ]
    ratio = theirs.cpu_milliseconds_p50 / ours.cpu_milliseconds_p50
    load = os.getloadavg()[0]
    cores = f"{os.cpu_count()} shared cores, load {load:.1f} while it ran"
    note = f"{ratio:.0f} times less processor time. One thread; {cores}."
    return f"{_table(('what', 'ms, median', 'ms, least', 'processor ms, median'), rows)}\n\n{note}"


if __name__ == "__main__":
    sys.exit(main())
