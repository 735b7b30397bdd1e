"""Reads a run's evaluations and progress from the user's Prometheus server. I/O."""

import http.client
import json
import ssl
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from scalerl_operator.telemetry.http_client import Peer
from scalerl_operator.telemetry.progress_client import TelemetryError
from scalerl_operator.telemetry.promql import (
    Question,
    Reading,
    Series,
    SeriesError,
    age_query,
    evals_query,
    evals_span,
    parse_answer,
    read_evals,
    read_progress,
    state_query,
)

ANSWER_SECONDS = 10.0  # for all queries about one run together


@dataclass(frozen=True)
class PrometheusClient:
    """URL and credentials of the server."""

    url: str
    """The part before /api/v1."""
    token_file: Path | None = None
    """Read again for every query: such tokens rotate while the operator runs."""
    ca_file: Path | None = None
    """Certificate authorities; None: the system's."""
    answer_seconds: float = ANSWER_SECONDS


def fetch_reading(server: PrometheusClient, question: Question) -> Reading:
    """Return the server's data of a run. Raises TelemetryError, which carries no information about the run."""
    try:
        with closing(_Session(server)) as session:
            span = evals_span(question)
            times = {"start": f"{span.start:.3f}", "end": f"{span.end:.3f}", "step": f"{span.step:.3f}"}
            evals = read_evals(session.ask("query_range", {"query": evals_query(question), **times}))
            ages = session.ask("query", {"query": age_query(question)})
            state = session.ask("query", {"query": state_query(question)})
    except (OSError, http.client.HTTPException, SeriesError) as error:
        raise TelemetryError(f"{server.url}: {type(error).__name__}: {error}") from error
    if not ages:
        return Reading(evals)
    age = max(0.0, ages[0].value)
    return Reading(evals, read_progress(question, state, age), age)


class _Session:
    """One connection to the server, with path prefix and headers."""

    def __init__(self, server: PrometheusClient):
        parts = urlsplit(server.url)
        self._path = parts.path
        self._headers = {"Accept": "application/json"}
        if server.token_file is not None:
            self._headers["Authorization"] = f"Bearer {server.token_file.read_text().strip()}"
        trust = None
        if parts.scheme == "https":
            trust = ssl.create_default_context(cafile=str(server.ca_file) if server.ca_file is not None else None)
        self._peer = Peer(parts.hostname or "", parts.port, server.answer_seconds, trust=trust)

    def close(self) -> None:
        """Close the connection."""
        self._peer.close()

    def ask(self, call: str, parameters: dict[str, str]) -> list[Series]:
        """Return the answer to one call of the API. Raises OSError, HTTPException, SeriesError."""
        given = {**parameters, "timeout": f"{self._peer.remaining():.3f}"}
        status, body = self._peer.ask(f"{self._path}/api/v1/{call}?{urlencode(given)}", self._headers)
        if status != http.HTTPStatus.OK:
            raise SeriesError(f"{call}: HTTP {status}, 200 is needed: {_complaint(body)}")
        return parse_answer(body)


def _complaint(body: bytes) -> str:
    """The server's error message, if it has one."""
    try:
        return str(json.loads(body)["error"])[:300]
    except (ValueError, KeyError, TypeError):
        return ""
