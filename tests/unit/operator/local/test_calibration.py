"""The calibration's short runs and its kept rates, and CPU-seconds by role."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from scalerl_api import parse_run
from scalerl_operator.capacity.cpu_rates import CpuSample, CpuSeconds, StepWork
from scalerl_operator.local import calibration
from scalerl_operator.local.calibration import SIZES, build_short_run, calibrate, find_calibration
from scalerl_operator.local.role_usage import UsageSample, find_role, seconds_between
from scalerl_operator.local.run_lengths import NoRecords, read_measured_run

EXAMPLES = sorted((Path(__file__).parents[4] / "examples").glob("*.yaml"))
SMALL = CpuSample(StepWork(64, 1_600, 1_900, 30), CpuSeconds(0.2, 0.3, 0.1))
WHOLE = CpuSample(StepWork(192, 9_000, 10_500, 40), CpuSeconds(0.7, 1.2, 0.25))


def load(name="quickstart"):
    return yaml.safe_load((Path(__file__).parents[4] / f"examples/{name}.yaml").read_text())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
@pytest.mark.parametrize("size", SIZES, ids=lambda size: size.name)
def test_a_short_run_of_every_example_is_valid(path, size):
    document = yaml.safe_load(path.read_text())
    before = json.dumps(document)
    run = parse_run(build_short_run(document, size))
    recipe, whole = run.spec.resolved_recipe(), parse_run(document).spec.resolved_recipe()
    assert recipe.length.control == "none"
    assert recipe.zero_variance == "keep"  # a model without a warm start solves nothing: all groups would be dropped
    assert recipe.prompts_per_step <= whole.prompts_per_step
    assert run.spec.data.held_out.prompts == 2
    assert run.spec.budget.steps == calibration.STEPS
    assert json.dumps(document) == before


def test_rates_are_kept_for_this_model_on_this_machine(tmp_path, monkeypatch):
    document, lines = load(), []
    found = iter([SMALL, WHOLE])
    monkeypatch.setattr(calibration, "measure_run", lambda *_: next(found))
    run = parse_run(document)
    assert find_calibration(run, tmp_path) is None
    made = calibrate(run, document, tmp_path, lines.append)
    assert find_calibration(run, tmp_path) == made
    assert made.rates.step(WHOLE.work).total == pytest.approx(2.15, rel=0.01)
    assert len(lines) == 4
    document["spec"]["model"]["scratch"]["layers"] = 3
    assert find_calibration(parse_run(document), tmp_path) is None


@pytest.mark.parametrize("damage", ["", "{}", '{"samples": [1]}', "[]"])
def test_a_damaged_file_counts_as_none(tmp_path, monkeypatch, damage):
    document = load()
    monkeypatch.setattr(calibration, "measure_run", lambda *_: WHOLE)
    calibrate(parse_run(document), document, tmp_path, lambda _: None)
    (kept,) = tmp_path.rglob("*.json")
    kept.write_text(damage)
    assert find_calibration(parse_run(document), tmp_path) is None


@pytest.mark.parametrize(
    ("title", "role"),
    [
        ("ray::Trainer.train", "trainer"),
        ("ray::Generator", "engine"),
        ("VLLM::EngineCore", "engine"),
        ("VLLM::Worker", "engine"),
        ("/usr/bin/python", "loop"),
        ("", "loop"),
    ],
)
def test_roles_by_title(title, role):
    assert find_role([title] if title else []) == role


def test_seconds_between_two_times_are_interpolated():
    samples = [
        UsageSample(10.0, {"trainer": 1.0, "engine": 0.0, "loop": 0.0}),
        UsageSample(20.0, {"trainer": 3.0, "engine": 10.0, "loop": 0.0}),
        UsageSample(30.0, {"trainer": 9.0, "engine": 10.0, "loop": 4.0}),
    ]
    assert seconds_between(samples, 15.0, 25.0) == {"trainer": 4.0, "engine": 5.0, "loop": 2.0}
    assert seconds_between(samples, 10.0, 30.0) == {"trainer": 8.0, "engine": 10.0, "loop": 4.0}
    for start, end in ((9.0, 20.0), (10.0, 31.0)):
        with pytest.raises(ValueError, match="no sample"):
            seconds_between(samples, start, end)


def make_folder(folder, *, kept=12.0):
    """A run of two steps with completions of 10 to 33 tokens after prompts of 6, half of whose groups train."""
    (folder / "rollouts").mkdir(parents=True)
    (folder / "run.yaml").write_text(yaml.safe_dump(load()))
    counts = [10 + i % 24 for i in range(192)]
    mean = sum(counts) / 192
    lines = []
    for step in (1, 2):
        pq.write_table(pa.table({"num_tokens": counts}), folder / f"rollouts/step-{step:06d}.parquet")
        packed = kept * 8 * (mean + 6)
        values = {"effective_prompts": kept, "train_seconds": 0.5, "trainer_tokens_per_second": packed / 0.5}
        lines.append(json.dumps({"step": step, "values": values}))
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    return mean


def test_lengths_of_a_run(tmp_path):
    mean = make_folder(tmp_path)
    found = read_measured_run(tmp_path)
    assert found.lengths.mean == pytest.approx(mean)
    assert found.lengths.longest == 33
    assert found.lengths.prompt == pytest.approx(6.0)
    assert found.trained_share == pytest.approx(0.5)


def test_a_run_that_dropped_every_group_has_lengths(tmp_path):
    make_folder(tmp_path, kept=0.0)
    found = read_measured_run(tmp_path)
    assert (found.lengths.prompt, found.trained_share) == (1.0, 0.01)


def test_a_folder_without_steps_is_refused(tmp_path):
    with pytest.raises(NoRecords, match="no stored completions"):
        read_measured_run(tmp_path)
    make_folder(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(NoRecords, match="cannot be read"):
        read_measured_run(tmp_path)
