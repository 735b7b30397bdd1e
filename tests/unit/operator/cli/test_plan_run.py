"""`scalerl plan RUN.yaml` and `scalerl validate --device`, as a user starts them."""

import json
from pathlib import Path

import pytest
import yaml

from scalerl_api.wire import RunVerdict
from scalerl_operator.cli.commands import CliDeps, run_command
from scalerl_operator.cli.parser import parse_arguments

EXAMPLES = Path(__file__).parents[4] / "examples"
BIG = EXAMPLES / "qwen3-8b-math.yaml"
DEPS = CliDeps(fetch_verdicts=lambda files, _scope: [RunVerdict() for _ in files])


def run(*arguments: object) -> int:
    return run_command(parse_arguments([str(each) for each in arguments]), DEPS)


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("qwen3-*.yaml")), ids=lambda path: path.stem)
def test_every_example_for_gpus_fits_an_h100(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", path, "--device", "H100") == 0
    assert "It fits H100" in capsys.readouterr().out


def test_the_plan_of_the_8b_run_as_values(tmp_path: Path) -> None:
    assert run("plan", BIG, "--json", tmp_path / "plan.json") == 0
    (plan,) = json.loads((tmp_path / "plan.json").read_text())
    assert plan["device"] == "H100"
    assert plan["memory"]["fits"] is True
    assert [each["role"] for each in plan["memory"]["trainer"]] == ["trainer rank 0", "other trainer ranks"]


def test_a_run_on_cpus_needs_no_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", EXAMPLES / "quickstart.yaml") == 0
    assert "No GPU is needed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([BIG, "curve.csv"], "is an RLRun and curve.csv a curve: plan one kind at a time"),
        ([BIG, "--x", "step"], "--x is for curves in CSV files"),
        (["curve.csv", "--device", "H100", "--x", "a", "--y", "b"], "--device is for an RLRun in a YAML file"),
        (["curve.csv"], "it needs --x and --y. An RLRun is a .yaml file"),
    ],
)
def test_kinds_are_not_mixed(arguments: list[object], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_model_that_is_not_known_says_how_to_give_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = BIG.read_text().replace("Qwen/Qwen3-8B-Base", "me/secret-model")
    (tmp_path / "run.yaml").write_text(text)
    assert run("plan", tmp_path / "run.yaml") == 64
    assert "me/secret-model, whose sizes are not known here" in capsys.readouterr().err
    config = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
              "num_attention_heads": 32, "vocab_size": 32000, "tie_word_embeddings": False}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert run("plan", tmp_path / "run.yaml", "--model-config", tmp_path / "config.json") == 0
    assert "6.74e9 parameters" in capsys.readouterr().out


def test_a_models_folder_and_the_hubs_cache_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
              "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936,
              "tie_word_embeddings": True}  # fmt: skip
    cached = tmp_path / "hub" / "models--me--tuned"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    folder = cached / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    for source in ("me/tuned", str(folder)):
        (tmp_path / "run.yaml").write_text(BIG.read_text().replace("Qwen/Qwen3-8B-Base", source))
        assert run("plan", tmp_path / "run.yaml") == 0
        assert "0.494e9 parameters" in capsys.readouterr().out


def test_validate_refuses_with_the_sum(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("validate", BIG, "--device", "A100-40GB") == 64
    error = capsys.readouterr().err
    assert "spec.trainer: zeroStage 1 on 16 GPUs: trainer rank 0 needs" in error
    assert "It fits with zeroStage: 3" in error
    assert run("validate", BIG, "--device", "H100") == 0
    assert "memory fits: trainer" in capsys.readouterr().out


def write_lora(tmp_path: Path, **lora: object) -> Path:
    document = yaml.safe_load(BIG.read_text())
    document["spec"]["model"]["lora"] = lora
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_adapters_fit_where_the_whole_model_does_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_lora(tmp_path, rank=8)
    assert run("validate", BIG, "--device", "A100-40GB") == 64
    assert run("validate", path, "--device", "A100-40GB") == 0
    assert "memory fits: trainer" in capsys.readouterr().out
    assert run("plan", path, "--device", "A100-40GB") == 0
    text = capsys.readouterr().out
    assert "8.19e9 parameters, adapters of rank 8 with 21.8e6" in text
    assert "room for rank 8" in text
    assert "launches of their small products are not counted" in text


@pytest.mark.parametrize(
    ("lora", "error"),
    [
        ({"targetModules": ["q_proj", "query"]}, "spec.model.lora.targetModules: query, linear layers of the model: "),
        ({"rank": 512, "targetModules": ["q_proj"]}, None),
    ],
)
def test_adapters_that_the_model_cannot_have(
    lora: dict[str, object], error: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_lora(tmp_path, **lora)
    assert run("plan", path, "--device", "H100") == (0 if error is None else 64)
    assert (error or "") in capsys.readouterr().err


def test_validate_without_a_cluster_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert run("validate", BIG, "--cluster") == 2
    assert "no kubeconfig" in capsys.readouterr().err
