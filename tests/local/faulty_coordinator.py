"""The real coordinator with an assassin: `python faulty_coordinator.py PLAN.json [stand-in]`.

PLAN holds a list of [phase, nth call of it in this attempt, victim]; the first is due, and is removed as it strikes.
Phases are the fleet's calls; the kill falls while the call is under way. Only SIGKILL is used.
"""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from stand_in_generator import StandInGenerator

from scalerl_runtime import __main__ as entry
from scalerl_runtime.actors import fleet
from scalerl_runtime.actors.fleet import Fleet
from scalerl_runtime.loop import evaluation as evals
from scalerl_runtime.loop import self_check
from scalerl_runtime.storage import checkpoint

if "stand-in" in sys.argv[2:]:  # what is killed is no engine: stand_in_generator.py starts in seconds
    fleet.Generator = StandInGenerator  # type: ignore[misc,assignment,attr-defined]
    self_check.find_mismatch = lambda _run, _found: None  # its log-probabilities are made up
PLAN = Path(sys.argv[1])
TITLES = {"trainer": "ray::Trainer", "generator": "ray::Generator", "engine": "VLLM::EngineCore"}
calls: Counter[str] = Counter()


def strike(victim: str) -> None:
    if victim == "coordinator":
        os.kill(os.getpid(), signal.SIGKILL)
    for child in psutil.Process().children(recursive=True):
        try:
            title = " ".join(child.cmdline())
        except psutil.Error:
            continue
        if title.startswith(TITLES[victim]):
            child.kill()


def counted(original: Any) -> Any:
    async def call(*arguments: Any, **options: Any) -> Any:
        with PLAN.with_suffix(".warm").open("a") as file:  # outlives the attempt
            file.write("x")
        return await original(*arguments, **options)

    return call


def watched(phase: str, original: Any) -> Any:
    async def call(*arguments: Any, **options: Any) -> Any:
        calls[phase] += 1
        plan = json.loads(PLAN.read_text())
        if not plan or plan[0][0] != phase or calls[phase] < plan[0][1]:
            return await original(*arguments, **options)
        victim = plan[0][2]
        PLAN.write_text(json.dumps(plan[1:]))
        work = asyncio.ensure_future(original(*arguments, **options))
        await asyncio.sleep(0.01)  # under way
        strike(victim)
        return await work

    return call


def watched_sealing(original: Any) -> Any:
    """Strike when all ranks have written, before the manifest exists. Only the coordinator does this."""

    def call(*arguments: Any, **options: Any) -> Any:
        calls["sealing"] += 1
        plan = json.loads(PLAN.read_text())
        if plan and plan[0][0] == "sealing" and calls["sealing"] >= plan[0][1]:
            PLAN.write_text(json.dumps(plan[1:]))
            strike(plan[0][2])
        return original(*arguments, **options)

    return call


Fleet.train_supervised = watched("warm start", counted(Fleet.train_supervised))  # type: ignore[method-assign]
Fleet.sample = watched("generating", Fleet.sample)  # type: ignore[method-assign]
Fleet.train = watched("training", Fleet.train)  # type: ignore[method-assign]
Fleet.push = watched("broadcasting", Fleet.push)  # type: ignore[method-assign]
Fleet.copy_state = watched("copying", Fleet.copy_state)  # type: ignore[method-assign]
Fleet.write_copy = watched("writing", Fleet.write_copy)  # type: ignore[method-assign]
checkpoint.seal_parts = watched_sealing(checkpoint.seal_parts)
evals.Evaluation.run = watched("evaluating", evals.Evaluation.run)  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.argv = [sys.argv[0], "coordinator"]
    sys.exit(entry.main())
