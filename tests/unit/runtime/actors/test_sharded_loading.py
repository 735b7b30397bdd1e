"""A model that is loaded a tensor at a time, whose parameters are empty but while a layer runs: as under ZeRO-3."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import save_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from scalerl_runtime.actors import varlen_attention
from scalerl_runtime.actors.sharded_loading import gathered_by_layer, load_model
from scalerl_runtime.actors.start_check import compare
from scalerl_runtime.models.weight_names import check_loading

# Tied and not; experts that are fused while they are loaded; sinks; latent attention; scales and soft caps.
FAMILIES = ("qwen2", "gemma2", "gpt_oss", "qwen3_moe", "mixtral", "deepseek_v3", "granite", "llama4_text", "phi")


class Shares:
    """Stands for ZeRO-3: takes the values out of parameters, and puts them back within a context."""

    def __init__(self) -> None:
        self.values: dict[nn.Parameter, Tensor] = {}
        self.open = 0
        self.most = 0

    def place(self, parameter: nn.Parameter) -> None:
        assert parameter not in self.values, "placed twice"
        assert not parameter.is_meta
        self.values[parameter] = parameter.data
        parameter.ds_shape = parameter.shape  # type: ignore[attr-defined]  # DeepSpeed's
        parameter.data = torch.empty(0, dtype=parameter.dtype)

    @contextmanager
    def gathering(self, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
        for each in parameters:
            each.data = self.values[each]
        self.open += len(parameters)
        self.most = max(self.most, self.open)
        yield
        self.open -= len(parameters)
        for each in parameters:
            each.data = torch.empty(0, dtype=each.dtype)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_in_shares_is_whole_and_passes_the_start_check(family: str, tmp_path: Path) -> None:
    save_model(tmp_path, family)
    shares = Shares()
    model, info = load_model(tmp_path, "m", torch.float32, shares.place)
    assert check_loading("m", info) == []
    assert {id(each) for each in model.parameters()} == {id(each) for each in shares.values}
    whole = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    for (name, parameter), expected in zip(model.named_parameters(), whole.parameters(), strict=True):
        assert torch.equal(shares.values[parameter], expected), name
    policy, report = compare(model, partial(gathered_by_layer, gathering=shares.gathering))
    assert report.faults == []
    assert report.difference < 1e-5
    assert all(each.numel() == 0 for each in policy.parameters())
    assert shares.most < len(shares.values) / 2 + 3, "a layer at a time"


def test_the_start_check_still_finds_a_wrong_forward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path, "gpt_oss")
    shares = Shares()
    model, _ = load_model(tmp_path, "m", torch.float32, shares.place)
    real = varlen_attention.attend_row
    monkeypatch.setattr(varlen_attention, "attend_row", lambda *a, **k: real(*a, **{**k, "sinks": None}))
    _, report = compare(model, partial(gathered_by_layer, gathering=shares.gathering))
    assert "log-probabilities differ" in report.faults[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vocab_size": 300}, "whose shape differs"),
        ({"num_hidden_layers": 3}, "that the folder lacks"),
        ({"num_hidden_layers": 1}, "for which the model has no place"),
    ],
)
def test_a_folder_that_does_not_fit_is_reported_as_before(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    save_model(tmp_path, "qwen2")
    config = json.loads((tmp_path / "config.json").read_text())
    config.update(change)
    config.pop("layer_types", None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    _, info = load_model(tmp_path, "m", torch.float32, Shares().place)
    assert words in "\n".join(map(str, check_loading("m", info)))
