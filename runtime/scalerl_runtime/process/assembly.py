"""Builds the parts of an attempt from the run's spec: storage, model, data, verifier, fleet, pool, pipeline. I/O."""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scalerl_api import RLRun
from scalerl_api.addresses import to_plain_path
from scalerl_api.evaluations import measure_eval_load
from scalerl_api.recipe import Length, Recipe
from scalerl_api.rollouts import ROLLOUTS
from scalerl_api.wire import CHECKPOINTS, EVALS_FILE, HELD_OUT, LEDGER_FILE, METRICS_FILE
from scalerl_runtime.actors.fleet import Fleet
from scalerl_runtime.actors.options import Environment, build_fleet_options
from scalerl_runtime.actors.ray_session import RaySession
from scalerl_runtime.algorithm.interruption import Interruption
from scalerl_runtime.algorithm.rollout_rows import RowSource
from scalerl_runtime.algorithm.staleness import build_staleness_bound
from scalerl_runtime.data.demonstrations import DemonstrationSource, load_demonstrations
from scalerl_runtime.data.run_data import Data
from scalerl_runtime.data.turn_markup import build_turn_markup
from scalerl_runtime.deadlines import within
from scalerl_runtime.environments.start import Environments
from scalerl_runtime.export.model_files import save_model_files
from scalerl_runtime.loop.device_time import RoleClock
from scalerl_runtime.loop.episode import EpisodePlayer, EpisodeRules
from scalerl_runtime.loop.interfaces import PipelineDeps
from scalerl_runtime.loop.pool import Pool
from scalerl_runtime.loop.rollout_recorder import RolloutRecorder
from scalerl_runtime.loop.run_state import Journals
from scalerl_runtime.loop.slots import PoolOptions, Slot
from scalerl_runtime.loop.warm_start import WarmStart
from scalerl_runtime.models.passed_settings import require_settings
from scalerl_runtime.models.source import LocatedModel, locate_model
from scalerl_runtime.models.tokenizer import find_stop_ids, find_tag_warning
from scalerl_runtime.models.weight_files import count_parameters
from scalerl_runtime.process.input_check import RunInputs, describe_inputs
from scalerl_runtime.process.model_check import check_model, make_start_model
from scalerl_runtime.process.verifier_start import Judges, load_run_data, start_judges
from scalerl_runtime.rewards.voting import AnswerVoting
from scalerl_runtime.storage.checkpoint import CheckpointStore
from scalerl_runtime.storage.cost import CostFile
from scalerl_runtime.storage.free_space import SpacePlan, check_space
from scalerl_runtime.storage.journal import Journal
from scalerl_runtime.storage.rollout_files import RolloutStore
from scalerl_runtime.trackers.tracing import open_tracing

log = logging.getLogger(__name__)

SCRATCH_MODEL = "model-start"
MODEL_PARTS = "model-parts"  # what every checkpoint has of the model beside its weights
MAX_BAD_ROWS_LOGGED = 10


@dataclass(frozen=True)
class AttemptInputs:
    """The inputs of an attempt."""

    environment: Environment
    run: RLRun
    recipe: Recipe


@dataclass(frozen=True)
class Storage:
    """The run folder: what outlives an attempt."""

    journals: Journals
    checkpoints: CheckpointStore
    cost: CostFile
    rollouts: RolloutRecorder


@dataclass(frozen=True)
class Parts:
    """The parts of an attempt. Ray may still be starting, and the pool has no running generator."""

    tokenizer: Any
    stop_ids: tuple[int, ...]  # tokens that end a completion, the one of a right completion first
    data: Data
    digests: RunInputs
    judges: Judges
    fleet: Fleet
    pool: Pool

    async def close(self) -> None:
        """End every process and task of the attempt."""
        await self.pool.close()
        await self.fleet.stop()
        await self.judges.close()
        await asyncio.to_thread(self.pool.tracer.close)


def find_checkpoint_folder(environment: Environment, run: RLRun) -> Path:
    """Return the folder of the run's checkpoints."""
    path = run.spec.checkpoint.path
    return Path(to_plain_path(path)) if path is not None else environment.folder / CHECKPOINTS


def open_storage(environment: Environment, run: RLRun) -> Storage:
    """Open the run's journals, checkpoints, cost and completions; nothing is written."""
    folder = environment.folder
    return Storage(
        journals=Journals(
            metrics=Journal(folder / METRICS_FILE),
            evals=Journal(folder / EVALS_FILE),
            ledger=Journal(folder / LEDGER_FILE),
        ),
        checkpoints=CheckpointStore(
            find_checkpoint_folder(environment, run), run.spec.checkpoint.keep, folder / MODEL_PARTS
        ),
        cost=CostFile(folder),
        rollouts=_open_rollouts(environment, run),
    )


def _open_rollouts(environment: Environment, run: RLRun) -> RolloutRecorder:
    spec, max_bytes = run.spec, run.spec.rollouts.max_megabytes * 1_000_000
    store = RolloutStore(environment.folder / ROLLOUTS, max_bytes=max_bytes, seed=spec.seed) if max_bytes else None
    source = RowSource(
        attempt=environment.attempt,
        seed=spec.seed,
        phrase=spec.resolved_recipe().length.forced_phrase,
        share=spec.rollouts.share,
    )
    return RolloutRecorder(store, source, spec.deadlines.checkpoint_seconds)


async def build_parts(inputs: AttemptInputs, session: RaySession) -> Parts:
    """Check the model, load its tokenizer and the data, start the verifier, and build fleet and pool.

    `session` becomes the fleet's, which then stops it.

    Raises InvalidRun, ModelUnavailable, DataUnavailable, DeadlineExceeded, and as `start_judges`.
    """
    run, seconds = inputs.run, inputs.run.spec.deadlines.start_seconds
    model = await within(seconds, "finding the model", asyncio.to_thread(_find_model, inputs))
    await within(seconds, "checking the settings of the libraries", asyncio.to_thread(require_settings, run))
    checking = asyncio.to_thread(check_model, run, model.folder)
    candidate = await within(seconds, "checking the model", checking)
    tokenizer = candidate.tokenizer
    await within(seconds, "asking for the free space", asyncio.to_thread(_check_space, inputs, model.folder))
    stop_ids = find_stop_ids(tokenizer, run.spec.data, inputs.recipe, candidate.generation_eos)
    spec = inputs.environment.spec.read_text()
    storing = asyncio.to_thread(save_model_files, inputs.environment.folder / MODEL_PARTS, tokenizer, spec, stop_ids)
    await within(seconds, "storing the tokenizer", storing)
    loading = asyncio.to_thread(load_run_data, run, tokenizer, model.folder)
    data = await within(seconds, "loading the data", loading)
    describing = asyncio.to_thread(describe_inputs, run, model.folder, tokenizer, data)
    digests = await within(seconds, "computing digests of the data", describing)
    warning = find_tag_warning(tokenizer, run.spec.data, inputs.recipe)
    if warning is not None and run.spec.warm_start is None:
        log.warning(warning)
    _warn_of_data(run, data)
    num_cpus = os.cpu_count() or 1
    fleet_options = build_fleet_options(run, inputs.recipe, model.name, num_cpus=num_cpus, stop_ids=stop_ids)
    pool_options = _build_pool_options(inputs, tokenizer)
    # The judges' processes start last: an error above leaves none of them behind.
    judges = await start_judges(run, data)
    fleet = Fleet(fleet_options, session, attempt=inputs.environment.attempt)
    fixed = run.spec.generator.min_replicas if fleet.cluster is None else 0
    slots = [Slot(index, RoleClock(pool_options.devices)) for index in range(fixed)]
    tracer = open_tracing(run.name, run.metadata.namespace, inputs.environment.attempt)
    episodes = _build_episodes(inputs, judges.environments, tokenizer, stop_ids)
    verifier = judges.verifier
    pool = Pool(pool_options, fleet, verifier.verify, slots, time.monotonic, tracer, episodes, AnswerVoting(verifier))
    return Parts(tokenizer, stop_ids, data, digests, judges, fleet, pool)


def _check_space(inputs: AttemptInputs, model: Path) -> None:
    """Raise InvalidRun if the run's checkpoints do not fit on their disk."""
    run, parameters = inputs.run, count_parameters(model)
    if parameters is None or run.spec.model.lora is not None:  # adapters' checkpoints are small
        return
    checkpoint = run.spec.checkpoint
    store = open_storage(inputs.environment, run).checkpoints
    plan = SpacePlan(run.spec.model.checkpoint_bytes(parameters), checkpoint.keep, len(store.steps()))
    field = "path" if checkpoint.path is not None or inputs.environment.cluster is None else "claimSize"
    check_space(store.folder, plan, f"spec.checkpoint.{field}")


def _warn_of_data(run: RLRun, data: Data) -> None:
    """Log bad rows, and that evaluations of so many prompts will be late."""
    for fault in data.bad_rows[:MAX_BAD_ROWS_LOGGED]:
        log.warning("bad row left out: %s", fault)
    sizes = {HELD_OUT: len(data.held_out), **{name: len(prompts) for name, prompts in data.downstream.items()}}
    late = measure_eval_load(run.spec, sizes).warning
    if late:
        log.warning("spec.budget: %s", late)


def _build_episodes(
    inputs: AttemptInputs, environments: Environments, tokenizer: Any, stop_ids: tuple[int, ...]
) -> EpisodePlayer | None:
    if not environments.by_source:
        return None
    spec, recipe = inputs.run.spec, inputs.recipe
    rules = EpisodeRules(
        max_turns=spec.reward.environment.max_turns,
        observation_tokens=spec.reward.environment.observation_tokens,
        completion_tokens=recipe.length.completion_tokens,
        generate_seconds=spec.deadlines.generate_seconds,
    )
    return EpisodePlayer(environments.by_source, rules, build_turn_markup(spec.data, tokenizer, stop_ids), tokenizer)


def _find_model(inputs: AttemptInputs) -> LocatedModel:
    """The run's model; a scratch model is made once and kept for later attempts."""
    spec = inputs.run.spec.model
    if spec.source != "scratch":
        return locate_model(spec.source)
    folder = inputs.environment.folder / SCRATCH_MODEL
    if not folder.exists():
        make_start_model(inputs.run, folder)
    return LocatedModel(folder, str(folder))


def _build_pool_options(inputs: AttemptInputs, tokenizer: Any) -> PoolOptions:
    spec, recipe = inputs.run.spec, inputs.recipe
    return PoolOptions(
        recipe=recipe,
        staleness=build_staleness_bound(recipe),
        interruption=_build_interruption(recipe.length, tokenizer),
        seed=spec.seed,
        generate_seconds=spec.deadlines.generate_seconds,
        start_seconds=spec.deadlines.start_seconds,
        max_sequences=spec.generator.max_sequences,
        devices=max(1, spec.generator.gpus_per_replica),
        max_bad_share=spec.data.max_bad_share,
        eval_share=spec.budget.eval_share,
    )


def _build_interruption(length: Length, tokenizer: Any) -> Interruption | None:
    if length.control != "interruption":
        return None
    return Interruption.build(length.think_tags.open, length.think_tags.close, length.forced_phrase, tokenizer)


def start_generators(parts: Parts) -> None:
    """Start the generators in the background: a fixed number, or as many as the cluster has places for."""
    for slot in parts.pool.slots.values():
        parts.pool.start_slot(slot)
    if parts.fleet.cluster is not None:
        parts.pool.follow_capacity(parts.fleet.generator_capacity)


async def load_warm_start(inputs: AttemptInputs, parts: Parts, num_done: int) -> DemonstrationSource | None:
    """The demonstrations of the supervised stage, read before a device is taken; None once its steps are done.

    Raises InvalidRun or DataUnavailable on them.
    """
    run = inputs.run
    if run.spec.warm_start is None or num_done >= run.spec.warm_start.steps:
        return None
    rng = np.random.default_rng(run.spec.seed)
    loading = asyncio.to_thread(load_demonstrations, run, parts.tokenizer, parts.data, rng, stop_id=parts.stop_ids[0])
    return await within(run.spec.deadlines.start_seconds, "loading the demonstrations", loading)


def build_warm_start(
    inputs: AttemptInputs,
    parts: Parts,
    source: DemonstrationSource,
    quadratic: float,
    *,
    save: Callable[[int], Awaitable[None]],
    tell: Callable[[str], None],
) -> WarmStart:
    """The supervised stage."""
    return WarmStart(
        run=inputs.run, fleet=parts.fleet, source=source, quadratic=quadratic, save=save, report_progress=tell
    )


def build_pipeline_deps(
    inputs: AttemptInputs, storage: Storage, parts: Parts, *, trainer_clock: RoleClock, quadratic: float
) -> PipelineDeps:
    """The dependencies of the pipeline."""
    return PipelineDeps(
        run=inputs.run,
        recipe=inputs.recipe,
        staleness=parts.pool.options.staleness,
        data=parts.data,
        fleet=parts.fleet,
        pool=parts.pool,
        store=storage.checkpoints,
        journals=storage.journals,
        rollouts=storage.rollouts,
        trainer_clock=trainer_clock,
        quadratic=quadratic,
        attempt=inputs.environment.attempt,
    )
