"""Finds the config.json of a run's model: a file, a folder, the hub's cache, the table of models, the hub. I/O."""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from scalerl_api import Fault, InvalidRun, RLRun
from scalerl_api.addresses import HubName, parse_hub_model, to_plain_path
from scalerl_api.rlrun import SCRATCH, ScratchModel
from scalerl_operator.capacity.adapters import check_adapters
from scalerl_operator.capacity.config_fields import MODEL_PATH
from scalerl_operator.capacity.model_shape import ModelShape, parse_model
from scalerl_operator.capacity.published_models import find_published, scratch_config

HUB_SECONDS = 10.0
HUB = "https://huggingface.co"
Config = Mapping[str, object]


def find_shape(run: RLRun, config_file: Path | None, *, ask_hub: bool) -> ModelShape:
    """Return the sizes of the run's model.

    Args:
        run: of which `spec.model` is read.
        config_file: a config.json that the user names; it comes first.
        ask_hub: fetch the config.json of a hub id that is neither in the cache nor known.

    Raises:
        InvalidRun: the model is not known here, its config.json cannot be planned with, or it cannot have the adapters.
    """
    shape = _find_model(run, config_file, ask_hub=ask_hub)
    if run.spec.model.lora is not None:
        check_adapters(shape, run.spec.model.lora)
    return shape


def _find_model(run: RLRun, config_file: Path | None, *, ask_hub: bool) -> ModelShape:
    source = run.spec.model.source
    if config_file is not None:
        return parse_model(_read_config(config_file, "--model-config"), str(config_file))
    if source == SCRATCH:
        return parse_model(scratch_config(run.spec.model.scratch or ScratchModel()), SCRATCH)
    folder = Path(to_plain_path(source)).expanduser()
    if folder.is_dir():
        return parse_model(_read_config(folder / "config.json", MODEL_PATH), source)
    name = parse_hub_model(source)
    config = None if name is None else _find_config(name, ask_hub=ask_hub)
    if config is None:
        allowed = "a model that is known here, in the hub's cache, or given by --model-config config.json"
        raise InvalidRun([Fault(MODEL_PATH, f"{source}, whose sizes are not known here", allowed)])
    return parse_model(config, source)


def _find_config(name: HubName, *, ask_hub: bool) -> Config | None:
    cached = _find_cached(name)
    if cached is not None:
        return _read_config(cached, MODEL_PATH)
    return find_published(name.name) or (_fetch_config(name) if ask_hub else None)


def _read_config(path: Path, field: str) -> Config:
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise InvalidRun([Fault(field, str(path), f"a config.json that can be read ({error.strerror})")]) from error
    except ValueError as error:
        raise InvalidRun([Fault(field, str(path), f"a config.json that is JSON ({error})")]) from error
    if not isinstance(found, dict):
        raise InvalidRun([Fault(field, str(path), "a config.json that holds an object")])
    return found


def _find_cached(name: HubName) -> Path | None:
    """Return the config.json of a hub id in the hub's cache on this machine."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()
    model = cache / f"models--{name.name.replace('/', '--')}"
    try:
        commit = (model / "refs" / (name.revision or "main")).read_text().strip()
    except OSError:
        commit = name.revision or ""  # perhaps a commit
    path = model / "snapshots" / commit / "config.json"
    return path if commit and path.is_file() else None


def _fetch_config(name: HubName) -> Config | None:
    """Return the config.json of a hub id from the hub; None where it cannot be reached or has none."""
    address = (
        f"{os.environ.get('HF_ENDPOINT', HUB).rstrip('/')}/{name.name}/resolve/{name.revision or 'main'}/config.json"
    )
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("0", "") or not address.startswith(("http:", "https:")):
        return None
    token = os.environ.get("HF_TOKEN")
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=HUB_SECONDS) as answer:
            found = json.loads(answer.read())
    except (urllib.error.URLError, OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
