"""The report's HTML: one self-contained file with tables and inline pictures. PURE."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment, StrictUndefined

TEMPLATE_FILE = "report.html.j2"


@dataclass(frozen=True)
class Table:
    """A table with its title."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG with its title and its alternative text."""

    title: str
    png: bytes
    text: str


@dataclass(frozen=True)
class Page:
    """The content of the report."""

    name: str
    state: str
    lead: str
    facts: Sequence[tuple[str, str]]
    """(label, value) of the values at the top."""
    parts: Sequence[Table | Picture]
    spec: str
    """The run's YAML."""


def build_page(page: Page) -> str:
    """Return the whole HTML document; text of the page is escaped."""
    return _TEMPLATE.render(page=page)


def _is_picture(part: Table | Picture) -> bool:
    return isinstance(part, Picture)


def _encode(content: bytes) -> str:
    return base64.b64encode(content).decode()


_ENVIRONMENT = Environment(
    autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
)
_ENVIRONMENT.tests["picture"] = _is_picture
_ENVIRONMENT.filters |= {"any": any, "base64": _encode}
_TEMPLATE = _ENVIRONMENT.from_string(resources.files(__package__).joinpath(TEMPLATE_FILE).read_text(encoding="utf-8"))
