"""Names of columns in a spec: a column, or a template over several such as `{Body} {Question}`. PURE."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

# `{{` and `}}` stand for a brace, as in Python's format strings.
_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True)
class Piece:
    """A text as it is, then a column; the last piece of a template has none."""

    text: str
    column: str | None


def is_template(name: str) -> bool:
    """Whether `name` has braces; a column of that very name has precedence, which the reader of rows decides."""
    return "{" in name or "}" in name


def parse_template(template: str) -> tuple[Piece, ...]:
    """Return the pieces of a template. Raises ValueError for a brace without its partner or without a column."""
    pieces, text, end = [], "", 0
    for match in _PIECE.finditer(template):
        text += template[end : match.start()]
        end = match.end()
        if match[0] in ("{{", "}}"):
            text += match[0][0]
        elif match[1] is None:
            raise ValueError(f"a single {match[0]} at character {match.start() + 1}; write it twice to mean the brace")
        elif not match[1].strip():
            raise ValueError("a pair of braces without the name of a column")
        else:
            pieces.append(Piece(text, match[1].strip()))
            text = ""
    return (*pieces, Piece(text + template[end:], None))


def list_columns(name: str) -> Sequence[str]:
    """Return the columns that `name` reads: itself, or those of the template. Raises ValueError as `parse_template`."""
    if not is_template(name):
        return (name,)
    return tuple(piece.column for piece in parse_template(name) if piece.column is not None)
