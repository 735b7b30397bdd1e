import dataclasses
import json
import math

import pytest

from scalerl_api.recipe import Loss
from scalerl_runtime.algorithm.schedules import KlController, build_kl_controller, learning_rate


@pytest.mark.parametrize(
    ("step", "warmup", "want"),
    [
        pytest.param(0, 4, 0.5, id="the first step already has a rate: 2 * 1/4"),
        pytest.param(1, 4, 1.0, id="2 * 2/4"),
        pytest.param(2, 4, 1.5, id="2 * 3/4"),
        pytest.param(3, 4, 2.0, id="the fourth of four is the first at the full rate"),
        pytest.param(4, 4, 2.0, id="and it stays"),
        pytest.param(10**6, 4, 2.0, id="for ever"),
        pytest.param(0, 1, 2.0, id="a warm-up of one step is none"),
        pytest.param(0, 0, 2.0, id="nor is one of zero"),
    ],
)
def test_learning_rate(step, warmup, want):
    assert learning_rate(step, base=2.0, warmup_steps=warmup) == want


def test_negative_step_is_an_error():
    with pytest.raises(ValueError, match="step is -1; need >= 0"):
        learning_rate(-1, base=1.0, warmup_steps=3)


@pytest.mark.parametrize(
    ("kl", "want"),
    [
        pytest.param(0.02, 0.5, id="on target nothing changes"),
        pytest.param(0.022, 0.505, id="10 % above: 1 % more"),
        pytest.param(0.019, 0.4975, id="5 % below: half a percent less"),
        pytest.param(2.0, 0.51, id="far above: at most 2 %"),
        pytest.param(0.0, 0.49, id="far below: at most 2 %"),
    ],
)
def test_adaptive_coefficient(kl, want):
    controller = KlController(0.5, 0.02)
    assert controller.update(kl) == KlController(pytest.approx(want, rel=1e-12), 0.02)
    assert controller == KlController(0.5, 0.02)


def test_constant_coefficient_stays():
    assert KlController(0.5, None).update(123.0) == KlController(0.5, None)
    assert KlController(0.5, None).update(math.nan) == KlController(0.5, None)


def test_bounds():
    assert KlController(9.99, 0.01).update(5.0).coefficient == 10.0
    assert KlController(0.0, 0.01).update(5.0).coefficient == 0.0  # off stays off
    with pytest.raises(ValueError, match="measured KL is nan"):
        KlController(0.5, 0.01).update(math.nan)


def test_from_spec_and_through_json():
    controller = build_kl_controller(Loss(kl_coefficient=0.25, kl_target=0.125))
    assert controller == KlController(0.25, 0.125)
    assert build_kl_controller(Loss(kl_coefficient=0.25)).target is None
    assert KlController(**json.loads(json.dumps(dataclasses.asdict(controller)))) == controller
