"""Separates errors of object stores: the user's (a wrong bucket, a refused key) and those that pass. PURE.

The libraries are told apart by the names of their errors, because importing them to compare a type takes seconds. Their
texts may repeat an address with a password, or a request's headers, so every text is redacted.
"""

import errno
import re
from collections.abc import Mapping

from scalerl_runtime.hub import TRANSIENT_STATUS, first_line, is_offline, is_transient, list_causes

# Variables whose values must be in no message, whatever a library puts into its errors.
SECRET_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
)
_HELP = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY from a Secret, a mounted profile, or workload identity",
    "gs": "workload identity, or GOOGLE_APPLICATION_CREDENTIALS with a mounted key",
    "hf": "HF_TOKEN; on a cluster spec.secrets.hubToken",
}
_NO_CREDENTIALS = frozenset(
    {
        "CredentialRetrievalError",
        "DefaultCredentialsError",
        "NoCredentialsError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "RefreshError",
        "SSOError",
        "TokenRetrievalError",
        "UnauthorizedSSOTokenError",
    }
)
_OUTAGES = frozenset(
    {
        "ClientPayloadError",  # its cause has a code that looks like a status of 400
        "ConnectTimeoutError",
        "ConnectionClosedError",
        "EndpointConnectionError",
        "HTTPClientError",
        "IncompleteRead",
        "IncompleteReadError",
        "ReadTimeoutError",
        "ResponseStreamingError",
        "ServerDisconnectedError",
        "ServerTimeoutError",
    }
)
_PASSING_CODES = frozenset({"InternalError", "OperationAborted", "RequestTimeout", "ServiceUnavailable", "SlowDown"})
_PASSING_ERRNOS = frozenset({errno.EBUSY, errno.EREMOTEIO})


class RemoteFault(ValueError):
    """An address that cannot be read as it is; the text says what is allowed. No retry can succeed."""


class RemoteUnavailable(RuntimeError):
    """A store that cannot be read now; a later try may succeed."""


def passes(error: BaseException) -> bool:
    """Whether a later try of what raised `error` may succeed: an outage, an overloaded store, a full disk."""
    if is_offline(error):
        return False
    for each in list_causes(error):
        names = _names(each)
        if names & _NO_CREDENTIALS:
            return False
        status, code = _status(each), _code(each)
        if code in _PASSING_CODES or names & _OUTAGES:
            return True
        if status is not None:
            return status >= 500 or status in TRANSIENT_STATUS
        if isinstance(each, OSError) and each.errno in _PASSING_ERRNOS:
            return True
    return is_transient(error)


def has_no_key(error: BaseException) -> bool:
    """Whether `error` says that no credentials are found: neither wrong ones nor a part of them."""
    return any("NoCredentialsError" in _names(each) for each in list_causes(error))


def describe_fault(error: BaseException, address: str, environment: Mapping[str, str]) -> str:
    """Return what is allowed in place of `address`, whose store answered with `error`, which does not pass."""
    scheme = address.partition("://")[0]
    words = redact(first_line(error), environment)
    names = {name for each in list_causes(error) for name in _names(each)}
    codes = {code for each in list_causes(error) if (code := _code(each))}
    statuses = {status for each in list_causes(error) if (status := _status(each)) is not None}
    if names & _NO_CREDENTIALS:
        return f"credentials that can be found: {_HELP.get(scheme, '')} ({words})"
    if "NoSuchBucket" in codes or "specified bucket does not exist" in words:
        bucket = address.partition("://")[2].partition("/")[0]
        return f"a bucket that exists: there is no {bucket} ({words})"
    if names & {"PermissionError", "GatedRepoError"} or statuses & {401, 403}:
        said = "".join(f"{code}: " for code in sorted(codes - {"403", "401"}))
        return f"an address that the credentials may read: {_HELP.get(scheme, '')} ({said}{words})"
    if "FileNotFoundError" in names or 404 in statuses:
        return f"an address that exists ({words})"
    return f"an address that can be read ({type(error).__name__}: {words})"


def redact(text: str, environment: Mapping[str, str]) -> str:
    """Return `text` without the values of secret variables, and without user and password of an address."""
    for name in SECRET_VARIABLES:
        secret = environment.get(name, "").strip()
        if len(secret) >= 4:
            text = text.replace(secret, "...")
    return re.sub(r"://[^/\s]*@", "://...@", text)


def _names(error: BaseException) -> frozenset[str]:
    return frozenset(kind.__name__ for kind in type(error).__mro__)


def _code(error: BaseException) -> str:
    """Return the store's own word for an error, as botocore keeps it; empty: it has none."""
    response = getattr(error, "response", None)
    found = response.get("Error", {}) if isinstance(response, Mapping) else {}
    return str(found.get("Code", "")) if isinstance(found, Mapping) else ""


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an error of botocore, gcsfs, aiohttp or the hub stands for; None: of none."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        found: object = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(response, "status_code", None) or getattr(error, "status", None) or getattr(error, "code", None)
    if isinstance(found, str) and found.isdigit():
        found = int(found)
    return found if isinstance(found, int) and 100 <= found < 600 else None
