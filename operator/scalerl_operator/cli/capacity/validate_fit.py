"""`scalerl validate --device` and `--cluster`: whether a run can be placed, and fits. I/O."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scalerl_api import Fault, InvalidRun, RLRun
from scalerl_operator.capacity.devices import DEVICES, GIB, Device, find_device
from scalerl_operator.capacity.fit import RunFit, fit_run
from scalerl_operator.capacity.lengths import assume_lengths
from scalerl_operator.capacity.model_shape import ModelShape
from scalerl_operator.capacity.placement import GroupPlace, place_run
from scalerl_operator.cli.capacity.cluster_nodes import fetch_nodes
from scalerl_operator.cli.capacity.model_config import find_shape
from scalerl_operator.cli.capacity.plan_command import load_devices
from scalerl_operator.cli.capacity.time_section import PlannedRun, time_on_gpus
from scalerl_operator.cli.capacity.time_text import describe_evaluation
from scalerl_operator.cli.exit_codes import UsageError
from scalerl_operator.cli.options import ValidateOptions
from scalerl_operator.local.run_lengths import MeasuredRun


@dataclass(frozen=True)
class FitReport:
    """Findings about one run."""

    faults: Sequence[Fault] = ()
    lines: Sequence[str] = ()
    """Sentences about each thing that was checked, or not."""


def make_check(options: ValidateOptions) -> Callable[[RLRun], FitReport]:
    """Return the check that the options ask for; the cluster is read once. Raises CommandError, InvalidRun."""
    if options.context is not None and not options.cluster:
        raise UsageError("--context chooses the cluster of --cluster, which is not given")
    devices = {**DEVICES, **load_devices(options.devices)}
    if options.cluster:
        nodes, place, is_use_known = fetch_nodes(options.context)

        def check_cluster(run: RLRun) -> FitReport:
            return _check_places(run, place_run(run, nodes, devices, is_use_known=is_use_known), place, options)

        return check_cluster
    if options.device is not None:
        device = find_device(options.device, devices)
        return lambda run: _check_memory(run, device, device, options)
    return _check_nothing


def _check_nothing(_run: RLRun) -> FitReport:
    return FitReport()


def _check_places(run: RLRun, places: Sequence[GroupPlace], cluster: str, options: ValidateOptions) -> FitReport:
    if not places:
        return FitReport(lines=[f"no GPU is needed on {cluster}"])
    lines = [f"{each.group}: {_describe(each)}" for each in places]
    faults = [fault for each in places for fault in each.faults]
    by_group = {each.group: each.device for each in places}
    known = [device for device in by_group.values() if device is not None]
    if faults or not known:
        return FitReport(faults, lines)
    trainer, generator = by_group.get("trainer") or known[0], by_group.get("generator") or known[0]
    found = _check_memory(run, trainer, generator, options)
    return FitReport(found.faults, [*lines, *found.lines])


def _describe(place: GroupPlace) -> str:
    kinds = ", ".join(place.devices) or "GPUs of an unknown kind"
    text = f"{len(place.nodes)} nodes with {kinds}"
    if len(place.devices) > 1 and place.device is not None:
        text += f"; {place.device.name} has the least memory, and counts"
    return "; ".join([text, *place.notes])


def _check_memory(run: RLRun, trainer: Device, generator: Device, options: ValidateOptions) -> FitReport:
    try:
        shape = find_shape(run, options.model_config, ask_hub=False)
    except InvalidRun as error:
        return FitReport(lines=[f"memory was not checked: {error}"])
    fit = fit_run(shape, run, trainer, generator)
    if fit.faults:
        return FitReport(fit.faults)
    lines = [_say_room(fit, trainer, generator)]
    if fit.trainers and fit.engine is not None and trainer == generator:
        lines += _say_evaluation(run, shape, trainer)
    return FitReport(lines=lines)


def _say_evaluation(run: RLRun, shape: ModelShape, device: Device) -> list[str]:
    measured = MeasuredRun(assume_lengths(run.spec.resolved_recipe().length), 1.0)
    found = time_on_gpus(PlannedRun(run, {}, shape, device), measured, None)
    assert found is not None, "an engine that fits has room for its cache"
    evaluation = found.evaluation
    lines = [f"an evaluation takes about {describe_evaluation(found)}; scalerl plan says more"]
    if evaluation.is_late:
        field = "budget.evalEverySteps"
        if evaluation.deadline_seconds < evaluation.interval_seconds:
            field = "deadlines.evalSeconds"
        lines.append(f"spec.{field}: evaluations are late; raise it or budget.evalShare, or lower data.heldOut")
    return lines


def _say_room(fit: RunFit, trainer: Device, generator: Device) -> str:
    parts = []
    if fit.trainers:
        worst = max(each.total for each in fit.trainers)
        parts.append(f"trainer {worst / GIB:.1f} of {trainer.memory_bytes / GIB:.1f} GiB of {trainer.name}")
    if fit.engine is not None:
        sequences = f"{fit.engine.sequences} sequences of {fit.engine.sequence_tokens:,} tokens"
        parts.append(f"an engine on {generator.name} holds {sequences}")
    return f"memory fits: {', '.join(parts)}" if parts else "no GPU is needed"
