"""Durable checkpoints: a manifest with checksums, an atomic rename, the previous one as a spare. I/O."""

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scalerl_runtime.storage.checkpoint_files import BLAKE2, FileEntry, digest_file, find_difference, written
from scalerl_runtime.storage.deepspeed_layout import OLD_PART
from scalerl_runtime.storage.shards import OPTIMIZER, WEIGHTS
from scalerl_runtime.storage.sync import sync_path
from scalerl_runtime.storage.trainer_state import RankPart, seal_parts
from scalerl_runtime.types import Completion, Episode, Experts, Group, Prompt

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
STATE = "state.json"
BUFFER = "buffer.npz"
MODEL_FILES = "model"  # config, tokenizer and spec: with them a checkpoint can become a model without its run
PREFIX = "step-"
UNFINISHED = ".part"
REPLACED = ".part-old"
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError)  # what a damaged manifest raises


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read."""


@dataclass(frozen=True)
class PendingEval:
    """An evaluation that was due but not yet recorded."""

    step: int
    compute_gpu_hours: float


@dataclass(frozen=True)
class RunState:
    """The coordinator's part of a checkpoint; the trainer's part is in the same folder."""

    step: int  # optimizer steps done
    warm_steps: int  # supervised steps done
    compute_gpu_hours: float
    consumed: int = 0  # groups taken by the trainer
    stream: dict[str, Any] = field(default_factory=dict)  # position in the prompts
    history: dict[str, Any] = field(default_factory=dict)  # pass rates
    kl: dict[str, Any] = field(default_factory=dict)  # KL controller
    in_flight: tuple[tuple[int, int], ...] = ()  # (epoch, prompt id) handed to generators and not finished
    num_evals: int = 0  # lines of evals.jsonl that belong to this state
    ledger_lines: int = 0
    pending_evals: tuple[PendingEval, ...] = ()
    rng: dict[str, Any] = field(default_factory=dict)
    fingerprint: dict[str, Any] = field(default_factory=dict)  # of data, tokenizer and model; empty: an older version's

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> "RunState":
        """From the JSON of `state.json`. Raises TypeError on a state of another layout."""
        return cls(
            **{
                **data,
                "in_flight": tuple((int(epoch), int(prompt)) for epoch, prompt in data["in_flight"]),
                "pending_evals": tuple(PendingEval(**item) for item in data["pending_evals"]),
            }
        )


class CheckpointStore:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, keep: int, model_files: Path | None = None):
        """`model_files`: folder whose files become part of every checkpoint; it may be missing."""
        self.folder = folder
        self.keep = keep
        self._model_files = model_files
        self._needed: list[Callable[[], frozenset[int]]] = []

    def keep_also(self, needed: Callable[[], frozenset[int]]) -> None:
        """Delete no checkpoint of a step that `needed` returns."""
        self._needed.append(needed)

    def begin(self, step: int) -> Path:
        """Make an empty folder for `step`; `latest` ignores it until `commit`."""
        path = self.folder / f"{PREFIX}{step:08d}{UNFINISHED}"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def commit(
        self,
        unfinished: Path,
        parts: Sequence[RankPart],
        state: RunState,
        buffer: Sequence[Group],
        protect: frozenset[int],
    ) -> Path:
        """Write the manifest, make the checkpoint visible in one rename, and delete those that are too old.

        Args:
            unfinished: from `begin`, with the trainer's part.
            parts: what each rank has written there.
            state: the coordinator's part.
            buffer: groups that are complete and not trained.
            protect: steps whose checkpoints are never deleted here: evaluations still need them.
        """
        if self._model_files is not None and self._model_files.is_dir():
            shutil.copytree(self._model_files, unfinished / MODEL_FILES, dirs_exist_ok=True)
        entries = seal_parts(unfinished, parts) if parts else {}
        with written(unfinished / STATE) as file:
            file.write(json.dumps(asdict(state)).encode())
        with (unfinished / BUFFER).open("wb") as raw:
            np.savez(raw, **groups_to_arrays(buffer))  # type: ignore[arg-type]  # numpy types only allow_pickle
        entries[STATE] = file.entry
        _write_manifest(unfinished, state.step, entries)
        final = unfinished.with_name(unfinished.name.removesuffix(UNFINISHED))
        old = final.with_name(final.name + REPLACED)
        shutil.rmtree(old, ignore_errors=True)
        if final.exists():  # the same step again: after a resume from an older one, or at the end of the run
            final.rename(old)
        unfinished.rename(final)
        sync_path(self.folder)
        shutil.rmtree(old, ignore_errors=True)
        self._prune(protect)
        return final

    def _restore_replaced(self) -> None:
        """Put a checkpoint back that was to be replaced when the process was killed."""
        for old in self.folder.glob(f"{PREFIX}*{REPLACED}"):
            final = old.with_name(old.name.removesuffix(REPLACED))
            if not final.exists():
                old.rename(final)

    def _prune(self, protect: frozenset[int]) -> None:
        kept = protect.union(*(needed() for needed in self._needed))
        for step in self.steps()[: -self.keep]:
            if step not in kept:
                shutil.rmtree(self.path(step))

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, ascending; checksums are not verified."""
        names = [p.name.removeprefix(PREFIX) for p in self.folder.glob(f"{PREFIX}*") if p.is_dir()]
        return sorted(int(name) for name in names if name.isdigit())

    def path(self, step: int) -> Path:
        """Folder of `step`."""
        return self.folder / f"{PREFIX}{step:08d}"

    def latest(self, before: int | None = None) -> Path | None:
        """The newest intact checkpoint, older than step `before`; damaged ones are logged and skipped.

        Of the trainer's large files only the sizes are compared: the ranks compare the rest (`find_damaged_part`).
        """
        self._restore_replaced()
        for step in reversed(self.steps()):
            if before is not None and step >= before:
                continue
            fault = find_damage(self.path(step), lambda name: not _is_trainers(name))
            if fault is None:
                return self.path(step)
            log.warning("checkpoint %s is damaged (%s); using the one before", self.path(step), fault)
        return None


def _write_manifest(folder: Path, step: int, known: Mapping[str, FileEntry]) -> None:
    """Write the entries of all files, those that are not `known` after a look at them: they are small."""
    files = dict(known)
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        name = str(path.relative_to(folder))
        if name not in files:
            files[name] = FileEntry(path.stat().st_size, digest_file(path))
            sync_path(path)
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_path(path)
    with written(folder / MANIFEST) as file:
        file.write(json.dumps({"step": step, "files": files}).encode())
    sync_path(folder)


def _is_trainers(name: str) -> bool:
    return name.startswith((f"{WEIGHTS}/", f"{OPTIMIZER}/", f"{OLD_PART}/"))


def find_damaged_part(path: Path, rank: int, num_ranks: int) -> str | None:
    """Compare a rank's share of the trainer's files at `path` with the manifest; return what differs, or None.

    The ranks compare in parallel, on their nodes; each file is one rank's.
    """
    try:
        names = sorted(name for name in _read_manifest(path) if _is_trainers(name))
    except UNREADABLE as error:
        return f"{MANIFEST}: {error}"
    mine = frozenset(names[rank::num_ranks])
    return find_damage(path, lambda name: name in mine)


def find_damage(path: Path, is_hashed: Callable[[str], bool] = lambda _name: True) -> str | None:
    """Compare the files at `path` with the manifest; return what differs, or None.

    The size of each file is compared, and the digest of those that `is_hashed`.
    """
    try:
        entries = _read_manifest(path)
    except UNREADABLE as error:
        return f"{MANIFEST}: {error}"
    for name, entry in entries.items():
        difference = find_difference(path / name, entry, hashed=is_hashed(name))
        if difference is not None:
            return f"{name} {difference}"
    return None


def _read_manifest(path: Path) -> dict[str, FileEntry]:
    """Raises one of UNREADABLE."""
    files = json.loads((path / MANIFEST).read_text())["files"]
    return {name: FileEntry(int(size), str(digest)) for name, (size, digest) in files.items()}


def digest_manifest(path: Path) -> str:
    """Return what identifies the checkpoint at `path`: its manifest has the digests of all its files."""
    return digest_file(path / MANIFEST, like=BLAKE2)


def load_state(path: Path) -> RunState:
    """The coordinator's part of a verified checkpoint. Raises CheckpointError."""
    try:
        return RunState.parse(json.loads((path / STATE).read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path / STATE}: {error}") from error


def load_buffer(path: Path, prompts: Mapping[int, Prompt]) -> list[Group]:
    """The groups that were complete and not trained, without those of prompts that are not in the data any more."""
    with np.load(path / BUFFER, allow_pickle=False) as arrays:
        groups, num_stored = groups_from_arrays(arrays, prompts), len(arrays["group"])
    if len(groups) < num_stored:
        log.warning("%d completed groups are left out: their prompts are not in the data", num_stored - len(groups))
    return groups


def groups_to_arrays(groups: Sequence[Group]) -> dict[str, NDArray[Any]]:
    """Flatten groups: a row per group, a row per completion, and all tokens end to end."""
    completions = [c for g in groups for c in g.completions]
    return {
        "group": np.array(
            [[g.prompt.id, g.epoch, g.admitted_version, len(g.completions)] for g in groups], dtype=np.int64
        ).reshape(-1, 4),
        "length": np.array([len(c.tokens) for c in completions], dtype=np.int64),
        "cut": np.array([c.finish == "length" for c in completions], dtype=np.bool_),
        "reward": np.array([np.nan if c.reward is None else c.reward for c in completions], dtype=np.float64),
        "text": np.array([json.dumps([c.text for c in completions])]),
        "by_judge": np.array([json.dumps([dict(c.by_judge) for c in completions])]),
        "tokens": _joined([c.tokens for c in completions], np.int32),
        "logps": _joined([c.logps for c in completions], np.float32),
        "versions": _joined([c.versions for c in completions], np.int32),
        "forced": _joined([c.forced for c in completions], np.bool_),
        **_join_experts([c.experts for c in completions]),
        "episode": np.array([json.dumps([None if c.episode is None else astuple(c.episode) for c in completions])]),
    }


def _join_experts(parts: Sequence[Experts | None]) -> dict[str, NDArray[Any]]:
    """The experts of all completions, and how many tokens of each have some; nothing if none has."""
    recorded = [part for part in parts if part is not None]
    if not recorded:
        return {}
    lengths = np.array([-1 if part is None else len(part) for part in parts], dtype=np.int64)
    return {"experts": np.concatenate(recorded), "experts_length": lengths}


def _split_experts(arrays: Mapping[str, NDArray[Any]], count: int) -> list[Experts | None]:
    """Inverse of `_join_experts`."""
    if "experts" not in arrays:
        return [None] * count
    lengths, joined = arrays["experts_length"], arrays["experts"]
    ends = np.cumsum(np.maximum(lengths, 0))
    return [None if n < 0 else joined[end - n : end] for n, end in zip(lengths, ends, strict=True)]


def groups_from_arrays(arrays: Mapping[str, NDArray[Any]], prompts: Mapping[int, Prompt]) -> list[Group]:
    """Inverse of `groups_to_arrays`; groups of other prompts than `prompts` are left out."""
    ends = np.cumsum(arrays["length"])
    texts = json.loads(str(arrays["text"][0]))
    # Checkpoints of older versions have no rewards by judge.
    by_judge = json.loads(str(arrays["by_judge"][0])) if "by_judge" in arrays else [{} for _ in ends]
    # A checkpoint that knew no episodes has none.
    episodes = json.loads(str(arrays["episode"][0])) if "episode" in arrays else [None] * len(texts)
    tokens, logps, versions, forced = (arrays[k] for k in ("tokens", "logps", "versions", "forced"))
    experts = _split_experts(arrays, len(ends))
    completions = []
    for index, end in enumerate(ends):
        part = slice(end - arrays["length"][index], end)
        reward = float(arrays["reward"][index])
        completions.append(
            Completion(
                tokens=tokens[part],
                logps=logps[part],
                versions=versions[part],
                forced=forced[part],
                finish="length" if arrays["cut"][index] else "stop",
                text=texts[index],
                reward=None if np.isnan(reward) else reward,
                experts=experts[index],
                by_judge=by_judge[index],
                episode=_parse_episode(episodes[index]),
            )
        )
    groups, start = [], 0
    for prompt_id, epoch, admitted, count in arrays["group"].tolist():
        if prompt_id in prompts:
            groups.append(Group(prompts[prompt_id], epoch, admitted, tuple(completions[start : start + count])))
        start += count
    return groups


def _parse_episode(stored: list[Any] | None) -> Episode | None:
    if stored is None:
        return None
    turns, errors, cut, observations = stored
    return Episode(turns, errors, cut, tuple((start, end) for start, end in observations))


def _joined(parts: list[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate(parts).astype(dtype) if parts else np.zeros(0, dtype)
