"""Families of models through one process's vLLM engines: `python engine_rows.py OUT.jsonl FAMILY...`, a line for each.

Each line has the mean error of the log-probabilities of sampled tokens against transformers' own eager forward: in an
engine started from the folder, and after an update that goes the way of a weight sync, without its transport.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_models import save_model

from scalerl_runtime.actors import generator
from scalerl_runtime.actors.weight_copies import WeightCopies
from scalerl_runtime.models.small_copy import randomize
from scalerl_runtime.weights.buckets import view

PATH = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
START_SECONDS = 180.0  # of the process: it imports vLLM, DeepSpeed and transformers
PROMPTS = ([5, 6, 7, 8, 9, 10, 11], [20, 21, 22])
TOKENS = 24  # per prompt, beyond every window of the tiny models
CONTEXT = 64
OPTIONS: dict[str, Any] = {
    "dtype": "float32",
    "head": "fp32",
    "context_tokens": CONTEXT,
    "max_sequences": 4,
    "tensor_parallel": 0,
    "gpu_memory_share": 0.9,
    "kv_cache_megabytes": 8,
    "temperature": 1.0,
    "phrase": None,
    "seed": 0,
}


def measure_all(families: Sequence[str], folder: Path, *, seconds: float) -> dict[str, dict[str, Any]]:
    """Rows by family, measured in one process.

    It is started anew after an engine that failed, since that may leave the process unfit, or took more than `seconds`.
    """
    output, log = folder / "rows.jsonl", folder / "rows.log"
    output.touch()
    rows: dict[str, dict[str, Any]] = {}
    left = list(families)
    while left:
        with log.open("a") as file:
            command = [sys.executable, __file__, str(output), *left]
            process = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | {"PYTHONPATH": PATH})
        deadline, known = time.monotonic() + START_SECONDS + seconds, len(rows)
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.5)
            found = {row["family"]: row for row in map(json.loads, output.read_text().splitlines())}
            if len(found) > len(rows):
                rows, deadline = found, time.monotonic() + seconds
        process.kill()
        process.wait()
        rows = {row["family"]: row for row in map(json.loads, output.read_text().splitlines())}
        left = [family for family in left if family not in rows]
        if left and len(rows) == known:  # else the process ended by itself, or its next family fails alone
            end = "took too long" if process.returncode < 0 else f"ended its process with {process.returncode}"
            rows[left[0]] = {"family": left[0], "failed": f"the engine {end}"}
            with output.open("a") as file:
                file.write(json.dumps(rows[left[0]]) + "\n")
            left = left[1:]
    return rows


def measure(family: str, folder: Path) -> dict[str, Any]:
    """Errors in nats before and after an update, and what did not fit; `refused` if the engine does not start."""
    from transformers import AutoModelForCausalLM
    from vllm import LLM

    save_model(folder, family)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    options = generator.EngineOptions(model=str(folder), **OPTIONS)
    row: dict[str, Any] = {}
    engine, stage = None, "refused"
    try:
        engine = LLM(**generator._engine_arguments(options))
        row["before"] = compare(engine, model)  # as the product's probe: some kernels refuse at the first token only
        stage = "failed"
        copies = WeightCopies(model)
        copies.plan()
        randomize(model, seed=1)
        row["gaps"] = load(engine, copies)
        engine.reset_prefix_cache()
        row["after"] = compare(engine, model)
    except Exception as error:  # noqa: BLE001  # whatever an engine raises is its row
        row[stage] = f"{type(error).__name__}: {error}".replace(str(folder), "FOLDER")
    finally:
        if engine is not None:
            engine.llm_engine.engine_core.shutdown()
    return row


def load(engine: Any, copies: WeightCopies) -> list[str]:
    """Load the copy as `load_received` loads an update that has arrived; its bytes are overwritten afterwards."""
    from contextlib import nullcontext

    from vllm.config import set_current_vllm_config

    from scalerl_runtime.actors.engine_loading import load_update, own_weights

    flats = [torch.zeros(bucket.num_bytes, dtype=torch.uint8) for bucket in copies.buckets]
    copies.copy(lambda _: nullcontext(), flats)
    weights = ((e.name, view(flat, e)) for b, flat in zip(copies.buckets, flats, strict=True) for e in b.entries)
    worker = engine.llm_engine.model_executor.driver_worker.worker
    with set_current_vllm_config(worker.vllm_config):
        gaps = load_update(worker.model_runner.model, worker.model_runner.model_config, weights)
    own_weights(worker.model_runner.model, flats)
    for flat in flats:
        flat.fill_(255)
    return gaps


def compare(engine: Any, model: Any) -> float:
    """Mean error of the log-probabilities of sampled tokens, in nats."""
    from vllm import SamplingParams

    parameters = SamplingParams(max_tokens=TOKENS, temperature=1.0, logprobs=0, ignore_eos=True)
    outputs = engine.generate([{"prompt_token_ids": p} for p in PROMPTS], parameters, use_tqdm=False)
    for module in model.modules():  # vLLM's backend for transformers' own classes changes these for the whole process
        vars(module).setdefault("do_not_compile", True)
    errors = []
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        sample = output.outputs[0]
        found = [entry[token].logprob for token, entry in zip(sample.token_ids, sample.logprobs, strict=True)]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *sample.token_ids]])).logits[0].float().log_softmax(-1)
        expected = logits[len(prompt) - 1 : -1].gather(1, torch.tensor(sample.token_ids)[:, None])[:, 0]
        errors.append(np.abs(np.array(found) - expected.numpy()))
    return float(np.concatenate(errors).mean())


def main(output: Path, families: list[str]) -> None:
    """Write a line for each family, as soon as it is measured."""
    os.environ["OMP_NUM_THREADS"] = "1"
    generator._set_environment(generator.EngineOptions(model="", **OPTIONS))
    from vllm.model_executor.models import registry

    # vLLM looks at a model's class in a process of its own, which imports vLLM: ten seconds for each family.
    registry._run_in_subprocess = lambda inspect: inspect()
    import transformers

    transformers.utils.logging.disable_progress_bar()
    for family in families:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            row = measure(family, Path(folder))
        with output.open("a") as file:
            file.write(json.dumps({"family": family, **row, "seconds": round(time.monotonic() - began, 1)}) + "\n")
        if not {"refused", "failed"}.isdisjoint(row):
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
