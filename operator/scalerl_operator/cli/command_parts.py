"""Parts of the command line: a command with an epilog, options of a few kinds, the options that find a run. PURE."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from scalerl_operator.cli.options import Options
from scalerl_operator.cli.value_types import FILE

_EXCLUSIVE = (
    ("--stderr", "--completions"),
    ("--margin", "--replicates"),
    ("--wrong", "--right"),
    ("--step", "--best"),
    ("--device", "--cluster"),
)
SEVERAL = "--replicates"  # takes all values up to the next option; click takes one for each time that it is given

Parameters = list[click.Parameter]


class CliCommand(click.Command):
    """Adds to click's command: an epilog with its line breaks, exclusive options, an option with several values."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse `args` into the context. Raises UsageError."""
        rest = super().parse_args(ctx, _repeat_option(ctx, args))
        given = {name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
        for pair in _EXCLUSIVE:
            if {name.lstrip("-") for name in pair} <= given:
                raise click.UsageError(f"{pair[0]} and {pair[1]} exclude each other; give one of them", ctx)
        return rest

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the epilog as it is."""
        del ctx
        formatter.write(f"\n{self.epilog}")


def _repeat_option(context: click.Context, arguments: Sequence[str]) -> list[str]:
    """Return `--replicates a b` as `--replicates a --replicates b`. Raises UsageError if no value follows."""
    found: list[str] = []
    is_open = False
    for argument, following in pairwise([*arguments, "-"]):
        if argument == SEVERAL:
            is_open = True
            if following.startswith("-"):
                raise click.BadOptionUsage(SEVERAL, f"Option '{SEVERAL}' needs at least one value.", context)
        elif argument.startswith("-"):
            is_open = False
            found.append(argument)
        else:
            found += [SEVERAL, argument] if is_open else [argument]
    return found


def build_command(
    text: str, parameters: Parameters, build: Callable[..., Options], examples: str, *, name: str
) -> click.Command:
    """Return a command whose options `build` gets as keyword arguments."""
    return CliCommand(
        name,
        params=parameters,
        callback=build,
        help=f"{text[0].upper()}{text[1:]}.",
        short_help=text,
        epilog=f"Examples:\n{examples}",
    )


def path_option(*names: str, metavar: str | None = None, text: str) -> click.Option:
    """Return an option whose value is a path."""
    return click.Option(names, type=FILE, metavar=metavar, help=text)


def flag(*names: str, text: str) -> click.Option:
    """Return an option without a value."""
    return click.Option(names, is_flag=True, help=text)


def text_option(*names: str, metavar: str = "NAME", text: str) -> click.Option:
    """Return an option whose value is any text."""
    return click.Option(names, metavar=metavar, help=text)


def target_argument(*, required: bool, text: str) -> click.Argument:
    """Return the argument that names a run or is its folder."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        del context, parameter
        return [CompletionItem(incomplete, type="dir")]

    metavar = "NAME|FOLDER" if required else "[NAME|FOLDER]"
    return click.Argument(["target"], metavar=metavar, required=required, shell_complete=complete, help=text)


def location_options() -> Parameters:
    """Options that choose this machine or a cluster."""
    return [
        path_option("--runs", text="folder of this machine's runs (default: runs)"),
        text_option("-n", "--namespace", text="namespace of a cluster (default: the context's)"),
        text_option("--context", text="context of the kubeconfig (default: the current one)"),
    ]
