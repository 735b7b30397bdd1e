"""A container's log as lines, read in several goes without a line lost or told twice. PURE.

Kubernetes puts a time before each line. A log that is followed is asked for anew from the time of the last line: its
connection may end long before its container does.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_STAMPED = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d) ?")


@dataclass(frozen=True)
class LogOffset:
    """How far a log was told: the last line's time as it was written, and how many lines had that time."""

    time: str = ""
    lines: int = 0


@dataclass(frozen=True)
class LogOptions:
    """What a person wants to read."""

    follow: bool = False
    previous: bool = False
    """The container's life before the present one."""
    tail: int | None = None
    """Only so many last lines."""
    timestamps: bool = False


def build_query(container: str, wish: LogOptions, place: LogOffset) -> dict[str, str]:
    """Return the query for a container's log from `place` on."""
    query = {"container": container, "timestamps": "true"}
    if wish.follow:
        query["follow"] = "true"
    if wish.previous:
        query["previous"] = "true"
    if place.time:
        query["sinceTime"] = place.time
    elif wish.tail is not None:
        query["tailLines"] = str(wish.tail)
    return query


class LineReader:
    """Takes a log's pieces, gives its lines that have not been told; `place` is where to go on."""

    def __init__(self, after: LogOffset, *, timestamps: bool):
        self.place = after
        self._after = after
        self._skipped = 0
        self._rest = b""
        self._timestamps = timestamps

    def feed(self, piece: bytes) -> Iterator[str]:
        """Yield the lines that `piece` completes."""
        *whole, self._rest = (self._rest + piece).split(b"\n")
        for line in whole:
            yield from self._take(line)

    def close(self) -> Iterator[str]:
        """Yield what is left, at the end of a log that is over: a killed process's last line may have no end."""
        rest, self._rest = self._rest, b""
        if rest:
            yield from self._take(rest)

    def _take(self, line: bytes) -> Iterator[str]:
        found = _STAMPED.match(line)
        if found is not None and self._is_told(found):
            return
        text = line if self._timestamps or found is None else line[found.end() :]
        yield text.decode(errors="replace").rstrip("\r")

    def _is_told(self, stamp: "re.Match[bytes]") -> bool:
        """Whether the line was told in an earlier go; if not, it is now."""
        time = stamp.group().decode().rstrip()
        key, after = _order(time), _order(self._after.time)
        if key < after:
            return True
        if key == after and self._skipped < self._after.lines:
            self._skipped += 1
            return True
        same = key == _order(self.place.time)
        self.place = LogOffset(time, self.place.lines + 1 if same else 1)
        return False


def _order(time: str) -> tuple[str, str]:
    """Times of one node in order. Trailing zeros of a fraction may be missing, so text alone is not."""
    found = _STAMPED.match(time.encode())
    return (found.group(1).decode(), (found.group(2) or b"").decode().ljust(9, "0")) if found is not None else ("", "")
