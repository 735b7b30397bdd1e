"""Reads the stored completions of a run: the names in its folder, and rows of its files. I/O.

Texts may not fit into memory, so the small columns are read first, and then only the texts that are wanted.
"""

from collections.abc import Collection, Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from scalerl_api.rollouts import ROLLOUTS, Rollout, RolloutFileName, parse_name
from scalerl_operator.run.rollout_selection import RowKey

ROWS_READ = 256  # at once
_COLUMNS = [each.name for each in fields(Rollout)]
_NEEDED = {each.name for each in fields(Rollout) if each.default is MISSING and each.default_factory is MISSING}


class NoParquet(Exception):
    """The package that reads parquet is not installed."""

    def __init__(self) -> None:
        super().__init__("reading completions needs the package pyarrow: pip install 'scalerl[operator]'")


class UnreadableRollouts(Exception):
    """A file is damaged, or not one of a run's completions."""


def list_names(run: Path) -> list[RolloutFileName]:
    """Return the stored steps and evaluations of the run in folder `run`."""
    folder = run / ROLLOUTS
    found = (parse_name(path.name) for path in folder.iterdir()) if folder.is_dir() else ()
    return [name for name in found if name is not None]


def find_file(run: Path, name: RolloutFileName) -> Path:
    """Return the path of one file."""
    return run / ROLLOUTS / str(name)


def read_keys(path: Path, name: RolloutFileName) -> list[RowKey]:
    """Return place and grade of every completion. Raises NoParquet, UnreadableRollouts."""
    rows = _read(path, ["prompt_id", "sample", "reward", "source"])
    return [
        RowKey(name, index, row["prompt_id"], row["sample"], row["reward"], row.get("source") or "")
        for index, row in enumerate(rows)
    ]


def read_token_counts(path: Path) -> list[int]:
    """Return the tokens of every completion. Raises NoParquet, UnreadableRollouts."""
    return [row["num_tokens"] for row in _read(path, ["num_tokens"])]


def read_rows(path: Path, rows: Collection[int]) -> Iterator[tuple[int, Rollout]]:
    """Yield position and completion for some positions, ascending. Raises NoParquet, UnreadableRollouts."""
    wanted = frozenset(rows)
    return ((index, _to_rollout(row)) for index, row in enumerate(_read(path, _COLUMNS, wanted)) if row)


def read_prompts(path: Path) -> dict[int, str]:
    """Return the text of each prompt. Raises NoParquet, UnreadableRollouts."""
    return {row["prompt_id"]: row["prompt"] for row in _read(path, ["prompt_id", "prompt"])}


def _read(path: Path, columns: list[str], wanted: frozenset[int] | None = None) -> Iterator[dict[str, Any]]:
    """Yield each row as a dict; an empty one for rows that are not `wanted`."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise NoParquet from error
    try:
        with pq.ParquetFile(path) as file:
            known = [each for each in columns if each in file.schema_arrow.names]  # a later version may have others
            start = 0
            for batch in file.iter_batches(ROWS_READ, columns=known):
                inside = range(start, start + batch.num_rows)
                start += batch.num_rows
                if wanted is None or not wanted.isdisjoint(inside):
                    yield from (
                        row if wanted is None or index in wanted else {}
                        for index, row in zip(inside, batch.to_pylist(), strict=True)
                    )
                else:
                    yield from ({} for _ in inside)
    except (OSError, pa.ArrowException) as error:
        raise UnreadableRollouts(f"{path} cannot be read as completions: {error}") from error


def _to_rollout(row: dict[str, Any]) -> Rollout:
    missing = _NEEDED - row.keys()
    if missing:
        raise UnreadableRollouts(f"completions without the columns {', '.join(sorted(missing))}")
    spans = tuple((start, end) for start, end in row.get("observations") or ())
    return Rollout(**{**row, "rewards": dict(row.get("rewards") or ()), "observations": spans})
