"""The sections of a run's plan: each a table for people and values for `--json`. PURE."""

from collections.abc import Mapping
from dataclasses import dataclass

from scalerl_api import RLRun
from scalerl_operator.capacity.devices import Device
from scalerl_operator.capacity.memory import trainer_memory
from scalerl_operator.capacity.model_shape import ModelShape
from scalerl_operator.forecast.result import Json


@dataclass(frozen=True)
class PlanSection:
    """A part of the plan."""

    name: str
    """Its key in the JSON file."""
    text: str
    values: Mapping[str, Json]


def build_sections(run: RLRun, shape: ModelShape, device: Device) -> list[PlanSection]:
    """Return the sections in the order of print."""
    return [_memory_section(run, shape, device)]


def _memory_section(run: RLRun, shape: ModelShape, device: Device) -> PlanSection:
    found = trainer_memory(shape, run, is_first=True)
    lines = [f"{part.name}: {part.num_bytes / 2**30:.1f} GiB" for part in found.parts]
    text = "\n".join([*lines, f"total {found.total / 2**30:.1f} of {device.memory_bytes / 2**30:.1f} GiB"])
    return PlanSection("memory", text, {part.name: part.num_bytes for part in found.parts})
