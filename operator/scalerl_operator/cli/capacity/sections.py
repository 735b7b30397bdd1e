"""The sections of a run's plan: each a table for people and values for `--json`. PURE."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scalerl_api import RLRun
from scalerl_operator.capacity.devices import DEVICES, GIB, Device
from scalerl_operator.capacity.engine_memory import EngineMemory
from scalerl_operator.capacity.fit import RunFit, SpecChange, find_devices, fit_run, trainer_fits
from scalerl_operator.capacity.memory import Part, RankMemory, host_memory, trainer_memory
from scalerl_operator.capacity.model_shape import ModelShape
from scalerl_operator.forecast.result import Json
from scalerl_operator.render.text import format_table


@dataclass(frozen=True)
class PlanSection:
    """A part of the plan."""

    name: str
    """Its key in the JSON file."""
    text: str
    values: Mapping[str, Json]


def build_memory_section(run: RLRun, shape: ModelShape, device: Device) -> PlanSection:
    """Return the section on memory: its parts, whether it fits, and what to change."""
    fit = fit_run(shape, run, device)
    trainers = fit.trainers or (trainer_memory(shape, run, is_first=True),)
    blocks = [_describe_trainers(trainers, device if fit.trainers else None)]
    hosts = _host_memory(shape, run) if fit.trainers else {}
    if hosts:
        blocks.append(_describe_hosts(hosts))
    if fit.engine is not None:
        blocks.append(_describe_engine(fit.engine, run, device))
    blocks.append(describe_fit(fit, device))
    if fit.faults and not fit.trainer_changes and not trainer_fits(shape, run, device):
        others = find_devices(shape, run, DEVICES.values())
        lines = [f"No change of spec.trainer fits {device.name}. Devices of the table on which it would fit:"]
        lines += [f"  {name}, {each.text or 'as it is'}" for name, each in others.items()]
        blocks.append("\n".join(lines if others else ["No change of spec.trainer fits any device of the table."]))
    values: dict[str, Json] = {
        "fits": fit.fits,
        "trainer": [_rank_values(each) for each in trainers],
        "engine": None if fit.engine is None else _engine_values(fit.engine),
        "deviceBytes": device.memory_bytes,
        "host": [_host_values(role, parts) for role, parts in hosts.items()],
        "faults": [str(each) for each in fit.faults],
        "changes": [each.text for each in (*fit.trainer_changes, *fit.engine_changes)],
    }
    return PlanSection("memory", "\n\n".join(blocks), values)


def describe_fit(fit: RunFit, device: Device) -> str:
    """Return the verdict in a sentence or two, with what to change."""
    if fit.fits and not fit.trainers and fit.engine is None:
        return "No GPU is needed: trainer and engines run on CPUs."
    if fit.fits:
        rooms = [device.memory_bytes - max(each.total for each in fit.trainers)] if fit.trainers else []
        text = f"It fits {device.name}"
        return text + (f", with {rooms[0] / GIB:.1f} GiB of room on the fullest trainer GPU." if rooms else ".")
    lines = [f"It does not fit {device.name}:", *(f"  {fault}" for fault in fit.faults)]
    for name, changes in (("trainer", fit.trainer_changes), ("generator", fit.engine_changes)):
        lines += _describe_changes(name, changes)
    return "\n".join(lines)


def _describe_changes(name: str, changes: Sequence[SpecChange]) -> list[str]:
    if not changes:
        return []
    return [f"These changes under spec.{name} would fit, the mildest first:", *(f"  {each.text}" for each in changes)]


def _describe_trainers(ranks: Sequence[RankMemory], device: Device | None) -> str:
    names = list(dict.fromkeys(part.name for rank in ranks for part in rank.parts))
    notes = {part.name: part.note for rank in ranks for part in rank.parts}
    header = ["GIB", *(each.role.upper() for each in ranks), ""]
    rows = [[name, *(_cell(rank.parts, name) for rank in ranks), notes[name]] for name in names]
    largest = " and ".join(dict.fromkeys(each.moment for each in ranks))
    rows.append(["sum", *(f"{each.total / GIB:.1f}" for each in ranks), f"in the {largest}, the largest moment"])
    if device is not None:
        rows.append(["of", *(f"{device.memory_bytes / GIB:.1f}" for _ in ranks), f"the memory of {device.name}"])
    return format_table(header, rows).rstrip("\n")


def _host_memory(shape: ModelShape, run: RLRun) -> dict[str, tuple[Part, ...]]:
    """Parts of the host memory of the trainer's pods, by the pod's name."""
    found = {"first trainer pod": host_memory(shape, run, is_first=True)}
    if run.spec.trainer.replicas > 1:
        found["other trainer pods"] = host_memory(shape, run, is_first=False)
    return found


def _describe_hosts(hosts: Mapping[str, Sequence[Part]]) -> str:
    """A table of host memory. The first pod has every part that another one has."""
    notes = {part.name: part.note for parts in hosts.values() for part in parts}
    rows = [[name, *(_cell(parts, name) for parts in hosts.values()), note] for name, note in notes.items()]
    sums = [f"{sum(part.num_bytes for part in parts) / GIB:.1f}" for parts in hosts.values()]
    rows.append(["sum", *sums, "beside Python and libraries; the node must have it"])
    return format_table(["GIB OF THE HOST", *(name.upper() for name in hosts), ""], rows).rstrip("\n")


def _describe_engine(engine: EngineMemory, run: RLRun, device: Device) -> str:
    spec = run.spec.generator
    rows = [[part.name, f"{part.num_bytes / GIB:.1f}", part.note] for part in engine.parts]
    one = f"{engine.sequence_bytes / GIB:.2f} for a sequence of {engine.sequence_tokens:,} tokens"
    rows.append(["cache", f"{engine.cache / GIB:.1f}", one])
    rows.append(["sum", f"{engine.limit / GIB:.1f}", f"gpuMemoryShare {spec.gpu_memory_share:g} of {device.name}"])
    table = format_table(["GIB", "ENGINE GPU", ""], rows).rstrip("\n")
    full = min(engine.sequences, spec.max_sequences)
    gpus = "1 GPU" if spec.gpus_per_replica == 1 else f"{spec.gpus_per_replica} GPUs"
    text = f"An engine of {gpus} runs {full} of maxSequences {spec.max_sequences} at once"
    return f"{table}\n{text} if all have the full length; shorter ones leave room for more."


def _cell(parts: Sequence[Part], name: str) -> str:
    found = [part.num_bytes for part in parts if part.name == name]
    return f"{found[0] / GIB:.1f}" if found else "-"


def _rank_values(rank: RankMemory) -> Json:
    parts: dict[str, Json] = {part.name: part.num_bytes for part in rank.parts}
    return {"role": rank.role, "moment": rank.moment, "parts": parts, "total": rank.total}


def _host_values(role: str, parts: Sequence[Part]) -> Json:
    values: dict[str, Json] = {part.name: part.num_bytes for part in parts}
    return {"role": role, "parts": values, "total": sum(part.num_bytes for part in parts)}


def _engine_values(engine: EngineMemory) -> Json:
    parts: dict[str, Json] = {part.name: part.num_bytes for part in engine.parts}
    return {
        "parts": parts,
        "cache": engine.cache,
        "limit": engine.limit,
        "sequenceBytes": engine.sequence_bytes,
        "sequences": engine.sequences,
    }
