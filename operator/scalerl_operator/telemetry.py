"""Asks a leader how far it is: the client of `/v1/progress`. I/O."""

import http.client

from pydantic import ValidationError

from scalerl_api.wire import PATH_PROGRESS, Progress

MAX_BODY_BYTES = 64 * 1024 * 1024  # 100,000 eval points are 30 MB; more is not a leader's answer


class TelemetryError(Exception):
    """The leader did not answer, or not with its progress. One missed answer says nothing about the run."""


def fetch_progress(address: str, token: str, since: int, *, timeout_seconds: float) -> Progress:
    """Return the leader's progress with every eval point from index `since` on. Raises TelemetryError.

    Args:
        address: `host:port`.
        timeout_seconds: longest silence of the peer, for the connection and for each read.
    """
    host, _, port = address.strip().rpartition(":")
    if not host or not port.isdigit():
        raise TelemetryError(f"address {address!r} is not host:port")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=timeout_seconds)
    path = f"{PATH_PROGRESS}?since={since}"
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}", "Accept": "application/json"})
        with connection.getresponse() as answer:
            body = answer.read(MAX_BODY_BYTES + 1)
    except (OSError, http.client.HTTPException) as error:
        raise TelemetryError(f"GET {address}{path}: {type(error).__name__}: {error}") from error
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise TelemetryError(f"GET {address}{path}: HTTP {answer.status}, 200 is needed")
    if len(body) > MAX_BODY_BYTES:
        raise TelemetryError(f"GET {address}{path}: more than {MAX_BODY_BYTES} bytes")
    try:
        return Progress.model_validate_json(body)
    except ValidationError as error:
        raise TelemetryError(f"GET {address}{path}: not a Progress: {error.errors()[0]['msg']}") from error
