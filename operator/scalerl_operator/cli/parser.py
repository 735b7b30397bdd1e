"""The command line of `scalerl`. PURE."""

import argparse
from pathlib import Path
from urllib.parse import urlsplit

_DESCRIPTION = """\
Train with reinforcement learning, and know the ceiling before the budget is spent.

An RLRun is a YAML file. `scalerl run` carries it out on this machine; the same file runs on a cluster with kubectl.

status, report and logs look on a cluster where -n, -A or --context is given, on this machine where --runs is given.
Else NAME is a run of this machine, or, if it has none of that name, of the cluster that kubectl would use.
"""
_EXIT_CODES = """\
exit codes:
  0    finished, or stopped by a policy
  1    the run failed, or a cluster forbids what was asked
  2    the command line is wrong
  64   the spec is wrong; nothing was started
  75   try again: the surroundings failed, a cluster does not answer, or the run is in use
  130  interrupted (Ctrl-C); --resume goes on
"""


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps examples as they are written."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; `command` names the subcommand."""
    parser = argparse.ArgumentParser(
        prog="scalerl",
        description=_DESCRIPTION,
        epilog="examples:\n  scalerl validate run.yaml\n  scalerl run run.yaml\n  scalerl status\n\n" + _EXIT_CODES,
        formatter_class=_HelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands)
    _add_validate(commands)
    _add_status(commands)
    _add_report(commands)
    _add_logs(commands)
    _add_fit(commands)
    _add_operator(commands)
    _add_compare(commands)
    _add_plan(commands)
    return parser


def _add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str, examples: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=f"examples:\n{examples}",
        formatter_class=_HelpFormatter,
    )


def _add_run(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    examples = """\
  scalerl run examples/quickstart.yaml
  scalerl run examples/quickstart.yaml --resume          after a crash, Ctrl-C, or with a larger budget
  scalerl run run.yaml --folder /data/runs/first --quiet

Ctrl-C once saves a checkpoint and ends the run; twice kills it at once.
"""
    parser = _add(commands, "run", "carry out an RLRun on this machine", examples)
    parser.add_argument("file", type=Path, metavar="FILE", help="the RLRun, a YAML file")
    parser.add_argument("--folder", type=Path, help="folder for its records (default: runs/<name>)")
    parser.add_argument("--resume", action="store_true", help="go on with the run whose records are in the folder")
    parser.add_argument("--quiet", action="store_true", help="show no progress, only how it ended")


def _add_validate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "check RLRuns and print every fault, without starting anything"
    parser = _add(commands, "validate", text, "  scalerl validate run.yaml\n  scalerl validate examples/*.yaml\n")
    parser.add_argument("files", type=Path, metavar="FILE", nargs="+", help="an RLRun, a YAML file")


def _add_place(parser: argparse.ArgumentParser) -> None:
    """Where a run is: on this machine or on a cluster."""
    parser.add_argument("--runs", type=Path, help="where this machine's runs lie (default: runs)")
    parser.add_argument("-n", "--namespace", help="of a cluster (default: the context's)")
    parser.add_argument("--context", help="of the kubeconfig (default: the current one)")


def _add_status(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    examples = """\
  scalerl status                            the runs of this machine
  scalerl status quickstart                 one run in full
  scalerl status -n research                the runs of a cluster's namespace
  scalerl status qwen -n research --watch   again whenever something has changed
"""
    parser = _add(commands, "status", "show runs, of this machine or of a cluster", examples)
    parser.add_argument("target", nargs="?", metavar="NAME|FOLDER", help="one run in full (default: all, a line each)")
    parser.add_argument("--output", "-o", choices=("table", "yaml"), default="table", help="yaml: the whole RLRun")
    parser.add_argument("--watch", "-w", action="store_true", help="show one run of a cluster until it is over")
    parser.add_argument("--all-namespaces", "-A", action="store_true", help="of a cluster")
    _add_place(parser)


def _add_report(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    examples = "  scalerl report quickstart\n  scalerl report qwen -n research\n"
    parser = _add(commands, "report", "write a run's report.html and its pictures anew", examples)
    parser.add_argument("target", metavar="NAME|FOLDER", help="the run")
    place = "where to write it (default: the run's own folder; for a cluster's run reports/NAMESPACE/NAME)"
    parser.add_argument("--folder", type=Path, help=place)
    _add_place(parser)


def _add_logs(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    examples = """\
  scalerl logs quickstart
  scalerl logs qwen -n research --follow                       all pods, also those of attempts to come
  scalerl logs qwen -n research --role trainer --index 0       the coordinator's alone, without a prefix
  scalerl logs qwen -n research --role generator --previous    before their last restart
"""
    parser = _add(commands, "logs", "print what a run's processes have written", examples)
    parser.add_argument("target", metavar="NAME|FOLDER", help="the run")
    parser.add_argument("--follow", "-f", action="store_true", help="go on until the run is over")
    parser.add_argument("--tail", type=_count, metavar="N", help="begin with the last N lines (default: all)")
    parser.add_argument("--role", choices=("trainer", "generator"), help="pods of one role (default: both)")
    parser.add_argument("--index", type=_count, metavar="N", help="pods of one index; trainer 0 leads (default: all)")
    parser.add_argument("--previous", "-p", action="store_true", help="of pods' containers before their last restart")
    parser.add_argument("--timestamps", action="store_true", help="put the time before each line of a pod's log")
    _add_place(parser)


def _add_fit(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    examples = """\
  scalerl fit curve.csv --x gpu_hours --y pass_rate --budget 100000
  scalerl fit curve.csv --x step --y acc --fit-until 500 --picture fit.png     judge the fit on what came later
  scalerl fit curve.csv --x step --y acc --completions 4000 --r0 0.12          1000 prompts x 4; chance level .12
"""
    parser = _add(commands, "fit", "forecast the ceiling of a learning curve in a CSV file", examples)
    parser.add_argument("file", type=Path, metavar="CSV", help="with a header; lines that begin with # are left out")
    _add_columns(parser)
    parser.add_argument("--budget", type=_positive, metavar="X", help="also predict the pass rate at this compute")
    parser.add_argument("--target", type=_share, metavar="Y", help="also predict the compute of this pass rate")
    start = "pass rate at the start, if it is known: chance level, or measured with many samples (default: fitted)"
    parser.add_argument("--r0", type=_share, metavar="Y", help=start)
    parser.add_argument("--entropy", metavar="COLUMN", help="also say when this entropy reaches its floor")
    parser.add_argument("--entropy-floor", type=_positive, metavar="H", default=0.1, help="nats (default: 0.1)")
    parser.add_argument("--fit-until", type=_positive, metavar="X", help="fit the points up to X, judge on the others")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="draw points, curve and band into this file")
    parser.add_argument("--json", type=Path, metavar="JSON", help="write the forecast into this file")


def _add_operator(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    examples = (
        "  scalerl operator --image registry.example/scalerl-runtime:0.1.0 --token-key-file /etc/scalerl/token-key\n"
    )
    parser = _add(commands, "operator", "run the Kubernetes operator (what the chart starts)", examples)
    parser.add_argument("--image", required=True, help="of the runtime, where a run's pod template names none")
    parser.add_argument("--token-key-file", required=True, type=Path, help="secret of at least 16 bytes, all replicas'")
    parser.add_argument("--namespace", action="append", default=[], help="serve this one, repeatable (default: all)")
    parser.add_argument("--lease-namespace", default="default", help="of the lease (default: default)")
    parser.add_argument("--lease-name", default="scalerl-operator", help="of the lease (default: scalerl-operator)")
    parser.add_argument("--identity", help="of this replica (default: host name and a random part)")
    parser.add_argument("--http", type=int, default=8081, metavar="PORT", help="health and metrics (default: 8081)")
    parser.add_argument(
        "--poll-seconds", type=_positive, default=10.0, help="between questions to a coordinator (default: 10)"
    )
    parser.add_argument(
        "--prometheus-url", type=_url, metavar="URL", help="asked about coordinators that do not answer (default: none)"
    )
    parser.add_argument("--prometheus-token-file", type=Path, metavar="FILE", help="its bearer token, read every time")
    parser.add_argument("--prometheus-ca-file", type=Path, metavar="FILE", help="whom to trust (default: the system's)")
    network = (
        "who may ask coordinators and what runs may reach, as NetworkPolicyPeers; without it no NetworkPolicy is made"
    )
    parser.add_argument("--network-policy", metavar='{"httpFrom": [..], "outside": [..]}', help=network)


def _add_columns(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--x", required=True, metavar="COLUMN", help="compute, in any unit, at least 0")
    parser.add_argument("--y", required=True, metavar="COLUMN", help="pass rate, in [0, 1]")
    errors = parser.add_mutually_exclusive_group()
    errors.add_argument("--stderr", metavar="COLUMN", help="standard error of the pass rate over repeats")
    completions = "prompts times samples behind each pass rate, whose standard error is then binomial"
    errors.add_argument("--completions", type=_at_least_one, metavar="N", help=completions)


def _add_compare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    examples = """\
  scalerl compare base.csv new_loss.csv --x gpu_hours --y pass_rate
  scalerl compare base.csv arm*.csv --x step --y acc --replicates base.csv again.csv --picture arms.png
  scalerl compare full.csv without_*.csv --x gpu_hours --y pass_rate

With the full recipe first and a run without each of its parts after it, this is the paper's leave-one-out table
(arXiv:2510.13786, A.8): ceilings within the margin are shared, and the runs ordered by B.
"""
    text = "compare learning curves with the first of them: by ceiling, then by efficiency"
    parser = _add(commands, "compare", text, examples)
    parser.add_argument("files", type=Path, metavar="CSV", nargs="+", help="one curve each; the first is the baseline")
    _add_columns(parser)
    margins = parser.add_mutually_exclusive_group()
    margin = "ceilings closer than this are the same (default: from the runs' own intervals, at least 0.02)"
    margins.add_argument("--margin", type=_positive, metavar="Y", help=margin)
    replicates = "runs of one recipe, whose ceilings' spread is the margin"
    margins.add_argument("--replicates", type=Path, metavar="CSV", nargs="+", help=replicates)
    parser.add_argument(
        "--picture", type=Path, metavar="PNG", help="draw curves and the linearised plot into this file"
    )
    parser.add_argument("--json", type=Path, metavar="JSON", help="write the comparison into this file")


def _add_plan(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    examples = """\
  scalerl plan pilot.csv --x gpu_hours --y pass_rate --budget 16000
  scalerl plan base.csv arm*.csv --x gpu_hours --y pass_rate --split 30000 --json plan.json
"""
    text = "plan from pilots: when a ceiling will be known, where to stop, how to split a budget"
    parser = _add(commands, "plan", text, examples)
    parser.add_argument("files", type=Path, metavar="CSV", nargs="+", help="the points of one run so far, each")
    _add_columns(parser)
    width = "of the ceiling's 90 %% interval, at which it counts as known (default: 0.1, as for Identified)"
    parser.add_argument("--width", type=_share, metavar="Y", default=0.1, help=width)
    parser.add_argument("--budget", type=_positive, metavar="X", help="compute at which each run would end")
    loss = "pass rate that may be lost against the budget's end by stopping before (default: 0.01)"
    parser.add_argument("--loss", type=_share, metavar="Y", default=0.01, help=loss)
    split = "compute that all runs together may still spend: split so that the sum of their pass rates is largest"
    parser.add_argument("--split", type=_positive, metavar="X", help=split)
    parser.add_argument("--json", type=Path, metavar="JSON", help="write the plan into this file")


def _positive(text: str) -> float:
    value = float(text)
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def _url(text: str) -> str:
    """Return a server's URL; what stands before /api."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise argparse.ArgumentTypeError(f"{text} is not http://HOST[:PORT][/PATH] or https://...")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise argparse.ArgumentTypeError("a URL without user, query and fragment is needed; a token goes into a file")
    return text.rstrip("/")


def _share(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1]")
    return value


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a whole number, at least 0")
    return int(text)


def _at_least_one(text: str) -> int:
    value = _count(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number, at least 1")
    return value
