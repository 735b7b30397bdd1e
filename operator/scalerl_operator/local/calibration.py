"""Measures the rates of a run's model on this machine's cores by two short runs, and keeps them. I/O.

The runs are real ones: the run's own file with two sizes of step, in a temporary folder. Each ends by Ctrl-C's signal
as soon as enough steps are measured. CPU-seconds are measured, so other work on the machine disturbs little.
"""

import copy
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from scalerl_api import RLRun, parse_run
from scalerl_api.wire import METRICS_FILE
from scalerl_operator.capacity.cpu_rates import (
    CpuRates,
    CpuSample,
    CpuSeconds,
    StepWork,
    fit_rates,
    measure_work_of_step,
)
from scalerl_operator.local.durable_files import save_text
from scalerl_operator.local.role_usage import RoleUsage, seconds_between
from scalerl_operator.local.run_lengths import read_measured_run

SAMPLE_SECONDS = 0.5
SKIPPED_STEPS = 3  # first compilations, and engines that fill
MEASURED_STEPS = 6  # at least
MEASURED_SECONDS = 30.0  # at least
RUN_SECONDS = 1800.0  # of one run, its start included
END_SECONDS = 120.0  # of an interrupted run's end
STEPS = 1_000_000  # more than a run gets to
FOLDER = "calibrations"


class CalibrationFailed(Exception):
    """A short run ended by itself, or took too long."""


@dataclass(frozen=True)
class StepSize:
    """The size of a short run's steps, in parts of the run's own."""

    name: str
    prompts: float
    tokens: float
    sequences: float


SIZES = (StepSize("small", 1 / 3, 1 / 2, 1 / 4), StepSize("whole", 1.0, 1.0, 1.0))


@dataclass(frozen=True)
class Calibration:
    """The measured rates of one model on one machine."""

    machine: str
    model: str
    """`spec.model`, as one line."""
    date: str
    samples: tuple[CpuSample, ...]
    cores: int

    @property
    def rates(self) -> CpuRates:
        """The fitted rates."""
        return fit_rates(self.samples, self.cores)


def describe_machine() -> str:
    """Return this machine's processor and the number of cores that a run gets."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    model = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    return f"{model or platform.machine()}, {count_cores()} cores"


def count_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def find_calibration(run: RLRun, cache: Path) -> Calibration | None:
    """Return the kept calibration of the run's model on this machine; None if there is none that can be read."""
    try:
        values = json.loads(_path_of(run, cache).read_text(encoding="utf-8"))
        samples = tuple(
            CpuSample(StepWork(**each["work"]), CpuSeconds(**each["seconds"])) for each in values.pop("samples")
        )
        return Calibration(**values, samples=samples)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def calibrate(run: RLRun, document: Mapping[str, Any], cache: Path, report: Callable[[str], None]) -> Calibration:
    """Run both sizes, keep the rates in `cache`, and return them. Raises CalibrationFailed.

    Args:
        run, document: the run, and its YAML document.
        cache: folder of the user's cache.
        report: called with a line before and after each run.
    """
    samples = []
    with tempfile.TemporaryDirectory(prefix="scalerl-calibration-") as folder:
        for size in SIZES:
            report(
                f"calibrating with {size.name} steps: starts trainer and engine, then measures {MEASURED_SECONDS:.0f} s"
            )
            samples.append(measure_run(build_short_run(document, size), Path(folder) / size.name))
            report(f"  {samples[-1].seconds.total:.2f} CPU-seconds a step")
    date = time.strftime("%Y-%m-%d", time.gmtime())
    found = Calibration(describe_machine(), _describe_model(run), date, tuple(samples), count_cores())
    path = _path_of(run, cache)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_text(path, json.dumps(asdict(found), indent=1))
    return found


def build_short_run(document: Mapping[str, Any], size: StepSize) -> dict[str, Any]:
    """Return the run's document with steps of another size, no control of lengths, and nothing beside its steps."""
    found = copy.deepcopy(dict(document))
    spec = found["spec"]
    recipe = parse_run(found).spec.resolved_recipe()
    for key in ("stopPolicies", "trackers", "forecast", "rollouts", "checkpoint"):
        spec.pop(key, None)
    if "warmStart" in spec:
        spec["warmStart"] |= {"steps": 1, "wrongSteps": 0, "warmupSteps": 0, "batchSize": 8}
    length = recipe.length
    own = spec.setdefault("recipe", {})
    own |= {
        "promptsPerStep": max(2, round(size.prompts * recipe.prompts_per_step)),
        "zeroVariance": "keep",
        "noPositiveResampling": False,
        "length": {
            "control": "none",
            "promptTokens": length.prompt_tokens,
            "thinkTokens": max(1, round(size.tokens * length.think_tokens)),
            "answerTokens": max(1, round(size.tokens * length.answer_tokens)),
            "thinkTags": length.think_tags.model_dump(by_alias=True),
        },
    }
    generator = spec.setdefault("generator", {})
    sequences = parse_run(found).spec.generator.max_sequences
    generator["maxSequences"] = max(recipe.completions_per_prompt, round(size.sequences * sequences))
    spec["data"] = {**spec["data"], "heldOut": {"prompts": 2, "samplesPerPrompt": 2}, "downstream": []}
    spec["budget"] = {"steps": STEPS, "evalEverySteps": STEPS}
    return found


def measure_run(document: Mapping[str, Any], folder: Path) -> CpuSample:
    """Carry out a short run in `folder`, end it when enough is measured, and return what its steps took."""
    folder.mkdir(parents=True)
    file, records = folder / "run.yaml", folder / "run"
    file.write_text(yaml.safe_dump(dict(document)), encoding="utf-8")
    command = [sys.executable, "-m", "scalerl_operator", "run", str(file), "--folder", str(records), "--quiet"]
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        usage = RoleUsage(psutil.Process(process.pid))
        try:
            times = _watch(process, usage, records)
        finally:
            _end(process)
    first, last = SKIPPED_STEPS - 1, len(times) - 1
    seconds = seconds_between(usage.samples, times[first], times[last])
    each = {role: value / (last - first) for role, value in seconds.items()}
    measured = read_measured_run(records)
    work = measure_work_of_step(parse_run(document), measured.lengths, trained_share=measured.trained_share)
    return CpuSample(work, CpuSeconds(each["trainer"], each["engine"], each["loop"]))


def _watch(process: "subprocess.Popen[bytes]", usage: RoleUsage, records: Path) -> list[float]:
    """Sample until enough steps are made; return the time of each step's end. Raises CalibrationFailed."""
    deadline = time.monotonic() + RUN_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            log = records.parent / "output"
            raise CalibrationFailed(
                f"the short run ended with code {process.returncode}: {log.read_text()[-500:].strip()}"
            )
        try:
            usage.sample()
        except psutil.NoSuchProcess:
            continue
        times = _step_times(records / METRICS_FILE)
        times = [each for each in times if each <= usage.samples[-1].at]
        enough = len(times) >= SKIPPED_STEPS + MEASURED_STEPS
        if enough and times[-1] - times[SKIPPED_STEPS - 1] >= MEASURED_SECONDS:
            return times
        time.sleep(SAMPLE_SECONDS)
    raise CalibrationFailed(f"the short run made too few steps in {RUN_SECONDS:.0f} s")


def _step_times(path: Path) -> list[float]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # the last one is not complete
    except OSError:
        return []
    return [float(json.loads(line)["time"]) for line in lines]


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the run as Ctrl-C does; kill its processes if it does not end."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            for each in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
                each.kill()
            process.wait()


def _describe_model(run: RLRun) -> str:
    return json.dumps(run.spec.model.model_dump(by_alias=True, exclude_none=True), sort_keys=True)


def _path_of(run: RLRun, cache: Path) -> Path:
    key = hashlib.sha256(f"{_describe_model(run)}\n{describe_machine()}".encode()).hexdigest()[:16]
    return cache / FOLDER / f"{key}.json"
