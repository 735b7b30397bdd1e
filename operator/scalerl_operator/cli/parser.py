"""The command line of `scalerl`: one click command for each subcommand; parsing returns its options. PURE.

Only click is imported here, so that --help and shell completion answer at once.
"""

from collections.abc import Sequence
from typing import cast

import click

from scalerl_operator.cli.capacity.plan_parameters import build_plan_command
from scalerl_operator.cli.command_parts import (
    SEVERAL,
    Parameters,
    build_command,
    flag,
    location_options,
    path_option,
    target_argument,
    text_option,
)
from scalerl_operator.cli.options import (
    CompareOptions,
    CompletionOptions,
    ExportCommandOptions,
    FitOptions,
    LogsOptions,
    Options,
    PreflightOptions,
    ReportOptions,
    RolloutsOptions,
    RunOptions,
    StatusOptions,
    ValidateOptions,
)
from scalerl_operator.cli.value_types import (
    AT_LEAST_ONE,
    COUNT,
    FILE,
    parse_positive,
    parse_share,
    parse_url,
)
from scalerl_operator.controller.options import OperatorOptions

PROGRAM = "scalerl"
COMPLETION_VARIABLE = "_SCALERL_COMPLETE"
_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 120}
_DESCRIPTION = """\
Train with reinforcement learning, and know the ceiling before the budget is spent.

An RLRun is a YAML file. `scalerl run` trains it on this machine; `kubectl apply` trains the same file on a cluster.

status, report, rollouts and logs read a cluster if -n, -A or --context is given, and this machine if --runs is given.
Otherwise NAME is a run on this machine or, if this machine has no run of that name, a run on the cluster that kubectl
would use.
"""
_EPILOG = """\
Examples:
  scalerl validate run.yaml
  scalerl run run.yaml
  scalerl status

Exit codes:
  0    finished, or stopped by a policy
  1    the run failed, or the cluster denied the request
  2    the command line is wrong
  64   the spec is invalid; nothing was started
  75   try again: an outage around the run, no answer from a cluster, or a run folder that is in use
  130  interrupted (Ctrl-C); --resume continues the run
"""


class _CliGroup(click.Group):
    """The program: its commands in the order of use, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names."""
        del ctx
        return list(self.commands)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the epilog as it is."""
        del ctx
        formatter.write(f"\n{self.epilog}")


def parse_arguments(arguments: Sequence[str] | None = None) -> Options:
    """Return the options of the command in `arguments` (None: of this process).

    Raises SystemExit: 0 after --help or a shell's request for completions, 2 after printing what is wrong.
    """
    try:
        found = build_program().main(
            arguments, prog_name=PROGRAM, complete_var=COMPLETION_VARIABLE, standalone_mode=False
        )
    except click.ClickException as error:
        error.show()
        raise SystemExit(error.exit_code) from error
    if isinstance(found, int):  # --help
        raise SystemExit(found)
    return cast(Options, found)


def build_program() -> click.Group:
    """Return the whole command line."""
    commands = [
        _run(),
        _validate(),
        _preflight(),
        _status(),
        _report(),
        _rollouts(),
        _logs(),
        _export(),
        _fit(),
        _operator(),
        _compare(),
        build_plan_command(_columns(required=False)),
    ]
    return _CliGroup(
        name=PROGRAM,
        commands=[*commands, _completion()],
        help=_DESCRIPTION,
        epilog=_EPILOG,
        context_settings=_SETTINGS,
        subcommand_metavar="COMMAND ...",
    )


def _run() -> click.Command:
    examples = """\
  scalerl run examples/quickstart.yaml
  scalerl run examples/quickstart.yaml --resume          after a crash, Ctrl-C, or with a larger budget
  scalerl run run.yaml --folder /data/runs/first --quiet

Ctrl-C once saves a checkpoint and ends the run; twice kills it at once.
"""
    parameters: Parameters = [
        click.Argument(["file"], type=FILE, help="RLRun, a YAML file"),
        path_option("--folder", text="folder of its records (default: runs/<name>)"),
        flag("--resume", text="continue the run whose records are in the folder"),
        flag("--accept-new-data", text="with --resume: continue though data, tokenizer or model have changed"),
        flag("--quiet", text="print no progress, only the result"),
    ]
    return build_command("train an RLRun on this machine", parameters, RunOptions, examples, name="run")


def _validate() -> click.Command:
    examples = """\
  scalerl validate run.yaml
  scalerl validate examples/*.yaml --no-self-test    the specs and the models alone
  scalerl validate run.yaml --device H100            also whether it fits the memory of these GPUs
  scalerl validate run.yaml --cluster                also whether the cluster's nodes can hold its pods

Where model and data are on this machine, the verifiers are tried on the rows that the run's start tries. Nothing is
fetched.
"""
    files = click.Argument(["files"], type=FILE, metavar="FILE...", nargs=-1, required=True, help="RLRuns, YAML files")
    parameters: Parameters = [
        files,
        flag("--no-self-test", text="do not read the data and try the verifiers on it"),
        flag("--run-user-code", text="try functions (python:) and environments (env:) of your own too"),
        flag("--ask-judges", text="ask judges behind an URL (http:) one question each"),
        text_option("--device", text="refuse a run that does not fit this GPU, a name of the table in docs/plan.md"),
        flag("--cluster", text="refuse a run that the nodes of the cluster cannot hold, or whose memory does not fit"),
        text_option("--context", text="with --cluster: context of the kubeconfig (default: the current one)"),
        path_option("--devices", metavar="YAML", text="your own table of devices: see docs/plan.md"),
        path_option("--model-config", metavar="JSON", text="config.json of the runs' model, where it is not known"),
    ]
    text = "check RLRuns and print every fault, without starting a run"
    return build_command(text, parameters, ValidateOptions, examples, name="validate")


def _preflight() -> click.Command:
    text = "check this machine's devices and memory as the start of a run does; prints JSON"
    return build_command(text, [], PreflightOptions, "  scalerl preflight\n", name="preflight")


def _status() -> click.Command:
    examples = """\
  scalerl status                            the runs of this machine
  scalerl status quickstart                 one run in full
  scalerl status -n research                the runs in a namespace of a cluster
  scalerl status qwen -n research --watch   print it again after every change
"""
    output = click.Choice(["table", "yaml"])
    parameters = [
        target_argument(required=False, text="one run in full (default: all runs, one line each)"),
        click.Option(["--output", "-o"], type=output, default="table", help="yaml: the whole RLRun (default: table)"),
        flag("--watch", "-w", text="show one run of a cluster until it is over"),
        flag("--all-namespaces", "-A", text="the runs of all namespaces of a cluster"),
        *location_options(),
    ]
    return build_command(
        "show runs of this machine or of a cluster", parameters, StatusOptions, examples, name="status"
    )


def _report() -> click.Command:
    examples = "  scalerl report quickstart\n  scalerl report qwen -n research\n"
    folder = "folder to write to (default: the run's own folder; for a run of a cluster reports/NAMESPACE/NAME)"
    parameters = [
        target_argument(required=True, text="the run"),
        path_option("--folder", text=folder),
        *location_options(),
    ]
    return build_command("write a run's report.html and its plots", parameters, ReportOptions, examples, name="report")


def _rollouts() -> click.Command:
    examples = """\
  scalerl rollouts quickstart                          some completions of the newest step
  scalerl rollouts quickstart --eval --wrong           wrong ones of the newest evaluation
  scalerl rollouts quickstart --eval --prompt 17       one prompt over all evaluations
  scalerl rollouts quickstart --eval --prompts         pass rate of each prompt, the hardest first
  scalerl rollouts quickstart --step 12 --format json  all completions of a step, one JSON object a line
  scalerl rollouts mixture --source code --wrong       wrong ones of a source, in the newest step that has it
  scalerl rollouts qwen -n research --eval             of a run on a cluster, while its coordinator runs
"""
    parameters = [
        target_argument(required=True, text="the run"),
        click.Option(["--step"], type=COUNT, metavar="N", help="of this step (default: the newest; all with --prompt)"),
        flag("--eval", text="of evaluations, not of training"),
        text_option(
            "--dataset", text="evaluated set: held_out (default), or the name of a downstream set; implies --eval"
        ),
        click.Option(["--prompt"], type=COUNT, metavar="ID", help="of this prompt only"),
        text_option("--source", text="of this training source of a mixture (default: all)"),
        flag("--wrong", text="wrong completions only"),
        flag("--right", text="right completions only"),
        click.Option(["--limit"], type=AT_LEAST_ONE, metavar="N", help="at most N (default: 8; json: all)"),
        flag("--prompts", text="the pass rate of each prompt over the stored steps or evaluations"),
        flag("--full", text="long texts in full"),
        click.Option(["--format"], type=click.Choice(["text", "json"]), default="text", help="default: text"),
        *location_options(),
    ]
    text = "show a run's completions, or the pass rate of each prompt"
    return build_command(text, parameters, RolloutsOptions, examples, name="rollouts")


def _logs() -> click.Command:
    examples = """\
  scalerl logs quickstart
  scalerl logs qwen -n research --follow                       all pods, also those of later attempts
  scalerl logs qwen -n research --role trainer --index 0       the coordinator's pod only, without a prefix
  scalerl logs qwen -n research --role generator --previous    before their last restart
"""
    role = click.Choice(["trainer", "generator"])
    parameters = [
        target_argument(required=True, text="the run"),
        flag("--follow", "-f", text="follow the log until the run is over"),
        click.Option(["--tail"], type=COUNT, metavar="N", help="start at the last N lines (default: all)"),
        click.Option(["--role"], type=role, help="pods of one role (default: both)"),
        click.Option(["--index"], type=COUNT, metavar="N", help="pods of one index (default: all)"),
        flag("--previous", "-p", text="logs of pods' containers before their last restart"),
        flag("--timestamps", text="print the time before each line of a pod's log"),
        *location_options(),
    ]
    return build_command("print the output of a run's processes", parameters, LogsOptions, examples, name="logs")


def _export() -> click.Command:
    examples = """\
  scalerl export quickstart --to exported                        the newest checkpoint
  scalerl export quickstart --best --to exported                 the highest held-out pass rate
  scalerl export runs/quickstart/checkpoints/step-00000200 --to exported
  scalerl export quickstart --to hub:me/quickstart               token from HF_TOKEN, or of `hf auth login`
  scalerl export qwen -n research --to exported                  through a short-lived pod, which is deleted
  scalerl export qwen -n research --to hub:me/qwen --hub-token-secret hub     its key `token`
"""
    source = click.Argument(["target"], metavar="RUN|FOLDER", help="a run, a checkpoint, or an exported model")
    to = "a folder (new, empty, or an older export, which is replaced), or hub:OWNER/NAME (private if it is new)"
    image = "runtime image of the pod on a cluster (default: the one of the run's pods)"
    parameters = [
        source,
        click.Option(["--to"], required=True, metavar="FOLDER|hub:NAME", help=to),
        click.Option(["--step"], type=COUNT, metavar="N", help="checkpoint of step N (default: the newest)"),
        flag("--best", text="the evaluated weights with the highest held-out pass rate"),
        flag(
            "--merged", text="of a run with model.lora on this machine: a whole model, with the adapters in its weights"
        ),
        text_option("--hub-token-secret", text="Secret on the cluster whose key `token` is the hub's token"),
        text_option("--image", metavar="IMAGE", text=image),
        *location_options(),
    ]
    text = "write a checkpoint as a Hugging Face folder, with tokenizer and model card"
    return build_command(text, parameters, ExportCommandOptions, examples, name="export")


def _columns(*, required: bool = True) -> Parameters:
    completions = "prompts times samples behind each pass rate; its standard error is then binomial"
    return [
        click.Option(["--x"], required=required, metavar="COLUMN", help="compute, in any unit, at least 0"),
        click.Option(["--y"], required=required, metavar="COLUMN", help="pass rate, in [0, 1]"),
        text_option("--stderr", metavar="COLUMN", text="standard error of the pass rate over repeats"),
        click.Option(["--completions"], type=AT_LEAST_ONE, metavar="N", help=completions),
    ]


def _fit() -> click.Command:
    examples = """\
  scalerl fit curve.csv --x gpu_hours --y pass_rate --budget 100000
  scalerl fit curve.csv --x step --y acc --fit-until 500 --picture fit.png     judge the fit on the later points
  scalerl fit curve.csv --x step --y acc --completions 4000 --r0 0.12          1000 prompts x 4; chance level .12
"""
    start = "pass rate at the start, if known: chance level, or measured with many samples (default: fitted)"
    until = "fit the points up to X and judge the fit on the later ones"
    floor = click.Option(["--entropy-floor"], type=parse_positive, metavar="H", default=0.1, help="nats (default: 0.1)")
    parameters: Parameters = [
        click.Argument(["file"], type=FILE, metavar="CSV", help="with a header; lines that start with # are skipped"),
        *_columns(),
        click.Option(["--budget"], type=parse_positive, metavar="X", help="also predict the pass rate at this compute"),
        click.Option(["--target"], type=parse_share, metavar="Y", help="also predict the compute of this pass rate"),
        click.Option(["--r0"], type=parse_share, metavar="Y", help=start),
        text_option("--entropy", metavar="COLUMN", text="also predict when this entropy reaches its floor"),
        floor,
        click.Option(["--fit-until"], type=parse_positive, metavar="X", help=until),
        path_option("--picture", metavar="PNG", text="draw points, curve and band into this file"),
        path_option("--json", metavar="JSON", text="write the forecast into this file"),
    ]
    text = "forecast the ceiling of a learning curve in a CSV file"
    return build_command(text, parameters, FitOptions, examples, name="fit")


def _operator() -> click.Command:
    examples = (
        "  scalerl operator --image registry.example/scalerl-runtime:0.1.0 --token-key-file /etc/scalerl/token-key\n"
    )
    key = "file with a secret of at least 16 bytes, the same for all replicas"
    network = "NetworkPolicyPeers that may reach coordinators, and that runs may reach (default: no NetworkPolicy)"
    fetched = "fetched models and data"
    lease = "scalerl-operator"
    parameters: Parameters = [
        click.Option(["--image"], required=True, help="runtime image for pod templates that name none"),
        click.Option(["--token-key-file"], required=True, type=FILE, help=key),
        click.Option(["--namespace", "namespaces"], multiple=True, help="serve it; repeatable (default: all)"),
        click.Option(["--lease-namespace"], default="default", help="namespace of the lease (default: default)"),
        click.Option(["--lease-name"], default=lease, help=f"name of the lease (default: {lease})"),
        text_option("--identity", text="identity of this replica (default: host name and a random part)"),
        click.Option(["--http"], type=int, default=8081, metavar="PORT", help="health and metrics (default: 8081)"),
        click.Option(
            ["--poll-seconds"], type=parse_positive, metavar="S", default=10.0, help="poll period (default: 10)"
        ),
        click.Option(
            ["--prometheus-url"],
            type=parse_url,
            metavar="URL",
            help="queried for unreachable coordinators (default: none)",
        ),
        path_option("--prometheus-token-file", metavar="FILE", text="bearer token for it, read before every query"),
        path_option("--prometheus-ca-file", metavar="FILE", text="CA certificates for it (default: the system's)"),
        text_option("--network-policy", metavar='{"httpFrom": [..], "outside": [..]}', text=network),
        text_option("--cache-host-path", metavar="FOLDER", text=f"nodes' folder for {fetched} (default: runs' claims)"),
        text_option("--cache-claim", metavar="NAME", text=f"claim for {fetched}, in each run's namespace"),
    ]
    text = "run the Kubernetes operator (started by the chart)"
    return build_command(text, parameters, OperatorOptions, examples, name="operator")


def _compare() -> click.Command:
    examples = """\
  scalerl compare base.csv new_loss.csv --x gpu_hours --y pass_rate
  scalerl compare base.csv arm*.csv --x step --y acc --replicates base.csv again.csv --picture arms.png
  scalerl compare full.csv without_*.csv --x gpu_hours --y pass_rate

With the full recipe first and a run without each of its parts after it, this is the paper's leave-one-out table
(arXiv:2510.13786, A.8): ceilings within the margin are shared, and the runs ordered by B.
"""
    text = "compare learning curves with the first of them: by ceiling, then by efficiency"
    margin = "ceilings closer than this are equal (default: from the runs' own intervals, at least 0.02)"
    replicates = "runs of one recipe, at least one file; the margin is the spread of their ceilings"
    several = click.Option([SEVERAL], type=FILE, metavar="CSV...", multiple=True, help=replicates)
    parameters: Parameters = [
        _curves("one curve in each file; the first is the baseline"),
        *_columns(),
        click.Option(["--margin"], type=parse_positive, metavar="Y", help=margin),
        several,
        path_option("--picture", metavar="PNG", text="draw the curves and the linearised plot into this file"),
        path_option("--json", metavar="JSON", text="write the comparison into this file"),
    ]
    return build_command(text, parameters, CompareOptions, examples, name="compare")


def _curves(text: str) -> click.Argument:
    return click.Argument(["files"], type=FILE, metavar="CSV...", nargs=-1, required=True, help=text)


def _completion() -> click.Command:
    examples = """\
  eval "$(scalerl completion bash)"      in ~/.bashrc
  eval "$(scalerl completion zsh)"       in ~/.zshrc
  scalerl completion fish | source       in ~/.config/fish/config.fish
"""
    shell = click.Argument(["shell"], type=click.Choice(["bash", "zsh", "fish"]), help="the shell")
    text = "print the script that completes scalerl's commands and options in a shell"
    return build_command(text, [shell], CompletionOptions, examples, name="completion")
