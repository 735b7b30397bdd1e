"""The coordinator of a run: puts the parts together, and tells the world how it goes. I/O."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from scalerl_api import RLRun
from scalerl_api.recipe import Recipe
from scalerl_api.wire import (
    ADDRESS_FILE,
    CHECKPOINTS,
    EVALS_FILE,
    LEDGER_FILE,
    METRICS_FILE,
    SERIES_EARLIER,
    SERIES_PHASE,
    SERIES_SPENT,
    Checkpoint,
    EvalPoint,
    Phase,
    Progress,
    StepRecord,
    Termination,
)
from scalerl_runtime.actors.fleet import Fleet
from scalerl_runtime.actors.options import Environment, build_fleet_options, context_tokens
from scalerl_runtime.algorithm.staleness import build_pace
from scalerl_runtime.data.datasets import Data, load_data
from scalerl_runtime.data.demonstrations import load_demonstrations
from scalerl_runtime.data.scratch_model import make_scratch_model
from scalerl_runtime.deadlines import within
from scalerl_runtime.loop.device_time import RoleClock
from scalerl_runtime.loop.interfaces import PipelineDeps
from scalerl_runtime.loop.pipeline import Pipeline
from scalerl_runtime.loop.pool import Pool
from scalerl_runtime.loop.run_state import Journals, Position, restore_groups, resume_position, snapshot, start_position
from scalerl_runtime.loop.slots import PoolOptions, Slot, Tags
from scalerl_runtime.loop.warm_start import WarmStart
from scalerl_runtime.process.http import HttpServer
from scalerl_runtime.process.metrics import Publisher
from scalerl_runtime.process.vitals import Vitals
from scalerl_runtime.rewards.verifier import Verifier, make_verifier
from scalerl_runtime.storage.checkpoint import CheckpointStore, RunState, Saver, load_buffer, load_state
from scalerl_runtime.storage.cost import CostFile
from scalerl_runtime.storage.journal import Journal
from scalerl_runtime.types import Group, Prompt

log = logging.getLogger(__name__)

FINAL_MODEL = "model-final"  # Hugging Face folder of the trained weights
SCRATCH_MODEL = "model-start"
ROLES = ("trainer", "generator")


class Coordinator:
    """One attempt."""

    def __init__(self, environment: Environment, run: RLRun):
        self.environment = environment
        self.run = run
        self.recipe: Recipe = run.spec.resolved_recipe()
        self.publisher = Publisher()
        folder = environment.folder
        self.journals = Journals(
            metrics=Journal(folder / METRICS_FILE),
            evals=Journal(folder / EVALS_FILE),
            ledger=Journal(folder / LEDGER_FILE),
        )
        self.store = CheckpointStore(Path(run.spec.checkpoint.path or folder / CHECKPOINTS), run.spec.checkpoint.keep)
        self.server = HttpServer(self.progress, self._render, environment.token_file.read_text().strip())
        self.stopping = asyncio.Event()
        self._phase: Phase = "starting"
        self._detail = ""
        self._latest: StepRecord | None = None
        self._vitals = Vitals(time.monotonic)
        self._checkpoint: Checkpoint | None = None
        self._evals = [EvalPoint.model_validate(line) for line in self.journals.evals.read()]
        self._cost = CostFile(folder)
        for role in ROLES:
            self.publisher.set_labelled(SERIES_EARLIER, role, self._cost.before.get(role, 0.0))
        self._show_evals(self._evals)
        self._pipeline: Pipeline | None = None
        self._position: Position | None = None
        self._newest: tuple[Path, RunState] | None = None
        self._reached: tuple[int, float] | None = None  # step and compute of the newest checkpoint, once that is read
        self._pool: Pool | None = None
        self._trainer_clock = RoleClock(devices=run.spec.trainer.ranks)

    # -- the attempt -----------------------------------------------------------------------------------------------

    async def lead(self) -> Literal["Finished", "Stopped"]:
        """Do the whole attempt. Raises InvalidRun, or what ended it."""
        host = "127.0.0.1" if self.environment.port == 0 else "0.0.0.0"  # noqa: S104 # in a pod its peers must reach it
        await self.server.start(host, self.environment.port, self.environment.folder / ADDRESS_FILE)
        await self._find_checkpoint()
        start, seed = self.run.spec.deadlines.start_seconds, self.run.spec.seed
        model = await within(start, "making the model", asyncio.to_thread(self._prepare_model))
        tokenizer = await within(start, "loading the tokenizer", asyncio.to_thread(_load_tokenizer, model))
        loading = asyncio.to_thread(load_data, self.run, self.recipe, tokenizer, seed)
        data = await within(start, "loading the data", loading)
        for fault in data.bad_rows[:10]:
            log.warning("bad row left out: %s", fault)
        verifier = await within(start, "starting the verifier", asyncio.to_thread(make_verifier, self.run))
        options = build_fleet_options(self.run, self.recipe, model, num_cpus=os.cpu_count() or 1)
        fleet = Fleet(options, self.environment.cluster)
        try:
            return await self._until_stopped(self._lead(fleet, tokenizer, data, verifier))
        finally:
            if self._pool is not None:
                await self._pool.close()
            await fleet.stop()
            verifier.close()
            await self.server.stop()

    async def _until_stopped(
        self, work: Coroutine[None, None, Literal["Finished", "Stopped"]]
    ) -> Literal["Finished", "Stopped"]:
        """Await `work`. Before the pipeline runs there is nothing to save: a stop ends it where it stands."""
        attempt = asyncio.create_task(work)
        stop = asyncio.create_task(self.stopping.wait())
        await asyncio.wait([attempt, stop], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not attempt.done() and self._pipeline is None:
            attempt.cancel()
            await asyncio.gather(attempt, return_exceptions=True)
            return "Stopped"
        return await attempt

    def listen(self) -> None:
        """Take SIGTERM and SIGINT as `stop`. Again after Ray's start: its core installs handlers that abort."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)

    async def _lead(
        self, fleet: Fleet, tokenizer: Any, data: Data, verifier: Verifier
    ) -> Literal["Finished", "Stopped"]:
        deadlines = self.run.spec.deadlines
        self.on_phase("starting", "trainer and generators")
        await within(deadlines.start_seconds, "starting the trainer", fleet.start())
        self.listen()
        pool = self._make_pool(fleet, tokenizer, verifier)
        self._pool = pool
        position, fresh = await self._restore(fleet, pool, data)
        self._position = position
        quadratic = await within(deadlines.start_seconds, "asking for the model's size", fleet.quadratic_work())
        await self._warm_start(fleet, position, data, tokenizer, quadratic)
        parts = PipelineDeps(
            run=self.run,
            recipe=self.recipe,
            pace=pool.options.pace,
            data=data,
            fleet=fleet,
            pool=pool,
            store=self.store,
            journals=self.journals,
            trainer_clock=self._trainer_clock,
            quadratic=quadratic,
            attempt=self.environment.attempt,
        )
        await self._wait_for_generators(pool, self.run.spec.generator.min_replicas if fleet.cluster else 1)
        self._pipeline = Pipeline(parts, position, self, self.stopping)
        self.server.is_ready = True
        self.on_phase("training", "")
        await self._pipeline.run(fresh=fresh)
        if self.stopping.is_set():
            return "Stopped"
        await within(
            deadlines.checkpoint_seconds, "exporting the model", fleet.export(self.environment.folder / FINAL_MODEL)
        )
        self.on_phase("finished", "")
        return "Finished"

    async def _wait_for_generators(self, pool: Pool, wanted: int) -> None:
        phase = f"waiting for {wanted} generators" if wanted > 1 else "waiting for a generator"
        self.on_phase("starting", phase)
        await within(self.run.spec.deadlines.start_seconds, phase, pool.wait_running(wanted))

    def _prepare_model(self) -> str:
        """The model's folder or hub id; a scratch model is made once and kept for later attempts."""
        spec = self.run.spec.model
        if spec.source != "scratch":
            return spec.source
        assert spec.scratch is not None, "validation asks for its sizes"
        folder = self.environment.folder / SCRATCH_MODEL
        if not folder.exists():
            make_scratch_model(
                folder, spec.scratch, context_tokens=context_tokens(self.recipe), seed=self.run.spec.seed
            )
        return str(folder)

    def _make_pool(self, fleet: Fleet, tokenizer: Any, verifier: Verifier) -> Pool:
        spec, recipe = self.run.spec, self.recipe
        options = PoolOptions(
            recipe=recipe,
            pace=build_pace(recipe),
            tags=Tags(*(_encode(tokenizer, text) for text in ("<think>", "</think>", recipe.length.phrase))),
            seed=spec.seed,
            generate_seconds=spec.deadlines.generate_seconds,
            start_seconds=spec.deadlines.start_seconds,
            max_sequences=spec.generator.max_sequences,
            devices=max(1, spec.generator.gpus_per_replica),
        )
        fixed = spec.generator.min_replicas if fleet.cluster is None else 0
        slots = [Slot(index, RoleClock(options.devices)) for index in range(fixed)]
        pool = Pool(options, fleet, _VerifierAdapter(verifier), slots, time.monotonic)
        for slot in slots:
            pool.start_slot(slot)  # beside the warm start
        if fleet.cluster is not None:
            pool.follow(fleet.count_places)
        return pool

    async def _find_checkpoint(self) -> None:
        """Know from the start how far the run is: whoever asks meanwhile must not see it begin anew."""
        seconds = self.run.spec.deadlines.checkpoint_seconds
        path = await within(seconds, "looking for a checkpoint", asyncio.to_thread(self.store.latest))
        self._reached = (0, 0.0)
        if path is not None:
            state = load_state(path)
            self._newest, self._reached = (path, state), (state.step, state.compute_gpu_hours)
            self._checkpoint = Checkpoint(step=state.step, time=path.stat().st_mtime, path=str(path))
            self.publisher.set({"checkpoint_step": state.step})

    async def _restore(self, fleet: Fleet, pool: Pool, data: Data) -> tuple[Position, bool]:
        """The position to go on from, and whether nothing was evaluated yet."""
        if self._newest is None:
            return start_position(self.recipe), True
        path, state = self._newest
        self.on_phase("starting", f"loading {path.name}")
        await within(self.run.spec.deadlines.checkpoint_seconds, f"loading {path.name}", fleet.load(path, state.step))
        buffer = load_buffer(path, {p.id: p for p in data.train})
        position = resume_position(state, self.journals, 1 + len(data.downstream))
        restore_groups(pool.groups, pool.options.pace, state, buffer)
        return position, not position.num_evals and not position.pending

    async def _warm_start(self, fleet: Fleet, position: Position, data: Data, tokenizer: Any, quadratic: float) -> None:
        """The supervised stage; its end is step 0 of the run, and its checkpoints are of step 0 too."""
        spec, pool = self.run.spec.warm_start, self._pool
        assert pool is not None, "made before"
        if spec is None or position.warm_steps >= spec.steps:
            return
        saver = Saver(self.store, fleet.save, self.run.spec.deadlines.checkpoint_seconds)

        def take() -> tuple[RunState, list[Group]]:
            return snapshot(position, pool.groups, 0.0), []  # nothing is generated yet

        async def save(done: int) -> None:
            position.warm_steps = done
            self.on_checkpoint(0, await saver.write(0, take, protect=frozenset(), why=f"warm start, step {done}"))

        stage = WarmStart(
            run=self.run,
            fleet=fleet,
            source=load_demonstrations(self.run, tokenizer, data, np.random.default_rng(self.run.spec.seed)),
            quadratic=quadratic,
            save=save,
            tell=lambda text: self.on_phase("warmStart", text),
        )
        position.warm_steps = await stage.go_on(position.warm_steps)

    def stop(self) -> None:
        """Checkpoint, then end: what SIGTERM means."""
        self.on_phase("stopping", "")
        self.stopping.set()

    # -- what others see -------------------------------------------------------------------------------------------

    def progress(self, since: int) -> Progress:
        """Body of `/v1/progress`."""
        pool, now = self._pool, time.monotonic()
        slots: Sequence[Slot] = list(pool.slots.values()) if pool else []
        step, compute = self._reached or (0, 0.0)
        return Progress(
            run=self.run.name,
            attempt=self.environment.attempt,
            phase=self._phase,
            detail=self._detail,
            step=self._position.step if self._position else step,
            version=max((s.version for s in slots), default=-1) if slots else 0,
            compute_gpu_hours=self._pipeline.compute_gpu_hours() if self._pipeline else compute,
            gpu_seconds=self._cost.total(self._spent()),
            idle_fraction={
                "trainer": self._trainer_clock.idle_fraction(now),
                "generator": sum(s.clock.idle_fraction(now) for s in slots) / max(1, len(slots)),
            },
            generators_ready=sum(s.state == "ready" for s in slots),
            generator_restarts=pool.counters.restarts if pool else 0,
            latest=self._latest,
            vitals=self._vitals.steps,
            still_seconds=self._vitals.still_seconds if self._phase == "training" else None,
            evals=[point for point in self._evals if point.index >= since],
            checkpoint=self._checkpoint,
            time=time.time(),
        )

    def _spent(self) -> dict[str, float]:
        now = time.monotonic()
        slots = self._pool.slots.values() if self._pool else ()
        return {"trainer": self._trainer_clock.total(now), "generator": sum(s.clock.total(now) for s in slots)}

    def _render(self) -> bytes:
        now, pool = time.monotonic(), self._pool
        clocks = [("trainer", self._trainer_clock)] + [
            ("generator", s.clock) for s in (pool.slots.values() if pool else ())
        ]
        seconds: dict[tuple[str, str], float] = {}
        for role, clock in clocks:
            clock.total(now)
            for phase, spent in clock.seconds.items():
                seconds[role, phase] = seconds.get((role, phase), 0.0) + spent
        for (role, phase), spent in seconds.items():
            self.publisher.raise_to(SERIES_SPENT, spent, role, phase)
        self.publisher.choose(SERIES_PHASE, self._phase)
        progress = self.progress(len(self._evals))
        if self._reached is not None:
            self.publisher.set({"step": progress.step, "compute_gpu_hours": progress.compute_gpu_hours})
        if pool is not None:
            self.publisher.set({"version": progress.version, "generators_ready": progress.generators_ready})
            self.publisher.raise_to("generator_restarts_total", pool.counters.restarts)
            self.publisher.raise_to("forced_mismatches_total", pool.counters.forced_mismatches)
            self.publisher.raise_to("verifier_failures_total", pool.counters.excluded)
        return self.publisher.render()

    def on_step(self, record: StepRecord, lags: Sequence[int], split: Sequence[tuple[str, str, float]]) -> None:
        """See `Observer`."""
        self._latest = record
        self._cost.save(self._spent())
        self._vitals.add(record)
        self.publisher.set(record.values)
        self.publisher.observe_lags(lags)
        for name, bucket, value in split:
            self.publisher.set_labelled(name, bucket, value)
        self.on_phase("stopping" if self.stopping.is_set() else "training", "")

    def on_eval(self, points: Sequence[EvalPoint]) -> None:
        """See `Observer`."""
        self._evals.extend(points)
        self._show_evals(points)

    def _show_evals(self, points: Sequence[EvalPoint]) -> None:
        self.publisher.show_evals(self._evals)
        for point in points:
            self.publisher.set_labelled("pass_rate", point.dataset, point.pass_rate)
            self.publisher.set_labelled("pass_rate_standard_error", point.dataset, point.standard_error)

    def on_checkpoint(self, step: int, path: Path) -> None:
        """See `Observer`."""
        self._checkpoint = Checkpoint(step=step, time=time.time(), path=str(path))
        self.publisher.set({"checkpoint_step": step})

    def on_phase(self, phase: str, detail: str) -> None:
        """See `Observer`."""
        self._phase, self._detail = phase, detail  # type: ignore[assignment] # a Phase by contract
        if phase == "training":
            self._vitals.move()

    def termination(self, reason: Literal["Finished", "Stopped", "Retry", "Failed"], error: str) -> Termination:
        """What to say last."""
        return Termination(
            reason=reason,
            step=self._position.step if self._position else (self._reached or (0,))[0],
            checkpoint=self._checkpoint,
            last_eval=self._evals[-1] if self._evals else None,
            error=error,
        )


@dataclass(frozen=True)
class _VerifierAdapter:
    """The verifier behind an awaitable; its failure is no reward, and it says so itself."""

    verifier: Verifier

    async def __call__(self, prompt: Prompt, text: str) -> float | None:
        verdict = await asyncio.to_thread(self.verifier.verify, prompt, text)
        return verdict.reward


def _load_tokenizer(model: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model)


def _encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False))
