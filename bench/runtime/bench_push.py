"""Time of a weight update on one machine, part by part, for a real model and a busy engine.

Run: PYTHONPATH=tests/support python bench/runtime/bench_push.py [--model FOLDER --updates 8 --generators 1 --idle]

The fleet is the product's: a trainer rank, engines, Ray. The weights do not change between updates, which no part of an
update notices. The engine samples all the time unless `--idle`. Without `--model` it is SmolLM2-135M, in bf16.
"""

import argparse
import asyncio
import time
from pathlib import Path

import numpy as np
from chat_model import chat_model_folder

from scalerl_api import RLRun
from scalerl_runtime.actors.fleet import Fleet
from scalerl_runtime.actors.options import build_fleet_options
from scalerl_runtime.actors.ray_session import OwnCluster, RaySession
from scalerl_runtime.deadlines import within
from scalerl_runtime.types import SamplingRequest

PROMPT = np.arange(40, 60, dtype=np.int32)
SEQUENCES = 16
SECONDS = 300.0  # deadline of each phase, on a loaded machine
PAUSE_SECONDS = 2.0  # between updates
PARTS = ("stage", "push", "send", "stall", "total")


def build_run(model: Path, generators: int) -> RLRun:
    """Return a run whose fleet is measured."""
    return RLRun.model_validate(
        {
            "apiVersion": "scalerl.io/v1alpha1",
            "kind": "RLRun",
            "metadata": {"name": "push"},
            "spec": {
                "model": {"source": str(model), "dtype": "bfloat16"},
                "data": {"train": {"source": "reasoning_gym:chain_sum", "size": 100}, "promptFormat": "plain"},
                "reward": {"verifier": "math"},
                "recipe": {
                    "promptsPerStep": 2,
                    "length": {"control": "none", "promptTokens": 64, "thinkTokens": 1, "answerTokens": 400},
                },
                "budget": {"steps": 2},
                "trainer": {"gpusPerReplica": 0},
                "generator": {"minReplicas": generators, "maxReplicas": generators, "gpusPerReplica": 0},
            },
        }
    )


async def measure(run: RLRun, model: Path, *, updates: int, is_idle: bool) -> list[dict[str, float]]:
    """Return the seconds of each part of each update."""
    options = build_fleet_options(run, run.spec.resolved_recipe(), str(model), num_cpus=2, stop_ids=())
    fleet = Fleet(options, RaySession(None, OwnCluster.of(run)))
    try:
        return await _measure(fleet, run.spec.generator.min_replicas, updates, is_idle)
    finally:
        await fleet.stop()


async def _measure(fleet: Fleet, generators: int, updates: int, is_idle: bool) -> list[dict[str, float]]:
    members = frozenset(range(generators))
    await within(SECONDS, "starting Ray", fleet.start(600.0))
    await within(SECONDS, "starting the trainer", fleet.start_trainer())
    starts = [fleet.start_generator(index) for index in members]
    await within(SECONDS, "starting the engines", asyncio.gather(*starts))
    await within(SECONDS, "the first update", _update(fleet, members, 0))  # connects
    requests = [SamplingRequest(max_tokens=380, temperature=1.0, ignore_ends=True)] * SEQUENCES
    busy = [] if is_idle else [asyncio.ensure_future(_sample_for_ever(fleet, index, requests)) for index in members]
    found = []
    for version in range(1, updates + 1):
        await asyncio.sleep(PAUSE_SECONDS)
        found.append(await within(SECONDS, "an update", _update(fleet, members, version)))
    for task in busy:
        task.cancel()
    return found


async def _update(fleet: Fleet, members: frozenset[int], version: int) -> dict[str, float]:
    began = time.monotonic()
    await fleet.set_version(version)
    staged = await fleet.stage()
    middle = time.monotonic()
    report = await fleet.push(members, staged)
    ended = time.monotonic()
    parts = (staged.seconds, ended - middle, report.send_seconds, report.stall_seconds, ended - began)
    return dict(zip(PARTS, parts, strict=True))


async def _sample_for_ever(fleet: Fleet, index: int, requests: list[SamplingRequest]) -> None:
    while True:
        await fleet.sample(index, PROMPT, requests)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--updates", type=int, default=8)
    parser.add_argument("--generators", type=int, default=1)
    parser.add_argument("--idle", action="store_true", help="the engine samples nothing meanwhile")
    options = parser.parse_args()
    model = options.model or chat_model_folder()
    run = build_run(model, options.generators)
    found = asyncio.run(measure(run, model, updates=options.updates, is_idle=options.idle))
    print(f"{'':10}{'p50, s':>10}{'worst, s':>10}")
    for part in PARTS:
        values = [update[part] for update in found]
        print(f"{part:10}{np.median(values):10.3f}{max(values):10.3f}")


if __name__ == "__main__":
    main()
