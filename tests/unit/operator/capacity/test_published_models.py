"""Published models are counted as their pages state, whatever ending their name has."""

import pytest

from scalerl_api import InvalidRun
from scalerl_operator.capacity.model_shape import parse_model
from scalerl_operator.capacity.published_models import PUBLISHED_MODELS, find_published

# The number of parameters on each model's page, from its safetensors files; a tied head counts once.
STATED = {
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen2.5-32B": 32_763_876_352,
    "Qwen/Qwen2.5-72B": 72_706_203_648,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "Qwen/Qwen3-235B-A22B": 235_093_634_560,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-70B": 70_553_706_496,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "mistralai/Mistral-7B-v0.3": 7_248_023_552,
    "mistralai/Mixtral-8x7B-v0.1": 46_702_792_704,
    "google/gemma-2-2b": 2_614_341_888,
    "google/gemma-2-9b": 9_241_705_984,
    "google/gemma-2-27b": 27_227_128_320,
    "google/gemma-3-1b": 999_885_952,
    "openai/gpt-oss-20b": 20_914_757_184,
    "openai/gpt-oss-120b": 116_829_156_672,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384,
    "HuggingFaceTB/SmolLM3-3B": 3_075_098_624,
    "microsoft/phi-4": 14_659_507_200,
    "allenai/OLMoE-1B-7B-0924": 6_919_161_856,
}


@pytest.mark.parametrize("name", STATED)
def test_counts_are_the_published_ones(name: str) -> None:
    assert parse_model(PUBLISHED_MODELS[name], name).parameters == STATED[name]


@pytest.mark.parametrize(("name", "billions"), [("Qwen/Qwen3-30B-A3B", 3.3), ("Qwen/Qwen3-235B-A22B", 22.0)])
def test_active_parameters_are_near_the_name(name: str, billions: float) -> None:
    assert parse_model(PUBLISHED_MODELS[name], name).active_parameters / 1e9 == pytest.approx(billions, rel=0.1)


@pytest.mark.parametrize("name", PUBLISHED_MODELS)
def test_every_model_can_be_planned(name: str) -> None:
    assert parse_model(PUBLISHED_MODELS[name], name).parameters > 1e8


def test_endings_name_the_same_sizes_and_another_owner_does_not() -> None:
    assert find_published("Qwen/Qwen3-8B-Base") == find_published("qwen/qwen3-8b") is not None
    assert find_published("Qwen/Qwen3-30B-A3B-Thinking-2507") == PUBLISHED_MODELS["Qwen/Qwen3-30B-A3B"]
    assert find_published("me/Qwen3-8B") is None
    assert find_published("Qwen/Qwen3-8B-FP8") is None


def test_an_unknown_family_is_refused_and_named() -> None:
    with pytest.raises(InvalidRun, match="model_type 'mamba', whose layers are not known here"):
        parse_model({"model_type": "mamba", "hidden_size": 4}, "m")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, "no hidden_size or n_embd"),
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
        ({"num_key_value_heads": 5}, "num_key_value_heads 5, a divisor of num_attention_heads, 32"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes', true or false"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0, an integer of at least 1"),
    ],
)
def test_a_field_that_is_wrong_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidRun) as error:
        parse_model({**PUBLISHED_MODELS["Qwen/Qwen3-8B"], **change}, "m")
    assert message in str(error.value)


def test_a_window_bounds_the_cache_of_its_layers() -> None:
    shape = parse_model(PUBLISHED_MODELS["google/gemma-2-2b"], "g")
    assert shape.kv_tokens(10_000) == 13 * 4096 + 13 * 10_000
    assert parse_model(PUBLISHED_MODELS["Qwen/Qwen3-8B"], "q").kv_tokens(10_000) == 36 * 10_000
