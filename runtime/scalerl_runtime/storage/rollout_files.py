"""The parquet files of a run's completions: written whole, bounded in size, sparser with age. I/O.

Pure functions decide which files to remove. A file is written under another name, synced and renamed, so a reader or a
resumed run finds it whole or not at all.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scalerl_api.rollouts import Rollout, RolloutFileName, parse_name
from scalerl_runtime.storage.sync import sync_path

UNFINISHED = ".part"
MAX_FILES = 4096  # steps, however small: a reader lists the folder
PART_SHARE = 8  # one step, or all sets of one evaluation, take at most this part of the bound
EVAL_SHARE = 2  # all evaluations take at most this part of the bound
ROWS_READ = 256  # at once, where a file is written again with fewer prompts
DICTIONARY_COLUMNS = ["dataset", "prompt", "reference", "finish"]  # few values: each text is stored once
DICTIONARY_BYTES = 64 * 2**20


class RolloutsNotStored(OSError):
    """A file of completions could not be written; the run goes on without it."""


@dataclass(frozen=True)
class StoredStep:
    """A step, or an evaluation, and the bytes of its files."""

    step: int
    num_bytes: int


def plan_thinning(
    stored: Sequence[StoredStep], *, max_bytes: int, max_files: int, protect: Collection[int] = ()
) -> list[int]:
    """Return the steps to remove, in order, so that the others fit.

    The first and the newest stay, and all in `protect`. Of the others the one leaves whose neighbours are closest
    together relative to its age: what stays gets sparser with age. When only those that stay are left and do not fit,
    they leave from the oldest on, the newest excepted.
    """
    left = sorted(stored, key=lambda each: each.step)
    removed = []
    total = sum(each.num_bytes for each in left)
    while len(left) > 1 and (total > max_bytes or len(left) > max_files):
        newest = left[-1].step
        gaps = {
            index: (left[index + 1].step - left[index - 1].step) / (newest - left[index].step)
            for index in range(1, len(left) - 1)
            if left[index].step not in protect
        }
        index = min(gaps, key=lambda each: (gaps[each], each)) if gaps else 0
        total -= left[index].num_bytes
        removed.append(left.pop(index).step)
    return removed


def choose_prompts(prompt_ids: Collection[int], share: float, seed: int) -> set[int]:
    """Return about `share` of the prompts, at least one; a smaller share chooses a subset of a larger one."""
    draws = {prompt: np.random.default_rng([seed, 4, prompt]).random() for prompt in prompt_ids}
    chosen = {prompt for prompt, draw in draws.items() if draw < share}
    return chosen or {min(draws, key=lambda prompt: (draws[prompt], prompt))}


class RolloutWriter:
    """One file in progress; each `add` writes a row group. Used by one thread at a time."""

    def __init__(self, path: Path):
        """Open the unfinished file. Raises RolloutsNotStored."""
        import pyarrow.parquet as pq

        self.path = path
        self.part = path.with_name(f".{path.name}{UNFINISHED}")
        with _storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.part.open("wb")
            self._parquet = pq.ParquetWriter(
                self._file,
                build_schema(),
                compression="zstd",
                use_dictionary=DICTIONARY_COLUMNS,
                dictionary_pagesize_limit=DICTIONARY_BYTES,
            )

    def add(self, rows: Sequence[Rollout]) -> None:
        """Write rows. Raises RolloutsNotStored; the file is then removed."""
        import pyarrow as pa

        with _storing(self.path, self.abort):
            self._parquet.write_table(pa.Table.from_pylist([_to_dict(row) for row in rows], schema=build_schema()))

    def add_batch(self, batch: Any) -> None:
        """Write a record batch of another file of this kind. Raises RolloutsNotStored."""
        with _storing(self.path, self.abort):
            self._parquet.write_batch(batch)

    def finish(self) -> int:
        """Complete the unfinished file, sync it, return its bytes. Raises RolloutsNotStored."""
        with _storing(self.path, self.abort):
            self._parquet.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            return self.part.stat().st_size

    def abort(self) -> None:
        """Remove the unfinished file. Harmless when repeated."""
        for close in (self._parquet.close, self._file.close):
            with suppress(OSError, ValueError):  # the footer of a full disk, a closed file
                close()
        with suppress(OSError):
            self.part.unlink(missing_ok=True)


class RolloutStore:
    """The completions of one run. Used by one thread at a time."""

    def __init__(self, folder: Path, *, max_bytes: int, seed: int):
        self.folder = folder
        self.max_bytes = max_bytes
        self._seed = seed
        self._sizes: dict[RolloutFileName, int] | None = None
        self._rates: dict[int, float] = {}  # held-out pass rate by step

    def save_step(self, step: int, rows: Sequence[Rollout]) -> None:
        """Write the file of a step, in place of one of an earlier attempt. Raises RolloutsNotStored."""
        writer = RolloutWriter(self.folder / str(RolloutFileName(step)))
        writer.add(rows)
        self._commit(writer, self.max_bytes // PART_SHARE)

    def open_eval(self, step: int, dataset: str) -> RolloutWriter:
        """Begin the file of an evaluation; `save_eval` completes it. Raises RolloutsNotStored."""
        return RolloutWriter(self.folder / str(RolloutFileName(step, dataset)))

    def save_eval(self, writer: RolloutWriter, num_sets: int) -> None:
        """Complete the file of one of an evaluation's `num_sets` sets. Raises RolloutsNotStored."""
        self._commit(writer, self.max_bytes // PART_SHARE // num_sets)

    def note_rate(self, step: int, pass_rate: float) -> None:
        """Record the held-out pass rate of an evaluation: the files of the best one are kept."""
        self._rates[step] = pass_rate

    def resume(self, step: int, evaluated: Mapping[int, float]) -> None:
        """Remove what a run that resumes at `step` repeats: later steps, and evaluations that are not recorded.

        Args:
            step: the checkpoint's; -1 for a new run.
            evaluated: held-out pass rate by step of the recorded evaluations.
        """
        self._rates = dict(evaluated)
        with _storing(self.folder):
            for path in self.folder.glob(f".*{UNFINISHED}"):
                path.unlink(missing_ok=True)
            for name in list(self._load_sizes()):
                repeated = name.step > step if name.dataset is None else name.step not in evaluated
                if repeated:
                    self._remove(name)

    def _commit(self, writer: RolloutWriter, max_bytes: int) -> None:
        """Make a finished file visible, with fewer prompts if it is larger than `max_bytes`; then thin the folder."""
        num_bytes = writer.finish()
        share = 1.0
        while num_bytes > max_bytes:
            share *= min(0.7, 0.9 * max_bytes / num_bytes)
            writer, num_prompts = self._shrink(writer, share)
            num_bytes = writer.finish()
            if num_prompts == 1:
                break
        with _storing(writer.path, writer.abort):
            writer.part.replace(writer.path)
            sync_path(self.folder)
            name = parse_name(writer.path.name)
            assert name is not None, "the store names its files"
            self._load_sizes()[name] = num_bytes
            self._thin()

    def _shrink(self, full: RolloutWriter, share: float) -> tuple[RolloutWriter, int]:
        """Write an unfinished file again with a share of its prompts; return it and the number of prompts."""
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        larger = full.part.with_name(f"{full.part.name.removesuffix(UNFINISHED)}.large{UNFINISHED}")
        with _storing(full.path, full.abort):
            full.part.replace(larger)
        try:
            with _storing(full.path), pq.ParquetFile(larger) as source:
                ids = [batch["prompt_id"].to_pylist() for batch in source.iter_batches(columns=["prompt_id"])]
                chosen = choose_prompts({prompt for each in ids for prompt in each}, share, self._seed)
                smaller = RolloutWriter(full.path)
                for batch in source.iter_batches(ROWS_READ):
                    smaller.add_batch(batch.filter(pc.is_in(batch["prompt_id"], value_set=_ids(chosen))))
        finally:
            larger.unlink(missing_ok=True)
        return smaller, len(chosen)

    def _thin(self) -> None:
        sizes = self._load_sizes()
        evals = _by_step(sizes, lambda name: name.dataset is not None)
        best = max(self._rates, key=lambda step: (self._rates[step], -step), default=-1)
        half = self.max_bytes // EVAL_SHARE
        gone = set(plan_thinning(evals, max_bytes=half, max_files=MAX_FILES, protect={best}))
        left = self.max_bytes - sum(each.num_bytes for each in evals if each.step not in gone)
        steps = _by_step(sizes, lambda name: name.dataset is None)
        dropped = set(plan_thinning(steps, max_bytes=left, max_files=MAX_FILES))
        for name in list(sizes):
            if name.step in (dropped if name.dataset is None else gone):
                self._remove(name)

    def _remove(self, name: RolloutFileName) -> None:
        (self.folder / str(name)).unlink(missing_ok=True)
        self._load_sizes().pop(name, None)

    def _load_sizes(self) -> dict[RolloutFileName, int]:
        """Return the size of each file; the folder is read once."""
        if self._sizes is None:
            self._sizes = {}
            for path in self.folder.iterdir() if self.folder.exists() else ():
                name = parse_name(path.name)
                if name is not None:
                    self._sizes[name] = path.stat().st_size
        return self._sizes


def _by_step(sizes: Mapping[RolloutFileName, int], selects: Callable[[RolloutFileName], bool]) -> list[StoredStep]:
    steps: dict[int, int] = {}
    for name, num_bytes in sizes.items():
        if selects(name):
            steps[name.step] = steps.get(name.step, 0) + num_bytes
    return [StoredStep(step, num_bytes) for step, num_bytes in steps.items()]


def build_schema() -> Any:
    """Return the pyarrow schema of the files: one column for each field of Rollout."""
    import pyarrow as pa

    return pa.schema(
        [
            ("step", pa.int32()),
            ("dataset", pa.string()),
            ("attempt", pa.int32()),
            ("epoch", pa.int32()),
            ("prompt_id", pa.int64()),
            ("sample", pa.int32()),
            ("prompt", pa.string()),
            ("reference", pa.string()),
            ("completion", pa.string()),
            ("reward", pa.float64()),
            ("rewards", pa.map_(pa.string(), pa.float64())),
            ("excluded", pa.bool_()),
            ("advantage", pa.float64()),
            ("admitted_version", pa.int32()),
            ("version_min", pa.int32()),
            ("version_max", pa.int32()),
            ("lag", pa.int32()),
            ("finish", pa.string()),
            ("num_tokens", pa.int32()),
            ("forced_start", pa.int32()),
            ("forced_end", pa.int32()),
            ("forced_text_start", pa.int32()),
            ("forced_text_end", pa.int32()),
            ("turns", pa.int32()),
            ("tool_errors", pa.int32()),
            ("observations", pa.list_(pa.list_(pa.int32(), 2))),
            ("source", pa.string()),
            ("mean_logp", pa.float64()),
        ]
    )


def _to_dict(row: Rollout) -> dict[str, Any]:
    return {**vars(row), "rewards": list(row.rewards.items())}


def _ids(prompt_ids: Collection[int]) -> Any:
    import pyarrow as pa

    return pa.array(sorted(prompt_ids), pa.int64())


@contextmanager
def _storing(path: Path, undo: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Turn an error of the file system or of pyarrow into RolloutsNotStored, after `undo`."""
    import pyarrow as pa

    try:
        yield
    except RolloutsNotStored:
        raise
    except (OSError, pa.ArrowException) as error:
        undo()
        raise RolloutsNotStored(f"{path}: {type(error).__name__}: {error}") from error
