"""Draws prompts from several sources in proportion to their weights. PURE."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from scalerl_runtime.algorithm.prompts.curriculum import (
    AllPromptsExcludedError,
    DrawnPrompt,
    PromptStream,
    StreamPosition,
)


@dataclass(frozen=True)
class MixturePosition:
    """Position of every source's stream, and the draws since the sources that take part last changed."""

    streams: Mapping[str, StreamPosition] = field(default_factory=dict)  # absent: its beginning
    drawn: Mapping[str, int] = field(default_factory=dict)  # by source that takes part

    def to_dict(self) -> dict[str, object]:
        """Return a JSON-able value for `from_dict`."""
        return {
            "sources": {name: position.to_dict() for name, position in self.streams.items()},
            "drawn": dict(self.drawn),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> "MixturePosition":
        """Return the position that `to_dict` described, or that of an older checkpoint's one source, without a name.

        Raises ValueError on anything else.
        """
        match data:
            case {"sources": dict(streams), "drawn": dict(drawn)}:
                found = {name: StreamPosition.from_dict(position) for name, position in streams.items()}
                return cls(found, {name: int(count) for name, count in drawn.items()})
        return cls({"": StreamPosition.from_dict(data)}, {})


@dataclass(frozen=True)
class WeightedStream:
    """One source's prompts and its weight, relative to the other sources'."""

    stream: PromptStream
    weight: float


@dataclass(frozen=True)
class SourceDraw:
    """One draw from a mixture."""

    source: str
    drawn: DrawnPrompt


class Mixture:
    """The endless sequence of prompts of several sources. It never changes; the position is a value."""

    def __init__(self, streams: Mapping[str, WeightedStream]):
        if not streams:
            raise ValueError("the mixture has 0 sources; need at least 1")
        self._streams = dict(streams)

    def draw(
        self, position: MixturePosition, excluded: Mapping[str, Collection[int]]
    ) -> tuple[SourceDraw, MixturePosition]:
        """Return the next prompt and the position after it.

        A source whose prompts are all `excluded`, by source and place in it, leaves; the others go on in proportion to
        their weights. Raises AllPromptsExcludedError if no source has a prompt left.
        """
        active = [name for name, each in self._streams.items() if len(excluded.get(name, ())) < each.stream.num_prompts]
        if not active:
            raise AllPromptsExcludedError(f"the prompts of all {len(self._streams)} sources have left the run")
        drawn = position.drawn if set(position.drawn) == set(active) else dict.fromkeys(active, 0)
        name = choose_source({each: self._streams[each].weight for each in active}, drawn)
        before = position.streams.get(name, StreamPosition())
        found, after = self._streams[name].stream.draw(before, excluded.get(name, frozenset()))
        counts = {each: drawn[each] + (each == name) for each in active}
        return SourceDraw(name, found), replace(position, streams={**position.streams, name: after}, drawn=counts)


def choose_source(weights: Mapping[str, float], drawn: Mapping[str, int]) -> str:
    """Return the source of the next draw, so that any number of draws is within one of each source's share.

    Of the sources that may be drawn now without getting ahead, the one that would fall behind first is drawn. Always
    drawing the source that is furthest behind leaves a source more than one draw behind, from three sources on.
    Source: Tijdeman 1980, The chairman assignment problem.
    """
    names = list(weights)
    if len(names) == 1:
        return names[0]
    whole, turn = sum(weights.values()), sum(drawn.values()) + 1
    slack = 1.0 / (2 * len(names) - 2)
    behind = {name: weights[name] / whole * turn - drawn[name] for name in names}
    ready = [name for name in names if behind[name] >= slack - 1e-9] or names
    return min(ready, key=lambda name: (1.0 - slack - behind[name]) / weights[name])
