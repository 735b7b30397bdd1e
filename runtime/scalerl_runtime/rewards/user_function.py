"""How a user's function is called, and what its return value means. PURE but for the call itself.

Names of parameters decide where they are known: `prompt`, `completion` and `reference` under the names of scalerl, TRL
and verl. Otherwise three parameters are (prompt, completion, reference) and two are (completion, reference).
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Literal, Protocol, runtime_checkable

from scalerl_api.validation import shorten
from scalerl_runtime.rewards.requests import GradeRequest

Kind = Literal["prompt", "completion", "reference", "source"]
Form = Literal["text", "messages"]

NAMES: dict[str, Kind] = {
    **dict.fromkeys(("prompt", "question", "query"), "prompt"),
    **dict.fromkeys(("completion", "response", "output", "prediction", "generation", "solution_str"), "completion"),
    **dict.fromkeys(("reference", "ground_truth", "gold", "target", "label", "expected"), "reference"),
    **dict.fromkeys(("answer", "solution"), "reference"),
    **dict.fromkeys(("source", "data_source"), "source"),
}
# In a function of unknown names either may be the completion.
AMBIGUOUS = ("answer", "solution", "target", "label")
# TRL's style: lists of one entry.
BATCH_NAMES: dict[str, Kind] = {
    "prompts": "prompt",
    "completions": "completion",
    **{name: kind for name, kind in NAMES.items() if kind in ("reference", "source")},
    **{f"{name}s": kind for name, kind in NAMES.items() if kind == "reference"},
}
OFFERED = (
    "offered are prompt, completion, reference (also answer, solution, ground_truth), source; lists of one as prompts, "
    "completions and reference; or positions (prompt, completion, reference), (completion, reference)"
)
POSITIONS: dict[int, tuple[Kind, ...]] = {2: ("completion", "reference"), 3: ("prompt", "completion", "reference")}
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
# Exceptions of a function that gets strings and expects lists of messages.
FORM_ERRORS = (AttributeError, IndexError, KeyError, TypeError)
SCORES = ("score", "reward")  # keys of a dict

UserFunction = Callable[..., object]


@runtime_checkable
class _Scalar(Protocol):
    """A number of numpy or torch."""

    def item(self) -> object: ...


@dataclass(frozen=True)
class CallStyle:
    """The arguments that a function takes."""

    positions: tuple[Kind, ...] = ()
    names: tuple[tuple[str, Kind], ...] = ()
    is_batch: bool = False

    def arguments(self, request: GradeRequest, form: Form) -> tuple[list[object], dict[str, object]]:
        """Return the positional and the named arguments of one call."""
        prompt: object = request.prompt
        completion: object = request.answer
        if form == "messages":
            prompt = [{"role": "user", "content": request.prompt}]
            completion = [{"role": "assistant", "content": request.answer}]
        values: dict[Kind, object] = {
            "prompt": prompt,
            "completion": completion,
            "reference": request.reference,
            "source": request.source,
        }
        if self.is_batch:
            return [], {name: [values[kind]] for name, kind in self.names}
        return [values[kind] for kind in self.positions], {name: values[kind] for name, kind in self.names}


def find_style(function: UserFunction) -> CallStyle:
    """Return how to call `function`. Raises TypeError with its parameters if it cannot be called."""
    try:
        parameters = tuple(inspect.signature(function).parameters.values())
    except ValueError:  # written in C, without a signature
        return CallStyle(POSITIONS[3])
    if "completions" in {each.name for each in parameters}:
        style = _batch_style(parameters)
    else:
        style = _named_style(parameters) or _positional_style(parameters)
    if style is None:
        shown = ", ".join(str(each) for each in parameters) or "none"
        raise TypeError(f"its parameters are ({shown}); {OFFERED}")
    return style


def _batch_style(parameters: tuple[inspect.Parameter, ...]) -> CallStyle | None:
    found = _match(parameters, BATCH_NAMES)
    if found is None:
        return None
    extra = {name: kind for name, kind in BATCH_NAMES.items() if name == "prompts" or not name.endswith("s")}
    return CallStyle(names=tuple(((extra if _has_any_name(parameters) else {}) | found).items()), is_batch=True)


def _named_style(parameters: tuple[inspect.Parameter, ...]) -> CallStyle | None:
    """By name, if the names tell what each needed parameter is, and one is the completion."""
    found = _match(parameters, NAMES)
    catches = _has_any_name(parameters)
    if found is None:
        return None
    needed = [kind for name, kind in found.items() if _is_needed(parameters, name)]
    is_clear = "completion" in found.values() or (catches and not found)
    if not is_clear or len(set(needed)) < len(needed):
        return None
    every: dict[str, Kind] = {"prompt": "prompt", "completion": "completion", "reference": "reference"}
    missing = {n: k for n, k in every.items() if catches and k not in found.values()}
    positional_only = [each.name for each in parameters if each.kind is inspect.Parameter.POSITIONAL_ONLY]
    positions = tuple(found.pop(name) for name in positional_only if name in found)
    return CallStyle(positions, tuple((missing | found).items()))


def _positional_style(parameters: tuple[inspect.Parameter, ...]) -> CallStyle | None:
    """By position, unless a name contradicts its position."""
    if any(each.kind is inspect.Parameter.KEYWORD_ONLY and each.default is each.empty for each in parameters):
        return None
    needed = [each for each in parameters if each.kind in POSITIONAL and each.default is each.empty]
    usable = [each for each in parameters if each.kind in POSITIONAL]
    takes_more = any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters)
    is_three = len(needed) <= 3 and (takes_more or (not needed and len(usable) == 3))
    kinds = POSITIONS.get(3 if is_three else len(needed))
    if kinds is None:
        return None
    for parameter, kind in zip(usable, kinds, strict=False):
        known = NAMES.get(parameter.name, kind)
        if known != kind and not (parameter.name in AMBIGUOUS and kind == "completion"):
            return None
    return CallStyle(kinds)


def _match(parameters: tuple[inspect.Parameter, ...], names: Mapping[str, Kind]) -> dict[str, Kind] | None:
    """Return the kind of every parameter of a known name; None if a needed one has an unknown name."""
    found: dict[str, Kind] = {}
    for each in parameters:
        if each.kind in VARIADIC:
            continue
        if each.name in names:
            found[each.name] = names[each.name]
        elif each.default is each.empty:
            return None
    return found


def _is_needed(parameters: tuple[inspect.Parameter, ...], name: str) -> bool:
    return any(each.name == name and each.default is each.empty for each in parameters)


def _has_any_name(parameters: tuple[inspect.Parameter, ...]) -> bool:
    return any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters)


class UserVerifier:
    """A user's function behind one signature. Its first success settles whether completions are texts or messages."""

    def __init__(self, function: UserFunction):
        """Raises TypeError if the function's parameters are not known."""
        self._function = function
        self._style = find_style(function)
        self._form: Form | None = None if self._style.is_batch else "text"
        self._loop: asyncio.AbstractEventLoop | None = None

    def __call__(self, request: GradeRequest) -> object:
        """Return what the function returns. Raises what it raises."""
        if self._form is not None:
            return self._call(request, self._form)
        try:
            returned, form = self._call(request, "text"), "text"
        except FORM_ERRORS as error:
            try:
                returned, form = self._call(request, "messages"), "messages"
            except FORM_ERRORS as other:
                raise type(error)(f"{error}; with completions as lists of messages: {other}") from error
        self._form = "messages" if form == "messages" else "text"
        return returned

    def close(self) -> None:
        """End the loop of an async function."""
        if self._loop is not None:
            self._loop.close()

    def _call(self, request: GradeRequest, form: Form) -> object:
        positions, names = self._style.arguments(request, form)
        returned = self._function(*positions, **names)
        if isinstance(returned, Awaitable):
            if self._loop is None:  # one for all calls: a client that the function keeps belongs to its loop
                self._loop = asyncio.new_event_loop()
            return self._loop.run_until_complete(_result(returned))
        return returned


async def _result(awaitable: Awaitable[object]) -> object:
    return await awaitable


def parse_reward(returned: object) -> float | None:
    """Return the reward in [-1, 1] that a verifier's return value stands for; None: it has no opinion.

    True and False, numbers, those of numpy and torch, a dict with `score` or `reward`, and a tuple or list whose first
    entry is one of these. Raises ValueError.
    """
    value = _unpack(returned)
    if value is None:
        return None
    if isinstance(value, bool):
        return 1.0 if value else -1.0
    if isinstance(value, Real | Decimal) and -1.0 <= float(value) <= 1.0:
        return float(value)
    raise ValueError(f"the verifier returned {_show(returned)}; a bool or a number from -1 to 1 is allowed")


def _unpack(returned: object) -> object:
    *_, value = _peel(returned)
    return value


def _peel(value: object) -> Iterator[object]:
    """Yield `value`, and what is in it, down to a plain value."""
    yield value
    for _ in range(3):  # a list of one dict with a number of numpy
        if isinstance(value, Mapping):
            found = [value[key] for key in SCORES if key in value]
            if not found:
                return
            value = found[0]
        elif isinstance(value, tuple | list):
            if not value or (isinstance(value, list) and len(value) != 1):
                return
            value = value[0]
        elif isinstance(value, _Scalar) and not isinstance(value, Real):
            try:
                value = value.item()
            except (TypeError, ValueError, RuntimeError):  # an array of several
                return
        else:
            return
        yield value


def _show(value: object) -> str:
    return shorten(repr(value), 200)
