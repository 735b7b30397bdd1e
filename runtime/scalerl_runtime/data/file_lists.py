"""Finds the files of a source: one file, a folder of them, or a pattern. I/O."""

import glob
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scalerl_api.addresses import is_path_like

log = logging.getLogger(__name__)

KINDS: tuple[str, ...] = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
ZIPPED = ".gz"
# Data in a form that is not read. A folder with such a file is refused, because a part of it would be left out.
UNREADABLE: tuple[str, ...] = (
    ".arrow",
    ".avro",
    ".bz2",
    ".feather",
    ".h5",
    ".npz",
    ".orc",
    ".pickle",
    ".pkl",
    ".tar",
    ".tgz",
    ".xls",
)
UNREADABLE += (".xlsx", ".xz", ".zip", ".zst", ".gz", ".db", ".sqlite")
# Files about a data set, not of it, by their name without a suffix.
ABOUT = frozenset({"config", "dataset_dict", "dataset_info", "dataset_infos", "metadata", "readme", "schema", "state"})
SPLIT_WORDS = {"train": "train", "test": "test", "eval": "validation", "dev": "validation", "val": "validation"}
SPLIT_WORDS |= {"valid": "validation", "validation": "validation", "training": "train", "testing": "test"}
ALLOWED = "a .jsonl, .json, .csv, .tsv or .parquet file (each but the last also with .gz), a folder of them, a pattern"


class SourceFault(ValueError):
    """A source that cannot be read; the text says what is allowed."""


@dataclass(frozen=True)
class DataFile:
    """One file of a source."""

    path: Path
    kind: str  # one of KINDS
    is_zipped: bool
    address: str = ""  # where it was fetched from; empty: it lies here

    @property
    def label(self) -> str:
        """The file as messages name it."""
        return self.address or str(self.path)


def find_files(source: str) -> tuple[DataFile, ...] | None:
    """Return the files of `source` in order of their names; None if it is the id of a hub data set.

    Raises SourceFault for a path that is missing or cannot be read whole.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return select_folder([each for each in sorted(path.rglob("*")) if each.is_file()], path)
    if path.is_file():
        return (require_kind(path),)
    if is_pattern(source):
        return _list_matches(str(path))
    name = path.name.lower()
    if is_path_like(source) or path.exists() or name.endswith((*KINDS, *UNREADABLE, ".txt", ".yaml", ".yml")):
        missing = "" if path.exists() else "; this one does not exist"
        raise SourceFault(f"a file that exists: {ALLOWED}, or a hub id{missing}")
    return None


def is_pattern(source: str) -> bool:
    """Whether `source` has a mark that stands for several names."""
    return any(mark in source for mark in "*?[")


def get_kind(path: Path) -> DataFile | None:
    """Return the file with its kind by its suffixes; None if it is of no kind that can be read."""
    name = path.name.lower()
    is_zipped = name.endswith(ZIPPED)
    suffix = Path(name.removesuffix(ZIPPED) if is_zipped else name).suffix
    if suffix not in KINDS or (is_zipped and suffix == ".parquet"):
        return None
    return DataFile(path, suffix, is_zipped)


def require_kind(path: Path) -> DataFile:
    """Return the file with its kind. Raises SourceFault for one of no kind that can be read."""
    found = get_kind(path)
    if found is None:
        raise SourceFault(f"{ALLOWED}, or a hub id")
    return found


def select_folder(inside: Sequence[Path], folder: Path) -> tuple[DataFile, ...]:
    """Return the data among `inside`, files at any depth of `folder`. Raises SourceFault for a forbidden mixture."""
    shown = [path for path in inside if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    files = select_data(shown, str(folder))
    splits = {word for file in files for word in _find_splits(file.path.relative_to(folder))}
    if len(splits) > 1:
        raise SourceFault(
            f"files of one split; these are of {', '.join(sorted(splits))}: name one by a pattern, "
            f"such as {folder}/*{max(splits)}*"
        )
    return files


def _list_matches(pattern: str) -> tuple[DataFile, ...]:
    matches = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
    folders = [path for path in matches if path.is_dir()]
    if folders and "**" not in pattern:
        raise SourceFault(f"a pattern of files; {folders[0]} is a folder, whose files `**` in a pattern includes")
    files = [path for path in matches if path.is_file()]
    if not files:
        raise SourceFault("a pattern that a file matches")
    return select_data(files, pattern)


def select_data(paths: Sequence[Path], source: str) -> tuple[DataFile, ...]:
    """Return the files of data; files about them are left out, and data that cannot be read is refused."""
    files, left_out = [], []
    for path in paths:
        found = get_kind(path)
        is_about = found is not None and found.kind == ".json" and path.name.lower().split(".")[0] in ABOUT
        if found is not None and not is_about:
            files.append(found)
        elif found is None and path.name.lower().endswith(UNREADABLE):
            raise SourceFault(f"{ALLOWED}; {path.name} is of another kind")
        else:
            left_out.append(path.name)
    if not files:
        raise SourceFault(f"{ALLOWED}; no file in {source} is of these kinds")
    _check_kinds(files)
    if left_out:
        log.info("%s: %d files are not data and are left out: %s", source, len(left_out), ", ".join(left_out[:10]))
    return tuple(files)


def _check_kinds(files: Sequence[DataFile]) -> None:
    by_kind = {file.kind: file.path for file in files}
    if len(by_kind) > 1:
        names = " and ".join(path.name for path in by_kind.values())
        raise SourceFault(
            f"files of one kind; {names} are of several: name one kind by a pattern, such as *{files[0].kind}"
        )
    plain = {str(file.path) for file in files}
    for file in files:
        if file.is_zipped and str(file.path)[: -len(ZIPPED)] in plain:
            raise SourceFault(f"every file once; {file.path.name} is there with and without {ZIPPED}")


def _find_splits(path: Path) -> Iterable[str]:
    words = re.findall(r"[a-z]+", str(path).lower())
    return {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
