"""Encodes the values that cross between a program and its tests as JSON: data, never code. PURE, standard library only.

A packet is a root and a table of nodes. Scalars stand in place; `[3]` refers to node 3. The table keeps identity, so
that a list that a program has changed in place can be changed in place on the other side too. An object
that is no data (of the program's own class, a generator) becomes a handle, and stays on its side.
"""

import importlib
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

SCALARS = (type(None), bool, int, float, str)
SEQUENCES: dict[str, Callable[[list[object]], object]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": deque,
}
MAPPINGS: dict[str, Callable[[], Any]] = {
    "dict": dict,
    "OrderedDict": OrderedDict,
    "Counter": Counter,
    "defaultdict": defaultdict,  # without its factory, which is code
}
TEXTS: dict[str, tuple[Callable[[Any], str], Callable[[str], object]]] = {
    "Fraction": (str, lambda text: _find("fractions", "Fraction")(text)),
    "Decimal": (str, lambda text: _find("decimal", "Decimal")(text)),
    "date": (lambda each: str(each.isoformat()), lambda text: _find("datetime", "date").fromisoformat(text)),
    "datetime": (lambda each: str(each.isoformat()), lambda text: _find("datetime", "datetime").fromisoformat(text)),
    "timedelta": (
        lambda each: f"{each.days} {each.seconds} {each.microseconds}",
        lambda text: _find("datetime", "timedelta")(*map(int, text.split())),
    ),
    "bytes": (lambda each: str(each.decode("latin-1")), lambda text: text.encode("latin-1")),
    "bytearray": (lambda each: str(each.decode("latin-1")), lambda text: bytearray(text.encode("latin-1"))),
    "complex": (repr, complex),
    "range": (lambda each: f"{each.start} {each.stop} {each.step}", lambda text: range(*map(int, text.split()))),
}
DATA_TYPES: dict[type, str] = {
    **{each: each.__name__ for each in (list, tuple, set, frozenset, deque, dict, OrderedDict, Counter, defaultdict)},
    **{each: each.__name__ for each in (bytes, bytearray, complex, range)},
}
LATE_TYPES = {  # by name: importing their modules takes longer than most programs
    ("fractions", "Fraction"),
    ("decimal", "Decimal"),
    ("datetime", "date"),
    ("datetime", "datetime"),
    ("datetime", "timedelta"),
}
TYPES = {each.__name__: each for each in (*SCALARS, *DATA_TYPES, object, type, Exception)}
MUTABLE = ("list", "set", "deque", "bytearray", "object", *MAPPINGS)

Packet = dict[str, Any]  # JSON


@dataclass(frozen=True)
class Side:
    """Knowledge of one side of the border."""

    find_class: Callable[[str], type]  # the class of an object that crosses as data; raises LookupError
    is_shared: Callable[[type], bool]  # whether objects of this class cross as data
    keep: Callable[[object], dict[str, object]]  # a handle to an object that does not cross
    find_kept: Callable[[int], object]  # the object of a handle that came back
    receive_handle: Callable[[dict[str, Any]], object]  # the stand-in for the other side's object


@dataclass
class Objects:
    """The objects of a request, by node, so that its response can refer to them."""

    by_node: dict[int, object] = field(default_factory=dict)


def encode(side: Side, value: object, known: Objects | None = None) -> tuple[Packet, Objects]:
    """Return `value` as a packet; objects that are `known` keep their nodes, and their new content goes along."""
    encoder = _Encoder(side, known or Objects())
    root = encoder.refer(value)
    encoder.run()
    packet: Packet = {"root": root, "first": encoder.first, "nodes": encoder.nodes}
    if known is not None:
        packet["changes"] = encoder.changes
    return packet, Objects(encoder.objects)


class _Encoder:
    def __init__(self, side: Side, known: Objects):
        self.side = side
        self.objects = dict(known.by_node)
        self.indices = {id(each): index for index, each in known.by_node.items()}
        self.first = max(known.by_node, default=-1) + 1
        self.nodes: list[Any] = []
        self.changes: dict[str, Any] = {}
        self.known = [(index, each) for index, each in known.by_node.items()]
        self.queue: list[tuple[int, object]] = []

    def refer(self, value: object) -> Any:
        """Return a scalar, or the reference to a node; the node is written later."""
        value = _plain(value)
        if type(value) in SCALARS:
            return value
        index = self.indices.get(id(value))
        if index is None:
            index = self.first + len(self.nodes)
            self.nodes.append(None)
            self.indices[id(value)] = index
            self.objects[index] = value  # keeps it alive: its id is its key
            self.queue.append((index, value))
        return [index]

    def run(self) -> None:
        """Write every node, without recursion: a linked list may be long."""
        for index, value in self.known:
            node = self.write(value)
            if node[0] in MUTABLE:
                self.changes[str(index)] = node
        while self.queue:
            index, value = self.queue.pop()
            self.nodes[index - self.first] = self.write(value)

    def write(self, value: Any) -> list[Any]:
        kind = type(value)
        late = kind.__name__ if (kind.__module__, kind.__name__) in LATE_TYPES else ""
        name = DATA_TYPES.get(kind) or late or _find_base(kind)
        if name in MAPPINGS:
            return [name, [[self.refer(key), self.refer(each)] for key, each in dict.items(value)]]
        if name == "namedtuple":
            return [name, kind.__name__, list(kind._fields), [self.refer(each) for each in tuple(value)]]
        if name in SEQUENCES:
            return [name, [self.refer(each) for each in value]]
        if name in TEXTS:
            return [name, TEXTS[name][0](value)]
        if kind is type and value in TYPES.values():
            return ["type", value.__name__]
        if kind.__module__ == "numpy" and kind.__name__ == "ndarray" and value.dtype.kind in "biufcSU":
            return ["array", value.dtype.str, list(value.shape), self.refer(value.ravel().tolist())]
        if self.side.is_shared(kind):
            return ["object", kind.__name__, [[key, self.refer(each)] for key, each in vars(value).items()]]
        handle = self.side.keep(value)
        return ["back", handle["back"]] if "back" in handle else ["handle", handle]


def _plain(value: Any) -> object:
    """Return the built-in value of a subclass of a scalar, and of a number of numpy's."""
    kind = type(value)
    if kind in SCALARS or isinstance(value, Enum):
        return value
    if kind.__module__ == "numpy" and kind.__name__ != "ndarray" and hasattr(kind, "item"):
        return value.item()
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    return str.__str__(value) if isinstance(value, str) else value


def _find(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def _find_base(kind: type) -> str:
    """Return the data type of a subclass; empty if it is none."""
    if issubclass(kind, tuple):
        return "namedtuple" if hasattr(kind, "_fields") else "tuple"
    return next((DATA_TYPES[base] for base in kind.__mro__ if base in DATA_TYPES), "")


def decode(side: Side, packet: Packet, known: Objects | None = None) -> tuple[Any, Objects]:
    """Return the value and its objects; the `known` ones take their new content.

    Raises ValueError, LookupError, TypeError for a packet that is none.

    The packet may come from a program that wrote it itself: each node becomes an object of an exact built-in type, of a
    class of this side, or a stand-in.
    """
    decoder = _Decoder(side, packet, known or Objects())
    value = decoder.resolve(packet["root"])
    for index in range(packet["first"], packet["first"] + len(packet["nodes"])):
        decoder.resolve([index])
    decoder.fill()
    return value, Objects(decoder.objects)


class _Decoder:
    def __init__(self, side: Side, packet: Packet, known: Objects):
        self.side = side
        self.objects = dict(known.by_node)
        self.nodes = {packet["first"] + index: node for index, node in enumerate(packet["nodes"])}
        changes = packet.get("changes", {})
        self.unfilled = [(known.by_node[int(index)], node) for index, node in changes.items()]

    def resolve(self, reference: Any) -> Any:
        """Return the value of a reference; mutable objects are filled later."""
        if type(reference) is not list:
            return reference
        (index,) = reference
        if index not in self.objects:
            self.objects[index] = self.build(self.nodes[index])
        return self.objects[index]

    def build(self, node: list[Any]) -> object:  # noqa: C901  # a table of node types
        name = node[0]
        if name in ("list", "set", "deque", "object", *MAPPINGS):
            made = self.make_empty(name, node)
            self.unfilled.append((made, node))
            return made
        if name in SEQUENCES:
            return SEQUENCES[name]([self.resolve(each) for each in node[1]])
        if name == "namedtuple":
            return namedtuple(node[1], node[2])(*(self.resolve(each) for each in node[3]))
        if name in TEXTS:
            return TEXTS[name][1](node[1])
        if name == "type":
            return TYPES[node[1]]
        if name == "array":
            return self.build_array(node)
        if name == "back":
            return self.side.find_kept(node[1])
        return self.side.receive_handle(node[1])

    def make_empty(self, name: str, node: list[Any]) -> object:
        if name == "object":
            return object.__new__(self.side.find_class(node[1]))
        return MAPPINGS[name]() if name in MAPPINGS else SEQUENCES[name]([])

    def build_array(self, node: list[Any]) -> object:
        import numpy as np

        values = [each for each in self.nodes[node[3][0]][1] if type(each) in SCALARS]
        return np.array([self.resolve(each) for each in values], dtype=np.dtype(node[1])).reshape(node[2])

    def fill(self) -> None:
        """Give every mutable object its content."""
        for made, node in self.unfilled:
            self.fill_one(made, node)

    def fill_one(self, made: Any, node: list[Any]) -> None:
        content = node[2] if node[0] == "object" else node[1]
        if node[0] == "object":
            fields = {str(key): self.resolve(each) for key, each in content}
            vars(made).clear()
            vars(made).update(fields)
        elif node[0] in MAPPINGS:
            pairs = [(self.resolve(key), self.resolve(each)) for key, each in content]
            dict.clear(made)
            dict.update(made, pairs)
        elif node[0] == "bytearray":
            made[:] = content.encode("latin-1")
        else:
            elements = [self.resolve(each) for each in content]
            made.clear()
            made.update(elements) if node[0] == "set" else made.extend(elements)
