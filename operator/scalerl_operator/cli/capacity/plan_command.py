"""`scalerl plan RUN.yaml`: what a run needs of its devices, before anything is started. I/O."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from scalerl_api import RLRun, parse_run
from scalerl_operator.capacity.adapters import count_trained
from scalerl_operator.capacity.devices import GIB, Device, find_device, parse_devices
from scalerl_operator.capacity.model_shape import ModelShape
from scalerl_operator.cli.capacity.model_config import find_shape
from scalerl_operator.cli.capacity.sections import build_memory_section
from scalerl_operator.cli.capacity.time_section import PlannedRun, build_time_section
from scalerl_operator.cli.exit_codes import UsageError
from scalerl_operator.cli.fit_compare import save_json
from scalerl_operator.cli.options import PlanOptions
from scalerl_operator.forecast.result import Json
from scalerl_operator.local.yaml_document import load_document

DEFAULT_DEVICE = "H100"
YAML_ENDINGS = (".yaml", ".yml")


def are_runs(options: PlanOptions) -> bool:
    """Whether the files are RLRuns and not curves. Raises UsageError for a mix, or options of the other kind."""
    runs = [path for path in options.files if path.suffix.lower() in YAML_ENDINGS]
    if runs and len(runs) < len(options.files):
        other = next(path for path in options.files if path not in runs)
        raise UsageError(f"{runs[0]} is an RLRun and {other} a curve: plan one kind at a time")
    of_curves = {
        "--x": options.x,
        "--y": options.y,
        "--stderr": options.stderr,
        "--completions": options.completions,
        "--budget": options.budget,
        "--split": options.split,
    }
    of_runs = {
        "--device": options.device,
        "--devices": options.devices,
        "--model-config": options.model_config,
        "--mean-tokens": options.mean_tokens,
        "--like": options.like,
        "--mfu": options.mfu,
        "--price": options.price,
        "--calibrate": options.calibrate or None,
    }
    for name, value in (of_curves if runs else of_runs).items():
        if value is not None:
            kind = "curves in CSV files" if runs else "an RLRun in a YAML file"
            raise UsageError(f"{name} is for {kind}, and {options.files[0]} is none")
    if not runs and (options.x is None or options.y is None):
        raise UsageError(f"{options.files[0]} is read as a curve: it needs --x and --y. An RLRun is a .yaml file")
    return bool(runs)


def plan_runs(options: PlanOptions) -> str:
    """Plan every run, write the requested file, return the text to print. Raises InvalidRun."""
    own = load_devices(options.devices)
    device = find_device(options.device or DEFAULT_DEVICE, own)
    texts: list[str] = []
    values: list[Json] = []
    for path in options.files:
        document = load_document(path)
        run = parse_run(document)
        shape = find_shape(run, options.model_config, ask_hub=True)
        planned = PlannedRun(run, cast(Mapping[str, Any], document), shape, device)
        sections = [build_memory_section(run, shape, device), build_time_section(planned, options)]
        texts.append("\n\n".join([_headline(run, shape, device), *(each.text for each in sections)]))
        values.append({"run": run.name, "device": device.name, **{each.name: dict(each.values) for each in sections}})
    if options.json is not None:
        save_json(options.json, list(values), indent=2)
    return "\n\n".join(texts) + "\n"


def load_devices(path: Path | None) -> dict[str, Device]:
    """Return the user's own devices. Raises InvalidRun."""
    return {} if path is None else parse_devices(load_document(path))


def _headline(run: RLRun, shape: ModelShape, device: Device) -> str:
    active = f", {shape.active_parameters / 1e9:.1f}e9 of them active" if shape.has_experts else ""
    size = f"{shape.parameters / 1e9:.3g}e9 parameters{active}"
    if (lora := run.spec.model.lora) is not None:
        size += f", adapters of rank {lora.rank} with {count_trained(shape, run) / 1e6:.3g}e6"
    return f"{run.name}: {shape.label}, {size}, on {device.name} ({device.memory_bytes / GIB:.1f} GiB each)"
