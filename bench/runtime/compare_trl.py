"""scalerl against TRL's GRPOTrainer on this machine's CPU, in turns: same model, task, batch, lengths, loss cap. I/O.

    PYTHONPATH=tests/support python bench/runtime/compare_trl.py [--tasks quickstart smollm2] [--pairs N] [--steps N]

TRL runs as its documentation has it for one machine without a GPU: one process, transformers' `generate`, synchronous.
Its environment is this one's packages and requirements/trl.txt. Interrupted thinking, which TRL lacks, is off on both
sides. CPU-seconds are those of all processes of a program, so they compare where other work shares the cores; steps per
second compare within a pair only.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import psutil
import yaml
from chat_model import chat_model_folder
from process_times import ProcessTimes
from run_file import run_file

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements/trl.txt"
HELD_OUT = {"prompts": 32, "samplesPerPrompt": 1}  # TRL evaluates nothing; a run of scalerl has to, at both ends
RUN_SECONDS = 3600.0  # a run that takes longer is killed
SKIPPED = 5  # first steps, in which engines fill and kernels are chosen
WINDOW = 5  # steps of which the mean training pass rate is taken
# The mean training pass rate that both reach within the default number of steps.
TARGETS = {"quickstart": 0.25, "smollm2": 0.4}
DEFAULT_STEPS = {"quickstart": 60, "smollm2": 25}


@dataclass(frozen=True)
class Step:
    """The end of a training step."""

    time: float  # seconds since 1970
    pass_rate: float  # of the batch
    tokens: float  # of its completions


@dataclass(frozen=True)
class Measured:
    """One run."""

    start_seconds: float  # from the command to the end of the first step
    start_cpu_seconds: float
    steps_per_second: float  # without the first steps
    tokens_per_second: float
    cpu_seconds: dict[str, float]  # a step, by process
    seconds_to_target: float | None  # from the command
    training_seconds_to_target: float | None  # from the begin of the first step, as the mean step has it

    @property
    def total_cpu_seconds(self) -> float:
        """CPU-seconds a step of all processes."""
        return sum(self.cpu_seconds.values())


def make_trl_environment() -> Path:
    """Return the Python of TRL's environment, made on the first call; its name holds the pins."""
    shared = sysconfig.get_path("purelib")
    pins = sha256(LOCK.read_bytes() + (ROOT / "requirements/cpu.txt").read_bytes() + str(ROOT).encode())
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "scalerl"
    folder = cache / f"trl-{pins.hexdigest()[:12]}"
    python = folder / "bin/python"
    if (folder / ".complete").exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    packages = folder / Path(shared).relative_to(sys.prefix)
    # The packages of cpu.txt, and those of the checkout's own environment.
    (packages / "shared.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")) + "\n")
    (packages / "checkout.pth").write_text("\n".join(str(ROOT / name) for name in ("crds", "operator", "runtime")))
    uv = shutil.which("uv") or next(iter(sorted(cache.glob("uv-*/bin/uv"))), None)
    if uv is None:
        raise SystemExit("uv is not here: scripts/setup fetches it")
    options = ["--quiet", "--python", str(python), "--no-deps", "--require-hashes"]
    subprocess.run([str(uv), "pip", "install", *options, "-r", str(LOCK)], check=True)
    (folder / ".complete").touch()
    return python


def write_runs(task: str, folder: Path, steps: int) -> Path:
    """Write the task's run of `steps` steps below `folder`, its model being one that can do a little; return its path.

    The quickstart's supervised stage runs here, once, as a run of its own.
    """
    example = {"quickstart": "examples/quickstart.yaml", "smollm2": "examples/smollm2-135m.yaml"}[task]
    document: dict[str, Any] = yaml.safe_load((ROOT / example).read_text())
    spec = document["spec"]
    spec["data"]["heldOut"] = HELD_OUT
    spec.pop("forecast", None)
    spec.pop("stopPolicies", None)
    if task == "quickstart":
        model = _warm_model(document, folder)
        spec.pop("warmStart")
        spec["recipe"]["length"]["control"] = "none"
    else:
        model = chat_model_folder()
    spec["model"] = {"source": str(model), "dtype": spec["model"]["dtype"]}
    spec["budget"] = {"steps": steps, "evalEverySteps": steps}
    document["metadata"]["name"] = f"peer-{task}"
    return _write(document, folder / f"{task}.yaml")


def _warm_model(document: dict[str, Any], folder: Path) -> Path:
    model = folder / "warm" / "model-final"
    if not model.exists():
        warm = json.loads(json.dumps(document))
        warm["metadata"]["name"] = "warm"
        warm["spec"]["budget"] = {"steps": 1, "evalEverySteps": 1}
        warm["spec"]["recipe"]["optimizer"] = {"learningRate": 0.0, "warmupSteps": 0}
        if run_file(_write(warm, folder / "warm.yaml"), "--quiet"):
            raise SystemExit(f"the supervised stage failed: see {folder / 'warm'}")
    return model


def _write(document: dict[str, Any], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def read_ours(folder: Path, completions: int) -> list[Step]:
    """Return the steps of a run of scalerl with that many completions a step."""
    return [
        Step(line["time"], (line["reward"] + 1) / 2, line["values"]["completion_tokens_mean"] * completions)
        for line in _read_lines(folder / "metrics.jsonl")
    ]


def read_theirs(folder: Path) -> list[Step]:
    """Return the steps of a run of TRL."""
    return [
        Step(each["time"], (each["reward"] + 1) / 2, each["tokens"]) for each in _read_lines(folder / "steps.jsonl")
    ]


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def do_run(command: Sequence[str], log: Path) -> tuple[float, ProcessTimes]:
    """Carry out a command; return the time of its start and its processes' times."""
    began = time.time()
    # Threads that wait in a matrix product sleep: where other work holds a core, spinning would count as CPU.
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    with (
        log.open("w") as output,
        subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT) as process,
        ProcessTimes(process.pid) as times,
    ):
        try:
            code = process.wait(RUN_SECONDS)
        except subprocess.TimeoutExpired:
            process.terminate()
            raise
    if code:
        raise SystemExit(f"exit code {code}: {' '.join(command)}; see {log}")
    return began, times


def summarize(began: float, steps: Sequence[Step], times: ProcessTimes, target: float) -> Measured:
    """Return the numbers of a run that was started at `began`."""
    first, last = steps[SKIPPED - 1], steps[-1]
    seconds, count = last.time - first.time, len(steps) - SKIPPED
    used = times.between(first.time, last.time)
    rates = [step.pass_rate for step in steps]
    means = [statistics.mean(rates[max(0, place - WINDOW + 1) : place + 1]) for place in range(len(rates))]
    reached = next(
        (s.time for s, mean in zip(steps[WINDOW - 1 :], means[WINDOW - 1 :], strict=True) if mean >= target), None
    )
    before_first = steps[0].time - seconds / count
    return Measured(
        start_seconds=steps[0].time - began,
        start_cpu_seconds=sum(times.between(began, steps[0].time).values()),
        steps_per_second=count / seconds,
        tokens_per_second=sum(step.tokens for step in steps[SKIPPED:]) / seconds,
        cpu_seconds={name: value / count for name, value in used.items() if value / count >= 0.005},
        seconds_to_target=None if reached is None else reached - began,
        training_seconds_to_target=None if reached is None else reached - before_first,
    )


def describe(name: str, found: Measured) -> str:
    """Return one row of the table."""
    by_process = ", ".join(f"{part} {value:.2f}" for part, value in found.cpu_seconds.items())
    reached = "not reached" if found.seconds_to_target is None else f"{found.seconds_to_target:.0f} s"
    training = (
        "" if found.training_seconds_to_target is None else f" ({found.training_seconds_to_target:.0f} s of training)"
    )
    return (
        f"| {name} | {found.steps_per_second:.2f} | {found.total_cpu_seconds:.2f} | {by_process} | "
        f"{found.start_seconds:.0f} s ({found.start_cpu_seconds:.0f}) | {reached}{training} |"
    )


HEADER = """\
| | steps/s | CPU-s a step | of which | start to first step (CPU-s) | to the pass rate |
|---|---|---|---|---|---|"""


def compare(task: str, options: argparse.Namespace) -> None:
    """Run the pairs of a task and print the table and the ratios."""
    steps = options.steps or DEFAULT_STEPS[task]
    file = write_runs(task, options.folder.resolve(), steps)
    recipe = yaml.safe_load(file.read_text())["spec"]["recipe"]
    completions = recipe["promptsPerStep"] * recipe["completionsPerPrompt"]
    python, pairs = make_trl_environment(), []
    print(f"{task}: {steps} steps, pass rate {TARGETS[task]} over {WINDOW} steps\n{HEADER}", flush=True)
    for pair in range(options.pairs):
        found = {}
        for name in ("scalerl", "TRL") if pair % 2 == 0 else ("TRL", "scalerl"):  # neither is always the first
            folder = file.with_suffix("") / f"{pair}-{name}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.parent.mkdir(parents=True, exist_ok=True)
            command = build_command(name, python, file, folder)
            began, times = do_run(command, folder.with_suffix(".log"))
            done = read_ours(folder, completions) if name == "scalerl" else read_theirs(folder)
            found[name] = summarize(began, done, times, TARGETS[task])
            print(describe(f"pair {pair}: {name}", found[name]), flush=True)
        pairs.append((found["scalerl"], found["TRL"]))
    print_ratios(pairs)


def build_command(name: str, python: Path, file: Path, folder: Path) -> list[str]:
    """Return the command that trains the run with scalerl or TRL."""
    if name == "scalerl":
        return [sys.executable, "-m", "scalerl_operator", "run", str(file), "--folder", str(folder), "--quiet"]
    script = Path(__file__).with_name("trl_training.py")
    return [str(python), str(script), str(file), str(folder), "--threads", str(psutil.cpu_count())]


def print_ratios(pairs: Sequence[tuple[Measured, Measured]]) -> None:
    """Print scalerl's numbers over TRL's: every pair and the median."""
    rows = {
        "steps/s": [ours.steps_per_second / theirs.steps_per_second for ours, theirs in pairs],
        "tokens/s": [ours.tokens_per_second / theirs.tokens_per_second for ours, theirs in pairs],
        "CPU-s a step": [ours.total_cpu_seconds / theirs.total_cpu_seconds for ours, theirs in pairs],
        "start": [ours.start_seconds / theirs.start_seconds for ours, theirs in pairs],
    }
    for name in ("seconds_to_target", "training_seconds_to_target"):
        values = [(getattr(ours, name), getattr(theirs, name)) for ours, theirs in pairs]
        rows[name.replace("_", " ")] = [ours / theirs for ours, theirs in values if ours and theirs]
    for name, ratios in rows.items():
        if ratios:
            each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            print(f"scalerl / TRL, {name}: median {statistics.median(ratios):.2f} of {each}", flush=True)


def main() -> None:
    """Compare on each task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=sorted(DEFAULT_STEPS), default=sorted(DEFAULT_STEPS))
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--steps", type=int, help="of each run; 60 of the quickstart and 25 of SmolLM2 if not given")
    parser.add_argument("--folder", type=Path, default=Path("runs/peer"))
    options = parser.parse_args()
    for task in options.tasks:
        compare(task, options)


if __name__ == "__main__":
    main()
