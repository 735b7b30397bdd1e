"""The report of a run folder: its files and numbers, also of an unfinished run."""

import io
import random
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from stored_rollouts import write_rollouts

from scalerl_api.evaluations import held_out
from scalerl_api.status import SelfTestStatus, SourceStatus
from scalerl_api.wire import EVALS_FILE, METRICS_FILE, source_dataset
from scalerl_operator.cli.report import load_report_data, write_report, write_report_data
from scalerl_operator.forecast import Points, fit_forecast, points
from scalerl_operator.local import run_folder as records
from scalerl_operator.local.run_folder import RunFolder
from scalerl_operator.render.plots import draw_fit
from scalerl_operator.run.step_panels import DRAWN


@pytest.fixture(scope="module")
def report(finished_folder: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the finished run, written once."""
    path = shutil.copytree(finished_folder.path, tmp_path_factory.mktemp("report") / "adder-digits")
    return write_report(RunFolder(path))


def cut(folder: RunFolder, *, evals: int) -> None:
    """Leave the first `evals` evaluations of each of the three sets, their forecasts, and no step."""
    for name, count in ((EVALS_FILE, 3 * evals), ("forecasts.jsonl", evals), (METRICS_FILE, 0)):
        lines = (folder.path / name).read_text().splitlines(keepends=True)
        (folder.path / name).write_text("".join(lines[:count]))


def test_the_report_is_one_file_with_its_pictures(report: Path) -> None:
    text = report.read_text()
    assert text.count("data:image/png;base64,") == 3
    for name in ("pass_rate.png", "downstream.png", "training.png"):
        with Image.open(report.parent / name) as image:
            assert image.width > 1500
    assert "http" not in text, "it loads nothing from outside"


def test_the_report_has_state_forecast_attempts_and_spec(report: Path) -> None:
    text = report.read_text()
    status = records.load_run(RunFolder(report.parent)).status
    assert status is not None
    assert status.forecast is not None
    wanted = (
        "<title>adder-digits",
        "Finished",
        f"{status.forecast.ceiling:.2f} [",
        "was killed by signal 9",
        "made at half",
        "step 120, 0.252 device-h",
        "exponential",
        "<td>long-sums</td>",
        "reasoning_gym:chain_sum",
    )
    assert [each for each in wanted if each not in text] == []


def test_panels_draw_metrics_of_the_runtime() -> None:
    metrics = pytest.importorskip("scalerl_runtime.process.metrics")
    known = {metric.name for metric in metrics.STEP_METRICS}
    assert DRAWN - known == set()


@pytest.mark.parametrize("evals", [1, 8], ids=["before the first step", "no verdict yet"])
def test_a_run_that_has_just_started_has_a_report(run_folder: RunFolder, evals: int) -> None:
    cut(run_folder, evals=evals)
    text = write_report(run_folder).read_text()
    assert (run_folder.path / "pass_rate.png").exists()
    assert not (run_folder.path / "training.png").exists(), "no step is recorded"
    assert ("none: no evaluation in the first half" in text) == (evals == 1)


def add_sources(folder: RunFolder, ceilings: dict[str, float]) -> None:
    """Add the evaluations of training sources whose curves are 0.1 + (A - 0.1) / (1 + (0.1 / C)^1.5)."""
    rng, pooled = random.Random(9), held_out(records.load_evals(folder))
    with (folder.path / EVALS_FILE).open("a") as file:
        for name, top in ceilings.items():
            for point in pooled:
                compute = point.compute_gpu_hours
                rate = 0.1 + ((top - 0.1) / (1 + (0.1 / compute) ** 1.5) if compute else 0.0) + rng.gauss(0.0, 0.006)
                changes = {"dataset": source_dataset(name), "pass_rate": rate, "prompts": 120}
                file.write(point.model_copy(update=changes).model_dump_json(by_alias=True) + "\n")


def test_each_source_of_a_mixture_has_its_curve_and_its_forecast(run_folder: RunFolder) -> None:
    add_sources(run_folder, {"math": 0.7, "code": 0.35})
    text = write_report(run_folder).read_text()
    assert text.count("data:image/png;base64,") == 4
    with Image.open(run_folder.path / "sources.png") as image:
        assert image.width > 1500
    assert text.index("Pass rate by training source") < text.index('alt="pass rate of each downstream set')
    rows = re.findall(r"<tr><td>(math|code)</td>(.*?)</tr>", text)
    assert [name for name, _ in rows] == ["code", "math"]
    for (name, row), top in zip(rows, (0.35, 0.7), strict=True):
        prompts, rates, ceiling, verdict, predicted, error = re.findall(r"<td>(.*?)</td>", row)
        assert (prompts, verdict) == ("120", "Identified"), name
        assert float(ceiling.split()[0]) == pytest.approx(top, abs=0.04)
        assert re.fullmatch(r"0\.\d{3} at step 0, 0\.\d{3} at step 240", rates)
        assert re.fullmatch(r"0\.\d{3} \[0\.\d{3}, 0\.\d{3}\] at the end", predicted)
        assert "the 90 % band" in error
    assert "<td>held_out.math</td>" in text, "its evaluations are listed"
    assert "<td>mean@4</td>" in text


def test_data_self_tests_rewards_by_verifier_and_pass_at_k_are_listed(run_folder: RunFolder) -> None:
    run = records.load_run(run_folder)
    test = SelfTestStatus(verifier="exact", rows=64, failed=1)
    source = SourceStatus(path="spec.data.train", rows=7473, bad=2, train=7000, duplicates=71, self_tests=[test])
    evals = [each.model_copy(update={"pass_at_k": {"1": 0.25, "4": 0.625}}) for each in records.load_evals(run_folder)]
    steps = [
        each.model_copy(update={"reward_by_judge": {"exact": each.step / 1000, "style": -0.5}})
        for each in records.load_steps(run_folder)
    ]
    assert run.status is not None
    described = run.model_copy(update={"status": run.status.model_copy(update={"sources": [source]})})
    data = replace(load_report_data(run_folder), run=described, evals=evals, steps=steps)
    text = write_report_data(data, run_folder.path).read_text()
    assert "<td>train</td><td>7,473</td><td>2</td><td>71</td><td>7,000</td>" in text
    assert "<td>exact: 63 of 64 rows as expected</td>" in text
    assert "<td>mean@4</td><td>0.6250</td>" in text
    first, last = steps[0].step, steps[-1].step
    assert f"<td>exact</td><td>{first / 1000:+.3f} (step {first})</td><td>{last / 1000:+.3f} (step {last})</td>" in text
    assert "<td>-0.500 over 10</td>" in text


def test_a_source_with_one_evaluation_is_drawn_without_a_fit(run_folder: RunFolder) -> None:
    add_sources(run_folder, {"math": 0.7})
    lines = (run_folder.path / EVALS_FILE).read_text().splitlines(keepends=True)
    (run_folder.path / EVALS_FILE).write_text("".join([*lines[:3], lines[75]]))
    (run_folder.path / "forecasts.jsonl").write_text("")
    text = write_report(run_folder).read_text()
    assert "<tr><td>math</td><td>120</td>" in text
    assert "NotIdentified" in text


def test_a_fit_of_a_csv_is_drawn_with_its_held_back_points() -> None:
    curve: Points = points(list(range(12)), [0.1 + 0.5 * x**2 / (16 + x**2) for x in range(12)])
    found = fit_forecast(curve.until(8.0), budget=20.0)
    with Image.open(io.BytesIO(draw_fit(curve, found, 8.0, y_label="rate"))) as image:
        assert image.width > 1500


def test_stored_completions_are_shown(run_folder: RunFolder) -> None:
    write_rollouts(run_folder.path, steps=[], evals=range(0, 50, 10))
    text = write_report(run_folder).read_text()
    assert text.count("data:image/png;base64,") == 4
    assert (run_folder.path / "prompt_rates.png").exists()
    best = text[text.index("Best completions") : text.index("Worst completions")]
    assert best.index("prompt 0 ") < best.index("prompt 1 "), "every prompt but 5 is solved at step 40"
    assert "step 40 · prompt 5 · reward -1" in text
    over_time = text[text.index("One prompt over time") :]
    assert over_time.index("step 0 · prompt 1 · reward -1") < over_time.index("step 20 · prompt 1 · reward +1")
    assert "&lt;think&gt;1 and 1; &lt;/think&gt; 2" in over_time


def test_damaged_completions_cost_their_part_of_the_report_only(run_folder: RunFolder) -> None:
    write_rollouts(run_folder.path, steps=[], evals=[0])
    (run_folder.path / "rollouts/eval-000000-held_out.parquet").write_bytes(b"PAR1")
    text = write_report(run_folder).read_text()
    assert "Best completions" not in text
    assert "<title>adder-digits" in text
