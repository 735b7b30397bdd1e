"""Separates faults of hub, network and disk from those of the user, by an error's type. PURE."""

import errno
from collections.abc import Iterator

# These pass without a change of the spec: a disk that was full, a file system or a network that failed.
TRANSIENT_ERRNOS = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EIO,
        errno.ESTALE,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ETIMEDOUT,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
    }
)
TRANSIENT_STATUS = (408, 425, 429)  # HTTP; every 5xx is transient too
# By name, from the packages that make requests: importing all of them to compare a type would take seconds.
_OUTAGES = frozenset(
    {
        "ChunkedEncodingError",
        "ClientConnectionError",
        "ClientPayloadError",
        "ConnectionError",
        "FSTimeoutError",
        "ProtocolError",
        "TimeoutError",
        "TransportError",
        "XetDownloadError",
    }
)
# Exceptions that the content of what a user names causes. Memory and processes raise others.
CONTENT_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    TypeError,
    ValueError,
)


def is_transient(error: BaseException) -> bool:
    """Whether a later try may succeed: an outage, a full disk, a time limit; looks through the causes of `error`.

    The hub's packages wrap an outage in errors that also stand for a wrong name (`LocalEntryNotFoundError`,
    `DatasetNotFoundError`), so the first cause that is clear decides.
    """
    for each in list_causes(error):
        if is_offline(each):
            return False
        names = {kind.__name__ for kind in type(each).__mro__}
        status = getattr(getattr(each, "response", None), "status_code", None) or getattr(each, "status", None)
        if isinstance(status, int):
            return status >= 500 or status in TRANSIENT_STATUS
        if names & _OUTAGES or isinstance(each, MemoryError):
            return True
        if isinstance(each, OSError) and each.errno in TRANSIENT_ERRNOS:
            return True
    return False


def is_offline(error: BaseException) -> bool:
    """Whether `error` comes from the hub's offline mode, which the user's own environment sets."""
    return any(type(each).__name__ == "OfflineModeIsEnabled" for each in list_causes(error))


def list_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and what raised it, the outermost first."""
    known: set[int] = set()
    present: BaseException | None = error
    while present is not None and id(present) not in known:
        known.add(id(present))
        yield present
        present = present.__cause__ or present.__context__


def first_line(error: object, limit: int = 300) -> str:
    """Return the first line of an error's text with words in it; its `repr` if there is none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else repr(error))[:limit]
