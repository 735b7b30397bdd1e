"""Numbers of a finished run from its records: `bench/runtime/run_numbers.py runs/quickstart [--json FILE]`. I/O."""

import argparse
import json
from pathlib import Path

import numpy as np

QUANTILES = (0.5, 0.95)
SERIES = (
    ("weight_sync_seconds", "weight sync, total, s"),
    ("weight_stall_seconds", "weight sync, engine stall, s"),
    ("weight_gather_seconds", "weight sync, trainer waits, s"),
    ("step_seconds", "step, s"),
    ("train_seconds", "training in a step, s"),
    ("trainer_tokens_per_second", "trainer, packed tokens/s"),
    ("generator_tokens_per_second", "generator, sampled tokens/s"),
    ("lag_mean", "mean token lag, steps"),
    ("mismatch_kl", "generator to trainer KL, nats"),
)


def measure(folder: Path) -> dict[str, dict[str, float]]:
    """Median and 95th percentile of each series over the run's steps; the last step's idle shares."""
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = {}
    for name, _ in SERIES:
        values = [step["values"][name] for step in steps if name in step["values"]]
        p50, p95 = np.quantile(values, QUANTILES)
        found[name] = {"p50": float(p50), "p95": float(p95), "steps": len(values)}
    last = steps[-1]
    for role in ("trainer", "generator"):
        found[f"idle_{role}"] = {"share": last["values"][f"idle_fraction_{role}"]}
    found["run"] = {"steps": last["step"], "seconds": last["time"] - steps[0]["time"]}
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = measure(arguments.folder)
    print(f"{'':36}{'p50':>12}{'p95':>12}")
    for name, title in SERIES:
        print(f"{title:36}{found[name]['p50']:12.4g}{found[name]['p95']:12.4g}")
    for role in ("trainer", "generator"):
        print(f"idle share, {role:24}{found[f'idle_{role}']['share']:12.3f}")
    print(f"{found['run']['steps']} steps in {found['run']['seconds']:.0f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
