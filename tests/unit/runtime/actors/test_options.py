"""The fleet's options, built from the run alone."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from scalerl_api import parse_run
from scalerl_api.passthrough import merge_settings
from scalerl_runtime.actors.options import (
    Environment,
    apply_replicas,
    build_fleet_options,
    choose_transport,
    context_tokens,
)
from scalerl_runtime.algorithm.microbatch import TrainSequence
from scalerl_runtime.algorithm.step import pack

EXAMPLES = Path(__file__).parents[4] / "examples"


def load(name):
    run = parse_run(yaml.safe_load((EXAMPLES / name).read_text()))
    return run, run.spec.resolved_recipe()


def test_a_smaller_gang_has_its_own_ranks_and_the_same_batch():
    """16 sequences on 3 ranks: each trains some, none is lost, and every rank has as many micro-batches."""
    run, recipe = load("quickstart.yaml")
    smaller = apply_replicas(run, 3)
    assert (smaller.spec.trainer.ranks, run.spec.trainer.ranks) == (3, 1)
    assert smaller.spec.resolved_recipe().prompts_per_step == recipe.prompts_per_step
    assert build_fleet_options(smaller, recipe, "m", num_cpus=8, stop_ids=(1,)).ranks == 3
    assert apply_replicas(run, None) is run
    zeros, tokens = np.zeros(8, np.float32), np.arange(8, dtype=np.int32)
    sequence = TrainSequence(tokens, tokens > 3, zeros, 1.0, 0.25, np.zeros(8, np.int32))
    ranks = pack([sequence] * 16, budget=16, ranks=3, quadratic=0.0).batches
    assert len({len(batches) for batches in ranks}) == 1
    assert sum(float(batch.weight.sum()) for batches in ranks for batch in batches) == 16 * 4 * 0.25


def test_environment_is_read_from_the_variables_of_the_wire():
    variables = {
        "SCALERL_SPEC": "/etc/run.yaml",
        "SCALERL_FOLDER": "/runs/a",
        "SCALERL_ATTEMPT": "3",
        "SCALERL_PORT": "8123",
        "SCALERL_TOKEN_FILE": "/etc/token",
        "SCALERL_TERMINATION_FILE": "/dev/words",
    }
    found = Environment.parse(variables)
    assert found == Environment(
        spec=Path("/etc/run.yaml"),
        folder=Path("/runs/a"),
        attempt=3,
        port=8123,
        token_file=Path("/etc/token"),
        termination_file=Path("/dev/words"),
    )
    assert Environment.parse({**variables, "SCALERL_TRAINER_REPLICAS": "3"}).replicas == 3
    del variables["SCALERL_TOKEN_FILE"]
    with pytest.raises(KeyError, match="SCALERL_TOKEN_FILE"):
        Environment.parse(variables)


def test_on_a_cpu_the_processes_share_the_cores():
    run, recipe = load("quickstart.yaml")
    found = build_fleet_options(run, recipe, "/model", num_cpus=8, stop_ids=(1,))
    assert found.ranks == 1
    assert (found.trainer.cpu_threads, found.engine.cpu_threads) == (4, 4)
    assert build_fleet_options(run, recipe, "/model", num_cpus=1, stop_ids=()).engine.cpu_threads == 1
    assert (found.trainer.device, found.engine.tensor_parallel) == ("cpu", 0)
    assert (found.transport, found.trainer.transport, found.engine.transport) == ("gloo",) * 3
    assert found.engine.model == found.trainer.model == "/model"
    assert found.engine.context_tokens == context_tokens(recipe) == 24 + 32 + 24
    assert found.engine.phrase == "time is up</think>"
    assert found.engine.tags == ("<think>", "</think>")
    assert found.engine.stop_ids == (1,)


def test_separate_devices_use_nccl():
    run, recipe = load("qwen3-8b-math.yaml")
    found = build_fleet_options(run, recipe, "hub/id", num_cpus=64, stop_ids=())
    assert (found.ranks, found.engine.tensor_parallel) == (16, 4)
    assert (found.transport, found.trainer.transport, found.engine.transport) == ("nccl",) * 3
    assert (found.trainer.device, found.trainer.dtype, found.trainer.head, found.engine.head) == (
        "cuda",
        "bfloat16",
        "fp32",
        "fp32",
    )
    assert not found.colocated
    assert not found.trainer.router_replay
    assert not found.engine.router_replay
    replaying = build_fleet_options(
        run, recipe.model_copy(update={"router_replay": True}), "m", num_cpus=1, stop_ids=()
    )
    assert replaying.trainer.router_replay
    assert replaying.engine.router_replay


def test_a_shared_device_uses_gloo():
    run, recipe = load("qwen3-0.6b-one-gpu.yaml")
    assert choose_transport(run) == "gloo"
    found = build_fleet_options(run, recipe, "hub/id", num_cpus=16, stop_ids=())
    assert (found.colocated, found.engine.gpu_memory_share, found.transport) == (True, 0.35, "gloo")


def test_memory_and_the_users_own_settings_reach_trainer_and_engine():
    document = yaml.safe_load((EXAMPLES / "qwen3-8b-math.yaml").read_text())
    deepspeed, engine = {"zero_optimization": {"reduce_bucket_size": 77}}, {"kv_cache_dtype": "fp8"}
    document["spec"]["trainer"] |= {
        "zeroStage": 3,
        "activations": "offload",
        "offload": {"optimizer": "cpu", "parameters": "cpu"},
        "deepspeed": deepspeed,
    }
    document["spec"]["generator"]["engineArgs"] = engine
    run = parse_run(document)
    found = build_fleet_options(run, run.spec.resolved_recipe(), "m", num_cpus=1, stop_ids=())
    assert (found.trainer.activations, found.trainer.zero_stage) == ("offload", 3)
    assert (found.trainer.offload.optimizer, found.trainer.offload.parameters) == ("cpu", "cpu")
    assert (found.trainer.deepspeed, found.engine.engine_args) == (deepspeed, engine)


def test_a_users_mapping_is_merged_into_ours():
    ours = {"zero_optimization": {"stage": 2, "offload_param": {"device": "none"}}, "steps_per_print": 9}
    users = {"zero_optimization": {"offload_param": {"pin_memory": False}, "overlap_comm": True}, "dump_state": True}
    assert merge_settings(ours, users) == {
        "zero_optimization": {
            "stage": 2,
            "offload_param": {"device": "none", "pin_memory": False},
            "overlap_comm": True,
        },
        "steps_per_print": 9,
        "dump_state": True,
    }


def test_without_interruptions_no_phrase_is_forced():
    document = yaml.safe_load((EXAMPLES / "quickstart.yaml").read_text())
    document["spec"]["recipe"]["length"]["control"] = "none"
    run = parse_run(document)
    found = build_fleet_options(run, run.spec.resolved_recipe(), "/model", num_cpus=2, stop_ids=())
    assert found.engine.phrase is None
