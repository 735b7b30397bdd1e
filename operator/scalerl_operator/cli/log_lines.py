"""Lines of a container's log, read over several requests without a lost or a repeated line. PURE.

Kubernetes puts a time before each line. The connection to a followed log may end long before its container does; the
next request then starts at the time of the last line.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_STAMPED = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d) ?")


@dataclass(frozen=True)
class LogOffset:
    """Position in a log.

    The time of the last line, as it is written there, and the number of lines read at that time.
    """

    time: str = ""
    lines: int = 0


@dataclass(frozen=True)
class LogOptions:
    """Which part of a log to read, and in which form."""

    follow: bool = False
    previous: bool = False
    """Read the log of the container before its last restart."""
    tail: int | None = None
    """Read this many last lines only."""
    timestamps: bool = False


def build_query(container: str, options: LogOptions, offset: LogOffset) -> dict[str, str]:
    """Return the query for a container's log from `offset` on."""
    query = {"container": container, "timestamps": "true"}
    if options.follow:
        query["follow"] = "true"
    if options.previous:
        query["previous"] = "true"
    if offset.time:
        query["sinceTime"] = offset.time
    elif options.tail is not None:
        query["tailLines"] = str(options.tail)
    return query


class LineReader:
    """Splits a log's chunks into lines and drops those before `after`; `offset` is where the next request starts."""

    def __init__(self, after: LogOffset, *, timestamps: bool):
        self.offset = after
        self._after = after
        self._skipped = 0
        self._rest = b""
        self._timestamps = timestamps

    def feed(self, chunk: bytes) -> Iterator[str]:
        """Yield the lines that `chunk` completes."""
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        for line in whole:
            yield from self._read(line)

    def close(self) -> Iterator[str]:
        """Yield the rest of a complete log: the last line of a killed process may have no newline."""
        rest, self._rest = self._rest, b""
        if rest:
            yield from self._read(rest)

    def _read(self, line: bytes) -> Iterator[str]:
        stamp = _STAMPED.match(line)
        if stamp is not None and not self._advance(stamp):
            return
        text = line if self._timestamps or stamp is None else line[stamp.end() :]
        yield text.decode(errors="replace").rstrip("\r")

    def _advance(self, stamp: "re.Match[bytes]") -> bool:
        """Move the offset past the line; return False if an earlier request has read it."""
        time = stamp.group().decode().rstrip()
        key, after = _order(time), _order(self._after.time)
        if key < after:
            return False
        if key == after and self._skipped < self._after.lines:
            self._skipped += 1
            return False
        same = key == _order(self.offset.time)
        self.offset = LogOffset(time, self.offset.lines + 1 if same else 1)
        return True


def _order(time: str) -> tuple[str, str]:
    """Return a sort key for times of one node: trailing zeros of a fraction may be missing, so text does not sort."""
    found = _STAMPED.match(time.encode())
    return (found.group(1).decode(), (found.group(2) or b"").decode().ljust(9, "0")) if found is not None else ("", "")
