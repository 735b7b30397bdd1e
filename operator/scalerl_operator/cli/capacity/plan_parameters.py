"""The command line of `scalerl plan`. PURE."""

import click

from scalerl_operator.cli.command_parts import Parameters, build_command, flag, path_option, text_option
from scalerl_operator.cli.options import PlanOptions
from scalerl_operator.cli.value_types import FILE, parse_positive, parse_share, parse_share_above_zero


def _assumptions() -> Parameters:
    mean = "mean tokens of a completion (default: 40 % of the longest)"
    mfu = "MFU of the trainer (default: the device's, in docs/plan-time.md)"
    return [
        click.Option(["--mean-tokens"], type=parse_positive, metavar="N", help=mean),
        path_option("--like", metavar="FOLDER", text="take the lengths from this run's folder"),
        click.Option(["--mfu"], type=parse_share_above_zero, metavar="SHARE", help=mfu),
        click.Option(["--price"], type=parse_positive, metavar="X", help="price of a GPU-hour, in any currency"),
        flag("--calibrate", text="measure this machine's cores with the run's model first: two short runs"),
    ]


def build_plan_command(columns: Parameters) -> click.Command:
    """Return the command. `columns`: the options that name a curve's columns."""
    examples = """\
  scalerl plan run.yaml --device H100        what the run needs, and whether it fits
  scalerl plan pilot.csv --x gpu_hours --y pass_rate --budget 16000
  scalerl plan base.csv arm*.csv --x gpu_hours --y pass_rate --split 30000 --json plan.json
"""
    text = "plan a run's devices from its YAML file, or budgets from pilots' curves"
    width = "width of the ceiling's 90 % interval at which it counts as known (default: 0.1, as for Identified)"
    loss = "pass rate that an earlier stop may lose against the end of the budget (default: 0.01)"
    kinds = "RLRuns in YAML files, or CSV files with the points of one run so far in each"
    device = "GPU of all pods: a name of the table, in docs/plan.md (default: H100)"
    config = "config.json of the run's model, where neither this machine nor the table has it"
    split = "compute that all runs together may still spend, split for the largest sum of their pass rates"
    parameters: Parameters = [
        click.Argument(["files"], type=FILE, metavar="RUN.yaml|CSV...", nargs=-1, required=True, help=kinds),
        *columns,
        click.Option(["--width"], type=parse_share, metavar="Y", default=0.1, help=width),
        click.Option(["--budget"], type=parse_positive, metavar="X", help="compute at which each run would end"),
        click.Option(["--loss"], type=parse_share, metavar="Y", default=0.01, help=loss),
        click.Option(["--split"], type=parse_positive, metavar="X", help=split),
        text_option("--device", text=device),
        path_option("--devices", metavar="YAML", text="your own table of devices: see docs/plan.md"),
        path_option("--model-config", metavar="JSON", text=config),
        *_assumptions(),
        path_option("--json", metavar="JSON", text="write the plan into this file"),
    ]
    return build_command(text, parameters, PlanOptions, examples, name="plan")
