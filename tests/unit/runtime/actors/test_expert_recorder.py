"""Experts follow the cache: a prefix that is found there, a preemption, and requests side by side."""

import numpy as np
import pytest

from scalerl_runtime.actors.expert_recorder import MAX_FINISHED, ExpertRecorder, StepPart

LAYERS, K = 3, 2


def rows(*values: int) -> np.ndarray:
    """Rows [N, LAYERS, K] that are told apart by `values`."""
    return np.array(values, dtype=np.uint8)[:, None, None] + np.zeros((1, LAYERS, K), dtype=np.uint8)


def recorder() -> ExpertRecorder:
    return ExpertRecorder(block_size=2, slots=np.zeros((20, LAYERS, K), dtype=np.uint8))


def taken(recorder: ExpertRecorder, name: str) -> list[int]:
    experts = recorder.take(name)
    assert experts.shape[1:] == (LAYERS, K)
    return experts[:, 0, 0].tolist()


def test_a_request_over_several_steps_beside_another() -> None:
    it = recorder()
    it.record([StepPart("r1-aa", 0, 3, [4, 7]), StepPart("r11-bb", 0, 1, [2])], rows(10, 11, 12, 20))
    it.record([StepPart("r11-bb", 1, 1, [2]), StepPart("r1-aa", 3, 1, [4, 7])], rows(21, 13))
    assert taken(it, "r1") == [10, 11, 12, 13]
    assert taken(it, "r11") == [20, 21]


def test_a_prefix_from_the_cache_has_the_experts_that_computed_it() -> None:
    it = recorder()
    it.record([StepPart("r1-aa", 0, 4, [4, 7])], rows(10, 11, 12, 13))
    it.record([StepPart("r2-bb", 2, 3, [4, 8, 9])], rows(22, 23, 24))
    assert taken(it, "r2") == [10, 11, 22, 23, 24]


def test_a_prefix_that_the_same_step_computes_for_a_later_part() -> None:
    it = recorder()
    it.record([StepPart("r2-bb", 2, 1, [4, 8]), StepPart("r1-aa", 0, 3, [4, 7])], rows(22, 10, 11, 12))
    assert taken(it, "r2") == [10, 11, 22]


def test_a_token_that_is_computed_again_keeps_its_first_experts() -> None:
    """After a preemption, or with the weights of an update: the sampled tokens saw the first ones."""
    it = recorder()
    it.record([StepPart("r1-aa", 0, 2, [4])], rows(10, 11))
    it.record([StepPart("r1-aa", 2, 1, [4, 5])], rows(12))
    it.record([StepPart("r1-aa", 0, 4, [8, 9])], rows(50, 51, 52, 53))
    assert taken(it, "r1") == [10, 11, 12, 53]


def test_taken_or_unknown_requests_are_not_there() -> None:
    it = recorder()
    it.record([StepPart("r1-aa", 0, 1, [4])], rows(10))
    it.finish(["r1-aa", "r9-zz"])
    taken(it, "r1")
    with pytest.raises(KeyError):
        it.take("r1")


def test_requests_that_nobody_takes_are_dropped_oldest_first() -> None:
    it = recorder()
    for index in range(MAX_FINISHED + 2):
        it.record([StepPart(f"r{index}-a", 0, 1, [4])], rows(1))
        it.finish([f"r{index}-a"])
    with pytest.raises(KeyError):
        it.take("r1")
    assert taken(it, "r2") == [1]
