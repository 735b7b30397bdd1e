"""The report's HTML: tables and inline pictures in one file that needs nothing else. PURE."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #111827; max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
.lead { color: #4b5563; margin: .3rem 0 1.2rem; }
.state { display: inline-block; padding: .1rem .6rem; border-radius: 1rem; background: #e5e7eb; font-size: .85rem; }
.facts { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1rem 0; }
.fact { border: 1px solid #e5e7eb; border-radius: .5rem; padding: .6rem 1rem; min-width: 9rem; }
.fact b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
.fact span { color: #6b7280; font-size: .82rem; }
img { width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #e5e7eb; vertical-align: top; }
th { color: #4b5563; font-weight: 600; }
pre { background: #f9fafb; border: 1px solid #e5e7eb; padding: .8rem; overflow: auto; font-size: .82rem; }
.scroll { max-height: 26rem; overflow: auto; }
"""


@dataclass(frozen=True)
class Table:
    """A table with its title."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG with its title, and what it says for a reader who cannot see it."""

    title: str
    png: bytes
    text: str


@dataclass(frozen=True)
class Page:
    """Everything the report says."""

    name: str
    state: str
    lead: str
    facts: Sequence[tuple[str, str]]
    """(label, value) of the numbers at the top."""
    parts: Sequence[Table | Picture]
    spec: str
    """The run's YAML."""


def build_page(page: Page) -> str:
    """Return the whole HTML document."""
    facts = "".join(
        f'<div class="fact"><b>{html.escape(value)}</b><span>{html.escape(label)}</span></div>'
        for label, value in page.facts
    )
    parts = "\n".join(_table(part) if isinstance(part, Table) else _picture(part) for part in page.parts)
    name = html.escape(page.name)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{name} · scalerl</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>{_STYLE}</style>\n</head>\n<body>\n'
        f'<h1>{name} <span class="state">{html.escape(page.state)}</span></h1>\n'
        f'<p class="lead">{html.escape(page.lead)}</p>\n<div class="facts">{facts}</div>\n{parts}\n'
        f"<details><summary>The RLRun</summary><pre>{html.escape(page.spec)}</pre></details>\n</body>\n</html>\n"
    )


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    return (
        f"<h2>{html.escape(picture.title)}</h2>\n"
        f'<img alt="{html.escape(picture.text, quote=True)}" src="data:image/png;base64,{data}">'
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.header)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>\n" for row in table.rows)
    note = f"<p>{html.escape(table.note)}</p>\n" if table.note else ""
    head = f"<thead><tr>{head}</tr></thead>" if any(table.header) else ""
    body = f'<div class="scroll"><table>{head}<tbody>\n{rows}</tbody></table></div>'
    return f"<h2>{html.escape(table.title)}</h2>\n{note}{body}"
