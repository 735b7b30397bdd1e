"""The gate's verdict on every family that transformers has: no examination ends in an error that is not a refusal."""

import pytest
import tiny_models

from scalerl_runtime.actors.sequence.thread_group import hidden_in_parts
from scalerl_runtime.actors.varlen_attention import ATTENTION_NAME, forward_hidden, register_attention
from scalerl_runtime.algorithm.head import HeadTransform
from scalerl_runtime.models.architecture import Unrepresentable, examine, examine_parts
from scalerl_runtime.models.packing_probe import PackedForward

FAMILIES = list(dict.fromkeys((*tiny_models.CAUSAL, *tiny_models.MULTIMODAL)))
# Layers that carry a state from token to token, by what their authors call them.
WITH_STATE = (
    "mamba",
    "rwkv",
    "xlstm",
    "lfm2",
    "zamba",
    "jamba",
    "bamba",
    "qwen3_next",
    "qwen3_5",
    "kimi_linear",
    "hybrid",
)
FORWARD = PackedForward(ATTENTION_NAME, forward_hidden, hidden_in_parts)
PARTS = 8  # of the families: one test each, so that they run on all cores


def verdict(family: str) -> HeadTransform | str:
    register_attention()
    try:
        return examine(tiny_models.build_config(family), FORWARD)
    except Unrepresentable as error:
        return str(error)


@pytest.mark.filterwarnings("ignore")  # of models' code
@pytest.mark.parametrize("part", range(PARTS))
def test_every_family_has_a_verdict(part: int) -> None:
    families = [name for name in FAMILIES[part::PARTS] if name not in tiny_models.UNBUILDABLE]
    found = {family: verdict(family) for family in families}
    represented = [family for family, each in found.items() if isinstance(each, HeadTransform)]
    assert len(represented) > 0.4 * len(families)
    for family in set(represented) & set(tiny_models.CAUSAL):
        config = tiny_models.build_config(family)
        examine_parts(config, FORWARD)
    state = [family for family in represented if any(word in family for word in WITH_STATE)]
    assert [family for family in state if family != "lfm2_vl"] == []  # all attention by default
    assert [family for family, each in found.items() if isinstance(each, str) and len(each) < 15] == []
