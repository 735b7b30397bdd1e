"""The object store holds the largest batch that a recipe can make."""

import pytest

from scalerl_api.recipe import Length, Recipe
from scalerl_runtime.actors.ray_session import object_store_bytes

BASE = 536_870_912


@pytest.mark.parametrize(
    ("values", "want"),
    [
        pytest.param({}, BASE + 48 * 16 * 16_384 * 14, id="the paper's: 2,048 + 12,288 + 2,048 tokens"),
        pytest.param({"prompts_per_step": 128}, BASE + 2048 * 16_384 * 14, id="2,048 completions"),
        pytest.param({"router_replay": True}, BASE + 48 * 16 * 16_384 * (14 + 2048), id="experts travel too"),
        pytest.param(
            {"length": Length(prompt_tokens=100, think_tokens=200, answer_tokens=700), "completions_per_prompt": 3},
            BASE + 48 * 3 * 1000 * 14,
            id="shorter",
        ),
    ],
)
def test_by_hand(values, want):
    assert object_store_bytes(Recipe(**values)) == want
