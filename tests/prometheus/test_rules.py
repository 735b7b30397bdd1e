"""Alerts and dashboards, checked by the real promtool."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from dashboards import fill_in, load_panels

HERE = Path(__file__).parent
RULES = HERE.parents[1] / "charts/scalerl/files/rules.yaml"
CASES = HERE / "rules_test.yaml"
VARIABLES = {"namespace": "research", "run": "sums"}


def test_alerts_fire_when_they_should_and_only_then(promtool: str, tmp_path: Path) -> None:
    file = tmp_path / "rules_test.yaml"
    file.write_text(CASES.read_text().replace("RULES", str(RULES)))
    done = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def alerts() -> list[str]:
    return [rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("alert", alerts())
def test_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(alert: str) -> None:
    cases: list[Any] = [
        case
        for test in yaml.safe_load(CASES.read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["alertname"] == alert
    ]
    assert {bool(case.get("exp_alerts")) for case in cases} == {True, False}


@pytest.mark.parametrize("name", ["run", "fleet"])
def test_promql_of_dashboards_can_be_parsed(name: str, promtool: str, tmp_path: Path) -> None:
    texts = [fill_in(target.expr, VARIABLES, 3600) for panel in load_panels(name) for target in panel.targets]
    rules = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(texts)]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", "--lint=none", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
