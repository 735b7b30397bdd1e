"""A page of docs/ that the code writes: made anew, or compared with what is there. I/O."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path


def write_page(page: str, document: Callable[[], str]) -> int:
    """Write `page` (a path), or with --check on the command line say whether it is stale; return the exit code."""
    parser = argparse.ArgumentParser(description=f"Write {page} from the code.")
    parser.add_argument("--check", action="store_true", help="exit 1 if the page is stale")
    parser.add_argument("--out", type=Path, default=Path(page))
    arguments = parser.parse_args()
    if arguments.check:
        fresh = arguments.out.exists() and arguments.out.read_text() == document()
        sys.stderr.write("" if fresh else f"{arguments.out} is stale; run `make generate`\n")
        return 0 if fresh else 1
    arguments.out.write_text(document())
    return 0
