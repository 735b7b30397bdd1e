"""Writes docs/conditions.md: `python -m scalerl_operator.cli.conditions_page`. I/O."""

import sys

from scalerl_api.pages.generated_page import write_page
from scalerl_operator.run.conditions import build_page


def main() -> int:
    """Write the page; with --check, compare it only."""
    return write_page("docs/conditions.md", build_page)


if __name__ == "__main__":
    sys.exit(main())
