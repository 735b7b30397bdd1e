"""Take-over after the death of the leader: `make bench-takeover ARGS="[--runs N] [--kills K]"`. I/O.

Two replicas of the operator serve runs that are suspended and resumed all the time. The leading one is killed
(SIGKILL), or terminated (SIGTERM), again and again; each time it is started anew as the standby. Measured is the time
until the other one leads, and until it has done something. At the end every pod must have been made exactly once. It
exits with 1 if that is not so, or a take-over took too long, and says what.
"""

import argparse
import asyncio
import itertools
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from addresses import address
from cluster_lab import (
    GENERATORS,
    NAMESPACE,
    ROOT,
    TRAINERS,
    Operator,
    Team,
    Testbed,
    build_parser,
    build_run,
    build_table,
    find_results,
    report_faults,
    until,
    write_part,
)
from cluster_mirror import Mirror
from scale_faults import find_takeover_faults
from simulated_coordinators import SimulatedCoordinators

from scalerl_operator.kube.client import EVENTS, RUNS, KubeClient

DOCUMENT = ROOT / "docs/scale.md"
PAUSE_SECONDS = 5.0  # between a take-over and the next kill
Found = dict[str, Any]


@dataclass
class Rivals(Team):
    """Two replicas, one of which leads."""

    def leader(self) -> Operator | None:
        """The replica that reports leadership; raises RuntimeError if two do, or one has ended by itself."""
        ended = [each.log for each in self.members if each.process.poll() is not None]
        leading = [each for each in self.members if each.is_leading()]
        if ended or len(leading) > 1:
            raise RuntimeError(f"ended: {ended}; leading: {[each.identity for each in leading]}")
        return leading[0] if leading else None

    def close(self) -> None:
        """Kill all replicas."""
        for each in self.members:
            each.process.kill()
            each.process.wait()


@dataclass
class Stage:
    """The state of a measurement."""

    kube: KubeClient
    mirror: Mirror
    names: list[str]
    resumed: Counter[str] = field(default_factory=Counter)
    is_over: bool = False
    """Whether to begin no further edit."""

    async def turn_over(self, names: list[str]) -> None:
        """Suspend and resume each of `names` in turn."""
        for name in itertools.cycle(names):
            if self.is_over:
                return
            await self.suspend(name, True)
            await self.suspend(name, False)

    async def suspend(self, name: str, suspend: bool) -> None:
        """Edit the run and wait until the edit takes effect."""
        if not suspend:
            self.resumed[name] += 1
        await self.kube.merge(RUNS, NAMESPACE, name, {"spec": {"suspend": suspend}})
        is_done = self.mirror.is_free if suspend else self.mirror.is_whole
        await self.mirror.wait(name, lambda: is_done(name))


async def take_over(rivals: Rivals, stage: Stage, number: signal.Signals, probe: str) -> Found:
    """End the leader; return the seconds until the other leads, and until it has carried out an edit made meanwhile."""
    old = await asyncio.to_thread(rivals.leader)
    assert old is not None
    rivals.members.remove(old)
    began = time.monotonic()
    os.kill(old.process.pid, number)
    acting = asyncio.create_task(_act(stage, probe, began))
    leads = await until("the other leads", lambda: rivals.leader() is not None)
    code = await asyncio.to_thread(old.process.wait)
    found = {"leads": leads, "acts": await acting, "exit": code, "load": os.getloadavg()[0]}
    rivals.start()
    await until("the new standby answers", lambda: rivals.members[-1].answers())
    print(number.name, found, flush=True)
    await asyncio.sleep(PAUSE_SECONDS)
    return found


async def _act(stage: Stage, probe: str, began: float) -> float:
    await stage.suspend(probe, True)
    seconds = time.monotonic() - began
    await stage.suspend(probe, False)
    return seconds


async def check(stage: Stage) -> Found:
    """Compare the created pods with the requested ones."""
    names, mirror = stage.names, stage.mirror
    await mirror.wait("all runs train", lambda: all(map(mirror.is_whole, names)))
    wanted = mirror.pods_per_run * (len(names) + stage.resumed.total())
    runs, _ = await stage.kube.list(RUNS, NAMESPACE)
    attempts = {run["metadata"]["name"]: run["status"]["attempt"] for run in runs}
    wrong = [name for name in names if attempts[name] != 1 + stage.resumed[name]]
    for run in runs:
        if run["metadata"]["name"] in wrong:
            print(run["metadata"]["name"], *run["status"]["attempts"], sep="\n  ")
            print(*mirror.history[run["metadata"]["name"]], sep="\n  ", flush=True)
    events, _ = await stage.kube.list(EVENTS, NAMESPACE)
    counted = Counter(
        each["involvedObject"]["name"] for each in events if each["reason"] == "AttemptCreated" and each["count"] == 1
    )
    return {
        "pods made": mirror.num_made,
        "pods wanted": wanted,
        "made twice for one attempt": mirror.doubles(),
        "generators made twice for one attempt": mirror.extra_generators(
            {name: 1 + stage.resumed[name] for name in names}
        ),
        "runs with a wrong number of attempts": wrong,
        "runs whose attempts' events are not one each": [
            name for name in names if counted[name] != 1 + stage.resumed[name]
        ],
        "transitions": 2 * stage.resumed.total(),
    }


async def measure(options: argparse.Namespace, testbed: Testbed) -> Found:
    """Measure all take-overs."""
    coordinators = SimulatedCoordinators([f"run-{index:04}" for index in range(options.runs)])
    server, connection = await coordinators.serve(), testbed.connection()
    kube, rivals = KubeClient(connection, parallel=16), Rivals(testbed, options.folder)
    stage = Stage(kube, Mirror(TRAINERS + GENERATORS), coordinators.names)
    _, version = await kube.list(RUNS, NAMESPACE)
    following = asyncio.create_task(stage.mirror.follow(connection, version))
    try:
        rivals.start()
        await until("the first leads", lambda: rivals.leader() is not None)
        rivals.start()
        await asyncio.gather(*(kube.create(RUNS, build_run(name, address(i))) for i, name in enumerate(stage.names)))
        await stage.mirror.wait("all runs train", lambda: all(map(stage.mirror.is_whole, stage.names)))
        probe, *others = stage.names
        lanes = [others[lane :: options.lanes] for lane in range(options.lanes)]
        load = [asyncio.create_task(stage.turn_over(lane)) for lane in lanes]
        await asyncio.sleep(PAUSE_SECONDS)
        kills = [await take_over(rivals, stage, signal.SIGKILL, probe) for _ in range(options.kills)]
        terms = [await take_over(rivals, stage, signal.SIGTERM, probe) for _ in range(options.terms)]
        stage.is_over = True
        await asyncio.gather(*load)
        return {
            "runs": options.runs,
            "kills": kills,
            "terms": terms,
            "check": await check(stage),
        }
    finally:
        following.cancel()
        await asyncio.to_thread(rivals.close)
        await kube.close()
        server.close()


def write_table(found: Found) -> None:
    """Put the results into docs/scale.md."""
    rows = []
    for word, key in (("killed (SIGKILL)", "kills"), ("terminated (SIGTERM)", "terms")):
        leads, acts = (sorted(each[name] for each in found[key]) for name in ("leads", "acts"))
        rows.append([word, str(len(leads)), *(f"{_middle(v):.1f} / {v[-1]:.1f}" for v in (leads, acts))])
    checked = [[name, str(len(value) if isinstance(value, list) else value)] for name, value in found["check"].items()]
    head = f"`{found['command']}`, {found['date']}, {found['machine']}; {found['runs']} runs of ten pods."
    times = build_table(
        ["leader", "times", "until the other leads, p50 / max s", "until an edit was obeyed, p50 / max s"], rows
    )
    write_part(DOCUMENT, "takeover", "\n\n".join([head, times, build_table(["afterwards", "found"], checked)]))


def _middle(ordered: list[float]) -> float:
    return ordered[(len(ordered) - 1) // 2]


def main() -> int:
    """Measure and write; return the exit status."""
    parser = build_parser(__doc__, "docs/scale.md")
    parser.add_argument("--runs", type=int, default=100, help="of ten pods each (default: 100)")
    parser.add_argument("--lanes", type=int, default=2, help="runs that change at any time (default: 2)")
    parser.add_argument("--kills", type=int, default=10, help="by SIGKILL (default: 10)")
    parser.add_argument("--terms", type=int, default=5, help="by SIGTERM (default: 5)")
    options = parser.parse_args()
    found = find_results(options, "takeover.json", lambda testbed: asyncio.run(measure(options, testbed)))
    if options.write or options.only_write:
        write_table(found)
    return report_faults(find_takeover_faults(found))


if __name__ == "__main__":
    sys.exit(main())
