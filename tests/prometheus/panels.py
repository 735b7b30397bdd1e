"""Draw the chart's dashboards without Grafana: the same panels, by the same PromQL, from a Prometheus server. I/O.

    .venv/bin/python tests/prometheus/panels.py --prometheus http://localhost:9090 \\
        --var namespace=research --var run=sums --from 2026-05-04T12:00Z --to 2026-05-04T12:30Z

writes docs/images/dashboard_run.png and dashboard_fleet.png. Without --prometheus it draws what is recorded in
tests/prometheus/recorded, for which it starts a server. --from and --to are Unix seconds or ISO times.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import matplotlib.dates as mdates
import numpy as np
from dashboards import Panel, Target, fill_in, load_panels, name_series
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from recorded import serve_recorded

from scalerl_operator.render.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, clean_axes

ROOT = Path(__file__).parents[2]
OUT = ROOT / "docs/images"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, RED, "#56B4E9", "#E69F00", GREY, "#000000", "#8C564B")
COLUMN, ROW = 0.68, 0.40  # inches of one of the grid's 24 columns and of one of its rows
MARGIN = 0.12
STEPS = 500  # samples of a line
DPI = 110


@dataclass(frozen=True)
class Window:
    """The query and its time range."""

    url: str
    start: float
    end: float
    variables: Mapping[str, str]

    def ask(self, target: Target) -> list[dict[str, Any]]:
        """Return the target's series: a matrix, or a vector at the end of the window."""
        query = fill_in(target.expr, self.variables, self.end - self.start)
        if target.is_instant:
            return self._get("query", {"query": query, "time": self.end})
        step = max(1.0, (self.end - self.start) / STEPS)
        return self._get("query_range", {"query": query, "start": self.start, "end": self.end, "step": step})

    def _get(self, call: str, given: Mapping[str, Any]) -> list[dict[str, Any]]:
        with urlopen(f"{self.url}/api/v1/{call}?{urlencode(given)}", timeout=60) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found


@dataclass(frozen=True)
class Line:
    """One drawn series."""

    name: str
    times: np.ndarray[Any, Any]
    values: np.ndarray[Any, Any]


def read_lines(panel: Panel, window: Window) -> list[Line]:
    """Return the panel's series in the order of its targets; gaps are NaN."""
    step = max(1.0, (window.end - window.start) / STEPS)
    times = window.start + step * np.arange(math.floor((window.end - window.start) / step) + 1)
    lines = []
    for target in panel.targets:
        for series in window.ask(target):
            values = np.full(len(times), np.nan)
            for at, text in series["values"] if "values" in series else [series["value"]]:
                values[min(len(times) - 1, round((float(at) - window.start) / step))] = float(text)
            lines.append(Line(name_series(target.legend, series["metric"]), times, values))
    return lines


def read_table(panel: Panel, window: Window) -> tuple[list[str], list[list[Any]]]:
    """Return the fields and rows that Grafana's transformations merge, organize and sortBy make of instant queries."""
    rows: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
    answers = [(target, window.ask(target)) for target in panel.targets]
    labels = [{name for each in found for name in each["metric"]} for _, found in answers if found]
    shared = set.intersection(*labels) if labels else set()
    for target, found in answers:
        for each in found:
            key = tuple(sorted((name, text) for name, text in each["metric"].items() if name in shared))
            rows.setdefault(key, {}).update(each["metric"] | {f"Value #{target.ref}": float(each["value"][1])})
    organize = panel.transformations["organize"]
    fields = _order(
        [*sorted({name for row in rows.values() for name in row if not name.startswith("Value")})],
        [f"Value #{target.ref}" for target in panel.targets],
        organize,
    )
    renamed = [organize["renameByName"].get(field, field) for field in fields]
    table: list[list[Any]] = [[row.get(field) for field in fields] for row in rows.values()]
    sort = panel.transformations.get("sortBy", {}).get("sort", [{"field": renamed[0]}])[0]["field"] if table else ""
    if sort in renamed:
        place = renamed.index(sort)
        known: list[list[Any]] = [row for row in table if row[place] is not None]
        table = sorted(known, key=lambda row: row[place])
    return renamed, table


def _order(labels: Sequence[str], values: Sequence[str], organize: Mapping[str, Any]) -> list[str]:
    kept = [name for name in (*labels, *values) if not organize["excludeByName"].get(name)]
    place = organize["indexByName"]
    return sorted(kept, key=lambda name: (place.get(name, 1000), kept.index(name)))


def format_value(value: float, unit: str, decimals: int | None = None) -> str:
    """Return the value as Grafana would: `64.3 %`, `1.5 min`."""
    if not math.isfinite(value):
        return "-"
    if unit == "percentunit":
        return f"{100 * value:.{decimals if decimals is not None else 1}f} %"
    if unit == "s":
        for limit, name in ((3600.0, "h"), (60.0, "min"), (1.0, "s")):
            if abs(value) >= limit:
                return f"{value / limit:.3g} {name}"
        return f"{1000 * value:.3g} ms" if value else "0 s"
    text = f"{value:.{decimals}f}" if decimals is not None else f"{value:.4g}"
    return text + (" /s" if unit == "ops" else "")


def draw_stat(axes: Axes, panel: Panel, window: Window) -> None:
    """Draw one number, or the name of the series where the panel shows names."""
    lines = [line for line in read_lines(panel, window) if np.isfinite(line.values).any()]
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    if not lines:
        axes.text(0.5, 0.45, "No data", ha="center", va="center", color=GREY, fontsize=12)
        return
    unit, decimals = panel.defaults.get("unit", "short"), panel.defaults.get("decimals")
    texts = [
        line.name
        if panel.options.get("textMode") == "name"
        else format_value(float(line.values[np.isfinite(line.values)][-1]), unit, decimals)
        for line in lines
    ]
    text = ", ".join(texts)
    axes.text(0.5, 0.6, text, ha="center", va="center", fontsize=17 if len(text) < 11 else 13, fontweight="bold")
    if panel.options.get("graphMode") == "area":
        values = lines[0].values
        spread = np.nanmax(values) - np.nanmin(values) or 1.0
        y = 0.02 + 0.22 * (values - np.nanmin(values)) / spread
        x = np.linspace(0.05, 0.95, len(values))
        axes.plot(x, y, color=BLUE, lw=1)
        axes.fill_between(x, 0, y, color=BLUE, alpha=0.15, lw=0)


def draw_lines(axes: Axes, panel: Panel, window: Window) -> None:
    """Draw a panel over time."""
    lines = read_lines(panel, window)
    when = {id(line): [datetime.fromtimestamp(t, UTC) for t in line.times] for line in lines}
    if panel.setting("", "custom.stacking"):
        _stack(axes, lines, when)
    else:
        _lay(axes, panel, [(line.name, when[id(line)], line.values) for line in lines])
    axes.set_xlim(*(mdates.date2num(datetime.fromtimestamp(each, UTC)) for each in (window.start, window.end)))
    axes.xaxis.set_major_locator(mdates.AutoDateLocator(minticks=3, maxticks=6))
    axes.xaxis.set_major_formatter(mdates.DateFormatter("%H:%M", tz=UTC))


def _stack(axes: Axes, lines: Sequence[Line], when: Mapping[int, Any]) -> None:
    if lines:
        values = [np.nan_to_num(line.values) for line in lines]
        colours = [COLOURS[index % len(COLOURS)] for index in range(len(lines))]
        axes.stackplot(
            when[id(lines[0])], values, labels=[line.name for line in lines], colors=colours, alpha=0.65, step="post"
        )
    axes.set_ylim(bottom=0)
    clean_axes(axes)


def _lay(axes: Axes, panel: Panel, series: Sequence[tuple[str, Any, np.ndarray[Any, Any]]]) -> None:
    """Draw lines, points and bands on the left or the right axis."""
    by_name = {name: values for name, _, values in series}
    ends = {panel.setting(name, "custom.fillBelowTo") for name in by_name} - {None}
    right = axes.twinx() if any(_is_right(panel, name) for name in by_name) else None
    drawn = 0
    for name, x, values in series:
        below = panel.setting(name, "custom.fillBelowTo")
        place = right if right is not None and _is_right(panel, name) else axes
        if below in by_name:
            place.fill_between(x, by_name[below], values, color=BLUE, alpha=0.18, lw=0, label=f"{below} to {name}")
            continue
        if name in ends:
            continue
        colour = COLOURS[drawn % len(COLOURS)] if not ends or name in ("curve", "fitted") else COLOURS[drawn + 1]
        colour = BLUE if ends and name in ("curve", "fitted", "ceiling", "predicted") else colour
        drawn += 1
        if panel.setting(name, "custom.drawStyle") == "points":
            place.plot(x, values, "o", ms=4.5, mfc="black", mec="black", label=name, zorder=5)
        else:
            place.plot(x, values, color=colour, lw=1.6, label=name + (" (right)" if place is right else ""))
    _limit(axes, panel, "", [values for name, _, values in series if not _is_right(panel, name)])
    if right is not None:
        name = next(name for name in by_name if _is_right(panel, name))
        _limit(right, panel, name, [by_name[name]])
        right.spines["top"].set_visible(False)
        right.tick_params(labelsize=8, colors=GREY)
    clean_axes(axes)


def _is_right(panel: Panel, name: str) -> bool:
    return bool(panel.setting(name, "custom.axisPlacement") == "right")


def _limit(axes: Axes, panel: Panel, name: str, values: Sequence[np.ndarray[Any, Any]]) -> None:
    """Set the axis ends as Grafana does, the panel's or else the data's, and the unit at the ticks."""
    finite = np.concatenate([each[np.isfinite(each)] for each in values]) if values else np.array([])
    low, high = panel.setting(name, "min"), panel.setting(name, "max")
    if len(finite):
        room = 0.06 * ((finite.max() - finite.min()) or abs(finite.max()) or 1.0)
        low = finite.min() - room if low is None else low
        high = finite.max() + room if high is None else high
    if panel.setting(name, "custom.scaleDistribution.type") == "log":
        axes.set_yscale("log")
    elif low is not None and high is not None:
        axes.set_ylim(low, high)
    unit = panel.setting(name, "unit")
    if axes.get_yscale() != "log":
        axes.yaxis.set_major_locator(MaxNLocator(5))
    if unit == "percentunit":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
    elif unit in ("s", "ops"):
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_value(value, unit)))


def draw_trend(axes: Axes, panel: Panel, window: Window) -> None:
    """Draw a panel over one of its own fields."""
    fields, rows = read_table(panel, window)
    across = fields.index(panel.options["xField"])
    series = []
    for place, name in enumerate(fields):
        found = [(row[across], row[place]) for row in rows if row[place] is not None]
        if place != across and found:
            series.append((name, np.array([x for x, _ in found]), np.array([y for _, y in found])))
    _lay(axes, panel, series)
    axes.set_xlabel(panel.options["xField"], fontsize=8, color=GREY)


def draw_table(axes: Axes, panel: Panel, window: Window) -> None:
    """Draw a table."""
    fields, rows = read_table(panel, window)
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    height, widths = 0.11, np.linspace(0.005, 0.995, len(fields) + 1)
    for left, name in zip(widths, fields, strict=False):
        axes.text(left, 0.94, name, fontsize=9, color=BLUE, va="center")
    axes.axhline(0.89, color="#D1D5DB", lw=0.8)
    for index, row in enumerate(rows[: int(0.86 / height)]):
        for left, name, cell in zip(widths, fields, row, strict=False):
            unit, decimals = panel.setting(name, "unit") or "short", panel.setting(name, "decimals")
            text = cell if isinstance(cell, str) else "" if cell is None else format_value(cell, unit, decimals)
            axes.text(left, 0.83 - index * height, text, fontsize=9, va="center", color="#1F2937")


DRAW = {"stat": draw_stat, "timeseries": draw_lines, "trend": draw_trend, "table": draw_table}


def draw_dashboard(name: str, window: Window) -> Figure:
    """Return the dashboard's picture."""
    panels = load_panels(name)
    rows = max(panel.at["y"] + panel.at["h"] for panel in panels)
    width, height = 24 * COLUMN, rows * ROW + 0.7
    figure = Figure(figsize=(width, height), facecolor="#F3F4F6")
    FigureCanvasAgg(figure)
    begin, end = (datetime.fromtimestamp(each, UTC) for each in (window.start, window.end))
    shown = f"{begin:%Y-%m-%d %H:%M} to {end:%H:%M} UTC"
    of = f"{window.variables['namespace']}/{window.variables['run']}, {shown}" if name == "run" else shown
    title = {"run": "scalerl: one run", "fleet": "scalerl: the fleet"}[name]
    figure.text(0.012, 1 - 0.38 / height, title, fontsize=16, fontweight="bold", va="center")
    figure.text(0.988, 1 - 0.38 / height, of, fontsize=11, color=GREY, va="center", ha="right")
    for panel in panels:
        _place(figure, panel, window, (width, height))
    return figure


def _place(figure: Figure, panel: Panel, window: Window, size: tuple[float, float]) -> None:
    """Draw a white card with the title, the panel and a legend below."""
    width, height = size
    left, top = panel.at["x"] * COLUMN + MARGIN / 2, 0.7 + panel.at["y"] * ROW + MARGIN / 2
    wide, high = panel.at["w"] * COLUMN - MARGIN, panel.at["h"] * ROW - MARGIN
    card = (left / width, 1 - (top + high) / height, wide / width, high / height)
    back = figure.add_axes(card)
    back.set_xticks([])
    back.set_yticks([])
    for spine in back.spines.values():
        spine.set_color("#E5E7EB")
    back.text(0.12 / wide, 1 - 0.2 / high, panel.title, fontsize=10, fontweight="bold", va="center")
    if panel.kind in ("stat", "table"):
        inner = _inside(card, size, (0.12, 0.08, 0.12, 0.38))
        DRAW[panel.kind](figure.add_axes(inner, facecolor="none"), panel, window)
        return
    axes = figure.add_axes(card, facecolor="none")
    before = len(figure.axes)
    DRAW[panel.kind](axes, panel, window)
    right = figure.axes[before:]  # the second axis, where the panel has one
    rows = _legend_rows([axes, *right], wide)
    below = 0.34 + 0.17 * max(1, len(rows)) + (0.14 if panel.kind == "trend" else 0.0)
    inner = _inside(card, size, (0.66, below, 0.6 if right else 0.22, 0.38))
    for each in (axes, *right):
        each.set_position(inner)
        each.tick_params(labelsize=8, colors=GREY)
    for number, row in enumerate(reversed(rows)):
        _draw_legend(figure, row, (card[0], card[1] + 0.17 * number / height))
    if not axes.has_data() and not any(each.has_data() for each in right):
        axes.text(0.5, 0.5, "No data", transform=axes.transAxes, ha="center", va="center", color=GREY, fontsize=12)


def _inside(
    card: tuple[float, float, float, float], size: tuple[float, float], inset: tuple[float, float, float, float]
) -> tuple[float, float, float, float]:
    """Return the card less the given inches at its left, bottom, right and top."""
    width, height = size
    return (
        card[0] + inset[0] / width,
        card[1] + inset[1] / height,
        card[2] - (inset[0] + inset[2]) / width,
        card[3] - (inset[1] + inset[3]) / height,
    )


def _legend_rows(places: Sequence[Axes], wide: float) -> list[list[tuple[Any, str]]]:
    """Draw the legend in rows that fit, at most three."""
    rows: list[list[tuple[Any, str]]] = [[]]
    room = wide - 0.15
    for handle, label in [pair for each in places for pair in zip(*each.get_legend_handles_labels(), strict=True)]:
        need = 0.36 + 0.058 * len(label)
        if need > room and rows[-1]:
            rows.append([])
            room = wide - 0.15
        rows[-1].append((handle, label))
        room -= need
    return [row for row in rows[:3] if row]


def _draw_legend(figure: Figure, row: Sequence[tuple[Any, str]], at: tuple[float, float]) -> None:
    handles, labels = zip(*row, strict=True)
    figure.legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=at,
        ncols=len(labels),
        frameon=False,
        fontsize=8,
        handlelength=1.4,
        columnspacing=1.0,
        borderaxespad=0.25,
    )


def parse_time(text: str) -> float:
    """Parse Unix seconds or an ISO time."""
    try:
        return float(text)
    except ValueError:
        return datetime.fromisoformat(text).timestamp()


def parse_variable(text: str) -> tuple[str, str]:
    """Parse `name=value`."""
    name, found, value = text.partition("=")
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def main() -> int:
    """Draw both dashboards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prometheus", metavar="URL", help="what stands before /api/v1 (default: the recorded run)")
    parser.add_argument("--from", dest="start", type=parse_time, metavar="TIME", help="begin of the time shown")
    parser.add_argument("--to", dest="end", type=parse_time, metavar="TIME", help="its end")
    parser.add_argument("--var", type=parse_variable, action="append", default=[], help="namespace=..., run=...")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the pictures (default: docs/images)")
    options = parser.parse_args()
    if options.prometheus is None:
        with serve_recorded() as (url, recording):
            given = recording | {"from": options.start or recording["from"], "to": options.end or recording["to"]}
            draw_all(url, given["from"], given["to"], recording["variables"] | dict(options.var), options.out)
    else:
        if options.start is None or options.end is None:
            parser.error("--prometheus needs --from and --to")
        draw_all(options.prometheus.rstrip("/"), options.start, options.end, dict(options.var), options.out)
    return 0


def draw_all(url: str, start: float, end: float, variables: Mapping[str, str], out: Path) -> None:
    """Write the two pictures."""
    for name in ("run", "fleet"):
        given = {"namespace": ".*"} if name == "fleet" else dict(variables)
        figure = draw_dashboard(name, Window(url, start, end, given))
        path = out / f"dashboard_{name}.png"
        figure.savefig(path, dpi=DPI)
        print(path)


if __name__ == "__main__":
    raise SystemExit(main())
