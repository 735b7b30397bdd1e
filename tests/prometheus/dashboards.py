"""The chart's dashboards as values: panels and their PromQL. PURE but for reading the file."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "charts/scalerl/dashboards"
Json = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """One query of a panel."""

    ref: str
    expr: str
    legend: str
    """Format of the legend, with {{label}} in it."""
    is_instant: bool
    """Whether it is an instant query, at the end of the time shown."""


@dataclass(frozen=True)
class Panel:
    """One panel."""

    kind: str
    title: str
    description: str
    at: Mapping[str, int]
    """(x, y, width, height) in a grid of 24 columns."""
    targets: Sequence[Target]
    defaults: Json
    overrides: Mapping[str, Json]
    """Name of a series or field -> its own settings."""
    options: Json
    transformations: Mapping[str, Json]

    def setting(self, name: str, key: str) -> Any:
        """Return a setting of the series `name`, its own or the panel's; drawing settings begin with `custom.`."""
        own = self.overrides.get(name, {})
        if key in own:
            return own[key]
        place = self.defaults
        for part in key.split("."):
            place = place.get(part, {}) if isinstance(place, dict) else {}
        return None if place == {} else place


def load_panels(name: str) -> list[Panel]:
    """Return the panels of the dashboard `run` or `fleet`."""
    document = json.loads((FOLDER / f"{name}.json").read_text())
    return [_parse(each) for each in document["panels"]]


def _parse(panel: Json) -> Panel:
    return Panel(
        kind=panel["type"],
        title=panel["title"],
        description=panel["description"],
        at=panel["gridPos"],
        targets=[
            Target(each["refId"], each["expr"], each.get("legendFormat", ""), bool(each.get("instant")))
            for each in panel["targets"]
        ],
        defaults=panel["fieldConfig"]["defaults"],
        overrides={
            each["matcher"]["options"]: {setting["id"]: setting["value"] for setting in each["properties"]}
            for each in panel["fieldConfig"]["overrides"]
        },
        options=panel["options"],
        transformations={each["id"]: each["options"] for each in panel.get("transformations", [])},
    )


def fill_in(expr: str, variables: Mapping[str, str], range_seconds: float) -> str:
    """Return the PromQL with the dashboard's variables replaced. Raises KeyError for one that has no value."""
    known = {**variables, "__range": f"{max(1, round(range_seconds))}s"}
    return re.sub(r"\$([a-z_]\w*)", lambda found: known[found.group(1)], expr)


def name_series(legend: str, labels: Mapping[str, str]) -> str:
    """Return a series' name as the legend's format makes it."""
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found.group(1), ""), legend)


def list_questions(name: str, variables: Mapping[str, str], range_seconds: float) -> Iterator[tuple[str, str]]:
    """Yield (panel's title, PromQL) of every query of a dashboard."""
    for panel in load_panels(name):
        for target in panel.targets:
            yield panel.title, fill_in(target.expr, variables, range_seconds)
