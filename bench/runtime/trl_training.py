"""Trains with TRL's GRPOTrainer what a run of scalerl trains: compare_trl.py starts it in TRL's environment. I/O.

The prompts are those that scalerl makes of the run, and its scorer grades the answers. Steps go to FOLDER/steps.jsonl.
TRL 1.16 has no prompt aggregation for CISPO (it takes the mean over tokens), no history filter and no asynchrony on
one machine without a vLLM server.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from scalerl_api import RLRun, parse_run
from scalerl_api.recipe import Recipe
from scalerl_runtime.data.run_data import load_data
from scalerl_runtime.models.tokenizer import find_stop_ids
from scalerl_runtime.rewards.reading.answers import find_answer
from scalerl_runtime.rewards.reading.generated_answers import is_right_entry


class StepRecorder(TrainerCallback):  # type: ignore[misc] # transformers is untyped here
    """Writes a line for each step: its time, its mean reward and its tokens."""

    def __init__(self, path: Path, completions: int):
        self._file = path.open("w")
        self._completions = completions

    def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """TRL calls this after each step, and once at the end without a reward."""
        if not logs or "reward" not in logs:
            return
        tokens = float(logs["completions/mean_length"]) * self._completions
        line = {"step": state.global_step, "time": time.time(), "reward": float(logs["reward"]), "tokens": tokens}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def build_config(run: RLRun, recipe: Recipe, folder: Path, *, autocast: bool) -> Any:
    """Return TRL's configuration for the same batch, lengths, loss and optimizer."""
    optimizer = recipe.optimizer
    return GRPOConfig(
        output_dir=str(folder / "trl"),
        use_cpu=True,
        bf16=autocast,
        gradient_checkpointing=False,
        per_device_train_batch_size=recipe.prompts_per_step * recipe.completions_per_prompt,
        num_generations=recipe.completions_per_prompt,
        steps_per_generation=1,
        num_iterations=1,
        max_completion_length=recipe.length.completion_tokens,
        temperature=recipe.temperature,
        top_p=1.0,
        top_k=0,
        loss_type="cispo",
        epsilon_high=recipe.loss.ratio_max,
        scale_rewards="batch",
        beta=0.0,
        learning_rate=optimizer.learning_rate,
        warmup_steps=optimizer.warmup_steps,
        lr_scheduler_type="constant_with_warmup",
        adam_beta1=optimizer.beta1,
        adam_beta2=optimizer.beta2,
        adam_epsilon=optimizer.epsilon,
        weight_decay=optimizer.weight_decay,
        max_grad_norm=optimizer.grad_clip,
        max_steps=run.spec.budget.steps,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=run.spec.seed,
    )


def main() -> None:
    """Train to the run's number of steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run's file; its model is a folder")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(given.threads)
    run = parse_run(yaml.safe_load(given.run.read_text()))
    recipe = run.spec.resolved_recipe()
    tokenizer = AutoTokenizer.from_pretrained(run.spec.model.source)
    # Weights in float32 with bfloat16 under autocast are TRL's default, and its optimizer keeps no other copy of them.
    model = AutoModelForCausalLM.from_pretrained(run.spec.model.source, dtype=torch.float32)
    model.generation_config.eos_token_id = list(find_stop_ids(tokenizer, run.spec.data, recipe, ()))
    prompts = load_data(run, recipe, tokenizer, run.spec.seed).train
    opened = {prompt.text: prompt.think_tokens is not None for prompt in prompts}
    tags = recipe.length.think_tags

    def grade(prompts: Sequence[str], completions: Sequence[str], answer: Sequence[str], **_: Any) -> list[float]:
        rewards = []
        for prompt, text, reference in zip(prompts, completions, answer, strict=True):
            found = find_answer(text, tags, opened=opened[prompt])
            rewards.append(1.0 if found is not None and is_right_entry(found, reference) else -1.0)
        return rewards

    trainer = GRPOTrainer(
        model=model,
        reward_funcs=grade,
        args=build_config(run, recipe, given.folder, autocast=run.spec.model.dtype == "bfloat16"),
        train_dataset=Dataset.from_list([{"prompt": p.text, "answer": p.answer} for p in prompts]),
        processing_class=tokenizer,
        callbacks=[StepRecorder(given.folder / "steps.jsonl", recipe.prompts_per_step * recipe.completions_per_prompt)],
    )
    trainer.train()


if __name__ == "__main__":
    main()
