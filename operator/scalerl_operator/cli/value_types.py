"""Types of the values on the command line: files, counts, numbers in a range, URLs. PURE."""

from pathlib import Path
from urllib.parse import urlsplit

import click

FILE = click.Path(path_type=Path, readable=False)  # a file that cannot be read is the command's error
COUNT = click.IntRange(min=0)
AT_LEAST_ONE = click.IntRange(min=1)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")  # in no range


def parse_positive(text: str) -> float:
    """Return a finite number above 0. Raises BadParameter."""
    value = _number(text)
    if not 0.0 < value < float("inf"):
        raise click.BadParameter(f"{text} is not a number above 0")
    return value


def parse_share(text: str) -> float:
    """Return a number in [0, 1]. Raises BadParameter."""
    value = _number(text)
    if not 0.0 <= value <= 1.0:
        raise click.BadParameter(f"{text} is not in [0, 1]")
    return value


def parse_share_above_zero(text: str) -> float:
    """Return a number in (0, 1]. Raises BadParameter."""
    value = parse_share(text)
    if value == 0.0:
        raise click.BadParameter(f"{text} is not above 0")
    return value


def parse_url(text: str) -> str:
    """Return a server's URL, the part before /api. Raises BadParameter."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise click.BadParameter(f"{text} is not http://HOST[:PORT][/PATH] or https://...")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise click.BadParameter("a URL without user, query and fragment is needed; store the token in a file")
    return text.rstrip("/")
