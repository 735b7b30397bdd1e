"""What a coordinator tells of itself."""

from pathlib import Path

import pytest
import yaml

from scalerl_api import parse_run
from scalerl_api.wire import StepRecord
from scalerl_runtime.actors.options import Environment
from scalerl_runtime.process.coordinator import Coordinator

QUICKSTART = Path(__file__).parents[4] / "examples" / "quickstart.yaml"


@pytest.fixture
def coordinator(tmp_path):
    (tmp_path / "token").write_text("secret")
    names = {"SPEC": "run.yaml", "FOLDER": "", "TOKEN_FILE": "token", "TERMINATION_FILE": "words.json"}
    environment = Environment.parse({f"SCALERL_{key}": str(tmp_path / name) for key, name in names.items()})
    return Coordinator(environment, parse_run(yaml.safe_load(QUICKSTART.read_text())))


def test_what_the_watchdog_is_told(coordinator):
    """Time without a step runs only while it trains: loading and the last evaluations have their own deadlines."""
    for phase in ("starting", "warmStart"):
        coordinator.on_phase(phase, "")
        assert coordinator.progress(0).still_seconds is None
    coordinator.on_phase("training", "")
    first = coordinator.progress(0).still_seconds
    assert first is not None
    assert first >= 0.0
    values = {"entropy": 0.75, "lag_max": 2.0, "non_finite": 0.0}
    coordinator.on_step(StepRecord(step=7, time=1.0, attempt=1, compute_gpu_hours=0.5, values=values), [], [])
    told = coordinator.progress(0)
    assert [(each.step, each.finite, each.entropy, each.lag) for each in told.vitals] == [(7, True, 0.75, 2.0)]
    coordinator.on_phase("evaluating", "waiting for the last evaluations")
    assert coordinator.progress(0).still_seconds is None
