"""The load of evaluations, the share of engines, and the best of a run's points."""

from pathlib import Path

import pytest
import yaml

from scalerl_api import parse_run
from scalerl_api.evaluations import count_eval_prompts, count_leases, find_best, measure_eval_load
from scalerl_api.status import SourceStatus
from scalerl_api.wire import EvalPoint

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))


@pytest.mark.parametrize(
    ("engines", "share", "leases", "rule"),
    [
        (16, 0.25, 4, "a quarter"),
        (16, 0.26, 5, "rounded up"),
        (10, 0.3, 3, "0.3 * 10 is 3, whatever its floating-point product"),
        (2, 0.9, 1, "not the last one"),
        (16, 1.0, 15, "not the last one"),
        (1, 0.2, 1, "the only one is shared"),
        (0, 0.5, 0, "there is none"),
    ],
)
def test_an_evaluation_leases_its_share(engines, share, leases, rule):
    assert count_leases(engines, share) == leases, rule


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_evaluations_of_an_example_are_on_time(path):
    run = parse_run(yaml.safe_load(path.read_text()))
    load = measure_eval_load(run.spec, {})
    assert load.warning == ""
    assert 0 < load.needed_share < 0.5


def quickstart(**changes):
    run = parse_run(yaml.safe_load(next(path for path in EXAMPLES if path.name == "quickstart.yaml").read_text()))
    return run.spec.model_copy(update={"budget": run.spec.budget.model_copy(update=changes)})


def test_a_late_evaluation_is_named_with_its_numbers():
    # 192 * 4 = 768 completions; two steps have 2 * 24 * 8 = 384. 768 / 1152 is two thirds; half of the engine samples
    # as much as the steps have, 384 of 768.
    load = measure_eval_load(quickstart(eval_every_steps=2), {})
    assert (load.eval_samples, load.train_samples, load.engine_share) == (768, 384, 0.5)
    assert (
        "768 completions, the steps to the next one 384: evaluations are 67% of the engines' work, and get 50%"
        in load.warning
    )
    assert "measures 50% of the prompts" in load.warning
    assert measure_eval_load(quickstart(eval_every_steps=2, eval_share=0.67), {}).warning == ""


def test_prompts_that_were_read_count_instead_of_the_specs():
    assert measure_eval_load(quickstart(), {"held_out": 40}).eval_samples == 160
    sources = [
        SourceStatus(path="spec.data.train[0]", rows=9, held_out=30, train=5),
        SourceStatus(path="spec.data.train[1]", name="code", rows=9, held_out=10, train=5),
        SourceStatus(path="spec.data.downstream[0]", name="near", rows=9, held_out=7),
    ]
    assert count_eval_prompts(sources) == {"held_out": 40, "near": 7}
    assert count_eval_prompts([]) == {}


def point(step, rate, unsampled=0):
    values = {"compute_gpu_hours": float(step), "prompts": 90, "samples": 4, "standard_error": 0.02}
    return EvalPoint(index=step, step=step, version=step, pass_rate=rate, unsampled=unsampled, **values)


def test_a_part_is_the_best_only_without_a_whole_evaluation():
    assert find_best([point(0, 0.2), point(1, 0.6, unsampled=10), point(2, 0.5)]).step == 2
    assert find_best([point(1, 0.6, unsampled=10), point(2, 0.5, unsampled=1)]).step == 1
