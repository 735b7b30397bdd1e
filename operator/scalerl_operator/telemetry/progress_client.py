"""The client of a coordinator's `/v1/progress`. I/O."""

import http.client
from contextlib import closing

from pydantic import ValidationError

from scalerl_api.wire import PATH_PROGRESS, Progress
from scalerl_operator.telemetry.http_client import Peer


class TelemetryError(Exception):
    """The coordinator did not answer, or not with a Progress. One missed poll does not affect the run."""


def fetch_progress(address: str, token: str, since: int, *, timeout_seconds: float) -> Progress:
    """Return the coordinator's progress with every eval point from index `since` on. Raises TelemetryError.

    Args:
        address: `host:port`.
        timeout_seconds: for the whole answer, the connection included.
    """
    host, _, port = address.strip().rpartition(":")
    if not host or not port.isdigit():
        raise TelemetryError(f"address {address!r} is not host:port")
    path = f"{PATH_PROGRESS}?since={since}"
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
    try:
        with closing(Peer(host.strip("[]"), int(port), timeout_seconds)) as coordinator:
            status, body = coordinator.ask(path, headers)
    except (OSError, http.client.HTTPException) as error:
        raise TelemetryError(f"GET {address}{path}: {type(error).__name__}: {error}") from error
    if status != http.HTTPStatus.OK:
        raise TelemetryError(f"GET {address}{path}: HTTP {status}, 200 is needed")
    try:
        return Progress.model_validate_json(body)
    except ValidationError as error:
        raise TelemetryError(f"GET {address}{path}: not a Progress: {error.errors()[0]['msg']}") from error
