"""The fluid formula of `scalerl plan` against the simulated pool: `bench/runtime/fluid_schedule.py`. I/O.

The simulation is that of `simulate_schedule.py`, with the product's own pool; the twelve runs are its runs.
"""

import argparse

import numpy as np
from schedule_model import Scenario, simulate
from simulate_schedule import SCENARIOS

from scalerl_operator.capacity.lengths import Lengths, measured_lengths
from scalerl_operator.capacity.schedule import Demand, StepTime, Supply, time_step

DRAWS = 20_000


def describe_lengths(scenario: Scenario) -> Lengths:
    """Return the grid of a scenario's lengths, from draws of its own generator."""
    rng = np.random.default_rng(0)
    return measured_lengths([scenario.lengths.draw(rng) for _ in range(DRAWS)], 0.0, "drawn")


def plan(scenario: Scenario) -> StepTime:
    """Return what the formula says of a scenario."""
    recipe = scenario.recipe
    demand = Demand(scenario.prompts_per_step, scenario.completions, recipe.asynchrony, describe_lengths(scenario))
    supply = Supply(
        engines=scenario.engines,
        max_sequences=scenario.max_sequences,
        token_seconds=lambda running: scenario.base_seconds + scenario.slope_seconds * running,
        train_seconds=scenario.train_seconds,
        sync_seconds=scenario.sync_seconds,
    )
    return time_step(demand, supply)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SCENARIOS), default=list(SCENARIOS), metavar="NAME")
    print(f"| run | simulated s/step | formula | error | limit | idle trainer: simulated | formula |\n|{'---|' * 7}")
    for name in parser.parse_args().only:
        found, planned = simulate(SCENARIOS[name]), plan(SCENARIOS[name])
        error = planned.seconds / found.step_seconds - 1
        print(
            f"| {name} | {found.step_seconds:.1f} | {planned.seconds:.1f} | {error:+.1%} | {planned.limit} "
            f"| {found.trainer_idle:.2f} | {planned.trainer_idle:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
