"""A run's stored completions for tests: sums over steps and evaluations, written as the runtime writes them. I/O."""

from collections.abc import Iterable
from pathlib import Path

from scalerl_api.rollouts import ROLLOUTS, Rollout
from scalerl_runtime.storage.rollout_files import RolloutStore

PHRASE = "time is up</think>"


def build_row(
    step: int, prompt: int, sample: int, reward: float | None, dataset: str | None = None, source: str = ""
) -> Rollout:
    """Return a completion of `prompt + 1 =`; its second sample was interrupted."""
    head, forced = f"<think>{prompt} and 1; ", sample == 1
    answer = prompt + 1 if reward == 1.0 else prompt + 7
    text = f"{head}{PHRASE if forced else '</think>'} {answer}"
    return Rollout(
        step=step,
        dataset=dataset,
        attempt=1,
        epoch=0,
        prompt_id=prompt,
        sample=sample,
        prompt=f"{prompt} + 1 =",
        reference=str(prompt + 1),
        completion=text,
        reward=reward,
        rewards={} if reward is None else {"math": reward},
        excluded=reward is None,
        advantage=0.5 if dataset is None and reward is not None else None,
        admitted_version=step - 3,
        version_min=step - 3,
        version_max=step - 2,
        lag=2 if dataset is None else 0,
        finish="length" if sample == 1 else "stop",
        num_tokens=40 + sample,
        forced_start=5 if forced else None,
        forced_end=9 if forced else None,
        forced_text_start=len(head) if forced else None,
        forced_text_end=len(head) + len(PHRASE) if forced else None,
        source=source,
        mean_logp=-0.125,
    )


def write_rollouts(run: Path, steps: Iterable[int], evals: Iterable[int], prompts: int = 6) -> None:
    """Store steps and held-out evaluations of two completions a prompt.

    Training: even prompts pass, odd ones fail; prompt 3's second completion has no reward. Evaluations: prompt p passes
    from step 10 * p on.
    """
    store = RolloutStore(run / ROLLOUTS, max_bytes=10**9, seed=1)
    for step in steps:
        rewards = {(3, 1): None}
        rows = [
            build_row(step, prompt, sample, rewards.get((prompt, sample), 1.0 if prompt % 2 == 0 else -1.0))
            for prompt in range(prompts)
            for sample in range(2)
        ]
        store.save_step(step, rows)
    for step in evals:
        writer = store.open_eval(step, "held_out")
        for prompt in range(prompts):
            reward = 1.0 if step >= 10 * prompt else -1.0
            writer.add([build_row(step, prompt, sample, reward, "held_out") for sample in range(2)])
        store.save_eval(writer, 1)
