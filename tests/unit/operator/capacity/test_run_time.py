"""The times of a whole run: the paper's 8B run, and what each field of the spec does to them."""

import dataclasses
import math

import pytest

from scalerl_operator.capacity.run_time import count_eval_samples, time_run
from scalerl_operator.capacity.split import best_split, list_splits
from scalerl_operator.cli.capacity.time_text import describe_time, format_seconds

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


def test_downstream_sets_count_in_an_evaluation(paper_run):
    more = {"data__downstream": [{"name": "aime", "source": "HuggingFaceH4/aime_2024", "size": 30}]}
    assert count_eval_samples(paper_run(**more)) == 16_000 + 30 * 16


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
