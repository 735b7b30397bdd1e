"""The coordinator of a run: takes one attempt from its start to its end. I/O."""

import asyncio
import logging
import signal
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Literal

from scalerl_api import RLRun
from scalerl_api.wire import ADDRESS_FILE, BEST_MODEL, FINAL_MODEL, EvalPoint
from scalerl_runtime.actors.options import Environment
from scalerl_runtime.actors.ray_session import OwnCluster, RaySession, object_store_bytes
from scalerl_runtime.algorithm.step import NonFinite
from scalerl_runtime.data.demonstrations import DemonstrationSource
from scalerl_runtime.deadlines import within
from scalerl_runtime.loop.eval_sets import list_due_datasets
from scalerl_runtime.loop.pipeline import Pipeline
from scalerl_runtime.loop.run_state import (
    TrainingState,
    initial_state,
    keep_prompts,
    recorded_evals,
    resume_state,
    snapshot,
)
from scalerl_runtime.loop.saver import Saver
from scalerl_runtime.preflight.pod import check_pod
from scalerl_runtime.process.assembly import (
    AttemptInputs,
    Parts,
    build_parts,
    build_pipeline_deps,
    build_warm_start,
    find_checkpoint_folder,
    load_warm_start,
    open_storage,
    start_generators,
)
from scalerl_runtime.process.gang_preflight import check_gang
from scalerl_runtime.process.http import HttpServer
from scalerl_runtime.process.input_check import check_inputs
from scalerl_runtime.process.live_state import LiveState
from scalerl_runtime.process.model_exports import ModelExports
from scalerl_runtime.process.progress import ProgressReporter, ReportIdentity
from scalerl_runtime.process.verifier_start import describe_sources
from scalerl_runtime.storage.checkpoint import RunState, load_buffer, load_state
from scalerl_runtime.storage.trainer_state import describe_change
from scalerl_runtime.storage.writable_folder import check_writable
from scalerl_runtime.trackers.points import build_config
from scalerl_runtime.trackers.track import Trackers, check_packages
from scalerl_runtime.types import Group

log = logging.getLogger(__name__)

EndReason = Literal["Finished", "AllPromptsSolved", "Stopped"]


class Coordinator:
    """One attempt."""

    def __init__(self, environment: Environment, run: RLRun):
        self.inputs = AttemptInputs(environment, run, run.spec.resolved_recipe())
        self.storage = open_storage(environment, run)
        self.live = LiveState(trainer_devices=run.spec.trainer.ranks)
        identity = ReportIdentity(run.name, environment.attempt, run.mismatch_bound)
        evals = [EvalPoint.model_validate(line) for line in self.storage.journals.evals.read()]
        self.reporter = ProgressReporter(identity, self.live, self.storage.cost, evals)
        token = environment.token_file.read_text().strip()
        self.server = HttpServer(self.reporter.progress, self.reporter.render_metrics, token)
        self.stopping = asyncio.Event()
        self.exports = ModelExports(environment.folder, self.storage.checkpoints, self.reporter.evals)
        self.reporter.after_eval = self.exports.notice_eval
        self.export_fault = ""  # of the models at the attempt's end; the checkpoint is not affected
        self._deadlines = run.spec.deadlines

    async def run_attempt(self) -> EndReason:
        """Do the whole attempt. Raises InvalidRun, or what ended it."""
        environment = self.inputs.environment
        host = "127.0.0.1" if environment.port == 0 else "0.0.0.0"  # noqa: S104 # in a pod its peers must reach it
        await self.server.start(host, environment.port, environment.folder / ADDRESS_FILE)
        try:
            check_packages(self.inputs.run.spec.trackers)
            await self._check_pod()
            path = self.inputs.run.spec.checkpoint.path
            if path is not None:
                folder = find_checkpoint_folder(environment, self.inputs.run)
                await asyncio.to_thread(check_writable, folder, "spec.checkpoint.path")
            newest = await self._find_checkpoint()
            self.reporter.on_resume(newest)  # before the long start: a poll must not see the run begin anew
            return await self._run_parts(newest)
        finally:
            await self.server.stop()

    async def _run_parts(self, newest: tuple[Path, RunState] | None) -> EndReason:
        parts = await self._build_parts()
        following = asyncio.create_task(self.exports.follow())
        outcome = "Failed"
        try:
            outcome = reason = await self._train_and_export(parts, newest)
            return reason
        finally:
            following.cancel()
            await asyncio.to_thread(self.reporter.close_trackers, outcome)
            await parts.close()

    async def _build_parts(self) -> Parts:
        """Check model and data while Ray starts, which takes no device. An error stops Ray."""
        session = RaySession(self.inputs.environment.cluster, OwnCluster.of(self.inputs.run))
        async with AsyncExitStack() as on_error:
            on_error.push_async_callback(session.stop)
            session.begin(self.handle_signals)
            parts = await build_parts(self.inputs, session)
            on_error.pop_all()
        return parts

    async def _train_and_export(self, parts: Parts, newest: tuple[Path, RunState] | None) -> EndReason:
        """Train to the end or to a stop; then the newest checkpoint, and the best evaluated one, become models."""
        try:
            reason = await self._until_stopped(self._train(parts, newest))
        except NonFinite:
            await self._export_models()  # the newest checkpoint is sound, and may be the run's last
            raise
        await self._export_models()
        if reason != "Stopped":
            self.reporter.on_phase("finished", "")
        return reason

    async def _export_models(self) -> None:
        phase = "stopping" if self.stopping.is_set() else "evaluating"
        self.reporter.on_phase(phase, f"writing {FINAL_MODEL} and {BEST_MODEL}")
        self.export_fault = await self.exports.finish(self._deadlines.checkpoint_seconds)

    async def _until_stopped(self, work: Coroutine[None, None, EndReason]) -> EndReason:
        """Await `work`. Before the pipeline runs there is nothing to save: a stop cancels the work."""
        attempt = asyncio.create_task(work)
        stop = asyncio.create_task(self.stopping.wait())
        await asyncio.wait([attempt, stop], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not attempt.done() and self.live.pipeline is None:
            attempt.cancel()
            await asyncio.gather(attempt, return_exceptions=True)
            return "Stopped"
        return await attempt

    def handle_signals(self) -> None:
        """Take SIGTERM and SIGINT as `stop`. Again after Ray's start: its core installs handlers that abort."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)

    def stop(self) -> None:
        """Write a checkpoint, then end: what SIGTERM means."""
        self.reporter.on_phase("stopping", "")
        self.stopping.set()

    # -- stages ----------------------------------------------------------------------------------------------------

    async def _train(self, parts: Parts, newest: tuple[Path, RunState] | None) -> EndReason:
        start, fleet = self._deadlines.start_seconds, parts.fleet
        self.reporter.sources = describe_sources(parts.data, parts.judges.self_tests)
        kept, demonstrations = await self._prepare(parts, newest)
        self.reporter.on_phase("starting", "trainer and generators")
        await fleet.start(start)
        self.reporter.on_preflight(await check_gang(self.inputs.run, fleet))
        self.handle_signals()
        self.live.pool = parts.pool
        await self._start_roles(parts)
        while newest is not None and await self._is_damaged(parts, newest[0]):
            newest = await self._find_checkpoint(before=newest[1].step)
            self.reporter.on_resume(newest)
            kept, demonstrations = await self._prepare(parts, newest)
        position, fresh = await self._restore(parts, newest, kept)
        quadratic = await within(start, "asking for the model's size", fleet.quadratic_work())
        if demonstrations is not None:
            await self._warm_start(parts, position, demonstrations, quadratic)
        await self._wait_for_generators(parts)
        deps = build_pipeline_deps(
            self.inputs, self.storage, parts, trainer_clock=self.live.trainer_clock, quadratic=quadratic
        )
        pipeline = self.live.pipeline = Pipeline(deps, position, self.reporter, self.stopping)
        self.reporter.describe_reading = parts.judges.verifier.describe_reading
        self.reporter.trackers = self._start_trackers()
        self.server.is_ready = True
        self.reporter.on_phase("training", "")
        await pipeline.run(fresh=fresh)
        if self.stopping.is_set():
            return "Stopped"
        return "AllPromptsSolved" if pipeline.is_solved else "Finished"

    async def _start_roles(self, parts: Parts) -> None:
        """Start the trainer, and the generators beside it and beside the warm start."""
        starting = within(self._deadlines.start_seconds, "starting the trainer", parts.fleet.start_trainer())
        if parts.fleet.options.colocated:  # vLLM measures the memory of its device, on which the trainer is then whole
            await starting
            start_generators(parts)
        else:
            start_generators(parts)
            await starting

    def _start_trackers(self) -> Trackers:
        run, folder = self.inputs.run, self.inputs.environment.folder
        return Trackers.build(run.spec.trackers, run.name, folder, build_config(run, self.inputs.recipe))

    async def _check_pod(self) -> None:
        environment, recipe = self.inputs.environment, self.inputs.recipe
        role = "trainer" if environment.cluster is not None else None
        store = object_store_bytes(recipe)
        await check_pod(self.inputs.run, node=environment.node, role=role, shared_memory_bytes=store)

    async def _prepare(
        self, parts: Parts, newest: tuple[Path, RunState] | None
    ) -> tuple[frozenset[int] | None, DemonstrationSource | None]:
        """Read all that is needed to go on from `newest`. Raises InvalidRun, before a device is taken."""
        kept = await self._check_inputs(parts, newest)
        return kept, await load_warm_start(self.inputs, parts, newest[1].warm_steps if newest else 0)

    async def _is_damaged(self, parts: Parts, path: Path) -> bool:
        """Whether the trainer's part of a checkpoint is damaged; each rank compares a share of it."""
        what = f"verifying {path.name}"
        self.reporter.on_phase("starting", what)
        damage = await within(self._deadlines.checkpoint_seconds, what, parts.fleet.find_damage(path))
        if damage is not None:
            log.warning("checkpoint %s is damaged (%s); using the one before", path, damage)
        return damage is not None

    async def _find_checkpoint(self, before: int | None = None) -> tuple[Path, RunState] | None:
        """The newest whole checkpoint and its state, older than step `before`; None if there is none."""
        looking = asyncio.to_thread(self.storage.checkpoints.latest, before)
        path = await within(self._deadlines.checkpoint_seconds, "looking for a checkpoint", looking)
        return None if path is None else (path, load_state(path))

    async def _check_inputs(self, parts: Parts, newest: tuple[Path, RunState] | None) -> frozenset[int] | None:
        """The training prompts that are as the checkpoint had them; None: all. Raises InvalidRun for other data."""
        environment = self.inputs.environment
        stored = None if newest is None else newest[1].fingerprint
        accepted = environment.accepted_data
        checking = asyncio.to_thread(check_inputs, environment.folder, parts.digests, stored, accepted=accepted)
        return await within(self._deadlines.start_seconds, "comparing the data with the checkpoint's", checking)

    def _due(self, step: int) -> frozenset[str]:
        return list_due_datasets(self.inputs.run.spec, step)

    async def _restore(
        self, parts: Parts, newest: tuple[Path, RunState] | None, kept: frozenset[int] | None
    ) -> tuple[TrainingState, bool]:
        """The position to go on from, and whether nothing was evaluated yet.

        `kept`: training prompts that are as the checkpoint had them; None: all.
        """
        fingerprint = parts.digests.fingerprint.to_dict()
        if newest is None:
            await self.storage.rollouts.resume(-1, {})
            return initial_state(self.inputs.recipe, fingerprint), True
        path, state = newest
        state = replace(state if kept is None else keep_prompts(state, kept), fingerprint=fingerprint)
        what = f"loading {path.name}"
        trainer = self.inputs.run.spec.trainer
        change = describe_change(path, trainer.ranks, trainer.zero_stage)
        if change:
            log.info("%s, %s", what, change)
        self.reporter.on_phase("starting", f"{what}, {change}" if change else what)
        await within(self._deadlines.checkpoint_seconds, what, parts.fleet.load(path, state.step))
        buffer = load_buffer(path, {p.id: p for p in parts.data.train if kept is None or p.id in kept})
        position = resume_state(state, self.storage.journals, self._due)
        await self.storage.rollouts.resume(state.step, recorded_evals(self.storage.journals, self._due))
        parts.pool.groups.restore(state.step, state.consumed, buffer, state.in_flight)
        return position, not position.num_evals and not position.pending

    async def _warm_start(
        self, parts: Parts, position: TrainingState, demonstrations: DemonstrationSource, quadratic: float
    ) -> None:
        """The supervised stage; its end is step 0 of the run, and its checkpoints are of step 0 too."""
        seconds = self._deadlines.checkpoint_seconds
        saver = Saver(self.storage.checkpoints, parts.fleet, seconds, self.reporter.on_checkpoint)

        def take() -> tuple[RunState, list[Group]]:
            return snapshot(position, parts.pool.groups, 0.0), []  # nothing is generated yet

        async def save(done: int) -> None:
            position.warm_steps = done
            await saver.begin(0, take, protect=frozenset, why=f"warm start, step {done}")

        def tell(text: str) -> None:
            self.reporter.on_phase("warmStart", text)

        stage = build_warm_start(self.inputs, parts, demonstrations, quadratic, save=save, tell=tell)
        try:
            position.warm_steps = await stage.train_from(position.warm_steps)
            await saver.settle()
        finally:
            await saver.close()

    async def _wait_for_generators(self, parts: Parts) -> None:
        wanted = self.inputs.run.spec.generator.min_replicas if parts.fleet.cluster else 1
        phase = f"waiting for {wanted} generators" if wanted > 1 else "waiting for a generator"
        self.reporter.on_phase("starting", phase)
        await within(self._deadlines.start_seconds, phase, parts.pool.wait_running(wanted))
