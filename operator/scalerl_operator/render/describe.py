"""One run in full, as `scalerl status NAME` prints it: its status, and on a cluster its pods and events. PURE."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from scalerl_api import RLRun, RLRunStatus
from scalerl_api.evaluations import surviving
from scalerl_api.status import AttemptStatus, Condition
from scalerl_api.wire import EvalPoint
from scalerl_operator.reconcile.pod_view import EventView, PodView
from scalerl_operator.render.source_data import SOURCE_HEADER, source_data_rows
from scalerl_operator.render.text import (
    describe_forecast,
    describe_rate,
    format_compute,
    format_duration,
    format_mismatch,
    format_rows,
    format_table,
    set_rows,
    source_forecast_rows,
)
from scalerl_operator.run.attempts import describe_exit
from scalerl_operator.run.progress import budget_gpu_hours, compute_unit
from scalerl_operator.run.state import state_word

Rows = list[tuple[str, str]]
SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class Overview:
    """A run's status, attempts, pods and events."""

    run: RLRun
    location: str
    """`in runs/tiny`, `namespace research of context kind-dev (..)`."""
    now: datetime
    started: datetime | None = None
    state: str | None = None
    """Shown instead of the state in the status."""
    attempts: Sequence[AttemptStatus] = ()
    evals: Sequence[EvalPoint] = ()
    pods: Sequence[PodView] | str | None = None
    """None: not applicable, as on this machine; a text: the reason why they could not be read."""
    events: Sequence[EventView] | str | None = None
    """As for `pods`."""


def build_overview(view: Overview) -> str:
    """Return the text: the main values as rows, then tables of conditions, roles, attempts, pods and events."""
    status = view.run.status or RLRunStatus()
    parts = [format_rows(list(_rows(view, status))), *_tables(view, status)]
    return "\n".join(parts)


def _rows(view: Overview, status: RLRunStatus) -> Iterator[tuple[str, str]]:
    yield "run", f"{view.run.name}, {view.location}"
    yield "state", _state(view, status)
    yield from _progress(view, status)
    unit = compute_unit(view.run)
    yield "forecast", describe_forecast(status.forecast, unit)
    if status.forecast is not None and status.forecast.ceiling is not None:
        law = f"{status.forecast.law}, " if status.forecast.law else ""
        yield "because", f"{status.forecast.reason} ({law}{status.forecast.points} evaluations)"
    yield from source_forecast_rows(status, unit)
    held_out = surviving(view.evals)
    if held_out:
        yield "held out", f"{describe_rate(held_out[-1])}, step {held_out[-1].step}"
    yield from (row for row in set_rows(view.evals) if row[0] != "by source")
    if status.progress is not None and status.progress.reward_by_judge:
        yield "rewards", ", ".join(f"{name} {value:+.3f}" for name, value in status.progress.reward_by_judge.items())
    if status.stop is not None:
        saved = status.stop.saved_gpu_hours
        ended = "saved" if status.stop.mode == "Enforce" else "would be saved"
        more = f"; {format_compute(saved, unit)} {ended}" if saved is not None else ""
        yield "stop", f"policy {status.stop.policy} ({status.stop.mode}): {status.stop.reason}{more}"
    if status.checkpoint is not None:
        yield "checkpoint", f"step {status.checkpoint.step}, {_ago(status.checkpoint.time, view.now)}"
    if status.cost is not None:
        yield "cost", _cost(status, unit)
    if view.started is not None:
        yield "age", format_duration((view.now - view.started).total_seconds())


def _state(view: Overview, status: RLRunStatus) -> str:
    word = view.state or state_word(view.run.status)
    messages = [each.message for each in status.conditions if each.reason == word and each.message]
    return f"{word}: {messages[0]}" if messages else word


def _progress(view: Overview, status: RLRunStatus) -> Iterator[tuple[str, str]]:
    progress, unit = status.progress, compute_unit(view.run)
    if progress is None:
        return
    yield "step", f"{progress.step}/{view.run.spec.budget.steps}"
    if progress.pass_rate is not None:
        yield "pass rate", f"{progress.pass_rate:.3f}"
    if progress.mismatch is not None:
        yield "mismatch", f"{format_mismatch(progress.mismatch)}, engine to trainer at lag 0"
    budget = budget_gpu_hours(view.run, progress.step, progress.compute_gpu_hours)
    spent = format_compute(progress.compute_gpu_hours, unit)
    yield "compute", spent if budget is None else f"{spent} of {format_compute(budget, unit)}"
    if progress.eta_seconds is not None:
        yield "ETA", format_duration(progress.eta_seconds)


def _cost(status: RLRunStatus, unit: str) -> str:
    """Return `trainer 12.3 GPU-h (idle 12%), generator 24.6 GPU-h (idle 5%)`."""
    assert status.cost is not None
    idle = status.cost.idle_fraction
    return ", ".join(
        f"{role} {format_compute(seconds / SECONDS_PER_HOUR, unit)}"
        + (f" (idle {idle[role]:.0%})" if role in idle else "")
        for role, seconds in status.cost.gpu_seconds.items()
    )


def _ago(time: datetime, now: datetime) -> str:
    return f"{format_duration((now - time).total_seconds())} ago"


def _tables(view: Overview, status: RLRunStatus) -> Iterator[str]:
    if status.conditions:
        yield format_table(("CONDITION", "STATUS", "REASON", "SINCE", "MESSAGE"), _conditions(status, view.now))
    if status.sources:
        yield format_table([each.upper() for each in SOURCE_HEADER], source_data_rows(status.sources))
    if status.roles:
        rows = [(each.name, str(each.desired), str(each.ready), str(each.restarts)) for each in status.roles]
        yield format_table(("ROLE", "WANTED", "READY", "RESTARTS"), rows)
    if view.attempts:
        yield format_table(("ATTEMPT", "STARTED", "TOOK", "CHECKPOINT", "END"), attempt_rows(view.attempts))
    yield from _listed("pods", view.pods, ("POD", "PHASE", "READY", "RESTARTS", "NODE", "AGE", "WAITS FOR"), view.now)
    yield from _listed("events", view.events, ("LAST", "TIMES", "TYPE", "REASON", "MESSAGE"), view.now)


def _listed(
    kind: str, found: Sequence[PodView] | Sequence[EventView] | str | None, header: Sequence[str], now: datetime
) -> Iterator[str]:
    if isinstance(found, str):
        yield f"{kind}: {found}\n"
    elif found:
        yield format_table(header, [_row(each, now) for each in found])
    elif found is not None:
        yield f"no {kind}\n"


def _row(item: PodView | EventView, now: datetime) -> tuple[str, ...]:
    match item:
        case EventView():
            return _ago(item.time, now), str(item.count), item.kind, item.reason, _one_line(item.message)
        case PodView():
            age = format_duration((now - item.created).total_seconds())
            ready = "yes" if item.ready else "no"
            return item.name, item.phase, ready, str(item.restarts), item.node or "-", age, _one_line(item.waits) or "-"


def _conditions(status: RLRunStatus, now: datetime) -> list[tuple[str, ...]]:
    def row(each: Condition) -> tuple[str, ...]:
        since = format_duration((now - each.last_transition_time).total_seconds())
        return each.type, each.status, each.reason, since, _one_line(each.message)

    return [row(each) for each in status.conditions]


def attempt_rows(attempts: Sequence[AttemptStatus]) -> list[tuple[str, ...]]:
    """Return (number, start, duration, checkpoint, end) of each attempt."""
    return [
        (
            str(each.number),
            f"{each.started.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if each.started is not None else "-",
            format_duration((each.ended - each.started).total_seconds()) if each.ended and each.started else "-",
            str(each.checkpoint_step) if each.checkpoint_step is not None else "-",
            describe_exit(each) if each.over else "running",
        )
        for each in attempts
    ]


def _one_line(text: str) -> str:
    return " ".join(text.split())
