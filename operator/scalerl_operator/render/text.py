"""A run as text: numbers with their units, one-line progress, the closing summary. PURE."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from scalerl_api import RLRun, RLRunStatus
from scalerl_api.evaluations import list_datasets, list_downstream_sets, list_source_sets, surviving
from scalerl_api.status import ForecastStatus, SourceForecastStatus
from scalerl_api.wire import EvalPoint, Progress, RolloutExample, source_of
from scalerl_operator.decide.halfway import Halfway
from scalerl_operator.run.progress import budget_gpu_hours, compute_unit, last_mismatch
from scalerl_operator.run.state import state_word

PROMPT_CHARACTERS, COMPLETION_CHARACTERS = 80, 160  # shown of an example


@dataclass(frozen=True)
class ProgressView:
    """The state of a run at one poll, for display."""

    run: RLRun
    progress: Progress | None
    evals: tuple[EvalPoint, ...]
    missed_polls: int
    """Polls without an answer since the last answer."""


def format_duration(seconds: float) -> str:
    """Return `45s`, `4m12s`, `3h05m` or `2d03h`."""
    total = max(0, round(seconds))
    if total < 60:
        return f"{total}s"
    if total < 3600:
        return f"{total // 60}m{total % 60:02d}s"
    if total < 86_400:
        return f"{total // 3600}h{total % 3600 // 60:02d}m"
    return f"{total // 86_400}d{total % 86_400 // 3600:02d}h"


def format_compute(hours: float, unit: str) -> str:
    """Return compute with three digits and its unit."""
    return f"{hours:,.0f} {unit}" if hours >= 1000 else f"{hours:.3g} {unit}"


def describe_forecast(forecast: ForecastStatus | None, unit: str) -> str:
    """Return the forecast in one line, with its interval, or the reason why there is none."""
    if forecast is None:
        return "after the first evaluations"
    if forecast.ceiling is None or forecast.ceiling_low is None or forecast.ceiling_high is None:
        return f"{forecast.verdict}: {forecast.reason}"
    text = f"ceiling {forecast.ceiling:.3f} [{forecast.ceiling_low:.3f}, {forecast.ceiling_high:.3f}]"
    if forecast.predicted_at_budget is not None and forecast.low is not None and forecast.high is not None:
        text += f", at the end {forecast.predicted_at_budget:.3f} [{forecast.low:.3f}, {forecast.high:.3f}]"
    if forecast.target_gpu_hours is not None:
        text += f", target at {format_compute(forecast.target_gpu_hours, unit)}"
    return f"{text} ({forecast.verdict})"


def describe_source(found: SourceForecastStatus, unit: str) -> str:
    """Return a training source's last pass rate and its forecast in one line."""
    rate = f"pass rate {found.pass_rate:.3f}, " if found.pass_rate is not None else ""
    return f"{rate}{describe_forecast(found, unit)}"


def set_rows(evals: Sequence[EvalPoint]) -> list[tuple[str, str]]:
    """Return (label, text) of the last pass rates beside the pooled one: by source, and of downstream sets."""
    last = {name: surviving(evals, name)[-1] for name in list_datasets(evals)}
    sources = [f"{source_of(name)} {last[name].pass_rate:.3f}" for name in list_source_sets(evals)]
    others = [f"{name} {describe_rate(last[name])}" for name in list_downstream_sets(evals)]
    rows = [("by source", ", ".join(sources)), ("downstream", ", ".join(others))]
    return [row for row in rows if row[1]]


def describe_rate(point: EvalPoint) -> str:
    """Return a pass rate with its number of samples, and pass@k and maj@k of all of them."""
    return f"{point.pass_rate:.3f} (mean@{point.samples}{_describe_others(point)})"


def _describe_others(point: EvalPoint) -> str:
    rates = [("pass", find_rate_at(point, point.pass_at_k)), ("maj", find_rate_at(point, point.maj_at_k))]
    return "".join(f", {name}@{point.samples} {rate:.3f}" for name, rate in rates if rate is not None)


def format_mismatch(nats: float) -> str:
    """Return the mean difference of log-probability between engine and trainer, with its unit."""
    return f"{nats:.2g} nats"


def describe_eval(point: EvalPoint) -> str:
    """Return a measured point in one line."""
    return (
        f"eval {point.dataset} at step {point.step}: pass rate {point.pass_rate:.3f} ± {point.standard_error:.3f}"
        f" (mean@{point.samples} of {describe_prompts(point)}){_describe_others(point)}"
    )


def describe_prompts(point: EvalPoint) -> str:
    """Return the number of prompts that were measured, and how many a late evaluation left out."""
    return (
        f"{point.prompts} of {point.prompts + point.unsampled} prompts"
        if point.unsampled
        else f"{point.prompts} prompts"
    )


def find_rate_at(point: EvalPoint, by_k: dict[str, float] | None) -> float | None:
    """Return pass@k or maj@k of a point for k = all its completions; None: it has none."""
    return (by_k or {}).get(str(point.samples))


def describe_example(example: RolloutExample, folder: str) -> str:
    """Return how many completions of a step were right and one of them, in three lines.

    It is the first sign of a verifier or a template that is wrong.
    """
    right = f"{example.passed} of {example.completions} completions right"
    if not example.graded:
        right = f"none of {example.completions} completions has a reward: the verifier failed for all"
    elif not example.passed:
        right = f"NONE of {example.completions} completions right: are verifier and prompt format as intended?"
    elif example.passed == example.completions:
        right = f"all {example.completions} completions right: nothing is left to learn from these prompts"
    best = "without a reward" if example.reward is None else f"reward {example.reward:+g}"
    prompt = shorten(example.prompt, PROMPT_CHARACTERS)
    completion = shorten(example.completion, COMPLETION_CHARACTERS)
    return f"step {example.step}: {right}\n  {best}: {prompt} -> {completion}\n  more: scalerl rollouts {folder}"


def describe_progress(view: ProgressView) -> str:
    """Return the progress in one line, without the values that the coordinator has not reported."""
    return "  ".join(f"{label} {text}" for label, text in progress_rows(view) if not label.startswith("forecast"))


def progress_rows(view: ProgressView) -> list[tuple[str, str]]:
    """Return (label, text) of all present values, in the order of display."""
    progress = view.progress
    if progress is None:
        return [("state", state_word(view.run.status))]
    status = view.run.status
    rows = [("step", f"{progress.step}/{view.run.spec.budget.steps}")]
    rows += _learning(view, progress)
    rows += _speed(progress)
    rows.append(("compute", _compute(view, progress)))
    if status is not None and status.progress is not None and status.progress.eta_seconds is not None:
        rows.append(("ETA", format_duration(status.progress.eta_seconds)))
    rows.append(("forecast", describe_forecast(status.forecast if status else None, compute_unit(view.run))))
    rows += source_forecast_rows(status, compute_unit(view.run))
    broken = [each for each in (status.conditions if status is not None else []) if each.type == "Healthy"]
    rows += [("unhealthy", each.message) for each in broken if each.status == "False"]
    return rows


def source_forecast_rows(status: RLRunStatus | None, unit: str) -> list[tuple[str, str]]:
    """Return (label, text) of each training source's forecast."""
    found = status.source_forecasts if status is not None else []
    return [(f"forecast {each.name}", describe_source(each, unit)) for each in found]


def describe_phase(view: ProgressView) -> str:
    """Return the run's state and its detail."""
    progress = view.progress
    text = state_word(view.run.status)
    if progress is not None and progress.detail:
        text += f": {progress.detail}"
    if view.missed_polls > 2:
        text += f" (no answer to the last {view.missed_polls} polls)"
    return text


def _learning(view: ProgressView, progress: Progress) -> list[tuple[str, str]]:
    rows = []
    points = surviving(view.evals)
    if points:
        first, last = points[0], points[-1]
        gain = f", from {first.pass_rate:.3f}" if len(points) > 1 else ""
        rows.append(("pass rate", f"{last.pass_rate:.3f} ± {last.standard_error:.3f}{gain}"))
    rows += set_rows(view.evals)
    if progress.latest is not None:
        if progress.latest.reward is not None:
            rows.append(("reward", f"{progress.latest.reward:+.3f}"))
        entropy = progress.latest.values.get("entropy")
        if entropy is not None:
            rows.append(("entropy", f"{entropy:.3f} nats"))
    mismatch = last_mismatch(progress)
    if mismatch is not None:
        rows.append(("mismatch", format_mismatch(mismatch)))
    return rows


def _speed(progress: Progress) -> list[tuple[str, str]]:
    rows = []
    values = progress.latest.values if progress.latest is not None else {}
    if "tokens_per_second" in values:
        rows.append(("speed", f"{values['tokens_per_second']:,.0f} tokens/s"))
    if "lag_mean" in values:
        worst = f" (max {values['lag_max']:.0f})" if "lag_max" in values else ""
        rows.append(("lag", f"{values['lag_mean']:.1f}{worst} steps"))
    if progress.idle_fraction:
        rows.append(("idle", ", ".join(f"{role} {share:.0%}" for role, share in progress.idle_fraction.items())))
    return rows


def _compute(view: ProgressView, progress: Progress) -> str:
    unit = compute_unit(view.run)
    budget = budget_gpu_hours(view.run, progress.step, progress.compute_gpu_hours)
    if budget is None:
        return format_compute(progress.compute_gpu_hours, unit)
    return f"{progress.compute_gpu_hours:.3g} of {format_compute(budget, unit)}"


def describe_halfway(halfway: Halfway | None, unit: str) -> list[tuple[str, str]]:
    """Return (label, text) of the half-way forecast and of the final measurement."""
    if halfway is None:
        return [("forecast at half", "none: no evaluation in the first half of the compute")]
    made = f"step {halfway.made_at_step}, {format_compute(halfway.made_at_gpu_hours, unit)}"
    rows = [("made at half", f"{made}: {halfway.verdict}, {halfway.reason}")]
    rows.append(("it predicted", format_predicted(halfway)))
    end = f"step {halfway.final_step}, {format_compute(halfway.final_gpu_hours, unit)}"
    rows.append(("then measured", f"{halfway.measured:.3f} ± {halfway.measured_error:.3f} ({end})"))
    if halfway.error is not None:
        rows.append(("error", format_error(halfway)))
    return rows


def format_predicted(halfway: Halfway) -> str:
    """Return the predicted pass rate with its 90 % band."""
    if halfway.predicted is None or halfway.low is None or halfway.high is None or halfway.error is None:
        return "nothing"
    return f"{halfway.predicted:.3f} [{halfway.low:.3f}, {halfway.high:.3f}] at the end"


def format_error(halfway: Halfway) -> str:
    """Return the forecast's error at the end; a dash where nothing was predicted."""
    if halfway.error is None:
        return "-"
    return f"{halfway.error:+.3f}, {'inside' if halfway.inside else 'OUTSIDE'} the 90 % band"


def summary_rows(
    run: RLRun, outcome: str, halfway: Halfway | None, evals: Sequence[EvalPoint]
) -> list[tuple[str, str]]:
    """Return (label, text) of the closing summary."""
    unit = compute_unit(run)
    rows = [("run", f"{run.name}: {outcome}")]
    points = surviving(evals)
    if points:
        first, last = points[0], points[-1]
        rows.append(
            ("pass rate", f"{first.pass_rate:.3f} at step {first.step}, {last.pass_rate:.3f} at step {last.step}")
        )
    rows += set_rows(evals)
    rows.append(("forecast now", describe_forecast(run.status.forecast if run.status else None, unit)))
    return rows + source_forecast_rows(run.status, unit) + describe_halfway(halfway, unit)


def format_rows(rows: Sequence[tuple[str, str]]) -> str:
    """Return (label, text) rows as aligned lines."""
    width = max((len(label) for label, _ in rows), default=0)
    return "".join(f"{label:<{width}}  {text}\n" for label, text in rows)


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as kubectl prints it: columns by width, three spaces between, no lines."""
    table = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    lines = ("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table)
    return "".join(f"{line}\n" for line in lines)


def shorten(text: str, limit: int) -> str:
    """Return the start of `text` in one line, safe for a terminal, at most `limit` characters."""
    line = " ".join(escape(text[: 4 * limit]).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def escape(text: str) -> str:
    """Return `text` with control and format characters spelled out: a completion must not steer the terminal."""
    return "".join(letter if letter in "\n\t" or _is_plain(letter) else _spell(letter) for letter in text)


def _is_plain(letter: str) -> bool:
    return letter.isprintable() or unicodedata.category(letter) == "Zs"


def _spell(letter: str) -> str:
    code = ord(letter)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{{{code:x}}}"
