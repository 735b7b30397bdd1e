"""The transform after a head is measured for what configurations call it in many ways; anything else is refused."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_models import build_model
from torch import Tensor, nn

from scalerl_runtime.algorithm.head import HeadTransform
from scalerl_runtime.models.head_transform import UnknownHead, measure_transform

TOKENS = torch.arange(6, 12)


@pytest.mark.parametrize(
    ("family", "changes", "expected"),
    [
        ("llama", {}, HeadTransform()),
        ("phi", {}, HeadTransform()),  # a bias is no transform
        ("cohere", {"logit_scale": 0.0625}, HeadTransform(scale=0.0625)),
        ("granite", {"logits_scaling": 13.0}, HeadTransform(scale=1 / 13)),
        ("gemma2", {"final_logit_softcapping": 30.0}, HeadTransform(softcap=30.0)),
        ("gemma2", {"final_logit_softcapping": None}, HeadTransform()),
        ("minicpm3", {"dim_model_base": 32}, HeadTransform(scale=0.25)),  # before the head: 32 of 128
        ("falcon_h1", {"lm_head_multiplier": 0.5}, HeadTransform(scale=0.5)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transform_of_a_family(family: str, changes: Any, expected: HeadTransform, dtype: torch.dtype) -> None:
    assert measure_transform(build_model(family, **changes).to(dtype), TOKENS) == expected


def test_layers_between_body_and_head_are_refused() -> None:
    with pytest.raises(UnknownHead, match="changed before the head"):
        measure_transform(build_model("modernbert-decoder"), TOKENS)


class _Model(nn.Module):
    """A model whose logits pass through `change`."""

    def __init__(self, change: Any, before: float, *, bias: bool):
        super().__init__()
        self.model = _Body()
        self.base_model = self.model
        self.lm_head = nn.Linear(4, 50, bias=bias)
        self.change, self.before = change, before

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def forward(self, input_ids: Tensor, **_: object) -> Any:
        hidden = self.model(input_ids).last_hidden_state * self.before
        return SimpleNamespace(logits=self.change(self.lm_head(hidden)))


class _Body(nn.Module):
    def forward(self, input_ids: Tensor) -> Any:
        states = torch.randn(*input_ids.shape, 4, generator=torch.Generator().manual_seed(1))
        return SimpleNamespace(last_hidden_state=states)


def test_scale_and_cap_together() -> None:
    model = _Model(lambda z: 7.0 * torch.tanh(0.3 * z / 7.0), 2.0, bias=False)
    assert measure_transform(model, TOKENS) == HeadTransform(scale=0.6, softcap=7.0)


@pytest.mark.parametrize(
    "change",
    [
        lambda z: z.log_softmax(-1),
        lambda z: z + 1.0,
        lambda z: z[..., :40],
        lambda z: z.clamp(-30, 30),
        lambda z: -z,
        lambda z: z * torch.linspace(0.5, 1.0, z.shape[-1]),
        lambda z: torch.zeros_like(z),
    ],
)
def test_anything_else_is_refused(change: Any) -> None:
    with pytest.raises(UnknownHead):
        measure_transform(_Model(change, 1.0, bias=True), TOKENS)


def test_factor_before_a_bias_is_refused() -> None:
    with pytest.raises(UnknownHead, match="multiplied by 2"):
        measure_transform(_Model(lambda z: z, 2.0, bias=True), TOKENS)
