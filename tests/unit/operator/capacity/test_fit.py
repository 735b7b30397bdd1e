"""Memory by part is the sum that one does by hand; a run that cannot fit is refused with a change that fits."""

from typing import Any

import pytest
import yaml
from large_run import make_run

from scalerl_api import RLRun, parse_run
from scalerl_operator.capacity.adapters import count_trained
from scalerl_operator.capacity.devices import DEVICES
from scalerl_operator.capacity.engine_memory import engine_memory
from scalerl_operator.capacity.fit import find_devices, fit_run, trainer_fits
from scalerl_operator.capacity.lengths import Lengths
from scalerl_operator.capacity.memory import host_memory, trainer_memory
from scalerl_operator.capacity.model_shape import ModelShape, parse_model
from scalerl_operator.capacity.published_models import PUBLISHED_MODELS
from scalerl_operator.capacity.run_time import TimeBasis, time_run
from scalerl_operator.capacity.trainer_speed import OTHER_SHARE
from scalerl_operator.capacity.work import measure_work


def shape_of(name: str) -> ModelShape:
    return parse_model(PUBLISHED_MODELS[name], name)


def parts_of(name: str, run: RLRun, *, is_first: bool = True) -> dict[str, float]:
    return {part.name: part.num_bytes for part in trainer_memory(shape_of(name), run, is_first=is_first).parts}


def test_parts_of_the_8b_example_are_the_sums_by_hand() -> None:
    parts = parts_of("Qwen/Qwen3-8B", make_run())
    count = 8_190_735_360
    assert parts["weights"] == 2 * count
    # A packet ends with the tensor that takes it beyond 512 MiB; the embedding has 151,936 rows of 4096 numbers.
    assert parts["weights on their way to the generators"] == 2 * (512 * 2**20 + 2 * 151_936 * 4096)
    assert parts["optimizer"] == 12 * count / 16
    assert parts["sums of gradients"] == 4 * count / 16
    assert parts["inputs of layers"] == 2 * 4096 * 16_384 * 36
    # bench/runtime/activation_memory.py counts 230.3 KiB a token on a CPU, with copies of what attention reads.
    counted = 230.3 * 1024 - 2 * (4096 + 2 * 1024 + 4096)
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


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("name", PUBLISHED_MODELS)
def test_no_device_holds_a_second_model(name: str, stage: int) -> None:
    run = make_run(trainer__zeroStage=stage)
    first, other = parts_of(name, run), parts_of(name, run, is_first=False)
    own = first.pop("weights on their way to the generators")
    assert own <= 2 * 2 * shape_of(name).parameters
    assert own <= 8 * 2**30 or own < 0.05 * 2 * shape_of(name).parameters
    assert {each: first[each] for each in first if "CUDA" not in each} == {
        each: other[each] for each in other if "CUDA" not in each
    }


def test_a_trainer_on_cpus_holds_the_copy_itself() -> None:
    run = make_run(trainer__gpusPerReplica=0, generator__gpusPerReplica=0)
    assert parts_of("Qwen/Qwen3-8B", run)["copy for the generators"] == 2 * 8_190_735_360
    assert "copy for the generators" not in parts_of("Qwen/Qwen3-8B", run, is_first=False)


def test_an_engine_on_the_trainers_gpu_reads_the_hosts_copy() -> None:
    one = {"gpusPerReplica": 1, "replicas": 1}
    engine = {"minReplicas": 1, "maxReplicas": 1, "gpusPerReplica": 1, "colocated": True, "gpuMemoryShare": 0.5}
    changes = {f"trainer__{name}": value for name, value in one.items()}
    run = make_run(**changes, **{f"generator__{name}": value for name, value in engine.items()})
    assert "weights on their way to the generators" not in parts_of("Qwen/Qwen3-0.6B", run)


def test_host_memory_by_hand() -> None:
    """Two pods of 8 ranks."""
    shape, count = shape_of("Qwen/Qwen3-8B"), 8_190_735_360

    def host(*, is_first: bool, **changes: Any) -> dict[str, float]:
        return {part.name: part.num_bytes for part in host_memory(shape, make_run(**changes), is_first=is_first)}

    assert host(is_first=False) == {"copy of a checkpoint": 6 * count}
    assert host(is_first=True) == {"copy of a checkpoint": 6 * count, "copy for the generators": 2 * count}
    both = {"optimizer": "cpu", "parameters": "cpu"}
    found = host(is_first=False, trainer__offload=both, trainer__zeroStage=3, trainer__activations="offload")
    assert found["optimizer and sums of gradients"] == 8 * count
    assert found["weights"] == count
    assert found["inputs of layers"] == 8 * 2 * 4096 * 16_384 * 36


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
        ("Qwen/Qwen3-8B", "A100-40GB"),
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


def test_70b_fits_h100_with_shares_on_six_nodes() -> None:
    """Before, rank 0 had a whole second model, and no change of the trainer fitted."""
    shape, run = shape_of("meta-llama/Llama-3.3-70B"), make_run()
    fit = fit_run(shape, run, DEVICES["H100"])
    assert "zeroStage: 3, replicas: 6, gpusPerReplica: 8" in [each.text for each in fit.trainer_changes]
    six = make_run(trainer__zeroStage=3, trainer__replicas=6, trainer__gpusPerReplica=8)
    assert fit_run(shape, six, DEVICES["H100"]).fits


def test_devices_that_would_do_have_the_mildest_change() -> None:
    shape, run = shape_of("meta-llama/Llama-3.3-70B"), make_run()
    found = {name: each.text for name, each in find_devices(shape, run, DEVICES.values()).items()}
    assert found["H200"] == "zeroStage: 3"
    assert found["H100"] == "zeroStage: 3, offload: {optimizer: cpu}"
    assert found["GB200"] == "zeroStage: 3, replicas: 4, gpusPerReplica: 4", "its nodes have 4 GPUs"


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


@pytest.mark.parametrize("name", ["Qwen/Qwen3-8B", "Qwen/Qwen3-30B-A3B"])
def test_fp8_halves_the_layers_of_an_engine_and_nothing_else(name: str) -> None:
    shape, device = shape_of(name), DEVICES["H100"]
    whole, fp8 = (
        {part.name: part.num_bytes for part in engine_memory(shape, run, device).parts}
        for run in (make_run(), make_run(generator__engineArgs={"quantization": "fp8"}))
    )
    split = make_run().spec.generator.gpus_per_replica
    assert whole.pop("weights") - fp8.pop("weights") == (shape.parameters - shape.rest_parameters) / split
    assert whole == fp8


def test_parts_with_adapters_by_hand() -> None:
    """Qwen3-8B: width 4096, 32 heads of 128 and 8 of keys, MLP 12288, 36 layers; q, k, v, o, gate, up, down."""
    run = make_run(model__lora={"rank": 4})
    parts = parts_of("Qwen/Qwen3-8B", run)
    each = 4 * ((4096 + 4096) + 2 * (4096 + 1024) + (4096 + 4096) + 3 * (4096 + 12_288))
    trained = 36 * each
    assert parts["weights"] == 2 * (8_190_735_360 + trained)
    assert parts["optimizer"] == 12 * trained / 16
    assert parts["sums of gradients"] == 4 * trained / 16
    on_host = {part.name: part.num_bytes for part in host_memory(shape_of("Qwen/Qwen3-8B"), run, is_first=True)}
    assert on_host == {"copy of a checkpoint": 12 * trained / 2, "copy for the generators": 2 * trained}
    assert "weights on their way to the generators" not in parts, "adapters are sent from the host"
    whole = parts_of("Qwen/Qwen3-8B", make_run())
    assert parts["inputs of layers"] == whole["inputs of layers"]
    # Not kept: normalized inputs of both norms and of those of heads. Kept: four numbers of each of seven adapters.
    name = "the layer that is computed again"
    assert (whole[name] - parts[name]) / 16_384 == 2 * (2 * 4096 + (32 + 8) * 128) - 2 * 4 * 7
    assert whole["gradients of a layer"] - parts["gradients of a layer"] == 2 * (192_946_432 - each)


def test_layers_without_an_adapter_keep_no_input() -> None:
    def again(*targets: str) -> float:
        run = make_run(model__lora={"rank": 4, "targetModules": list(targets)})
        return parts_of("Qwen/Qwen3-8B", run)["the layer that is computed again"] / 16_384

    assert again("q_proj", "down_proj") - again("q_proj") == 2 * (12_288 + 4)
    assert again("q_proj", "up_proj") - again("q_proj") == 2 * (4096 + 4)
    assert again("q_proj", "k_proj") - again("q_proj") == 2 * 4, "one input for both"
    assert again("q_proj", "o_proj") - again("q_proj") == 2 * 4, "attention keeps its result in any case"


@pytest.mark.parametrize("gpus", [1, 4])
def test_an_engines_room_for_adapters_by_hand(gpus: int) -> None:
    """Rank 4 gets the room of vLLM's rank 8. A is whole and B in shares; for o and down the other way round."""

    def room(**lora: Any) -> float:
        run = make_run(model__lora={"rank": 4, **lora}, generator__gpusPerReplica=gpus)
        (part,) = (
            p for p in engine_memory(shape_of("Qwen/Qwen3-8B"), run, DEVICES["H100"]).parts if p.name == "adapters"
        )
        return part.num_bytes / (2 * 8 * 36)

    heads = 3 * 4096 + (4096 + 2 * 1024) / gpus
    assert room(targetModules=["q_proj"]) == heads, "one layer of vLLM's with k and v"
    output, down = 4096 / gpus + 4096, 12_288 / gpus + 4096
    assert room() == heads + output + 2 * (4096 + 12_288 / gpus) + down


def test_only_adapters_are_sent_and_stored() -> None:
    shape = shape_of("Qwen/Qwen3-8B")
    run, basis = make_run(model__lora={"rank": 4}), TimeBasis(Lengths((100.0,), 10.0, "given"), OTHER_SHARE)
    trained = count_trained(shape, run)
    timed = time_run(run, measure_work(shape, trained), DEVICES["H100"], basis)
    assert timed.push.num_bytes == 2 * trained
    assert timed.checkpoint.num_bytes == 14 * trained
    whole = time_run(run, measure_work(shape), DEVICES["H100"], basis)
    assert 0.5 < timed.train.flops.products / whole.train.flops.products < 0.76, "3 of 4 products, and 2 of 3 of MFU's"
    assert timed.train.optimizer == pytest.approx(whole.train.optimizer * trained / shape.parameters)


def test_ranks_that_share_rows_divide_activations_and_no_state() -> None:
    whole, part = (parts_of("Qwen/Qwen3-8B", make_run(trainer__sequenceParallel=n)) for n in (1, 4))
    for name in ("inputs of layers", "the layer that is computed again"):
        assert part[name] == pytest.approx(whole[name] / 4)
    assert part["weights"] == whole["weights"]
    assert part["optimizer"] == whole["optimizer"]
