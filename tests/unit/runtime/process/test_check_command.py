"""`python -m scalerl_runtime check`: verdicts as JSON, and an exit code."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import yaml

from scalerl_runtime.process.check_command import check_files


def write_spec(path: Path, source: str) -> Path:
    spec: dict[str, Any] = {
        "model": {"source": source},
        "data": {"train": {"source": "prompts.jsonl"}},
        "reward": {"verifier": "math"},
        "budget": {"steps": 1000},
        "recipe": {"length": {"control": "none", "promptTokens": 50, "thinkTokens": 50, "answerTokens": 50}},
    }
    head = {"apiVersion": "scalerl.io/v1alpha1", "kind": "RLRun", "metadata": {"name": "x"}}
    path.write_text(yaml.safe_dump({**head, "spec": spec}))
    return path


def test_verdicts_of_several_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    tiny_models.save_model(tmp_path / "good", "qwen2")
    tiny_models.save_model(tmp_path / "leaky", "olmo_hybrid")
    tiny_models.save_model(tmp_path / "short", "qwen2", max_position_embeddings=149)
    specs = [
        write_spec(tmp_path / "good.yaml", str(tmp_path / "good")),
        write_spec(tmp_path / "leaky.yaml", str(tmp_path / "leaky")),
        write_spec(tmp_path / "long.yaml", str(tmp_path / "short")),
        write_spec(tmp_path / "hub.yaml", "scalerl-tests/no-such-model"),
        write_spec(tmp_path / "missing.yaml", str(tmp_path / "missing")),
    ]
    capsys.readouterr()  # progress of saving
    assert check_files(specs) == 64
    good, leaky, long, hub, missing = json.loads(capsys.readouterr().out)
    assert good == {"faults": [], "unchecked": ""}
    assert [fault["path"] for fault in leaky["faults"]] == ["spec.model.source"]
    assert "OlmoHybridGatedDeltaNet (layers.0.linear_attn) mixes tokens" in leaky["faults"][0]["value"]
    assert "149 positions, but promptTokens + thinkTokens + answerTokens are 150" in long["faults"][0]["value"]
    assert hub["unchecked"] == "scalerl-tests/no-such-model is neither a folder here nor in the hub's cache"
    assert "a folder that exists" in missing["faults"][0]["allowed"]
    assert check_files(specs[:1]) == 0
