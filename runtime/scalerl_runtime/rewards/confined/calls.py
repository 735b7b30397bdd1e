"""Calls from the tests into the program, which is another process: only data crosses. I/O, standard library only.

The program answers requests (`ProgramServer`); the tests make them (`ProgramClient`). An object that is no data stays
with the program, and the tests get a `Remote` for it. A Remote equals no data: nothing that the program defines decides
whether its result is the expected one. The program may call functions that it got as arguments, and do nothing else.
"""

import builtins
import json
import operator
from collections.abc import Callable
from typing import Any, BinaryIO

from scalerl_runtime.rewards.confined.values import Objects, Packet, Side, decode, encode

Message = dict[str, Any]  # JSON
# Operations of the tests on the program's object, besides calls and attributes.
VALUES: dict[str, Callable[..., object]] = {
    "__len__": len,
    "__iter__": iter,
    "__next__": next,
    "__reversed__": reversed,
    "__str__": str,
    "__repr__": repr,
    "__bool__": bool,
    "__int__": int,
    "__float__": float,
    "__getitem__": operator.getitem,
    "__setitem__": operator.setitem,
    "__delitem__": operator.delitem,
    "__enter__": lambda each: type(each).__enter__(each),
    "__exit__": lambda each, *_: type(each).__exit__(each, None, None, None),
}
# Their results must be objects of the program again: `abs(f(x) - 3.5) < 0.1` must not hold by a method of f's result.
ARITHMETIC: dict[str, Callable[..., object]] = {
    **{f"__{name}__": getattr(operator, name) for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")},
    **{f"__{name}__": getattr(operator, name) for name in ("matmul", "neg", "pos", "abs", "invert", "xor")},
    **{f"__{name}__": getattr(operator, f"{name}_") for name in ("and", "or")},
    "__rmul__": lambda each, other: other * each,
    "__radd__": lambda each, other: other + each,
}
# Only between two objects of the program.
COMPARISONS: dict[str, Callable[..., object]] = {
    **{f"__{name}__": getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    "__instancecheck__": lambda kind, each: isinstance(each, kind),
    "__subclasscheck__": lambda kind, each: issubclass(each, kind),
}
OPERATIONS = VALUES | ARITHMETIC | COMPARISONS


class ProgramError(Exception):
    """An exception of the program that the tests do not know by its class."""


class Channel:
    """Messages in both directions, one a line."""

    def __init__(self, reader: BinaryIO, writer: BinaryIO):
        self._reader = reader
        self._writer = writer

    def send(self, message: Message) -> None:
        """Send one message."""
        self._writer.write(json.dumps(message).encode() + b"\n")
        self._writer.flush()

    def receive(self) -> Message:
        """Return the next message. Raises EOFError, ValueError."""
        line = self._reader.readline()
        if not line:
            raise EOFError("the other process ended")
        message = json.loads(line)
        if type(message) is not dict:
            raise ValueError("a message is an object")
        return message


class Handles:
    """The objects of this side that the other side refers to."""

    def __init__(self) -> None:
        self._objects: list[object] = []

    def keep(self, value: object) -> Message:
        """Return the handle of an object."""
        self._objects.append(value)
        return {"id": len(self._objects) - 1, "class": isinstance(value, type), "callable": callable(value)}

    def find(self, index: int) -> object:
        """Return the object of a handle."""
        return self._objects[index]


class ProgramServer:
    """Answers the tests' requests, in the program's process."""

    def __init__(self, channel: Channel, namespace: dict[str, object], shared: frozenset[str]):
        """`shared`: names of the classes that the tests define too; their objects cross as data."""
        self._channel = channel
        self._namespace = namespace
        self._handles = Handles()
        self._side = Side(
            find_class=self._find_class,
            is_shared=lambda kind: kind.__name__ in shared,
            keep=self._handles.keep,
            find_kept=self._handles.find,
            receive_handle=self._make_callback,
        )

    def serve(self) -> None:
        """Answer until the tests end."""
        while True:
            self._channel.send(self._answer(self._channel.receive()))

    def _answer(self, message: Message) -> Message:
        try:
            request, objects = decode(self._side, message["request"])
            value = self._perform(message["do"], request)
            return {"value": encode(self._side, value, objects)[0]}
        except BaseException as error:  # noqa: BLE001  # the tests decide what an exception means
            return {"error": [each.__name__ for each in type(error).__mro__], "text": _show(error)}

    def _perform(self, do: str, request: list[Any]) -> object:
        if do == "global":
            return find_global(self._namespace, request[0])
        target, *rest = request
        if do == "call":
            return target(*rest[0], **rest[1])
        if do == "get":
            return getattr(target, rest[0])
        if do == "set":
            setattr(target, rest[0], rest[1])
            return None
        return OPERATIONS[do](target, *rest)

    def _find_class(self, name: str) -> type:
        found = self._namespace.get(name)
        return found if isinstance(found, type) else type(name, (), {})

    def _make_callback(self, handle: Message) -> object:
        def call_tests(*arguments: object) -> object:
            packet, objects = encode(self._side, [handle["id"], list(arguments)])
            self._channel.send({"callback": packet})
            message = self._channel.receive()
            while "do" in message:  # the function of the tests calls the program again
                self._channel.send(self._answer(message))
                message = self._channel.receive()
            if "error" in message:
                raise getattr(builtins, message["error"], ProgramError)(message["text"])
            return decode(self._side, message["value"], objects)[0]

        return call_tests


def find_global(namespace: dict[str, object], name: str) -> object:
    """Return what the program defines under this name, or the method of its class `Solution`. Raises NameError."""
    if name in namespace:
        return namespace[name]
    solution = namespace.get("Solution")
    if isinstance(solution, type) and hasattr(solution, name):
        return getattr(solution(), name)
    raise NameError(f"name {name!r} is not defined")


class ProgramClient:
    """Makes the tests' requests, in their process."""

    def __init__(self, channel: Channel, namespace: dict[str, object]):
        """`namespace`: the tests' own; objects of its classes cross as data."""
        self._channel = channel
        self._namespace = namespace
        self._handles = Handles()
        self._classes: dict[str, type] = {}
        self._side = Side(
            find_class=self._find_class,
            is_shared=lambda kind: kind.__module__ == "tests",
            keep=self._keep,
            find_kept=self._handles.find,
            receive_handle=lambda handle: Remote(self, handle),
        )

    def fetch(self, name: str) -> object:
        """Return the program's global, a Remote if it is no data. Raises NameError."""
        value = self.request("global", [name])
        if type(value) is Remote and value._handle["class"] and self.request("__subclasscheck__", [Exception, value]):
            return self._classes.setdefault(name, type(name, (ProgramError,), {"_remote": value}))
        return value

    def request(self, do: str, request: list[object]) -> Any:
        """Do something in the program and return its value. Raises what the program raises, and EOFError."""
        packet, objects = encode(self._side, request)
        self._channel.send({"do": do, "request": packet})
        message = self._channel.receive()
        while "callback" in message:
            self._channel.send(self._call_back(message["callback"]))
            message = self._channel.receive()
        if "error" in message:
            raise self._find_exception(message["error"])(message["text"])
        return decode(self._side, message["value"], objects)[0]

    def _call_back(self, packet: Packet) -> Message:
        (index, arguments), objects = decode(self._side, packet, Objects())
        function = self._handles.find(index)
        try:
            return {"value": encode(self._side, function(*arguments), objects)[0]}  # type: ignore[operator]  # kept if callable
        except Exception as error:  # noqa: BLE001  # the program gets it, as from any function
            return {"error": type(error).__name__, "text": _show(error)}

    def _keep(self, value: object) -> Message:
        if type(value) is Remote:
            return {"back": value._handle["id"]}
        if not callable(value):
            raise TypeError(f"the program cannot get a {type(value).__name__}")
        return self._handles.keep(value)

    def _find_class(self, name: str) -> type:
        found = self._namespace.get(name)
        if not isinstance(found, type) or found.__module__ != "tests":
            raise LookupError(f"the tests define no class {name}")
        return found

    def _find_exception(self, names: list[str]) -> type[Exception]:
        for name in names:
            found = self._classes.get(name) or self._namespace.get(name) or getattr(builtins, name, None)
            if isinstance(found, type) and issubclass(found, Exception):
                return ProgramError if found is Exception else found
        return ProgramError  # SystemExit and KeyboardInterrupt too: they end no test


class Remote:
    """An object that stays with the program."""

    def __init__(self, client: ProgramClient, handle: Message):
        object.__setattr__(self, "_client", client)
        object.__setattr__(self, "_handle", handle)

    def __call__(self, *arguments: object, **options: object) -> Any:
        """Call it in the program."""
        return self._client.request("call", [self, list(arguments), options])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._client.request("get", [self, name])

    def __setattr__(self, name: str, value: object) -> None:
        self._client.request("set", [self, name, value])

    def __hash__(self) -> int:
        return id(self)


def _add_value(name: str) -> None:
    def method(self: Remote, *arguments: object) -> object:
        return self._client.request(name, [self, *arguments])

    setattr(Remote, name, method)


def _add_arithmetic(name: str) -> None:
    def method(self: Remote, *arguments: object) -> Remote:
        value = self._client.request(name, [self, *arguments])
        if type(value) is not Remote:
            raise TypeError(f"{name} of an object of the program gives data")
        return value

    setattr(Remote, name, method)


def _add_comparison(name: str) -> None:
    def method(self: Remote, other: object) -> bool:
        if type(other) is not Remote:
            if name in ("__lt__", "__le__", "__gt__", "__ge__"):
                raise TypeError(f"{name} between data and an object of the program")
            return name == "__ne__"
        value = self._client.request(name, [self, other])
        if type(value) is not bool:
            raise TypeError(f"{name} gives a {type(value).__name__}")
        return value

    setattr(Remote, name, method)


for _name in VALUES:
    _add_value(_name)
for _name in ARITHMETIC:
    _add_arithmetic(_name)
for _name in COMPARISONS:
    _add_comparison(_name)


def _show(error: BaseException) -> str:
    try:
        return str(error)[:1000]
    except Exception:  # noqa: BLE001  # its class is the program's
        return type(error).__name__
