"""The times of a whole run: the paper's 8B run, and what each field of the spec does to them."""

import dataclasses
import math

import pytest

from scalerl_operator.capacity.run_time import time_run
from scalerl_operator.capacity.split import best_split, list_splits
from scalerl_operator.cli.capacity.time_text import describe_evaluation, describe_time, format_seconds

MODEL = "Qwen/Qwen3-8B-Base"


@pytest.fixture(scope="module")
def timed(paper_run, work_of, basis, h100):
    def run(device=h100, found=None, **changes):
        return time_run(paper_run(**changes), work_of(MODEL), device, found or basis())

    return run


def test_the_papers_run_takes_about_50_seconds_a_step(timed):
    found = timed()
    assert found.step.limit == "trainer"
    assert found.step.seconds == pytest.approx(50, rel=0.15)
    assert (found.trainer_gpus, found.generator_gpus, found.engines) == (16, 64, 16)
    assert found.evaluation.samples == 16_000
    assert found.evaluation.share == pytest.approx(16_000 / (16_000 + 100 * 768))
    assert found.push.num_bytes == pytest.approx(2 * 8.19e9, rel=0.01)
    assert found.checkpoint.num_bytes == pytest.approx(14 * 8.19e9, rel=0.01)
    assert found.checkpoint.per_step == pytest.approx(1 / 50)  # every evaluation's is one of those


def test_the_budget_ends_by_what_comes_first(timed):
    short = timed(budget__steps=101)
    assert (short.budget.ends_by, short.budget.steps) == ("steps", 101)
    assert short.budget.gpu_hours == pytest.approx(80 * short.budget.seconds / 3600)
    spent = timed(budget__gpuHours=10)
    assert spent.budget.ends_by == "gpuHours"
    assert spent.budget.steps == int(10 * 3600 / 80 / spent.seconds)
    assert timed(budget__gpuHours=None).budget.ends_by == "steps"


def test_dropped_groups_shorten_the_trainers_step_alone(timed, basis):
    whole, half = timed(), timed(found=basis(trained_share=0.5))
    assert half.train.compute == pytest.approx(whole.train.compute / 2)
    assert half.step.generator_seconds == pytest.approx(whole.step.generator_seconds)


def test_the_cache_limits_the_sequences(timed, basis):
    full = timed()
    assert (full.sequences, full.sequence_limit) == (256, "maxSequences")
    small = timed(found=basis(cache_bytes=10e9))
    # 36 layers of 2 x 8 x 128 numbers of 2 bytes at the mean context.
    assert small.sequences == pytest.approx(10e9 / (147_456 * small.basis.lengths.context))
    assert small.sequence_limit == "cache"
    assert small.step.generator_seconds > full.step.generator_seconds


@pytest.mark.parametrize(
    ("changes", "slower"),
    [
        ({"trainer__activations": "keep"}, False),
        ({"trainer__activations": "offload"}, True),
        ({"trainer__zeroStage": 3}, False),  # hidden by the computation on this network; updated weights stay sharded
        ({"trainer__offload": {"optimizer": "cpu"}}, True),
        ({"trainer__replicas": 1}, True),
        ({"model__dtype": "float32"}, True),
        ({"recipe__promptsPerStep": 96}, True),
    ],
)
def test_a_field_moves_the_trainers_step(timed, changes, slower):
    assert (timed(**changes).train.seconds > timed().train.seconds) == slower


def test_more_engines_never_slow_a_step_and_fewer_never_speed_it(timed):
    seconds = [timed(generator__minReplicas=n, generator__maxReplicas=n).step.seconds for n in (1, 2, 4, 8, 16, 32)]
    assert seconds == sorted(seconds, reverse=True)


def test_more_memory_bandwidth_never_slows(timed, h100):
    fast = dataclasses.replace(h100, memory_bandwidth=2 * h100.memory_bandwidth)
    assert timed(device=fast).step.generator_seconds < timed().step.generator_seconds


def test_downstream_sets_count_in_an_evaluation_by_how_often_they_are_due(timed):
    more = {"name": "aime", "source": "HuggingFaceH4/aime_2024", "size": 30}
    assert timed(data__downstream=[more]).evaluation.samples == 16_000 + 30 * 16
    assert timed(data__downstream=[{**more, "everySteps": 300}]).evaluation.samples == 16_000 + 30 * 16 // 3


def test_an_evaluation_of_the_papers_run_is_on_time_on_a_quarter_of_its_engines(timed):
    found = timed()
    assert found.evaluation.engines == 4
    assert not found.evaluation.is_late
    assert found.evaluation.seconds == pytest.approx(3600, rel=0.5), "1,000 prompts on 4 engines: not the hours of one"
    assert found.seconds == pytest.approx(found.step.seconds, rel=0.01), "12 engines feed the trainer as well"
    # Each of 16 engines has 1,000 completions instead of 4,000; the longest one takes as long.
    assert found.evaluation.seconds / 4 < found.evaluation.last_seconds < found.evaluation.seconds / 2


def test_engines_that_evaluate_slow_the_steps_meanwhile(timed):
    few = {"generator__minReplicas": 8, "generator__maxReplicas": 8}
    found = timed(**few, budget__evalShare=0.5)
    alone = timed(generator__minReplicas=4, generator__maxReplicas=4)
    assert found.evaluation.engines == 4
    assert found.evaluation.interval_seconds == pytest.approx(100 * alone.step.seconds)
    slow = found.evaluation.seconds * (1 - found.step.seconds / alone.step.seconds) / 100
    assert found.seconds == pytest.approx(found.step.seconds + slow)


@pytest.mark.parametrize(
    ("changes", "limit", "is_repeated"),
    [
        ({}, "", False),
        ({"budget__evalEverySteps": 20}, "between two", False),
        ({"deadlines": {"evalSeconds": 1200}}, "20 min of deadlines.evalSeconds", False),
        ({"deadlines": {"evalSeconds": 30}}, "30.0 s of deadlines.evalSeconds", True),
    ],
)
def test_an_evaluation_is_late_by_the_next_one_or_by_its_deadline(timed, changes, limit, is_repeated):
    found = timed(**changes)
    evaluation, text = found.evaluation, describe_evaluation(found)
    assert evaluation.is_late == bool(limit)
    assert evaluation.is_repeated == is_repeated
    assert limit in text
    assert ("each measures about" in text) == (bool(limit) and not is_repeated)
    assert ("repeated when training is over" in text) == is_repeated
    assert 0 < evaluation.part <= 1
    assert found.seconds >= found.step.seconds * (1 - 1e-9)


def test_the_whole_run_has_its_last_evaluation_and_those_that_are_repeated(timed):
    found, late = timed(budget__steps=300), timed(budget__steps=300, deadlines={"evalSeconds": 30})
    assert found.budget.seconds == pytest.approx(300 * found.seconds + found.evaluation.last_seconds)
    assert late.budget.seconds == pytest.approx(300 * late.seconds + 4 * late.evaluation.last_seconds)


def test_one_engine_is_shared_by_sequences(timed):
    one = {"generator__minReplicas": 1, "generator__maxReplicas": 1}
    found = timed(**one, budget__evalShare=0.5)
    assert found.evaluation.engines == 1
    assert found.evaluation.last_seconds < found.evaluation.seconds
    assert timed(**one, budget__evalShare=0.9).evaluation.seconds < found.evaluation.seconds
    assert found.evaluation.interval_seconds > 100 * found.step.seconds, "the training has the rest of it"


def test_every_split_uses_whole_replicas_of_the_same_gpus(paper_run):
    run = paper_run()
    splits = [(each.spec.trainer.ranks, 4 * each.spec.generator.max_replicas) for each in list_splits(run)]
    assert splits == [(n, 80 - n) for n in (8, 16, 24, 48)]  # divisors of the 48 prompts of a step


def test_the_best_split_is_the_fastest_that_fits(paper_run):
    run = paper_run()
    found = best_split(run, lambda each: None if each.spec.trainer.ranks < 24 else float(each.spec.trainer.ranks))
    assert found is not None
    assert (found.trainer_gpus, found.generator_gpus, found.seconds) == (24, 56, 24.0)
    assert best_split(run, lambda _: None) is None


def test_the_text_names_every_assumption(timed, paper_run, work_of, basis, h100):
    found = timed()
    split = best_split(paper_run(), lambda each: time_run(each, work_of(MODEL), h100, basis()).seconds)
    text = "\n".join(describe_time(found, price=2.5, split=split))
    for part in (
        "40% of the longest, assumed",
        "MosaicML",
        "every completion trains",
        "at 2.5 a GPU-hour",
        "now 16:64",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.5, "0.50 s"), (47.6, "47.6 s"), (600, "10 min"), (20_000, "6 h"), (3 * 86_400, "3.0 days")]
)
def test_a_time_has_the_unit_that_suits_it(seconds, text):
    assert format_seconds(seconds) == text


def test_nothing_is_infinite(timed):
    found = timed()
    assert all(math.isfinite(x) for x in (found.seconds, found.evaluation.seconds, found.push.seconds, found.mfu))
