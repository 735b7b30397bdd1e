"""Writes text of the `scalerl` command to its streams. I/O."""

import sys


def write_out(text: str) -> None:
    """Write `text` to stdout at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def write_error(line: str) -> None:
    """Write a line to stderr at once."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
