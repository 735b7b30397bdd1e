"""A checkpoint as a folder that transformers loads, and the checkpoints that are refused."""

import io
import json
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3MoeConfig, Qwen3MoeForCausalLM

from scalerl_api.wire import CARD_FORECAST, EvalPoint
from scalerl_runtime.export import disk_layout
from scalerl_runtime.export.checkpoint_weights import ExportError, Weight
from scalerl_runtime.export.convert import ExportOptions, ExportStopped, export_checkpoint, read_exported
from scalerl_runtime.export.disk_layout import check_complete, plan_groups
from scalerl_runtime.export.model_target import FolderTarget, TarTarget, copy_exported

Save = Callable[[int], Path]
OPTIONS = ExportOptions(why="a test", verify=True)


def test_the_folder_loads_with_weights_tokenizer_and_ends(
    save_step: Save, scratch: SimpleNamespace, tmp_path: Path
) -> None:
    point = EvalPoint(
        index=0, step=3, version=3, compute_gpu_hours=0.5, pass_rate=0.4375, prompts=8, samples=2, standard_error=0.1
    )
    out = tmp_path / "out"
    options = ExportOptions(why="a test", verify=True, evals=[point], evaluated_by=2)
    assert export_checkpoint(save_step(3), FolderTarget(out), options) == 3
    model = AutoModelForCausalLM.from_pretrained(out)
    for name, value in scratch.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], value + 3), name
    assert AutoTokenizer.from_pretrained(out)("12 + 3")["input_ids"] == scratch.tokenizer("12 + 3")["input_ids"] != []
    assert model.generation_config.eos_token_id == [1, 7], "the model's own end, and the run's"
    card = (out / "README.md").read_text()
    assert "| held_out | 3 | 0.5 | 0.4375 |" in card
    assert CARD_FORECAST in card
    assert "reasoning_gym" in card
    assert "containers" not in card, "a pod's environment may hold secrets"
    made = read_exported(out)
    assert made is not None
    assert (made.step, made.attempt) == (3, 2)
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o644}
    assert not (out / "run.yaml").exists()


def test_a_stream_is_the_same_files(save_step: Save, tmp_path: Path) -> None:
    checkpoint, stream = save_step(1), io.BytesIO()
    export_checkpoint(checkpoint, FolderTarget(tmp_path / "out"), OPTIONS)
    export_checkpoint(checkpoint, TarTarget(stream), OPTIONS)
    stream.seek(0)
    with tarfile.open(fileobj=stream) as tar:
        found = {each.name: tar.extractfile(each).read() for each in tar}  # type: ignore[union-attr]
    assert found == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}


def test_large_models_have_several_files_and_an_index(
    save_step: Save, scratch: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_layout.split_files, "__defaults__", (20_000,))
    export_checkpoint(save_step(1), FolderTarget(tmp_path / "out"), OPTIONS)
    names = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(names) > 2
    assert names[0] == f"model-00001-of-{len(names):05d}.safetensors"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(model.state_dict()["model.norm.weight"], scratch.model.state_dict()["model.norm.weight"] + 1)


def test_fused_experts_get_the_names_of_the_disk(tmp_path: Path) -> None:
    """Layer by layer it is what transformers writes for the whole model."""
    config = Qwen3MoeConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        moe_intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_experts=4,
        num_experts_per_tok=2,
    )
    model = Qwen3MoeForCausalLM(config)
    model.save_pretrained(tmp_path)
    from safetensors.torch import load_file

    wanted = load_file(tmp_path / "model.safetensors")
    weights = [
        Weight(name, tuple(value.shape), value.dtype, lambda value=value: value)
        for name, value in model.state_dict().items()
    ]
    reference = disk_layout.build_reference(tmp_path)
    check_complete(weights, reference)
    found = {entry.name: value for group in plan_groups(weights, reference) for entry, value in group.load()}
    assert any(".experts.3.up_proj.weight" in name for name in found)
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name


def spoil_weights(checkpoint: Path) -> None:
    path = checkpoint / "deepspeed/mp_rank_00_model_states.pt"
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def lose(name: str) -> Callable[[Path], None]:
    return lambda checkpoint: (checkpoint / name).unlink()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(spoil_weights, "mp_rank_00_model_states.pt has changed", id="a changed byte"),
        pytest.param(lose("manifest.json"), "manifest.json", id="unfinished"),
        pytest.param(lose("state.json"), "state.json is missing", id="half deleted"),
        pytest.param(
            lose("deepspeed/zero_pp_rank_0_mp_rank_00_optim_states.pt"),
            "optim_states.pt is missing",
            id="a rank's file",
        ),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_name(
    save_step: Save, tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    checkpoint = save_step(1)
    spoil(checkpoint)
    with pytest.raises(ExportError, match="step-00000001 is damaged or incomplete") as caught:
        export_checkpoint(checkpoint, FolderTarget(tmp_path / "out"), OPTIONS)
    assert words in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_model_is_refused(scratch: SimpleNamespace) -> None:
    weights = [Weight(n, tuple(v.shape), v.dtype, lambda v=v: v) for n, v in scratch.model.state_dict().items()]
    with pytest.raises(ExportError, match="weight model.norm.weight is missing"):
        check_complete([each for each in weights if each.name != "model.norm.weight"], scratch.model)
    check_complete([each for each in weights if each.name != "lm_head.weight"], scratch.model)  # tied


def test_a_kill_leaves_the_older_model_whole(save_step: Save, tmp_path: Path) -> None:
    out, calls = tmp_path / "out", iter([False] * 5 + [True])
    export_checkpoint(save_step(1), FolderTarget(out), OPTIONS)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ExportStopped):
        export_checkpoint(save_step(2), FolderTarget(out), ExportOptions(why="a test", is_stopping=lambda: next(calls)))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    out.rename(tmp_path / ".out.old")  # killed between the two renames
    FolderTarget(out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    export_checkpoint(tmp_path / "run/checkpoints/step-00000002", FolderTarget(out), OPTIONS)
    made = read_exported(out)
    assert made is not None
    assert made.step == 2
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_copy_of_a_model_gets_the_forecast(save_step: Save, tmp_path: Path) -> None:
    export_checkpoint(save_step(1), FolderTarget(tmp_path / "out"), OPTIONS)
    copy_exported(tmp_path / "out", FolderTarget(tmp_path / "copy"), "ceiling 0.61")
    assert "ceiling 0.61" in (tmp_path / "copy/README.md").read_text()
    assert json.loads((tmp_path / "copy/scalerl-export.json").read_text())["step"] == 1
    (tmp_path / "out/config.json").write_text("{}")
    with pytest.raises(ExportError, match="config.json is missing or has changed"):
        copy_exported(tmp_path / "out", FolderTarget(tmp_path / "other"), "")
