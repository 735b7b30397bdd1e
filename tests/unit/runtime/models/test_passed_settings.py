"""Settings for DeepSpeed and vLLM: what the libraries would not take is refused by name, at validation."""

from typing import Any

import pytest

from scalerl_api import RLRun, parse_run
from scalerl_runtime.models.passed_settings import find_setting_faults


def build_run(control: str = "none", deepspeed: Any = None, engine: Any = None) -> RLRun:
    spec = {
        "model": {"source": "some/model"},
        "data": {"train": {"source": "prompts.jsonl"}},
        "reward": {"verifier": "math"},
        "budget": {"steps": 1000},
        "recipe": {"length": {"control": control}},
        "trainer": {"deepspeed": deepspeed or {}},
        "generator": {"engineArgs": engine or {}},
    }
    return parse_run({"apiVersion": "scalerl.io/v1alpha1", "kind": "RLRun", "metadata": {"name": "x"}, "spec": spec})


def found(**settings: Any) -> str:
    return "\n".join(map(str, find_setting_faults(build_run(**settings))))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"zero_optimization": {"reduce_bucket_size": 200_000_000, "stage3_prefetch_bucket_size": 1000}},
        {"zero_optimization": {"offload_optimizer": {"pin_memory": False}}},
        {"wall_clock_breakdown": True, "flops_profiler": {"enabled": True}},
        {"prescale_gradients": True, "gradient_predivide_factor": 2},
    ],
)
def test_deepspeed_takes(settings: dict[str, Any]) -> None:
    assert found(deepspeed=settings) == ""


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"wall_clock_brakdown": True}, "wall_clock_brakdown: unknown name (value True), a setting that DeepSpeed has"),
        ({"wall_clock_brakdown": True}, "did you mean wall_clock_breakdown?"),
        ({"zero_optimization": {"reduce_bucket": 5}}, "zero_optimization.reduce_bucket: 5, unknown here"),
        ({"zero_optimization": {"reduce_bucket_size": "many"}}, "zero_optimization.reduce_bucket_size: 'many', input"),
        ({"zero_optimization": 3}, "zero_optimization: 3, a mapping"),
        ({"elasticity": {}}, "elasticity, DeepSpeed refuses it: Elastic training has been removed"),
    ],
)
def test_deepspeed_refuses(settings: dict[str, Any], words: str) -> None:
    text = found(deepspeed=settings)
    assert text.startswith("spec.trainer.deepspeed")
    assert words in text


@pytest.mark.parametrize(
    "settings",
    [
        {"kv_cache_dtype": "fp8"},
        {"quantization": "fp8"},
        {"enable_expert_parallel": True},
        {"max_num_batched_tokens": 8192, "enable_chunked_prefill": True, "cpu_offload_gb": 4},
        {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4}},
        {"compilation_config": {"cudagraph_mode": "PIECEWISE"}, "attention_backend": "FLASHINFER"},
    ],
)
def test_the_engine_takes(settings: dict[str, Any]) -> None:
    assert found(engine=settings) == ""


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"enable_chunked_prefil": True}, "enable_chunked_prefil: unknown name (value True), a setting that vLLM"),
        ({"enable_chunked_prefil": True}, "did you mean enable_chunked_prefill?"),
        ({"kv_cache_dtype": "fp9"}, "kv_cache_dtype: 'fp9', input should be 'auto', 'float16'"),
        ({"max_num_batched_tokens": "8192"}, "max_num_batched_tokens: '8192', int is needed"),
        ({"enable_chunked_prefill": 1}, "enable_chunked_prefill: 1, bool is needed"),
        ({"compilation_config": {"level": 3}}, "compilation_config.level: 3, unexpected keyword argument"),
        ({"cudagraph_capture_sizes": [1, "x"]}, "cudagraph_capture_sizes.1: 'x', input should be a valid integer"),
        ({"attention_backend": "FLASHINFERNO"}, "attention_backend: 'FLASHINFERNO', input should be"),
    ],
)
def test_the_engine_refuses(settings: dict[str, Any], words: str) -> None:
    text = found(engine=settings)
    assert text.startswith("spec.generator.engineArgs.")
    assert words in text


def test_an_engine_that_forces_a_phrase_does_not_speculate() -> None:
    text = found(engine={"speculative_config": {"method": "ngram"}}, control="interruption")
    assert "spec.generator.engineArgs.speculative_config: " in text
    assert "only with recipe.length.control penalty or none" in text
