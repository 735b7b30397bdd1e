"""Checks the settings that a run passes to DeepSpeed and vLLM against these libraries' own types. I/O.

An import of either takes seconds, so they are imported only where a run has such settings.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from enum import Enum
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from scalerl_api import Fault, InvalidRun, RLRun
from scalerl_api.passthrough import DEEPSPEED_PATH, ENGINE_PATH
from scalerl_api.validation import shorten
from scalerl_runtime.hub import first_line
from scalerl_runtime.models.engine_support import engine_name

SPECULATIVE = ("speculative_config", "spec_method", "spec_model")
ALLOWED_SPECULATION = "only with recipe.length.control penalty or none: vLLM forces no phrase where it speculates"


def find_setting_faults(run: RLRun) -> tuple[Fault, ...]:
    """Return what DeepSpeed and vLLM would not take of the run's settings; nothing for a library that is not here."""
    return (*_check_deepspeed(run), *_check_engine(run))


def require_settings(run: RLRun) -> None:
    """Raise InvalidRun with what `find_setting_faults` returns."""
    if faults := find_setting_faults(run):
        raise InvalidRun(faults)


def _check_deepspeed(run: RLRun) -> Iterator[Fault]:
    """DeepSpeed ignores a name at the top that it does not know, so it is watched which names it reads."""
    settings = run.spec.trainer.deepspeed
    if not settings:
        return
    try:
        from deepspeed.runtime.config import DeepSpeedConfig, DeepSpeedConfigError
    except ImportError:
        return
    stage = {"stage": run.spec.trainer.zero_stage}
    zero = settings.get("zero_optimization", {})
    if not isinstance(zero, dict):
        yield Fault(f"{DEEPSPEED_PATH}.zero_optimization", str(zero), "a mapping")
        return
    watched = _Watched({"train_batch_size": 1, **settings, "zero_optimization": {**zero, **stage}})
    try:
        DeepSpeedConfig(watched)
    except ValidationError as error:
        yield from _explain(error, f"{DEEPSPEED_PATH}.{_section(settings, error)}")
        return
    except (DeepSpeedConfigError, ValueError, TypeError, AssertionError, AttributeError, KeyError) as error:
        yield Fault(DEEPSPEED_PATH, ", ".join(settings), f"DeepSpeed refuses it: {first_line(error)}")
        return
    for name in sorted(settings.keys() - watched.read):
        yield _unknown(f"{DEEPSPEED_PATH}.{name}", settings[name], name, watched.read, "DeepSpeed")


def _section(settings: Mapping[str, Any], error: ValidationError) -> str:
    """The part of the settings that a class of DeepSpeed refused; its error has the names inside only."""
    name = str(error.errors()[0]["loc"][0])
    inside = [key for key, value in settings.items() if isinstance(value, dict) and name in value]
    return f"{inside[0]}." if len(inside) == 1 else ""


class _Watched(dict[str, Any]):
    """A mapping that notes which of its names are read; a copy notes them in the same place."""

    def __init__(self, values: Mapping[str, Any]):
        super().__init__(values)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.read.add(str(name))
        return super().__contains__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)

    def __copy__(self) -> "_Watched":
        copied = _Watched(self)
        copied.read = self.read
        return copied


def _check_engine(run: RLRun) -> Iterator[Fault]:
    settings = run.spec.generator.engine_args
    if not settings:
        return
    for name in SPECULATIVE:
        if name in settings and run.spec.resolved_recipe().length.control == "interruption":
            yield Fault(f"{ENGINE_PATH}.{name}", str(settings[name]), ALLOWED_SPECULATION)
    try:
        from vllm.engine.arg_utils import AsyncEngineArgs
    except ImportError:
        return
    known = {each.name: each.type for each in fields(AsyncEngineArgs)}
    for name, value in settings.items():
        if name not in known:
            yield _unknown(f"{ENGINE_PATH}.{name}", value, name, known, engine_name())
        elif not isinstance(known[name], str):  # a type by name is of a module that is imported for type checkers only
            yield from _check_type(f"{ENGINE_PATH}.{name}", value, known[name])


def _check_type(path: str, value: Any, kind: Any) -> Iterator[Fault]:
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(kind, config={"arbitrary_types_allowed": True})
    except PydanticUserError:  # a type with a configuration of its own
        adapter = TypeAdapter(kind)
    try:
        found = adapter.validate_python(value)
    except ValidationError as error:
        if not isinstance(value, str) or value not in _enum_names(kind):
            yield from _explain(error, f"{path}.")
        return
    # pydantic takes "8" for a number and 1 for true; vLLM gets the value as it is written.
    is_widened = type(value) is int and type(found) is float
    if isinstance(found, bool | int | float | str) and type(found) is not type(value) and not is_widened:
        yield Fault(path, repr(value), f"{type(found).__name__} is needed")


def _enum_names(kind: Any) -> frozenset[str]:
    """The names of an enumeration's members, by which vLLM takes them; pydantic takes their values only."""
    return frozenset(
        name
        for each in (kind, *get_args(kind))
        if isinstance(each, type) and issubclass(each, Enum)
        for name in each.__members__
    )


def _explain(error: ValidationError, prefix: str) -> Iterator[Fault]:
    """One fault of a place; a type of several kinds has an error for each of them."""
    first: dict[str, Fault] = {}
    for item in error.errors():
        inner = [str(part) for part in item["loc"] if isinstance(part, int) or str(part).isidentifier()]
        place = f"{prefix}{'.'.join(inner)}".removesuffix(".")
        message = "unknown here" if item["type"] == "extra_forbidden" else str(item["msg"])
        allowed = shorten(message[0].lower() + message[1:], 400)
        first.setdefault(place, Fault(place, shorten(repr(item["input"]), 80), allowed))
    yield from first.values()


def _unknown(path: str, value: Any, name: str, known: Iterable[str], library: str) -> Fault:
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f": did you mean {near[0]}?" if near else ""
    return Fault(path, f"unknown name (value {shorten(repr(value), 60)})", f"a setting that {library} has{hint}")
