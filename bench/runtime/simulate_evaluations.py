"""Evaluations beside training, before and after note 083: `bench/runtime/simulate_evaluations.py`. I/O.

The 8B run is a quarter of the paper's: prompts, held-out prompts and sequences of an engine divided by 4, with the same
ratios. Some minutes on one core. `--only NAME...` simulates some of the runs.
"""

import argparse
from dataclasses import replace

from eval_schedule import EvalScenario, EvalSchedule, simulate_evals, simulate_former_evals
from schedule_model import Lengths, Scenario

WIDE, SHORT = Lengths("lognormal", 5000, 0.7), Lengths("lognormal", 32, 0.35, limit=56)
FLUID = (0.006, 0.00024)  # seconds of a decoding step, and more of it for each running sequence, for a quarter of them
CPU = (0.006, 0.00018)
LARGE = Scenario(WIDE, 36, *FLUID, max_sequences=64, prompts_per_step=12, steps=200)  # 16 engines
SMALL = Scenario(
    SHORT, 0.35, *CPU, engines=1, prompts_per_step=24, completions=8, sync_seconds=0.1, steps=60, warmup_steps=0
)
PAPER, QUICKSTART = EvalScenario(LARGE, 250, 16, 100), EvalScenario(SMALL, 192, 4, 10)
SCENARIOS = {
    "8B, 16 engines, trainer of 36 s": PAPER,
    "8B, 8 engines, trainer of 36 s": replace(PAPER, run=replace(LARGE, engines=8)),
    "quickstart, 1 engine": QUICKSTART,
    "quickstart, 2 engines": replace(QUICKSTART, run=replace(SMALL, engines=2)),
}
SHARES = (0.25, 0.5)


def describe(found: EvalSchedule) -> str:
    """Return the cells of one schedule."""
    last = max(point.version_end - point.version for point in found.points)
    return (
        f"{found.step_seconds:.2f} | {found.trainer_idle:.2f} | {found.eval_seconds:.0f} | {found.evaluating:.2f} | "
        f"{found.whole_share:.2f} | {last}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SCENARIOS), default=list(SCENARIOS), metavar="NAME")
    print("| run | evaluations | s/step | idle trainer | s an evaluation | time with one | whole | most versions |")
    print(f"|{'---|' * 8}")
    for name in parser.parse_args().only:
        scenario = SCENARIOS[name]
        print(f"| {name} | half of one engine | {describe(simulate_former_evals(scenario))} |", flush=True)
        for share in SHARES:
            found = simulate_evals(replace(scenario, share=share))
            print(f"| {name} | evalShare {share:g} | {describe(found)} |", flush=True)


if __name__ == "__main__":
    main()
