"""Share of a model's bf16 values that an update step changes, on a real model with real rewards, by learning rate.

Run: PYTHONPATH=tests/support python bench/runtime/changed_weights.py [--steps 4 --rates 5e-7 1e-6 1e-5]

SmolLM2-135M samples answers to sums, a right one gets 1 and a wrong one -1, and the product's Trainer makes a step on
the groups; every run begins anew, without warm-up of the rate. A value counts as changed if its bits differ from those
of the version before, or of the first version for the share since then.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from chat_model import chat_model_folder
from torch import Tensor
from trainer_ranks import staged_weights, start_alone
from transformers import AutoModelForCausalLM, AutoTokenizer

from scalerl_api.recipe import Loss, Optimizer
from scalerl_runtime.actors.trainer import Trainer, TrainerOptions
from scalerl_runtime.algorithm.microbatch import TrainSequence, build_micro_batch

PROMPT = "7 + 5 = 12\n13 + 24 = 37\n{} + {} ="
PROMPTS, COMPLETIONS, TOKENS = 8, 4, 5  # of a step; tokens of a completion


def start_trainer(model: Path) -> Trainer:
    """Return a trainer of one CPU rank in bf16, with the recipe's loss and optimizer."""
    options = TrainerOptions(
        model=str(model), dtype="bfloat16", head="fp32", zero_stage=1, optimizer=Optimizer(), loss=Loss(),
        temperature=1.0, seed=0, device="cpu", cpu_threads=2,
    )  # fmt: skip
    return start_alone(options)


def sample(sampler: torch.nn.Module, tokenizer: object, rng: np.random.Generator) -> Iterator[TrainSequence]:
    """Sample groups of answers and return those with both rewards, as the batch of a step has them."""
    for _ in range(PROMPTS):
        a, b = (int(each) for each in rng.integers(1, 60, 2))
        prompt = tokenizer(PROMPT.format(a, b), return_tensors="pt").input_ids  # type: ignore[operator]
        made = sampler.generate(  # type: ignore[operator]
            prompt.expand(COMPLETIONS, -1),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            max_new_tokens=TOKENS,
            min_new_tokens=TOKENS,
        )
        texts = [tokenizer.decode(row[prompt.shape[1] :]) for row in made]  # type: ignore[attr-defined]
        rewards = np.array([1.0 if text.split("\n")[0].strip() == str(a + b) else -1.0 for text in texts])
        if rewards.std() == 0:
            continue
        for row, advantage in zip(made, rewards - rewards.mean(), strict=True):
            trained = np.arange(len(row)) >= prompt.shape[1]
            yield TrainSequence(
                tokens=row.numpy().astype(np.int32),
                trained=trained,
                logp_gen=np.zeros(len(row), np.float32),
                advantage=float(advantage / (rewards.std() + 1e-6)),
                weight=1.0 / (PROMPTS * COMPLETIONS * TOKENS),
                lag=np.zeros(len(row), np.int32),
            )


def with_own_logps(trainer: Trainer, sequences: list[TrainSequence], version: int) -> list[TrainSequence]:
    """Give each sequence the trainer's log-probabilities as those of its sampling."""
    logps = trainer.logprobs([build_micro_batch(sequences)], version)
    found, place = [], 0
    for each in sequences:
        count = int(each.trained.sum())
        own = each.logp_gen.copy()
        own[each.trained] = logps[place : place + count]
        found.append(replace(each, logp_gen=own))
        place += count
    return found


def changed_share(before: dict[str, Tensor], after: dict[str, Tensor]) -> float:
    """Return the share of values whose bits differ."""
    changed = sum(int((before[name].view(torch.int16) != each.view(torch.int16)).sum()) for name, each in after.items())
    return changed / sum(each.numel() for each in after.values())


def measure(model: Path, rate: float, steps: int) -> Iterator[tuple[int, int, float, float, float]]:
    """Yield for each step its number, its completions, the gradient's norm, and both shares."""
    trainer, tokenizer = start_trainer(model), AutoTokenizer.from_pretrained(model)
    sampler = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    rng = np.random.default_rng(1)
    torch.manual_seed(1)
    first = before = staged_weights(trainer)
    for step in range(1, steps + 1):
        sampler.load_state_dict(before, strict=False)
        with torch.no_grad():
            sequences = list(sample(sampler, tokenizer, rng))
        batch = build_micro_batch(with_own_logps(trainer, sequences, step - 1))
        result = trainer.train([batch], learning_rate=rate, kl_coefficient=0.0, version=step)
        after = staged_weights(trainer)
        yield step, len(sequences), result.grad_norm, changed_share(before, after), changed_share(first, after)
        before = after


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-7, 1e-6, 1e-5])
    options = parser.parse_args()
    os.environ["DS_ACCELERATOR"] = "cpu"
    print("| learning rate | step | completions | gradient's norm | changed by the step | since the first version |")
    print("|---|---|---|---|---|---|")
    for rate in options.rates:
        for step, count, norm, share, since in measure(chat_model_folder(), rate, options.steps):
            print(f"| {rate:g} | {step} | {count} | {norm:.2f} | {share:.2%} | {since:.2%} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
