"""The report's HTML: one self-contained file with tables and inline pictures. PURE."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Literal

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
class Excerpt:
    """One completion."""

    heading: str
    grade: Literal["right", "wrong", "none"]
    prompt: str
    segments: Sequence[tuple[str, bool]]
    """(text, whether the policy did not write it)."""


@dataclass(frozen=True)
class Excerpts:
    """Completions with their title."""

    title: str
    entries: Sequence[Excerpt]
    note: str = ""


@dataclass(frozen=True)
class Page:
    """The content of the report."""

    name: str
    state: str
    lead: str
    facts: Sequence[tuple[str, str]]
    """(label, value) of the values at the top."""
    parts: Sequence[Table | Picture | Excerpts]
    spec: str
    """The run's YAML."""


def build_page(page: Page) -> str:
    """Return the whole HTML document; text of the page is escaped."""
    return _TEMPLATE.render(page=page)


def _is_picture(part: Table | Picture | Excerpts) -> bool:
    return isinstance(part, Picture)


def _is_excerpts(part: Table | Picture | Excerpts) -> bool:
    return isinstance(part, Excerpts)


def _encode(content: bytes) -> str:
    return base64.b64encode(content).decode()


_ENVIRONMENT = Environment(
    autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
)
_ENVIRONMENT.tests |= {"picture": _is_picture, "excerpts": _is_excerpts}
_ENVIRONMENT.filters |= {"any": any, "base64": _encode}
_TEMPLATE = _ENVIRONMENT.from_string(resources.files(__package__).joinpath(TEMPLATE_FILE).read_text(encoding="utf-8"))
