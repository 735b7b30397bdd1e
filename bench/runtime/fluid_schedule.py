"""The fluid formula of `scalerl plan` against the simulated pool: `bench/runtime/fluid_schedule.py`. I/O.

The simulation is that of `simulate_schedule.py`, with the product's own pool; the twelve runs are its runs.
`--evaluations` compares the time of an evaluation, and of a step beside it, with `simulate_evaluations.py`'s runs.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from eval_schedule import EvalScenario, simulate_evals
from schedule_model import Scenario, simulate
from simulate_evaluations import SCENARIOS as EVALUATIONS
from simulate_evaluations import SHARES
from simulate_schedule import SCENARIOS

from scalerl_operator.capacity.lengths import Lengths, measured_lengths
from scalerl_operator.capacity.run_time import EvalTime, mean_step_seconds, time_evaluation
from scalerl_operator.capacity.schedule import Demand, StepTime, Supply, time_step

DRAWS = 20_000


def describe_lengths(scenario: Scenario) -> Lengths:
    """Return the grid of a scenario's lengths, from draws of its own generator."""
    rng = np.random.default_rng(0)
    return measured_lengths([scenario.lengths.draw(rng) for _ in range(DRAWS)], 0.0, "drawn")


def describe_sides(scenario: Scenario) -> tuple[Demand, Supply]:
    """Return what a step of a scenario needs, and what trainer and engines do."""
    asynchrony = scenario.recipe.asynchrony
    demand = Demand(scenario.prompts_per_step, scenario.completions, asynchrony, describe_lengths(scenario))
    supply = Supply(
        engines=scenario.engines,
        max_sequences=scenario.max_sequences,
        token_seconds=lambda running: scenario.base_seconds + scenario.slope_seconds * running,
        train_seconds=scenario.train_seconds,
        sync_seconds=scenario.sync_seconds,
    )
    return demand, supply


def plan(scenario: Scenario) -> StepTime:
    """Return what the formula says of a scenario."""
    return time_step(*describe_sides(scenario))


def plan_evaluation(scenario: EvalScenario) -> tuple[EvalTime, float]:
    """Return what the formula says of a scenario's evaluations, and the mean seconds of a step."""
    demand, supply = describe_sides(scenario.run)
    evaluation = time_evaluation(scenario.spec, demand, supply)
    return evaluation, mean_step_seconds(time_step(demand, supply), evaluation, scenario.every_steps)


def print_steps(names: Sequence[str]) -> None:
    """Print the table of steps."""
    print(f"| run | simulated s/step | formula | error | limit | idle trainer: simulated | formula |\n|{'---|' * 7}")
    for name in names:
        found, planned = simulate(SCENARIOS[name]), plan(SCENARIOS[name])
        error = planned.seconds / found.step_seconds - 1
        print(
            f"| {name} | {found.step_seconds:.1f} | {planned.seconds:.1f} | {error:+.1%} | {planned.limit} "
            f"| {found.trainer_idle:.2f} | {planned.trainer_idle:.2f} |",
            flush=True,
        )


def print_evaluations() -> None:
    """Print the table of evaluations."""
    columns = "run | evalShare | engines | s an evaluation: simulated | formula | error | s/step: simulated | formula"
    print(f"| {columns} | error |\n|{'---|' * 9}")
    for name, scenario in EVALUATIONS.items():
        for share in SHARES:
            scenario = replace(scenario, share=share)
            found, (evaluation, step) = simulate_evals(scenario), plan_evaluation(scenario)
            seconds = min(evaluation.seconds, evaluation.limit_seconds)
            print(
                f"| {name} | {share:g} | {evaluation.engines} | {found.eval_seconds:.1f} | {seconds:.1f} "
                f"| {seconds / found.eval_seconds - 1:+.0%} | {found.step_seconds:.2f} | {step:.2f} "
                f"| {step / found.step_seconds - 1:+.0%} |",
                flush=True,
            )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SCENARIOS), default=list(SCENARIOS), metavar="NAME")
    parser.add_argument("--evaluations", action="store_true", help="of evaluations instead of steps")
    options = parser.parse_args()
    if options.evaluations:
        print_evaluations()
    else:
        print_steps(options.only)


if __name__ == "__main__":
    main()
