"""Memory by part is the sum that one does by hand; a run that cannot fit is refused with a change that fits."""

from typing import Any

import pytest
import yaml
from large_run import make_run

from scalerl_api import RLRun, parse_run
from scalerl_operator.capacity.devices import DEVICES
from scalerl_operator.capacity.engine_memory import engine_memory
from scalerl_operator.capacity.fit import find_devices, fit_run, trainer_fits
from scalerl_operator.capacity.memory import host_memory, trainer_memory
from scalerl_operator.capacity.model_shape import ModelShape, parse_model
from scalerl_operator.capacity.published_models import PUBLISHED_MODELS


def shape_of(name: str) -> ModelShape:
    return parse_model(PUBLISHED_MODELS[name], name)


def parts_of(name: str, run: RLRun, *, is_first: bool = True) -> dict[str, float]:
    return {part.name: part.num_bytes for part in trainer_memory(shape_of(name), run, is_first=is_first).parts}


def test_parts_of_the_8b_example_are_the_sums_by_hand() -> None:
    parts = parts_of("Qwen/Qwen3-8B", make_run())
    count = 8_190_735_360
    assert parts["weights"] == parts["copy for the generators"] == 2 * count
    assert parts["optimizer"] == 12 * count / 16
    assert parts["sums of gradients"] == 4 * count / 16
    assert parts["inputs of layers"] == 2 * 4096 * 16_384 * 36
    # bench/runtime/activation_memory.py counts 230.3 KiB a token on a CPU, which copies keys and values for each head;
    # on a GPU these are 6144 of 8192 numbers fewer, and one copy of the result.
    counted = 230.3 * 1024 - 2 * (8192 - 2048) - 2 * 4096
    assert parts["the layer that is computed again"] / 16_384 == pytest.approx(counted, rel=0.02)


@pytest.mark.parametrize(
    ("changes", "name", "expected"),
    [
        ({"trainer__zeroStage": 3}, "weights", 2 * 8_190_735_360 // 16),
        ({"trainer__zeroStage": 3, "trainer__offload": {"optimizer": "cpu", "parameters": "cpu"}}, "weights", None),
        ({"trainer__offload": {"optimizer": "cpu"}}, "optimizer", None),
        ({"trainer__activations": "offload"}, "inputs of layers", None),
        ({"model__dtype": "float32"}, "weights", 4 * 8_190_735_360),
    ],
)
def test_a_setting_changes_its_part(changes: dict[str, Any], name: str, expected: float | None) -> None:
    assert parts_of("Qwen/Qwen3-8B", make_run(**changes)).get(name) == expected


def test_only_rank_0_has_the_copy() -> None:
    assert "copy for the generators" not in parts_of("Qwen/Qwen3-8B", make_run(), is_first=False)


def test_what_is_offloaded_is_on_the_host() -> None:
    shape = shape_of("Qwen/Qwen3-8B")
    assert host_memory(shape, make_run()) == 0
    assert host_memory(shape, make_run(trainer__offload={"optimizer": "cpu"})) == 8 * 16 * shape.parameters / 16


def test_the_8b_example_fits_an_h100_with_room() -> None:
    fit = fit_run(shape_of("Qwen/Qwen3-8B"), make_run(), DEVICES["H100"])
    assert fit.fits
    assert fit.engine is not None
    assert max(each.total for each in fit.trainers) < 0.75 * DEVICES["H100"].memory_bytes
    assert fit.engine.sequences > 50


@pytest.mark.parametrize(
    ("model", "device"),
    [
        ("Qwen/Qwen3-32B", "H100"),
        ("Qwen/Qwen3-30B-A3B", "H100"),
        ("Qwen/Qwen3-14B", "L40S"),
        ("meta-llama/Llama-3.3-70B", "GB200"),
        ("Qwen/Qwen3-8B", "L40S"),
    ],
)
def test_each_suggestion_makes_the_trainer_fit(model: str, device: str) -> None:
    shape, run, found = shape_of(model), make_run(), DEVICES[device]
    fit = fit_run(shape, run, found)
    assert fit.faults
    assert fit.trainer_changes
    for change in fit.trainer_changes:
        assert trainer_fits(shape, change.run, found)
        document = yaml.safe_load(f"{{{change.text}}}")
        written = parse_run(change.run.model_dump(by_alias=True, exclude_none=True, mode="json")).spec.trainer
        assert {name: written.model_dump(by_alias=True)[name] for name in document if name != "offload"} == {
            name: value for name, value in document.items() if name != "offload"
        }
    assert f"It fits with {fit.trainer_changes[0].text}" in str(fit.faults[0])


def test_mild_changes_come_before_more_gpus() -> None:
    fit = fit_run(shape_of("Qwen/Qwen3-8B"), make_run(trainer__activations="keep"), DEVICES["H100"])
    assert [each.text for each in fit.trainer_changes][0] == "activations: checkpoint"


def test_70b_needs_another_device_for_the_copy() -> None:
    shape, run = shape_of("meta-llama/Llama-3.3-70B"), make_run()
    fit = fit_run(shape, run, DEVICES["H100"])
    assert "copy for the generators 131.4" in str(fit.faults[0])
    assert not fit.trainer_changes
    assert set(find_devices(shape, run, DEVICES.values())) == {"B200", "GB200"}


def test_an_engine_too_small_for_one_sequence_is_refused_with_more_gpus() -> None:
    run = make_run(generator__gpusPerReplica=1, trainer__zeroStage=3)
    fit = fit_run(shape_of("Qwen/Qwen3-32B"), run, DEVICES["B200"], DEVICES["L40S"])
    assert [fault.path for fault in fit.faults] == ["spec.generator"]
    assert [each.text for each in fit.engine_changes] == ["gpusPerReplica: 2"]


def test_gpus_that_do_not_divide_the_heads_are_refused() -> None:
    fit = fit_run(shape_of("Qwen/Qwen2.5-7B"), make_run(generator__gpusPerReplica=8), DEVICES["H100"])
    assert "a divisor of the model's 28 heads" in str(fit.faults[0])
    assert fit.engine_changes[0].text == "gpusPerReplica: 7"


def test_a_pod_with_more_gpus_than_a_node_is_refused() -> None:
    fit = fit_run(shape_of("Qwen/Qwen3-8B"), make_run(), DEVICES["GB200"])
    assert [fault.path for fault in fit.faults] == ["spec.trainer.gpusPerReplica"]


def test_cache_of_a_sequence_by_hand() -> None:
    found = engine_memory(shape_of("Qwen/Qwen3-8B"), make_run(), DEVICES["H100"])
    assert found.sequence_bytes == 2 * 2 * (8 // 4) * 128 * 36 * 16_384
    fp8 = make_run(generator__engineArgs={"kv_cache_dtype": "fp8"})
    assert engine_memory(shape_of("Qwen/Qwen3-8B"), fp8, DEVICES["H100"]).sequence_bytes == found.sequence_bytes / 2
    wide = make_run(generator__gpusPerReplica=16)  # 8 heads of keys: one on each GPU, twice
    assert engine_memory(shape_of("Qwen/Qwen3-8B"), wide, DEVICES["H100"]).sequence_bytes == found.sequence_bytes / 2
