"""Which traffic a run's pods may have: their NetworkPolicy, as a value. PURE.

Pods of one run may speak to each other on every port. Ray's ports are fixed and could be named, but the collectives'
cannot: gloo and NCCL open listeners on ports that the kernel chooses.
"""

import json
from dataclasses import dataclass
from typing import Any

from scalerl_api.wire import PORT_HTTP
from scalerl_operator.resources import names
from scalerl_operator.resources.pod_template import Json

PORT_DNS = 53


class InvalidIsolation(ValueError):
    """The operator's network option cannot be parsed."""


@dataclass(frozen=True)
class Isolation:
    """The allowed traffic of runs besides that between their own pods; peers are NetworkPolicyPeers."""

    http_from: tuple[Json, ...]
    """Peers that may connect to coordinators' HTTP port: the operator and Prometheus."""
    outside: tuple[Json, ...]
    """Destinations that pods may reach: hubs with models and data. Empty: nothing."""

    @classmethod
    def parse(cls, text: str) -> "Isolation":
        """Read `{"httpFrom": [peer, ...], "outside": [peer, ...]}`. Raises InvalidIsolation."""
        try:
            given: Any = json.loads(text)
        except ValueError as error:
            raise InvalidIsolation(f"{text!r} is not JSON: {error}") from error
        if not isinstance(given, dict) or set(given) != {"httpFrom", "outside"}:
            raise InvalidIsolation(f"{text!r}: need an object with httpFrom and outside, and nothing else")
        for name, peers in given.items():
            # An empty peer, like an empty list of them, means everybody.
            if not isinstance(peers, list) or not all(isinstance(each, dict) and each for each in peers):
                raise InvalidIsolation(f"{name} is {json.dumps(peers)}; need a list of NetworkPolicyPeers")
        return cls(tuple(given["httpFrom"]), tuple(given["outside"]))


def build_network_spec(run: str, isolation: Isolation) -> Json:
    """Return the `spec` of the run's NetworkPolicy. A rule without peers would allow all: it is left out instead."""
    ingress: list[Json] = [{"from": [_own_pods(run)]}]
    if isolation.http_from:
        ingress.append({"from": list(isolation.http_from), "ports": [{"port": PORT_HTTP, "protocol": "TCP"}]})
    egress: list[Json] = [
        {"to": [_own_pods(run)]},
        # DNS, wherever it is: on some clusters on the node itself, which no selector of pods reaches.
        {"ports": [{"port": PORT_DNS, "protocol": protocol} for protocol in ("UDP", "TCP")]},
    ]
    if isolation.outside:
        egress.append({"to": list(isolation.outside)})
    return {
        **_own_pods(run),
        "policyTypes": ["Ingress", "Egress"],
        "ingress": ingress,
        "egress": egress,
    }


def _own_pods(run: str) -> Json:
    return {"podSelector": {"matchLabels": names.selector(run)}}
