"""The plan's section on time: a step, an evaluation, a checkpoint, an update, the budget, and what is assumed. I/O."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scalerl_api import RLRun
from scalerl_operator.capacity.adapters import adapters_of
from scalerl_operator.capacity.cpu_rates import CpuTime, time_cpu_run
from scalerl_operator.capacity.devices import Device
from scalerl_operator.capacity.engine_memory import engine_memory
from scalerl_operator.capacity.fit import trainer_fits
from scalerl_operator.capacity.lengths import assume_lengths, longest_completion
from scalerl_operator.capacity.model_shape import ModelShape
from scalerl_operator.capacity.run_time import RunTime, TimeBasis, time_run
from scalerl_operator.capacity.split import GpuSplit, best_split
from scalerl_operator.capacity.trainer_speed import find_flops_share
from scalerl_operator.capacity.work import measure_work
from scalerl_operator.cli.capacity.sections import PlanSection
from scalerl_operator.cli.capacity.time_text import LABEL_WIDTH, describe_cpu_time, describe_time
from scalerl_operator.cli.exit_codes import UsageError
from scalerl_operator.cli.options import PlanOptions
from scalerl_operator.cli.output import write_error
from scalerl_operator.forecast.result import Json
from scalerl_operator.local.calibration import Calibration, CalibrationFailed, calibrate, find_calibration
from scalerl_operator.local.rollout_files import NoParquet, UnreadableRollouts
from scalerl_operator.local.run_lengths import MeasuredRun, NoRecords, read_measured_run

SECTION = "time"
ADAPTERS_NOTE = "adapters take their operations and bytes; launches of their small products are not counted"


@dataclass(frozen=True)
class PlannedRun:
    """A run, and what the time section reads of it."""

    run: RLRun
    document: Mapping[str, Any]
    shape: ModelShape
    device: Device


def build_time_section(planned: PlannedRun, options: PlanOptions) -> PlanSection:
    """Return the section. Raises UsageError."""
    measured = find_lengths(planned.run, options)
    if planned.run.spec.trainer.gpus_per_replica == 0:
        return _cpu_section(planned, measured, options)
    if options.calibrate:
        raise UsageError("--calibrate measures this machine's cores; this run has GPUs (gpusPerReplica)")
    found = time_on_gpus(planned, measured, options.mfu)
    if found is None:
        return PlanSection(SECTION, "time: unknown, as an engine has no room for its cache", {})
    split = _find_split(planned, measured, options.mfu)
    lines = describe_time(found, price=options.price, split=split)
    if planned.run.spec.model.lora is not None:
        lines.append(f"{'assumed':{LABEL_WIDTH}}{ADAPTERS_NOTE}")
    return PlanSection(SECTION, "\n".join(lines), list_values(found, split, options.price))


def find_lengths(run: RLRun, options: PlanOptions) -> MeasuredRun:
    """Return lengths from a run's folder, or assumed ones. Raises UsageError."""
    if options.like is not None and options.mean_tokens is not None:
        raise UsageError("--like and --mean-tokens both give the lengths: use one")
    limit = longest_completion(run.spec.resolved_recipe().length)
    if options.like is not None:
        try:
            found = read_measured_run(options.like)
        except (NoRecords, NoParquet, UnreadableRollouts) as error:
            raise UsageError(f"--like: {error}") from error
        if found.lengths.longest > limit:
            held = f"{options.like} has a completion of {found.lengths.longest:,.0f} tokens"
            raise UsageError(f"--like: {held}; this run's recipe lets through {limit:,}")
        return found
    try:
        lengths = assume_lengths(run.spec.resolved_recipe().length, mean_tokens=options.mean_tokens)
    except ValueError as error:
        raise UsageError(f"--mean-tokens: {error}") from error
    return MeasuredRun(lengths, 1.0)


def time_on_gpus(planned: PlannedRun, measured: MeasuredRun, mfu: float | None) -> RunTime | None:
    """Return the times on GPUs; None where an engine has no room for its cache."""
    run, shape, device = planned.run, planned.shape, planned.device
    room = engine_memory(shape, run, device).cache * max(1, run.spec.generator.gpus_per_replica)
    if room <= 0:
        return None
    share = find_flops_share(device.name, has_experts=shape.has_experts)
    if mfu is not None:
        share = replace(share, mfu=mfu, source="given")
    basis = TimeBasis(measured.lengths, share, room, measured.trained_share)
    return time_run(run, measure_work(shape, adapters_of(shape, run)), device, basis)


def _find_split(planned: PlannedRun, measured: MeasuredRun, mfu: float | None) -> GpuSplit | None:
    """Return the best split of the run's GPUs."""

    def seconds_of(run: RLRun) -> float | None:
        timed = time_on_gpus(replace(planned, run=run), measured, mfu)
        return timed.seconds if timed is not None and trainer_fits(planned.shape, run, planned.device) else None

    return best_split(planned.run, seconds_of)


def cache_folder() -> Path:
    """Return the folder of this user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "scalerl"


def _cpu_section(planned: PlannedRun, measured: MeasuredRun, options: PlanOptions) -> PlanSection:
    found = _find_rates(planned, options)
    if found is None:
        text = (
            "time: unknown. This run is on CPU cores, and its model was not measured on this machine: "
            "`scalerl plan RUN.yaml --calibrate` does it in some minutes"
        )
        return PlanSection(SECTION, text, {})
    timed = time_cpu_run(planned.run, found.rates, measured.lengths, trained_share=measured.trained_share)
    basis = [
        measured.lengths.source,
        f"rates measured on {found.date}, {found.machine}; nothing else runs on its cores",
    ]
    lines = describe_cpu_time(timed, basis, price=options.price)
    return PlanSection(SECTION, "\n".join(lines), list_cpu_values(timed))


def _find_rates(planned: PlannedRun, options: PlanOptions) -> Calibration | None:
    if not options.calibrate:
        return find_calibration(planned.run, cache_folder())
    try:
        return calibrate(planned.run, planned.document, cache_folder(), write_error)
    except CalibrationFailed as error:
        raise UsageError(f"--calibrate: {error}") from error


def list_values(found: RunTime, split: GpuSplit | None, price: float | None) -> dict[str, Json]:
    """Return the section's values for --json: seconds, tokens, bytes, shares."""
    return {
        "stepSeconds": found.seconds,
        "stepLimit": found.step.limit,
        "trainerSeconds": found.step.trainer_seconds,
        "generatorSeconds": found.step.generator_seconds,
        "idleTrainer": found.step.trainer_idle,
        "idleGenerators": found.step.generator_idle,
        "trainedTokensPerSecond": found.tokens_per_second,
        "mfu": found.mfu,
        "engineTokensPerSecond": found.engine_tokens_per_second,
        "engineSequences": found.sequences,
        "engineSequencesLimit": found.sequence_limit,
        "evaluationSeconds": found.evaluation.seconds,
        "evaluationSamples": found.evaluation.samples,
        "evaluationShare": found.evaluation.share,
        "updateBytes": found.push.num_bytes,
        "updateSeconds": found.push.seconds,
        "updateStallSeconds": found.push.transfer_seconds,
        "checkpointBytes": found.checkpoint.num_bytes,
        "checkpointPauseSeconds": found.checkpoint.pause_seconds,
        "runSeconds": found.budget.seconds,
        "runSteps": found.budget.steps,
        "runEndsBy": found.budget.ends_by,
        "gpus": found.budget.gpus,
        "gpuHours": found.budget.gpu_hours,
        "cost": None if price is None else price * found.budget.gpu_hours,
        "bestTrainerGpus": None if split is None else split.trainer_gpus,
        "bestGeneratorGpus": None if split is None else split.generator_gpus,
        "bestStepSeconds": None if split is None else split.seconds,
        "meanTokens": found.basis.lengths.mean,
    }


def list_cpu_values(found: CpuTime) -> dict[str, Json]:
    """Return the section's values of a run on CPU cores."""
    return {
        "stepSeconds": found.seconds,
        "cpuSecondsTrainer": found.cpu.trainer,
        "cpuSecondsEngine": found.cpu.engine,
        "cpuSecondsLoop": found.cpu.loop,
        "cores": found.cores,
        "sampledTokensPerSecond": found.tokens_per_second,
        "evaluationSeconds": found.evaluation_seconds,
        "evaluationShare": found.evaluation_share,
        "runSeconds": found.whole_seconds,
        "deviceHours": found.device_hours,
    }
