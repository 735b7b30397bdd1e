"""The entry point of `scalerl`. I/O.

Parsing comes first and imports click only: --help, shell completion and a wrong command line need nothing else.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from scalerl_operator.cli.parser import parse_arguments

if TYPE_CHECKING:
    from scalerl_operator.cli.commands import CliDeps


def main(arguments: Sequence[str] | None = None, *, deps: "CliDeps | None" = None) -> int:
    """Parse `arguments` (None: of this process), run the command, return the exit code.

    Raises SystemExit after --help, and with 2 for a wrong command line.
    """
    options = parse_arguments(arguments)
    from scalerl_operator.cli.commands import run_command

    return run_command(options, deps)
