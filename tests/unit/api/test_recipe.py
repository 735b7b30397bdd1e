"""The presets against the paper's numbers, written here by hand (arXiv:2510.13786, sections 2, 3 and A.16)."""

from typing import Any

import pytest
from pydantic import ValidationError

from scalerl_api.recipe import PRESETS, Length, Recipe, ThinkTags, merge
from scalerl_api.rlrun import RecipeSpec, RLRunSpec

# Path in the recipe -> value; section 2 unless a comment says otherwise.
SCALERL: dict[str, object] = {
    "asynchrony.mode": "pipeline",
    "asynchrony.max_lag": 8,
    "asynchrony.kv_cache": "keep",
    "loss.kind": "cispo",
    "loss.kl_coefficient": 0.0,
    "loss.kl_target": None,
    "loss.entropy_bonus": 0.0,
    "head": "fp32",
    "aggregation": "promptMean",
    "advantage": "batchStd",
    "zero_variance": "drop",
    "no_positive_resampling": True,
    "no_positive_threshold": 0.9,
    "length.control": "interruption",
    "length.prompt_tokens": 2048,
    "length.think_tokens": 12288,
    "length.answer_tokens": 2048,
    "length.completion_tokens": 14336,  # "14k generation"
    "length.interrupt_min": 10000,  # A.10
    "length.interrupt_max": 12000,  # A.10
    "length.penalty_cache": 2048,  # the length-penalty arm, "2k"
    "prompts_per_step": 48,
    "completions_per_prompt": 16,
    "optimizer.learning_rate": 0.0000005,
    "optimizer.warmup_steps": 100,
    "optimizer.epsilon": 0.000000000000001,
    "optimizer.weight_decay": 0.01,
}
# A.16: PPO-off-policy-8, symmetric clip 0.2, sample average; section 3's base: group std, no FP32 head.
GRPO: dict[str, object] = {
    "asynchrony.mode": "offPolicy",
    "asynchrony.off_policy_steps": 8,
    "loss.kind": "grpo",
    "loss.clip_low": 0.2,
    "loss.clip_high": 0.2,
    "head": "bf16",
    "aggregation": "sampleMean",
    "advantage": "groupStd",
    "zero_variance": "keep",
    "no_positive_resampling": False,
    "prompts_per_step": 48,
}
# A.16: clip 0.2 and 0.26, prompt average, zero variance dropped without refilling, 80 x 16 = 1280.
DAPO: dict[str, object] = {
    "asynchrony.mode": "offPolicy",
    "asynchrony.off_policy_steps": 8,
    "loss.kind": "dapo",
    "loss.clip_low": 0.2,
    "loss.clip_high": 0.26,
    "head": "bf16",
    "aggregation": "promptMean",
    "advantage": "groupStd",
    "zero_variance": "drop",
    "no_positive_resampling": False,
    "prompts_per_step": 80,
    "completions_per_prompt": 16,
}
EXPECTED: dict[str, dict[str, object]] = {
    "scalerl": SCALERL,
    "grpo": GRPO,
    "dapo": DAPO,
    # A.16: as DAPO, but PipelineRL.
    "magistral": {**DAPO, "asynchrony.mode": "pipeline", "asynchrony.max_lag": 8},
    # A.16: CISPO, FP32 head, PPO-off-policy, prompt average, batch 1280.
    "minimax": {**DAPO, "loss.kind": "cispo", "head": "fp32"},
    # Section 3.2's arm of ScaleRL: 5e-3 above and 3e-3 below.
    "gspo": {**SCALERL, "loss.kind": "gspo", "loss.clip_high": 0.005, "loss.clip_low": 0.003},
}


def at(recipe: Recipe, path: str) -> Any:
    value: Any = recipe
    for part in path.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_has_the_papers_numbers(preset: str) -> None:
    recipe = RLRunSpec.model_validate(
        {
            "model": {"source": "m"},
            "data": {"train": {"source": "d"}},
            "reward": {"verifier": "math"},
            "budget": {"steps": 1},
            "recipe": {"preset": preset},
        }
    ).resolved_recipe()
    expected = EXPECTED[preset]
    assert {path: at(recipe, path) for path in expected} == expected


def test_phrase_is_section_3_2s() -> None:
    words = "Okay, time is up. Let me stop thinking and formulate a final answer now. </think>"
    assert Recipe().length.forced_phrase == words


def test_the_default_phrase_closes_with_the_chosen_tag() -> None:
    length = Length(think_tags=ThinkTags(open="[THINK]", close="[/THINK]"))
    assert length.forced_phrase.endswith("final answer now. [/THINK]")
    assert Length(phrase="stop</think>now").forced_phrase == "stop</think>now"


def test_cispo_caps_the_ratio_itself_at_one_of_the_papers_values() -> None:
    assert Recipe().loss.ratio_max in (4, 5, 8)


def test_merge_keeps_what_the_override_does_not_name() -> None:
    base = {"loss": {"kind": "gspo", "clipLow": 3}, "head": "bf16"}
    assert merge(base, {"loss": {"clipLow": 4}}) == {"loss": {"kind": "gspo", "clipLow": 4}, "head": "bf16"}
    assert base["loss"] == {"kind": "gspo", "clipLow": 3}


def test_recipe_is_written_as_a_user_writes_it() -> None:
    spec = RecipeSpec.model_validate({"preset": "gspo", "loss": {"clipLow": 0.004}})
    written = spec.model_dump(by_alias=True)
    assert written == {"preset": "gspo", "loss": {"clipLow": 0.004}}
    assert RecipeSpec.model_validate(written) == spec


def test_recipe_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Recipe().head = "bf16"
