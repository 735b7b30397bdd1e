"""The chart's plain files; tests/cluster/test_chart.py covers the rendered templates."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scalerl_api.wire import SERIES_PREFIX
from scalerl_operator.run.conditions import FAILED, STANDINGS
from scalerl_operator.telemetry.metrics import OperatorMetrics
from scalerl_runtime.process.metrics import EVAL_METRICS, STATE_METRICS, STEP_METRICS

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
CHART = ROOT / "charts/scalerl"
RUNBOOKS = ROOT / "docs/runbooks"
DASHBOARDS = sorted((CHART / "dashboards").glob("*.json"))
Json = dict[str, Any]

# Words in PromQL that are not metrics: functions, operators, labels after `by`.
NAME = re.compile(r"\bscalerl_[a-z0-9_]+")
HISTOGRAM_PARTS = ("_bucket", "_sum", "_count")

every_dashboard = pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)


def load_rules() -> list[Json]:
    groups = yaml.safe_load((CHART / "files/rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def load_dashboard(path: Path) -> Json:
    found: Json = json.loads(path.read_text())
    return found


def expressions(dashboard: Json) -> Iterator[str]:
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]


def operator_metrics() -> dict[str, str]:
    """Names and types of the metrics as Prometheus scrapes them."""
    found = {}
    for family in OperatorMetrics().registry.collect():
        names = [family.name + part for part in HISTOGRAM_PARTS] if family.type == "histogram" else [family.name]
        names = [f"{family.name}_total"] if family.type == "counter" else names
        found |= dict.fromkeys(names, family.type)
    return found


def runtime_metrics() -> dict[str, str]:
    found = {}
    for metric in (*STEP_METRICS, *STATE_METRICS, *EVAL_METRICS):
        name = SERIES_PREFIX + metric.name
        parts = [name + part for part in HISTOGRAM_PARTS] if metric.kind == "histogram" else [name]
        found |= dict.fromkeys(parts, metric.kind)
    return found


KNOWN = operator_metrics() | runtime_metrics()


@pytest.mark.parametrize("rule", load_rules(), ids=lambda rule: rule["alert"])
def test_alert_uses_metrics_that_exist(rule: Json) -> None:
    used = set(NAME.findall(rule["expr"]))
    assert used
    assert used <= set(KNOWN)


@every_dashboard
def test_dashboard_uses_metrics_that_exist(path: Path) -> None:
    used = {name for text in expressions(load_dashboard(path)) for name in NAME.findall(text)}
    assert used
    assert used <= set(KNOWN)


def test_every_metric_of_the_operator_is_shown() -> None:
    text = " ".join(text for path in DASHBOARDS for text in expressions(load_dashboard(path)))
    shown = {re.sub("_(bucket|sum|count)$", "", name) for name in NAME.findall(text)}
    families = {re.sub("_(bucket|sum|count)$", "", name) for name in operator_metrics()}
    assert families - shown == set()


@pytest.mark.parametrize("kind", ["rules", *(path.stem for path in DASHBOARDS)])
def test_only_counters_are_rated(kind: str) -> None:
    texts = [rule["expr"] for rule in load_rules()]
    if kind != "rules":
        texts = list(expressions(load_dashboard(CHART / f"dashboards/{kind}.json")))
    rated = {name for text in texts for name in re.findall(r"\brate\((scalerl_[a-z0-9_]+)", text)}
    assert {name for name in rated if KNOWN[name] not in ("counter", "histogram")} == set()


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    alerts = [rule["alert"] for rule in load_rules()]
    assert sorted(alerts) == sorted(path.stem for path in RUNBOOKS.glob("*.md"))
    for alert in alerts:
        assert (RUNBOOKS / f"{alert}.md").read_text().startswith(f"# {alert}\n")


def test_a_run_that_needs_attention_fires_an_alert_with_a_runbook() -> None:
    """A run that has ended, is suspended or recovers by itself fires no alert."""
    rule = next(each for each in load_rules() if each["alert"] == "ScalerlRunFailed")
    (pattern,) = re.findall(r'state=~"(.*)"', rule["expr"])
    wanted = set(FAILED)
    assert {state for state in STANDINGS if re.fullmatch(pattern, state)} == wanted
    rows = re.findall(r"^\| `(\w+)` \|", (RUNBOOKS / "ScalerlRunFailed.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(wanted)


def test_alerts_have_a_summary_and_a_severity() -> None:
    for rule in load_rules():
        assert set(rule["annotations"]) == {"summary", "description"}, rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")


@every_dashboard
def test_panels_have_numbers_of_their_own_and_do_not_overlap(path: Path) -> None:
    panels = load_dashboard(path)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        area = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not area & taken, panel["title"]
        taken |= area


@every_dashboard
def test_data_source_is_the_readers_choice(path: Path) -> None:
    def sources(node: object) -> Iterator[object]:
        if isinstance(node, dict):
            yield from (value for key, value in node.items() if key == "datasource")
            for value in node.values():
                yield from sources(value)
        elif isinstance(node, list):
            for value in node:
                yield from sources(value)

    dashboard = load_dashboard(path)
    assert dashboard["templating"]["list"][0]["type"] == "datasource"
    assert {json.dumps(source) for source in sources(dashboard)} == {'{"type": "prometheus", "uid": "${datasource}"}'}


def test_schema_names_every_value_and_refuses_others() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def resolve(node: Json) -> Json:
        return schema["definitions"][node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node

    def compare(value: Json, node: Json, path: str) -> None:
        node = resolve(node)
        assert node.get("additionalProperties") is False, path
        assert set(value) == set(node["properties"]) - {"global"}, path
        for key, inner in value.items():
            is_open = isinstance(resolve(node["properties"][key]).get("additionalProperties"), dict)
            if isinstance(inner, dict) and inner and not is_open:
                compare(inner, node["properties"][key], f"{path}.{key}")

    compare(values, schema, "values")


def test_versions_agree() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["appVersion"] == project["version"]


def test_chart_has_every_generated_object() -> None:
    originals = {path.name: path.read_text() for path in (ROOT / "crds").glob("*.yaml")}
    assert {path.name: path.read_text() for path in (CHART / "files/crds").iterdir()} == originals
