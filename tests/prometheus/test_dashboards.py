"""Every query of the dashboards and alerts has a result in the metrics of a real run, by the real Prometheus.

tests/cluster/record_metrics.py made the recording: two operators, a run that trained, lost its coordinator and was
ended by a policy, a short one, and some that never started.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml
from dashboards import fill_in, load_panels
from matplotlib.image import imread
from panels import draw_all
from recorded import load_story, serve_recorded

from scalerl_operator.telemetry.prometheus import PrometheusClient, fetch_reading
from scalerl_operator.telemetry.promql import Question
from scalerl_operator.telemetry.run_metrics import RUN_METRICS
from scalerl_runtime.process.metrics import STATE_METRICS, STEP_METRICS

RULES = Path(__file__).parents[2] / "charts/scalerl/files/rules.yaml"
STORY = load_story()
# Younger than the recording; `make record` empties this.
NOT_RECORDED = (
    "scalerl_mismatch_lag0",
    "scalerl_mismatch_bound",
    "scalerl_self_check_mean",
    "scalerl_run_source_pass_rate",
    "scalerl_run_source_ceiling",
    "scalerl_run_source_ceiling_low",
    "scalerl_run_source_ceiling_high",
    "scalerl_run_source_predicted_pass_rate",
    "scalerl_run_source_predicted_low",
    "scalerl_run_source_predicted_high",
    "scalerl_run_source_verdict",
    "scalerl_verifier_timeouts_total",
    "scalerl_reward_by_judge",
    "scalerl_episode_turns_mean",
    "scalerl_observation_share",
    "scalerl_tool_errors",
    "scalerl_cut_observations",
)
VARIABLES = {"run": STORY["variables"], "fleet": {"namespace": ".*"}}


@dataclass(frozen=True)
class Recording:
    url: str

    def ask(self, call: str, **given: Any) -> list[Any]:
        with urlopen(f"{self.url}/api/v1/{call}?{urlencode(given)}", timeout=60) as answer:
            found: list[Any] = json.load(answer)["data"]["result"]
        return found

    def samples(self, query: str, *, is_instant: bool = False) -> list[float]:
        if is_instant:
            return [float(each["value"][1]) for each in self.ask("query", query=query, time=STORY["to"])]
        found = self.ask("query_range", query=query, start=STORY["from"], end=STORY["to"], step=5)
        return [float(text) for each in found for _, text in each["values"]]


@pytest.fixture(scope="module")
def recording() -> Iterator[Recording]:
    with serve_recorded() as (url, _):
        yield Recording(url)


def questions() -> Iterator[Any]:
    seconds = STORY["to"] - STORY["from"]
    for name, variables in VARIABLES.items():
        for panel in load_panels(name):
            for target in panel.targets:
                query = fill_in(target.expr, variables, seconds)
                yield pytest.param(query, target.is_instant, id=f"{name}: {panel.title}: {target.ref}")


@pytest.mark.parametrize(("query", "is_instant"), list(questions()))
def test_panel_has_data(recording: Recording, query: str, *, is_instant: bool) -> None:
    values = recording.samples(query, is_instant=is_instant)
    if any(name in query for name in NOT_RECORDED):
        assert values == [], "the recording is new: remove the series from NOT_RECORDED"
        return
    assert [value for value in values if math.isfinite(value)], query


def rules() -> Iterator[Any]:
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            yield pytest.param(rule["expr"], id=rule["alert"])


@pytest.mark.parametrize("expr", list(rules()))
def test_alert_has_data(recording: Recording, expr: str) -> None:
    """The compared series exist: with `bool` a comparison gives 0 or 1 instead of filtering."""
    compared = re.sub(r" (==|>|<) ", r" \1 bool ", expr).replace("offset 1h", "offset 1m")
    assert compared != expr
    if any(name in expr for name in NOT_RECORDED):
        assert recording.samples(compared) == [], "the recording is new: remove the series from NOT_RECORDED"
        return
    assert recording.samples(compared)


@pytest.mark.parametrize("name", NOT_RECORDED)
def test_what_is_not_recorded_is_a_metric(name: str) -> None:
    of_runs = {f"run_{metric.name}" for metric in RUN_METRICS}
    assert name.removeprefix("scalerl_") in {metric.name for metric in (*STEP_METRICS, *STATE_METRICS)} | of_runs


@pytest.mark.parametrize("name", sorted({*NOT_RECORDED} - {"scalerl_mismatch_bound"}))  # of an alert
def test_what_is_not_recorded_has_a_panel_with_a_description(name: str) -> None:
    found = [
        panel.description
        for dashboard in VARIABLES
        for panel in load_panels(dashboard)
        if any(re.search(rf"{name}\b", target.expr) for target in panel.targets)
    ]
    assert found
    assert all(found)


@pytest.mark.parametrize("name", ["namespace", "run"])
def test_variable_can_be_chosen(recording: Recording, name: str) -> None:
    found = recording.ask("query", query=f"count by ({name}) (scalerl_run_state)", time=STORY["to"])
    assert STORY["variables"][name] in {each["metric"][name] for each in found}


def test_the_operators_own_reading_of_the_run(recording: Recording) -> None:
    """The operator's reading of the recorded run.

    Every evaluation, by steps of ten, whichever coordinator made it.
    """
    (info,) = recording.ask(
        "query", query='group by (run_uid) (last_over_time(scalerl_step{run="sums"}[3h]))', time=STORY["to"]
    )
    times = [datetime.fromtimestamp(STORY[each], UTC) for each in ("from", "to")]
    reading = fetch_reading(PrometheusClient(recording.url), Question("sums", info["metric"]["run_uid"], 2, *times))
    steps = [point.step for point in reading.evals]
    assert steps == sorted(set(steps), key=steps.index)
    assert set(range(0, max(steps), 10)) <= set(steps)
    assert {point.attempt for point in reading.evals} == {1, 2}


def test_pictures_are_drawn_of_it(recording: Recording, tmp_path: Path) -> None:
    draw_all(recording.url, STORY["from"], STORY["to"], STORY["variables"], tmp_path)
    for name in ("run", "fleet"):
        picture = imread(tmp_path / f"dashboard_{name}.png")
        assert picture.shape[1] > 1000
        assert len({tuple(pixel) for pixel in picture[::20, ::20].reshape(-1, 4).round(2).tolist()}) > 5
