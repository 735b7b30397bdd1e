"""Finds the model that `spec.model.source` names, and checks that its folder is whole. I/O.

The coordinator resolves it before anything is started; then each trainer rank and each engine, which may be on another
node, finds it by the same function. So a wrong source has one message, and no process retries it.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalerl_api.addresses import (
    HF,
    MODEL_ADDRESSES,
    SPLIT,
    HubName,
    is_in_bucket,
    is_path_like,
    parse_hub_model,
    show_address,
    to_plain_path,
)
from scalerl_api.validation import Fault, InvalidRun
from scalerl_runtime.hub import CONTENT_ERRORS, first_line, is_offline, is_transient
from scalerl_runtime.models.weight_files import find_weight_fault
from scalerl_runtime.remote.bucket_models import MODEL_FILES, SAFETENSORS, TORCH_BINARY, fetch_model, pin
from scalerl_runtime.remote.faults import RemoteFault, RemoteUnavailable

FIELD = "spec.model.source"
CONFIG = "config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer_config.json",
)
PROBE = "What is 12 + 3?"
TOKEN = "HF_TOKEN, on a cluster by spec.secrets.hubToken"
OTHER_FORMS = "a folder of this machine, a hub id such as org/name, or scratch"


class ModelUnavailable(RuntimeError):
    """A model could not be fetched; the spec may be right, so a later start may succeed."""


@dataclass(frozen=True)
class LocatedModel:
    """A model that was found."""

    folder: Path
    name: str
    """By which every process resolves it to the same content, since other nodes have caches of their own."""


def find_model(source: str, *, endpoint: str | None = None) -> Path:
    """Return the folder of the model `source`: a folder, a hub id, or an address.

    A hub model is downloaded into the hub's cache, that of a bucket into the cache of the node.
    `endpoint`: address of the hub; None: the environment's. Raises InvalidRun, ModelUnavailable.
    """
    if is_path(source):
        return _find_folder(to_plain_path(source))
    if is_in_bucket(source) and MODEL_ADDRESSES.fits(source):
        return _fetch(source)
    name = parse_hub_model(source)
    if name is not None:
        return _download(source, name, endpoint)
    raise InvalidRun([Fault(FIELD, show_address(source), f"{OTHER_FORMS}; or {MODEL_ADDRESSES.allowed}")])


def resolve_model(source: str, *, endpoint: str | None = None) -> Path:
    """Return the folder of `source` as `find_model`, with whole files. Raises InvalidRun, ModelUnavailable."""
    folder = find_model(source, endpoint=endpoint)
    check_folder(folder, source)
    return folder


def find_at_hand(source: str) -> Path | None:
    """Return the folder of `source` if its files are here or whole in the hub's cache, else None; nothing is fetched.

    A model of a bucket counts as not here: whether the cache has its content, only the store can say.
    Raises InvalidRun for a folder that is no model's, ModelUnavailable.
    """
    if is_path(source):
        return resolve_model(source)
    name = parse_hub_model(source)
    if name is None:
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name.name, revision=name.revision, local_files_only=True))
        check_folder(folder, source)
    except (LocalEntryNotFoundError, HFValidationError, InvalidRun):  # absent, or fetched in part
        return None
    return folder


def locate_model(source: str) -> LocatedModel:
    """Resolve `source` and return its folder with the name for other processes. Raises as `resolve_model`."""
    folder = resolve_model(source)
    return LocatedModel(folder, _name_content(source, folder))


def _name_content(source: str, folder: Path) -> str:
    if is_path(source):
        return str(folder.absolute())
    if is_in_bucket(source):
        return pin(source, folder)
    name = parse_hub_model(source)
    is_snapshot = folder.parent.name == "snapshots"
    # A branch may move between the coordinator's look and another node's.
    return f"{HF}{SPLIT}{name.name}@{folder.name}" if name is not None and "/" in name.name and is_snapshot else source


def is_path(source: str) -> bool:
    """Whether `source` names a folder and not a hub id. A path that does not exist is still a path."""
    return is_path_like(source) or source.startswith("file:///") or (SPLIT not in source and Path(source).exists())


def _find_folder(source: str) -> Path:
    folder = Path(source).expanduser()
    try:
        if not folder.exists():
            near = "" if folder.is_absolute() else f" (looked for {folder.absolute()})"
            raise InvalidRun([Fault(FIELD, source, f"a folder that exists{near}")])
        if not folder.is_dir():
            raise InvalidRun(
                [Fault(FIELD, source, "a folder, not a file: the one with config.json, weights, tokenizer")]
            )
    except OSError as error:
        raise _refuse_or_retry(source, error) from error
    return folder


def check_folder(folder: Path, source: str) -> None:
    """Raise InvalidRun unless `folder` has a config, whole weights and a tokenizer. No tensor is read."""
    try:
        names = {path.name for path in folder.iterdir()}
        _read_config(folder, source, names)
        allowed = find_weight_fault(folder, names) or _find_tokenizer_fault(names)
    except OSError as error:
        raise _refuse_or_retry(source, error) from error
    if allowed is not None:
        raise InvalidRun([Fault(FIELD, source, allowed)])


def _read_config(folder: Path, source: str, names: set[str]) -> dict[str, Any]:
    allowed = "a model's folder: it has a config.json"
    if CONFIG not in names:
        if "adapter_config.json" in names:
            allowed = "a whole model: this folder has an adapter only; merge it into its base model first"
        elif any(name.endswith(".gguf") for name in names):
            allowed = "a Hugging Face folder with config.json and safetensors: GGUF weights cannot be trained"
        else:
            allowed = f"a folder with config.json; this one has {', '.join(sorted(names)[:5]) or 'no file'}"
        raise InvalidRun([Fault(FIELD, source, allowed)])
    try:
        config = json.loads((folder / CONFIG).read_bytes())
    except ValueError as error:
        raise InvalidRun([Fault(FIELD, source, f"a config.json that is JSON ({error})")]) from error
    if not isinstance(config, dict):
        raise InvalidRun([Fault(FIELD, source, "a config.json that holds an object")])
    return config


def _find_tokenizer_fault(names: set[str]) -> str | None:
    if names.isdisjoint(TOKENIZER_FILES):
        return "a folder with the model's tokenizer (tokenizer.json, or tokenizer.model), which has none of its files"
    return None


def vocab_size(folder: Path) -> int | None:
    """Return the rows of the model's embedding by its config; a token id beyond them ends an engine. None: unknown."""
    config = _read_config(folder, str(folder), {CONFIG})
    nested = config.get("text_config")
    for each in (config, nested if isinstance(nested, dict) else {}):
        if isinstance(size := each.get("vocab_size"), int):
            return size
    return None


def load_generation_eos(folder: Path) -> tuple[int, ...]:
    """Return the tokens that end a completion by the model's generation config; empty if it has none."""
    try:
        found = json.loads((folder / "generation_config.json").read_bytes()).get("eos_token_id")
    except (FileNotFoundError, ValueError, AttributeError):  # engine and trainer do not read it: no fault
        return ()
    listed = found if isinstance(found, list) else [found]
    return tuple(token for token in listed if isinstance(token, int))


def load_config(folder: Path, source: str) -> Any:
    """Return the configuration in `folder`; code that comes with a model is not run."""
    from transformers import CONFIG_MAPPING, AutoConfig

    with loading(source, "the configuration"):
        written = json.loads((folder / "config.json").read_bytes())
    kind = written.get("model_type")
    if written.get("auto_map") and kind not in CONFIG_MAPPING:
        found = f"{source}: model_type {kind!r} needs the model's own code (auto_map), which is not run"
        raise InvalidRun([Fault(FIELD, found, "an architecture that transformers itself has")])
    with loading(source, "the configuration"):
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=False)


def load_tokenizer(folder: Path, source: str) -> Any:
    """Return the tokenizer in `folder`. Raises InvalidRun if it cannot be loaded, or encodes text to nothing."""
    from transformers import AutoTokenizer

    with loading(source, "the tokenizer"):
        # Where tekken.json lies beside it transformers would take Mistral's own tokenizer, which has no chat template.
        whole = {"mistral_format": False} if (folder / "tokenizer.json").exists() else {}
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **whole)
        # Without its vocabulary some classes load as an empty tokenizer, without a word.
        tokens = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    if not tokens:
        raise InvalidRun([Fault(FIELD, source, f"a tokenizer that encodes text: this one has no token for {PROBE!r}")])
    return tokenizer


@contextmanager
def loading(source: str, part: str) -> Iterator[None]:
    """Raise InvalidRun for what the model's content causes in the block, ModelUnavailable for a full disk or the like.

    Errors of memory, devices and processes pass.
    """
    try:
        yield
    except InvalidRun:
        raise
    except CONTENT_ERRORS as error:
        if is_transient(error):
            raise ModelUnavailable(f"{FIELD}: {source}: {part} cannot be read now ({first_line(error)})") from error
        allowed = f"{part} must load: {type(error).__name__}: {first_line(error)}"
        raise InvalidRun([Fault(FIELD, source, allowed)]) from error


def _download(source: str, name: HubName, endpoint: str | None) -> Path:
    """Fetch `source` into the hub's cache; nothing is fetched twice. Raises InvalidRun, ModelUnavailable."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, XetDownloadError

    http_error: type[BaseException] = HfHubHTTPError.__bases__[
        0
    ]  # of the hub's HTTP library, which differs between its versions

    def fetch(weights: str) -> Path:
        patterns = [*MODEL_FILES, weights]
        found = snapshot_download(name.name, revision=name.revision, allow_patterns=patterns, endpoint=endpoint)
        return Path(found)

    try:
        folder = fetch(SAFETENSORS)
        if not any(folder.glob(SAFETENSORS)) and (folder / CONFIG).exists():
            folder = fetch(TORCH_BINARY)
    except LocalEntryNotFoundError as error:  # the hub's error for "no answer, and not in the cache"
        if is_offline(error):
            allowed = "a folder, or a model in the hub's cache, as HF_HUB_OFFLINE is set"
            raise InvalidRun([Fault(FIELD, source, allowed)]) from error
        if isinstance(error.__cause__, HfHubHTTPError):  # the hub answered
            raise _refuse_or_retry(source, error.__cause__) from error
        raise ModelUnavailable(
            f"{FIELD}: {source}: the hub does not answer ({first_line(error.__cause__ or error)}); "
            "a local folder needs no network"
        ) from error
    except (http_error, XetDownloadError, OSError, ValueError) as error:
        raise _refuse_or_retry(source, error) from error
    return folder


def _fetch(source: str) -> Path:
    """Fetch `source`, of a bucket, into the cache of the node. Raises InvalidRun, ModelUnavailable."""
    try:
        return fetch_model(source)
    except RemoteFault as error:
        raise InvalidRun([Fault(FIELD, source, str(error))]) from error
    except RemoteUnavailable as error:
        raise ModelUnavailable(f"{FIELD}: {source}: {error}") from error
    except OSError as error:
        raise _refuse_or_retry(source, error) from error


def _refuse_or_retry(source: str, error: BaseException) -> Exception:
    """Return the error to raise for `error`, met while the model was looked for."""
    if is_transient(error):
        what = "cannot be read now" if is_path(source) else "the hub does not answer, or the disk is full"
        return ModelUnavailable(f"{FIELD}: {source}: {what} ({first_line(error)})")
    return InvalidRun([Fault(FIELD, source, _name_refusal(error))])


def _name_refusal(error: BaseException) -> str:
    kinds = [kind.__name__ for kind in type(error).__mro__]
    status = getattr(getattr(error, "response", None), "status_code", None)
    words = first_line(error)
    if "GatedRepoError" in kinds:
        return f"a model that the token may read: accept its terms on the hub, and set {TOKEN} ({words})"
    if "RepositoryNotFoundError" in kinds:
        return f"a model that exists on the hub, or {TOKEN} for a private one; a folder starts with / or ./ ({words})"
    if "RevisionNotFoundError" in kinds:
        return f"a revision that exists ({words})"
    if status in (401, 403):
        return f"a model that the token may read: check {TOKEN} ({words})"
    if isinstance(error, PermissionError):
        return f"a folder that this process may read: {error.strerror}: {error.filename}"
    return f"a folder, or a model of the hub ({type(error).__name__}: {words})"
