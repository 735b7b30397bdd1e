"""Reads numbers and flags of a model's config.json, and names what is missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from scalerl_api import Fault, InvalidRun

T = TypeVar("T")

MODEL_PATH = "spec.model.source"
Flag = bool | tuple[str, bool]
"""A constant, or the name of a field with the family's default."""


@dataclass(frozen=True)
class ConfigFields:
    """The text part of a config.json; a field that is missing or of another type ends in InvalidRun."""

    values: Mapping[str, object]
    label: str
    """Of the model, for faults."""

    def integer(self, *names: str, default: int | None = None, least: int = 1) -> int:
        """Return the first of the named fields that is set; `least` is the smallest value allowed."""
        for name in names:
            value = self.values.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise self.fault(f"{name} is {value!r}", f"an integer of at least {least}")
            return value
        if default is None:
            raise self.fault(f"no {' or '.join(names)}", "a config.json with it")
        return default

    def flag(self, flag: Flag) -> bool:
        """Return a flag's value."""
        if isinstance(flag, bool):
            return flag
        name, default = flag
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fault(f"{name} is {value!r}", "true or false")
        return value

    def integers(self, name: str) -> tuple[int, ...] | None:
        """Return a list of integers, None where it is not set."""
        return self._list(name, int, "a list of integers")

    def words(self, name: str) -> tuple[str, ...] | None:
        """Return a list of words, None where it is not set."""
        return self._list(name, str, "a list of words")

    def _list(self, name: str, kind: type[T], allowed: str) -> tuple[T, ...] | None:
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, Sequence) or not all(isinstance(each, kind) for each in value):
            raise self.fault(f"{name} is {value!r}", allowed)
        return tuple(value)

    def fault(self, found: str, allowed: str) -> InvalidRun:
        """Return the error for the model's config.json."""
        return InvalidRun([Fault(MODEL_PATH, f"{self.label}: config.json has {found}", allowed)])
