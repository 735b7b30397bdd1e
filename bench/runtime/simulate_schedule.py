"""Idle shares and lag of simulated runs, before and after note 082: `bench/runtime/simulate_schedule.py`. I/O.

Minutes on one core. `--only NAME...` simulates some of the runs.
"""

import argparse

from schedule_model import FormerPool, Lengths, Scenario, Schedule, simulate

NARROW, WIDE = Lengths("lognormal", 9000, 0.5), Lengths("lognormal", 5000, 0.7)
CONSTANT, BIMODAL = Lengths("constant", 6000), Lengths("bimodal", 5000)
FLUID = (0.006, 0.00006)  # seconds of a decoding step, and more of it for each running sequence
# 16 engines unless the name gives another number; the trainer is the slower side down to the empty row.
SCENARIOS = {
    "lognormal .7, 5k; 10 ms; 35 s": Scenario(WIDE, 35, 0.010),
    "lognormal .7, 5k; 10 ms; 25 s": Scenario(WIDE, 25, 0.010),
    "lognormal .5, 9k; 14 ms; 50 s": Scenario(NARROW, 50, 0.014),
    "lognormal .7, 5k; fluid; 36 s": Scenario(WIDE, 36, *FLUID),
    "lognormal .7, 5k; fluid; 52 s": Scenario(WIDE, 52, *FLUID),
    "constant 6k; 10 ms; 50 s": Scenario(CONSTANT, 50, 0.010),
    "bimodal 1.7k and 14k; 10 ms; 50 s": Scenario(BIMODAL, 50, 0.010),
    "lognormal .7, 5k; fluid; 35 s; 8 engines": Scenario(WIDE, 35, *FLUID, engines=8),
    "lognormal .7, 5k; fluid; 35 s; 4 engines": Scenario(WIDE, 35, *FLUID, engines=4),
    "bimodal 1.7k and 14k; fluid; 35 s; 4 engines": Scenario(BIMODAL, 35, *FLUID, engines=4),
    "constant 6k; fluid; 35 s; 4 engines": Scenario(CONSTANT, 35, *FLUID, engines=4),
    "lognormal .7, 5k; 10 ms; 35 s; maxLag 2": Scenario(WIDE, 35, 0.010, max_lag=2),
}


def describe(found: Schedule) -> str:
    """Return the cells of one schedule."""
    return f"{found.step_seconds:.1f} | {found.trainer_idle:.2f} | {found.engine_load:.2f} | {found.lag_mean:.1f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SCENARIOS), default=list(SCENARIOS), metavar="NAME")
    cells = "s/step | idle trainer | running share | lag"
    print(f"| lengths; time of a token; of a step | before: {cells} | after: {cells} |\n|{'---|' * 9}")
    for name in parser.parse_args().only:
        before, after = simulate(SCENARIOS[name], FormerPool), simulate(SCENARIOS[name])
        print(f"| {name} | {describe(before)} | {describe(after)} |", flush=True)


if __name__ == "__main__":
    main()
