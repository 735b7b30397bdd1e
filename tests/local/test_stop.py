"""Ctrl-C: the run is checkpointed, nothing is left behind, and `--resume` goes on from that very step."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch.distributed import checkpoint as distributed_checkpoint
from torch.distributed.checkpoint import FileSystemReader
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from scalerl_runtime.export.convert import read_exported

PROMPT = "12 + 3 ="
WAIT_SECONDS = 600.0  # until the first steps are done, on a busy machine
# vLLM as its user starts it, without anything of this project: prints a token and its log-probability after PROMPT.
ENGINE = """
import sys
from vllm import LLM, SamplingParams
engine = LLM(sys.argv[1], dtype="float32", enforce_eager=True, kv_cache_memory_bytes=2**25)
once = SamplingParams(temperature=0.0, max_tokens=1, logprobs=0)
(answer,) = engine.generate([sys.argv[2]], once)[0].outputs
(token,) = answer.token_ids
print("ANSWER", token, answer.logprobs[0][token].logprob)
"""
ENGINE_VARIABLES = {  # on a CPU that other tests use, and without a compiler
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "TORCHDYNAMO_DISABLE": "1",
    "OMP_NUM_THREADS": "1",
}


def wait_for_lines(path: Path, count: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not path.exists() or len(path.read_bytes().splitlines()) < count:
        assert process.poll() is None, "the run ended before it could be stopped"
        assert time.monotonic() < deadline, f"{path.name} did not reach {count} lines"
        time.sleep(0.05)


def check_model(folder: Path, step: int) -> None:
    """`model-final` is of `step`, loads in transformers, and gives the logits of the trainer's own weights."""
    path = folder / "model-final"
    made = read_exported(path)
    assert made is not None
    assert made.step == step
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path)
    tokens = torch.tensor([tokenizer(PROMPT)["input_ids"]])
    assert tokens.shape == (1, len(PROMPT)), "a token for each character"
    twin = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder / "model-start"))
    weights = FileSystemReader(folder / "checkpoints" / f"step-{step:08d}" / "weights")
    trained = {name: torch.full((each.numel(),), float("nan")) for name, each in twin.named_parameters()}
    distributed_checkpoint.load(trained, storage_reader=weights, no_dist=True)
    for name, each in twin.named_parameters():
        each.data = trained[name].view(each.shape)
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, twin.eval()(tokens).logits)
    assert model.generation_config.eos_token_id is not None
    assert {each.stat().st_mode & 0o777 for each in path.iterdir()} == {0o644}


def check_engine(folder: Path) -> None:
    """vLLM alone loads `model-final`, and continues PROMPT as transformers does."""
    path = folder / "model-final"
    command = [sys.executable, "-c", ENGINE, str(path), PROMPT]
    done = subprocess.run(command, env=os.environ | ENGINE_VARIABLES, capture_output=True, text=True, timeout=300)
    answers = [line.split() for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    assert len(answers) == 1, done.stderr[-4000:]
    tokens = torch.tensor([AutoTokenizer.from_pretrained(path)(PROMPT)["input_ids"]])
    with torch.no_grad():
        logp = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)(tokens).logits[0, -1].log_softmax(-1)
    assert int(answers[0][1]) == int(logp.argmax())
    assert float(answers[0][2]) == pytest.approx(float(logp.max()), abs=1e-4)


def check_best(folder: Path, evals: list[dict[str, Any]]) -> None:
    """`model-best` is of the highest pass rate, of equal ones the earlier."""
    best = max(evals, key=lambda line: (line["passRate"], -line["step"]))
    made = read_exported(folder / "model-best")
    assert made is not None
    assert made.step == best["step"]
    assert f"{best['passRate']:.4f}" in (folder / "model-best" / "README.md").read_text()


def check_command(folder: Path, tmp_path: Path) -> None:
    """`scalerl export` makes the same weights of the checkpoint, and the card has the forecast."""
    command = [sys.executable, "-m", "scalerl_operator", "export", str(folder), "--to", str(tmp_path / "out")]
    subprocess.run(command, timeout=300, check=True)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / "model-final" / name).read_bytes(), name
    for path in (tmp_path / "out", folder / "model-final"):
        card = (path / "README.md").read_text()
        assert "NotIdentified" in card or "ceiling" in card
        assert "pass_rate.png" in card
        assert (path / "pass_rate.png").stat().st_size > 10_000


@pytest.mark.timeout(1500)
def test_interrupted_run_goes_on_where_it_stopped(
    tmp_path: Path,
    write_run: Callable[[dict[str, Any]], Path],
    lines: Callable[[Path], list[dict[str, Any]]],
) -> None:
    run_file = write_run({"spec": {"budget": {"steps": 80, "evalEverySteps": 40}, "checkpoint": {"everySteps": 1000}}})
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "scalerl_operator", "run", str(run_file), "--folder", str(folder), "--quiet"]
    first = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.environ["PYTHONPATH"]})
    wait_for_lines(folder / "metrics.jsonl", 5, first)
    family = psutil.Process(first.pid).children(recursive=True)
    assert family
    first.send_signal(signal.SIGINT)
    assert first.wait(300) == 130
    assert not [child for child in family if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    stopped_at = len(lines(folder / "ledger.jsonl"))
    assert 5 <= stopped_at < 80
    assert (folder / "checkpoints" / f"step-{stopped_at:08d}" / "manifest.json").exists(), "saved where it stopped"
    check_model(folder, stopped_at)
    assert subprocess.run([*command, "--resume"], timeout=900, check=False).returncode == 0
    check_model(folder, 80)
    check_engine(folder)
    check_best(folder, lines(folder / "evals.jsonl"))
    check_command(folder, tmp_path)
    ledger = lines(folder / "ledger.jsonl")
    assert [line["step"] for line in ledger] == list(range(1, 81))
    assert [line["attempt"] for line in ledger] == [1] * stopped_at + [2] * (80 - stopped_at)
    assert sorted(line["step"] for line in lines(folder / "evals.jsonl")) == [0, 40, 80]
