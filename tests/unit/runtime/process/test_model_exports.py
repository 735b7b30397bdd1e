"""Which checkpoint becomes model-final and model-best, and what remains after a kill."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from scalerl_api.wire import EvalPoint
from scalerl_runtime.export.convert import read_exported
from scalerl_runtime.process.model_exports import ModelExports
from scalerl_runtime.storage.checkpoint import CheckpointStore


def point(step: int, rate: float, attempt: int = 1, compute: float | None = None) -> EvalPoint:
    return EvalPoint(
        index=step,
        step=step,
        version=step,
        compute_gpu_hours=compute if compute is not None else step + 1.0,
        pass_rate=rate,
        prompts=8,
        samples=2,
        standard_error=0.1,
        attempt=attempt,
    )


@pytest.fixture
def evals() -> list[EvalPoint]:
    return []


@pytest.fixture
def exports(run_folder: Path, store: CheckpointStore, evals: list[EvalPoint]) -> ModelExports:
    return ModelExports(run_folder, store, lambda: evals)


def step_of(folder: Path) -> int | None:
    made = read_exported(folder)
    return made.step if made is not None else None


def test_the_best_evaluation_is_kept_until_it_is_a_model(
    exports: ModelExports, evals: list[EvalPoint], save_step: Callable[[int], Path], store: CheckpointStore
) -> None:
    for step, rate in ((1, 0.2), (2, 0.6), (3, 0.6), (4, 0.1), (5, 0.3)):
        save_step(step)
        evals.append(point(step, rate))
    assert store.steps() == [2, 4, 5], "of 2 kept checkpoints and the best"
    assert exports.needed_steps() == {2}
    assert asyncio.run(exports.update_best()) == ""
    assert step_of(exports.best) == 2, "of equal ones the earlier"
    assert exports.needed_steps() == frozenset()
    save_step(6)
    assert store.steps() == [5, 6]
    assert asyncio.run(exports.update_best()) == "", "its checkpoint is gone, and it is a model already"
    assert step_of(exports.best) == 2


def test_what_a_kill_left_undone_is_done_by_the_next_attempt(
    exports: ModelExports,
    evals: list[EvalPoint],
    save_step: Callable[[int], Path],
    run_folder: Path,
    store: CheckpointStore,
) -> None:
    """Killed between evaluation and conversion; then the same step is measured anew by another attempt."""
    save_step(4)
    evals.append(point(4, 0.5))

    async def follow_once(again: ModelExports) -> None:
        following = asyncio.create_task(again.follow())
        while again.needed_steps():
            await asyncio.sleep(0.01)
        following.cancel()

    asyncio.run(follow_once(ModelExports(run_folder, store, lambda: evals)))
    made = read_exported(exports.best)
    assert made is not None
    assert (made.step, made.attempt) == (4, 1)
    evals.append(point(4, 0.7, attempt=2, compute=9.0))
    assert asyncio.run(exports.update_best()) == ""
    made = read_exported(exports.best)
    assert made is not None
    assert (made.step, made.attempt) == (4, 2)


def test_the_end_makes_both_and_a_second_end_replaces_them(
    exports: ModelExports, evals: list[EvalPoint], save_step: Callable[[int], Path]
) -> None:
    assert asyncio.run(exports.finish(60.0)) == "", "nothing was trained"
    assert not exports.final.exists()
    save_step(1)
    evals.append(point(1, 0.5))
    save_step(2)
    assert asyncio.run(exports.finish(60.0)) == ""
    assert (step_of(exports.final), step_of(exports.best)) == (2, 1)
    save_step(3)
    assert asyncio.run(exports.finish(60.0)) == ""
    assert (step_of(exports.final), step_of(exports.best)) == (3, 1)


def test_a_failure_is_told_and_leaves_the_older_model_and_the_checkpoint(
    exports: ModelExports, evals: list[EvalPoint], save_step: Callable[[int], Path], store: CheckpointStore
) -> None:
    save_step(1)
    evals.append(point(1, 0.5))
    assert asyncio.run(exports.finish(60.0)) == ""
    for name in ("model/config.json", "deepspeed/mp_rank_00_model_states.pt"):
        (save_step(2) / name).write_text("{")
    evals.append(point(2, 0.9))
    fault = asyncio.run(exports.finish(60.0))
    assert "model-final of step 2 was not written" in fault
    assert "model-best of step 2 was not written" in fault
    assert (step_of(exports.final), step_of(exports.best)) == (1, 1)
    assert store.path(2).is_dir()
    assert 2 in exports.needed_steps(), "another attempt may succeed"


def test_the_end_has_a_deadline(
    exports: ModelExports, save_step: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_step(1)
    monkeypatch.setattr(exports, "update_final", lambda: asyncio.sleep(60.0, ""))
    assert "exporting the models took longer" in asyncio.run(exports.finish(0.01))
