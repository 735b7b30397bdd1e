"""Writes a generated page of docs/, or checks that it is fresh. I/O."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def write_page(page: str, document: Callable[[], str], arguments: Sequence[str] | None = None) -> int:
    """Write `page` (a path), or with --check report whether it is stale; return the exit code.

    Args:
        arguments: of the command line; None: sys.argv.
    """
    parser = argparse.ArgumentParser(description=f"Write {page} from the code.")
    parser.add_argument("--check", action="store_true", help="exit 1 if the page is stale")
    parser.add_argument("--out", type=Path, default=Path(page))
    options = parser.parse_args(arguments)
    if options.check:
        fresh = options.out.exists() and options.out.read_text() == document()
        sys.stderr.write("" if fresh else f"{options.out} is stale; run `make generate`\n")
        return 0 if fresh else 1
    options.out.write_text(document())
    return 0
