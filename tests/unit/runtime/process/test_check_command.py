"""`python -m scalerl_runtime check`: verdicts as JSON, and an exit code."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import yaml

from scalerl_runtime.process.check_command import CheckOptions, check_files


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


def check(paths: list[Path], *, self_test: bool = False) -> tuple[int, list[dict[str, Any]]]:
    stream = BytesIO()
    return check_files(paths, CheckOptions(self_test), stream), json.loads(stream.getvalue())


def test_verdicts_of_several_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    code, (good, leaky, long, hub, missing) = check(specs)
    assert code == 64
    assert good == {"faults": [], "unchecked": "", "untested": [], "sources": []}
    assert [fault["path"] for fault in leaky["faults"]] == ["spec.model.source"]
    assert "OlmoHybridGatedDeltaNet (layers.0.linear_attn) mixes tokens" in leaky["faults"][0]["value"]
    assert "149 positions, but promptTokens + thinkTokens + answerTokens are 150" in long["faults"][0]["value"]
    assert hub["unchecked"] == "scalerl-tests/no-such-model is neither a folder here nor in the hub's cache"
    assert "a folder that exists" in missing["faults"][0]["allowed"]
    assert check(specs[:1])[0] == 0


def test_the_data_of_a_run_is_tested_with_its_models_tokenizer_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"What is {i} + 2?", "answer": str(i + 2)} for i in range(20)]
    Path("prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tiny_models.save_model(tmp_path / "good", "qwen2")
    sources = [str(tmp_path / "good"), "scalerl-tests/no-such-model"]
    specs = [write_spec(tmp_path / f"{number}.yaml", source) for number, source in enumerate(sources)]
    for path in specs:
        document = yaml.safe_load(path.read_text())
        document["spec"]["data"] |= {"heldOut": {"prompts": 4}, "promptFormat": "plain"}
        path.write_text(yaml.safe_dump(document))
    code, (here, elsewhere) = check(specs, self_test=True)
    assert code == 0
    assert (here["unchecked"], here["untested"]) == ("", [])
    assert "neither a folder here nor in the hub's cache" in elsewhere["unchecked"]
    assert elsewhere["untested"] == [
        "without the model's tokenizer: chat template and lengths of prompts were not tested"
    ]
    for verdict in (here, elsewhere):
        (source,) = verdict["sources"]
        assert source["selfTests"] == [{"verifier": "math", "rows": 16, "failed": 0, "note": ""}]
