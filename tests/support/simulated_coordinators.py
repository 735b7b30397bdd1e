"""Coordinators of many runs that only answer polls: one address each, one process for all. I/O."""

import asyncio
import time
from dataclasses import dataclass

from addresses import address
from progress_server import serve_progress

STEP_SECONDS = 2.0  # of a run that trains
Document = dict[str, object]


@dataclass
class SimulatedCoordinators:
    """The answer of all coordinators; change it at any time."""

    names: list[str]
    """Names of the runs, by index."""
    is_training: bool = False
    """Whether the step number rises; else no run makes a step."""
    num_evals: int = 0
    """Evaluations of each run."""
    answers: int = 0
    """Number of answered polls."""
    began: float = 0.0

    async def serve(self) -> asyncio.Server:
        """Listen at every run's address."""
        self.began = time.time()
        hosts = {address(index): name for index, name in enumerate(self.names)}

        def answer(host: str, since: int) -> Document:
            self.answers += 1
            return self._progress(hosts[host], since)

        return await serve_progress(list(hosts), answer)

    def _progress(self, name: str, since: int) -> Document:
        """Return the body of `/v1/progress?since=N`."""
        step = int((time.time() - self.began) / STEP_SECONDS) if self.is_training else 1
        evals = [_eval(index) for index in range(since, self.num_evals)]
        return {
            "run": name,
            "attempt": 1,
            "phase": "training",
            "step": step,
            "version": step,
            "computeGpuHours": 0.01 * step,
            "gpuSeconds": {"trainer": 12.0 * step, "generator": 50.0 * step},
            "generatorsReady": 8,
            "evals": evals,
            "time": time.time(),
        }


def _eval(index: int) -> Document:
    """Return a sigmoid from 0.2 to 0.75 with its middle at the 20th evaluation, and a wave in place of noise."""
    step = 10 * index
    rate = 0.2 + 0.55 / (1 + (200 / step) ** 2) if step else 0.2
    return {
        "index": index,
        "step": step,
        "version": step,
        "computeGpuHours": 0.01 * step,
        "passRate": rate + 0.01 * ((index * 7) % 5 - 2) / 2,
        "prompts": 250,
        "samples": 4,
        "standardError": 0.015,
    }
