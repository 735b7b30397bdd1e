"""The table of docs/models.md as data: each test rewrites its own columns of it, and keeps the others'. PURE."""

import math
from collections.abc import Mapping

FAMILY = "family"
TRAINER = ("class", "trainer", "log-prob. before", "after", "gradient")
ENGINE = ("engine before", "engine after")
COLUMNS = (FAMILY, *TRAINER, *ENGINE)
UNKNOWN = "–"  # not measured
START, END = "<!-- table: written by tests -->\n", "<!-- end of the table -->\n"

Table = dict[str, dict[str, str]]  # by family, by column


def read_table(page: str) -> Table:
    """Return the cells of the page's table."""
    lines = page[page.index(START) + len(START) : page.index(END)].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].strip("`"): dict(zip(COLUMNS[1:], row[1:], strict=True)) for row in rows}


def write_table(page: str, table: Table) -> str:
    """Return the page with `table` in the old one's place; a missing cell is UNKNOWN."""
    lines = [COLUMNS, tuple("---" for _ in COLUMNS)]
    lines += [
        (f"`{family}`", *(row.get(name, UNKNOWN) for name in COLUMNS[1:])) for family, row in sorted(table.items())
    ]
    text = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    return page[: page.index(START) + len(START)] + text + page[page.index(END) :]


def merge_columns(table: Table, measured: Mapping[str, Mapping[str, str]], columns: tuple[str, ...]) -> Table:
    """Return the table with the measured rows' `columns`; rows that are not measured lose theirs, and go if empty."""
    merged: Table = {}
    for family in {*table, *measured}:
        kept = {name: cell for name, cell in table.get(family, {}).items() if name not in columns}
        row = {**kept, **measured.get(family, {})}
        if any(cell != UNKNOWN for cell in row.values()):
            merged[family] = row
    return merged


def round_up(error: float, *, floor: float) -> str:
    """The next power of ten, so that the page is the same on every machine; below `floor` only that."""
    return f"< {floor:.0e}" if error < floor else f"{10.0 ** math.ceil(math.log10(error)):.0e}"
