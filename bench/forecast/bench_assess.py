"""Time and memory to assess a run of 75 evaluations with one stop policy, beside one fit and one reading of JSON. I/O.

    OMP_NUM_THREADS=1 python bench/forecast/bench_assess.py

An assessment matches forecasts with evaluations, builds the status and decides the stop policy. The reading of JSON is
what it would cost on top if the forecasts in memory were text.
"""

import json
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable

from bench_fit import paper_points

from scalerl_api import RLRun, parse_run
from scalerl_api.wire import EvalPoint
from scalerl_operator.decide.assessment import forecast_points, summarize
from scalerl_operator.forecast import from_json, to_json
from scalerl_operator.run.forecast_log import ForecastLine

REPEATS = 9
POLICY = {"name": "ceiling", "when": {"ceilingUpper": {"below": 0.9}}, "for": 3}
RUN = {
    "apiVersion": "scalerl.io/v1alpha1",
    "kind": "RLRun",
    "metadata": {"name": "bench"},
    "spec": {
        "model": {"source": "scratch", "scratch": {}, "dtype": "float32"},
        "warmStart": {"source": "reasoning_gym:chain_sum", "steps": 30},
        "data": {
            "train": {"source": "reasoning_gym:chain_sum", "size": 5000},
            "heldOut": {"prompts": 1000, "samplesPerPrompt": 16},
            "promptFormat": "plain",
        },
        "reward": {"verifier": "reasoning_gym"},
        "budget": {"steps": 7500, "evalEverySteps": 100},
        "stopPolicies": [POLICY],
    },
}


def paper_evals() -> list[EvalPoint]:
    """Return the points of the paper's long run as a coordinator reports them."""
    curve = paper_points()
    return [
        EvalPoint(
            index=index,
            step=100 * (index + 1),
            version=100 * (index + 1),
            compute_gpu_hours=float(compute),
            pass_rate=float(pass_rate),
            standard_error=0.004,
            prompts=1000,
            samples=16,
        )
        for index, (compute, pass_rate) in enumerate(zip(curve.compute, curve.pass_rate, strict=True))
    ]


def median_ms(work: Callable[[], object]) -> float:
    """Return the median time of `work` in milliseconds."""
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds) * 1e3


def memory_kib(work: Callable[[], object]) -> float:
    """Return the memory that the result of `work` keeps, in KiB."""
    tracemalloc.start()
    kept = work()
    size = tracemalloc.get_traced_memory()[0] / 1024
    tracemalloc.stop()
    assert kept is not None
    return size


def report(run: RLRun, evals: list[EvalPoint], lines: list[ForecastLine]) -> None:
    """Print the table."""
    texts = [json.dumps(to_json(each.forecast)) for each in lines]
    rows = [
        ("one fit of all points, ms", median_ms(lambda: forecast_points(run, evals, None, 0.0))),
        ("reading the forecasts from JSON, ms", median_ms(lambda: [from_json(json.loads(each)) for each in texts])),
        ("assessment, ms", median_ms(lambda: summarize(run, lines, evals))),
        ("forecasts as JSON, KiB", sum(map(len, texts)) / 1024),
        ("forecasts with draws, KiB", memory_kib(lambda: [from_json(json.loads(each)) for each in texts])),
        ("forecasts without draws, KiB", memory_kib(lambda: [_light(each) for each in texts])),
    ]
    print(f"{len(lines)} evaluations")
    for name, value in rows:
        print(f"{name:38s} {value:10.2f}")


def _light(text: str) -> ForecastLine:
    return ForecastLine(0.0, 0, 0.0, None, from_json(json.loads(text))).without_draws()


def main() -> int:
    """Fit every prefix once, then measure."""
    run, evals = parse_run(RUN), paper_evals()
    lines = [forecast_points(run, evals[:count], None, 0.0) for count in range(1, len(evals) + 1)]
    report(run, evals, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
