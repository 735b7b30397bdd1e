"""Trainer and engine: sums by hand, and what more of anything may never do."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalerl_operator.capacity import engine_speed, trainer_speed
from scalerl_operator.capacity.engine_speed import EngineSpeed
from scalerl_operator.capacity.lengths import Lengths
from scalerl_operator.capacity.trainer_speed import (
    FlopsShare,
    TrainerSpeed,
    count_flops,
    find_flops_share,
    time_training,
)
from scalerl_operator.capacity.work import ExpertWork, ModelWork

SMALL = ModelWork(
    parameters=1_100, active_parameters=1_000, head_parameters=200, layers=2, attention_width=8.0, kv_numbers=32
)
TEN = Lengths((10.0,), prompt=6.0, source="by hand")


def trainer(**values):
    fixed = {
        "work": SMALL,
        "ranks": 2,
        "flops": 1e6,
        "share": FlopsShare(0.5, 0.25, "by hand"),
        "memory_bandwidth": 1e6,
        "link_bandwidth": 1e5,
        "weight_bytes": 2,
        "micro_batch_tokens": 32,
    }
    return TrainerSpeed(**(fixed | values))


def engine(**values):
    fixed = {
        "work": SMALL,
        "gpus": 1,
        "flops": 1e9,
        "bandwidth": 1e6,
        "weight_bytes": 2.0,
        "head_bytes": 2.0,
        "kv_bytes": 2.0,
        "lengths": TEN,
        "completions": 2,
    }
    return EngineSpeed(**(fixed | values))


def test_operations_of_a_step():
    """4 sequences of 6 + 10 tokens: the body sees 64, the head 40; 16^2 / 2 pairs, 4 operations, width 8, 2 layers."""
    pairs = 4 * 4 * 16 * 16 / 2 * 8 * 2
    found = count_flops(trainer(), TEN, 4)
    assert found.products == 4 * 2 * 800 * 64 + 4 * 2 * 200 * 40
    assert found.attention == 4.5 * pairs
    assert found.model == 3 * (2 * 800 * 64 + 2 * 200 * 40 + pairs)
    kept = count_flops(trainer(activations="keep"), TEN, 4)
    assert kept.products == 3 * 2 * 800 * 64 + 4 * 2 * 200 * 40  # the head computes its logits twice in any case
    assert kept.attention == 3.5 * pairs
    assert kept.model == found.model


def test_quantized_layers_are_read_faster_the_head_is_not():
    """Of 1000 values 200 are the head's."""
    saved = engine().step_seconds(0) - engine(weight_bytes=1.0).step_seconds(0)
    unlimited = engine(bandwidth=1e30).step_seconds(0)
    assert saved == pytest.approx((engine().step_seconds(0) - unlimited) * 800 / 2000)


def test_a_window_bounds_the_pairs_of_its_layer():
    windowed = dataclasses.replace(SMALL, windows=(4, None))
    assert windowed.attention_flops(1, 16, 256) == 4 * 8 * (16 * 4 + 128)
    assert windowed.cached_layer_tokens(16) == 4 + 16


def test_parts_of_a_step():
    found = time_training(trainer(), TEN, 4)
    counted = count_flops(trainer(), TEN, 4)
    assert found.compute == pytest.approx((counted.products / 0.5 + counted.attention / 0.25) / 2e6)
    # Two ranks: half of the sums stays. One micro-batch of 32 tokens a rank; in bfloat16 each is summed.
    sums = 1_100 * 4 / (1e5 * 0.8 * 2)
    assert found.links == 0.0  # shorter than the computation
    assert sums < found.compute
    assert found.weights == pytest.approx(1_100 * 2 / (1e5 * 0.8 * 2))
    assert found.optimizer == pytest.approx(550 * 34 / (1e6 * 0.8))
    slow = time_training(trainer(link_bandwidth=1e3), TEN, 4)
    assert slow.links == pytest.approx(100 * sums - slow.compute)


def test_stage_3_collects_weights_twice_a_micro_batch():
    slow = trainer(zero_stage=3, link_bandwidth=1e3, micro_batch_tokens=16)
    found = time_training(slow, TEN, 4)
    weights, sums = 1_100 * 2 / (1e3 * 0.8 * 2), 1_100 * 4 / (1e3 * 0.8 * 2)
    assert found.links == pytest.approx(2 * (2 * weights + sums) - found.compute)
    assert found.weights == 0.0


def test_float32_sums_once_a_step_at_stage_1():
    assert not trainer(weight_bytes=4).reduces_each_micro_batch
    assert trainer(weight_bytes=4, zero_stage=2).reduces_each_micro_batch
    assert trainer().reduces_each_micro_batch  # note 081


def test_a_given_mfu_replaces_both_shares():
    given_one = trainer(share=FlopsShare(0.5, 0.25, "given", mfu=0.2))
    found = time_training(given_one, TEN, 4)
    assert found.compute == pytest.approx(found.flops.model / (0.2 * 2e6))


@pytest.mark.parametrize("name", ["H100", "H200", "A100-80GB", "A100-40GB", "B200", "GB200"])
def test_the_share_of_a_known_device_names_who_published_it(name):
    found = find_flops_share(name, has_experts=False)
    assert "FSDP" in found.source or "prime-rl" in found.source
    assert find_flops_share(name, has_experts=True).products < found.products


def test_an_unknown_device_says_so():
    assert "no published number" in find_flops_share("L40S", has_experts=False).source


def test_a_decoding_step_by_parts():
    """1,000 weights of 2 bytes at .88 MB/s, and for each of 3 sequences products, cache and its share of a prompt."""
    found = engine()
    context = 6 + 10 / 2
    assert found.cache_bytes == 32 * 2 * context
    prompt = (2 * 800 * 6 + 2 * 2 * 8 * 36) / 0.8e9 / 2
    assert found.prompt_seconds == pytest.approx(prompt)
    each = 2 * 1_000 / 0.8e9 + 64 * context / 0.88e6 + engine_speed.SEQUENCE_SECONDS + prompt / 10
    assert found.step_seconds(3) == pytest.approx(engine_speed.STEP_SECONDS + 2_000 / 0.88e6 + 3 * each)
    assert found.tokens_per_second(3) == pytest.approx(3 / found.step_seconds(3))


def test_more_gpus_share_the_reading_and_add_all_reduces():
    one, two = engine(), engine(gpus=2)
    saved = 2_000 / 0.88e6 / 2
    assert one.step_seconds(0) - two.step_seconds(0) == pytest.approx(saved - 2 * 2 * engine_speed.ALL_REDUCE_SECONDS)


def test_experts_that_no_token_chose_are_not_read():
    experts = ExpertWork(parameters=800, number=8, chosen=2)
    work = dataclasses.replace(SMALL, experts=experts, active_parameters=400)  # 200 of them are of chosen experts
    assert work.read_parameters(1) == pytest.approx(400)
    assert work.read_parameters(2) == pytest.approx(200 + 800 * (1 - 0.75**2))
    assert work.read_parameters(1e6) == pytest.approx(200 + 800)


FACTORS = st.floats(1.01, 10)


@settings(deadline=None)
@given(FACTORS, st.sampled_from(["flops", "memory_bandwidth", "link_bandwidth"]), st.sampled_from([1, 2, 3]))
def test_a_better_device_never_slows_training(factor, field, stage):
    slow = trainer(zero_stage=stage)
    fast = dataclasses.replace(slow, **{field: factor * getattr(slow, field)})
    assert time_training(fast, TEN, 4).seconds <= time_training(slow, TEN, 4).seconds


@settings(deadline=None)
@given(FACTORS, st.floats(1, 1000))
def test_more_sequences_never_train_faster(factor, sequences):
    assert time_training(trainer(), TEN, factor * sequences).seconds > time_training(trainer(), TEN, sequences).seconds


@settings(deadline=None)
@given(st.floats(0, 2000), FACTORS, st.sampled_from(["flops", "bandwidth"]))
def test_a_better_device_never_slows_an_engine(running, factor, field):
    slow = engine()
    fast = dataclasses.replace(slow, **{field: factor * getattr(slow, field)})
    assert fast.step_seconds(running) <= slow.step_seconds(running)
    assert slow.step_seconds(running + 1) > slow.step_seconds(running)
    assert slow.tokens_per_second(running + 1) > slow.tokens_per_second(running)


def test_constants_are_shares():
    for share in (*trainer_speed.FLOPS_SHARES.values(), trainer_speed.OTHER_SHARE):
        assert 0 < share.attention < share.products < 1


def test_ranks_that_share_rows_send_queries_keys_values_and_results():
    """64 tokens on 2 ranks; 16 numbers of queries and results, one key head of 5 twice; 2 bytes; half stays."""
    work = dataclasses.replace(SMALL, kv_heads=1, kv_width=5)
    found = time_training(trainer(work=work, sequence_parallel=2, exchange_bandwidth=1e4), TEN, 4)
    assert found.exchange == pytest.approx(3 * 32 * 2 * 26 * 2 / 2 / (1e4 * 0.8))  # forward, again, backward
    assert time_training(trainer(), TEN, 4).exchange == 0
