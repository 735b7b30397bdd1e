import json
import math

import numpy as np
import pytest

from scalerl_runtime.algorithm.prompts.prompt_filters import (
    REFILL_ROUNDS,
    PassRateHistory,
    StepDecision,
    decide_step,
    is_zero_variance,
)

NAN = math.nan
MIXED, SOLVED, FAILED = np.array([1.0, -1.0]), np.array([1.0, 1.0]), np.array([-1.0, -1.0])


@pytest.mark.parametrize(
    ("rewards", "zero"),
    [
        pytest.param([1, -1], False, id="two different rewards"),
        pytest.param([1, 1, 1], True, id="all equal"),
        pytest.param([0.1, 0.1, 0.1], True, id="all equal, though their rounded mean is not"),
        pytest.param([1, NAN, 1], True, id="NaN is no difference"),
        pytest.param([1, NAN, -1], False, id="the valid ones differ"),
        pytest.param([1, NAN], True, id="one valid reward"),
        pytest.param([NAN, NAN], True, id="none"),
    ],
)
def test_zero_variance(rewards, zero):
    assert is_zero_variance(np.array(rewards, float)) is zero


@pytest.mark.parametrize(
    ("kind", "rewards", "want"),
    [
        pytest.param("drop", [MIXED, SOLVED, MIXED], StepDecision((0, 2), (1,), 0), id="drop steps on what is left"),
        pytest.param("keep", [MIXED, SOLVED, FAILED], StepDecision((0, 1, 2), (), 0), id="keep keeps everything"),
        pytest.param("refill", [MIXED, SOLVED, MIXED], StepDecision((0, 2), (1,), 1), id="refill asks for the lack"),
        pytest.param("refill", [MIXED] * 3, StepDecision((0, 1, 2), (), 0), id="a full refill step goes ahead"),
        pytest.param(
            "refill", [SOLVED] * 11, StepDecision((), tuple(range(11)), 1), id="refill asks for no more than its limit"
        ),
    ],
)
def test_decide_step(kind, rewards, want):
    assert decide_step(kind, rewards, prompts_per_step=3) == want


def test_optimizer_runs_only_if_a_group_is_kept():
    assert decide_step("drop", [MIXED, SOLVED], prompts_per_step=2).optimizer_step
    assert not decide_step("drop", [FAILED, SOLVED], prompts_per_step=2).optimizer_step
    assert not decide_step("refill", [MIXED, SOLVED], prompts_per_step=2).optimizer_step  # not yet


@pytest.mark.parametrize("kind", ["drop", "refill"])
def test_all_groups_filtered_makes_progress(kind):
    """All samples are solved: the step is decided after finitely many groups, without the optimizer."""
    prompts_per_step, groups = 4, []
    for _ in range(100):
        decision = decide_step(kind, groups, prompts_per_step=prompts_per_step)
        wanted = decision.refill or (prompts_per_step if not groups else 0)
        if not wanted:
            break
        groups += [SOLVED] * wanted
    assert decision.kept == ()
    assert decision.refill == 0
    assert not decision.optimizer_step
    assert len(groups) == (prompts_per_step if kind == "drop" else (REFILL_ROUNDS + 1) * prompts_per_step)


def rewards(passes, fails, failures=0):
    return np.array([1.0] * passes + [-1.0] * fails + [NAN] * failures)


def test_historic_rate_is_over_all_epochs():
    history = PassRateHistory.empty(0.9).record([(7, rewards(7, 1))])
    assert history.pass_rate(7) == 7 / 8
    assert history.excluded == frozenset()
    history = history.record([(7, rewards(8, 0)), (3, rewards(0, 8))])
    assert history.pass_rate(7) == 15 / 16
    assert history.pass_rate(3) == 0.0
    assert history.excluded == {7}


@pytest.mark.parametrize(
    ("results", "excluded"),
    [
        pytest.param([rewards(9, 1)], True, id="exactly the threshold leaves"),
        pytest.param([rewards(8, 1)], False, id="8 of 9 stays"),
        pytest.param([rewards(9, 0, failures=7)], True, id="a failed verifier is no failed answer"),
        pytest.param([rewards(0, 0, failures=8)], False, id="nothing graded, nothing known"),
        pytest.param([rewards(0, 10), rewards(10, 0)], False, id="one solved group does not make a solved history"),
        pytest.param([rewards(10, 0), rewards(0, 10)], True, id="who has left stays away"),
        pytest.param([np.array([0.0, 0.0])], False, id="a reward of 0 is not a pass"),
        pytest.param([np.array([0.2, 0.2])], True, id="any positive reward is"),
    ],
)
def test_prompts_at_the_threshold_are_excluded(results, excluded):
    history = PassRateHistory.empty(0.9)
    for each in results:
        history = history.record([(1, each)])
    assert (1 in history.excluded) is excluded


def test_history_round_trips_through_json():
    history = PassRateHistory.empty(0.75).record([(12, rewards(3, 1)), (4, rewards(1, 3)), (9, rewards(0, 0, 2))])
    text = json.dumps(history.to_dict())
    assert json.loads(text) == {"threshold": 0.75, "counts": [[4, 1, 4], [12, 3, 4]], "excluded": [12]}
    restored = PassRateHistory.from_dict(json.loads(text))
    assert restored == history
    # It goes on as if nothing had happened: 3 of 4 and then 4 of 4 are 7 of 8 for prompt 4's rival.
    assert restored.record([(4, rewards(8, 0))]) == history.record([(4, rewards(8, 0))])
    assert restored.record([(4, rewards(8, 0))]).pass_rate(4) == 9 / 12


def test_record_does_not_change_the_old_history():
    history = PassRateHistory.empty(0.9)
    history.record([(1, rewards(9, 0))])
    assert history.pass_rate(1) is None
    assert history.excluded == frozenset()


def test_damaged_history_is_an_error():
    with pytest.raises(ValueError, match="need threshold, counts, excluded"):
        PassRateHistory.from_dict({"threshold": 0.9})
