"""The traffic that a run's NetworkPolicy allows, by Kubernetes' rules: the test cluster does not enforce them."""

import ipaddress
import json
from collections.abc import Mapping
from typing import Any

import pytest

from scalerl_api.wire import PORT_HTTP, PORT_RAY_GCS
from scalerl_operator.resources.names import PodRole, pod_labels, selector
from scalerl_operator.resources.network_policy import InvalidIsolation, Isolation, build_network_spec

Json = dict[str, Any]

HERE, OPERATOR, MONITORING, OTHER = "research", "rl-system", "monitoring", "other-team"
ISOLATION = Isolation.parse(
    json.dumps(
        {
            "httpFrom": [
                {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": OPERATOR}}},
                {
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": MONITORING}},
                    "podSelector": {"matchLabels": {"app": "prometheus"}},
                },
            ],
            "outside": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.169.254/32"]}}],
        }
    )
)


class Pod:
    """A peer in the cluster."""

    def __init__(self, namespace: str, labels: Mapping[str, str]):
        self.namespace, self.labels = namespace, labels


Peer = Pod | str  # or an address outside
COORDINATOR = Pod(HERE, pod_labels("tiny", PodRole("trainer", 0), 1))
GENERATOR = Pod(HERE, pod_labels("tiny", PodRole("generator", 4), None))
STRANGER = Pod(HERE, pod_labels("tiny-2", PodRole("generator", 0), None))
NAMESAKE = Pod(OTHER, pod_labels("tiny", PodRole("trainer", 0), 1))
PROMETHEUS = Pod(MONITORING, {"app": "prometheus"})
GRAFANA = Pod(MONITORING, {"app": "grafana"})
THE_OPERATOR = Pod(OPERATOR, {"app": "operator"})


def chooses(selected: Json, labels: Mapping[str, str]) -> bool:
    assert set(selected) <= {"matchLabels"}
    return selected.get("matchLabels", {}).items() <= labels.items()


def is_peer(rule: Json, peer: Peer) -> bool:
    """One entry of `from` or `to`. Without a namespaceSelector pods of the policy's own namespace are meant."""
    if "ipBlock" in rule:
        block = rule["ipBlock"]
        inside = isinstance(peer, str) and ipaddress.ip_address(peer) in ipaddress.ip_network(block["cidr"])
        return inside and not any(
            ipaddress.ip_address(peer) in ipaddress.ip_network(x) for x in block.get("except", [])
        )
    if isinstance(peer, str):
        return False
    spaces = rule.get("namespaceSelector")
    at_home = (
        peer.namespace == HERE if spaces is None else chooses(spaces, {"kubernetes.io/metadata.name": peer.namespace})
    )
    return at_home and chooses(rule.get("podSelector", {}), peer.labels)


def allows(spec: Json, way: str, peer: Peer, port: int, protocol: str = "TCP") -> bool:
    """Whether `spec`, of a policy in HERE, lets its pods take (`ingress`) or make (`egress`) a connection."""
    side = "from" if way == "ingress" else "to"
    return any(
        (not rule.get(side) or any(is_peer(each, peer) for each in rule[side]))
        and (not rule.get("ports") or {"port": port, "protocol": protocol} in rule["ports"])
        for rule in spec[way]
    )


SPEC = build_network_spec("tiny", ISOLATION)
RULES: list[tuple[str, Peer, int, str, bool, str]] = [
    ("ingress", GENERATOR, PORT_RAY_GCS, "TCP", True, "Ray, from a pod of the run"),
    ("ingress", COORDINATOR, 45123, "TCP", True, "gloo, whose port the kernel chose"),
    ("ingress", STRANGER, PORT_RAY_GCS, "TCP", False, "Ray, from another run"),
    ("ingress", STRANGER, PORT_HTTP, "TCP", False, "the coordinator's HTTP, from another run"),
    ("ingress", NAMESAKE, PORT_RAY_GCS, "TCP", False, "Ray, from a run of the same name in another namespace"),
    ("ingress", THE_OPERATOR, PORT_HTTP, "TCP", True, "the coordinator's HTTP, from the operator"),
    ("ingress", THE_OPERATOR, PORT_RAY_GCS, "TCP", False, "Ray, from the operator"),
    ("ingress", PROMETHEUS, PORT_HTTP, "TCP", True, "the coordinator's HTTP, from Prometheus"),
    ("ingress", GRAFANA, PORT_HTTP, "TCP", False, "the coordinator's HTTP, from Prometheus' neighbour"),
    ("ingress", "10.2.3.4", PORT_HTTP, "TCP", False, "the coordinator's HTTP, from outside"),
    ("egress", GENERATOR, 45123, "TCP", True, "to a pod of the run"),
    ("egress", STRANGER, PORT_RAY_GCS, "TCP", False, "to another run"),
    ("egress", Pod("kube-system", {"k8s-app": "kube-dns"}), 53, "UDP", True, "DNS"),
    ("egress", "169.254.20.10", 53, "TCP", True, "DNS on the node"),
    ("egress", "169.254.169.254", 53, "UDP", True, "DNS at the address of the credentials: some clouds' resolver"),
    ("egress", "169.254.169.254", 80, "TCP", False, "the node's credentials"),
    ("egress", "151.101.1.1", 443, "TCP", True, "a hub"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("way", "peer", "port", "protocol", "wanted"), [r[:5] for r in RULES], ids=[r[5] for r in RULES]
)
def test_traffic(way: str, peer: Peer, port: int, protocol: str, wanted: bool) -> None:
    assert allows(SPEC, way, peer, port, protocol) is wanted


def test_it_is_about_all_pods_of_the_run_and_no_other() -> None:
    assert SPEC["podSelector"] == {"matchLabels": selector("tiny")}
    assert chooses(SPEC["podSelector"], COORDINATOR.labels)
    assert chooses(SPEC["podSelector"], GENERATOR.labels)
    assert not chooses(SPEC["podSelector"], STRANGER.labels)
    assert SPEC["policyTypes"] == ["Ingress", "Egress"], "what is not listed is denied, both ways"


def test_nothing_named_is_nothing_allowed() -> None:
    """A rule with an empty list of peers would let everybody in."""
    spec = build_network_spec("tiny", Isolation((), ()))
    assert not allows(spec, "ingress", THE_OPERATOR, PORT_HTTP)
    assert not allows(spec, "egress", "151.101.1.1", 443)
    assert allows(spec, "egress", COORDINATOR, 45123)


WRONG = [
    ("{", "is not JSON"),
    ("[]", "need an object"),
    ('{"httpFrom": []}', "need an object with httpFrom and outside"),
    ('{"httpFrom": [], "outside": [], "inside": []}', "and nothing else"),
    ('{"httpFrom": {}, "outside": []}', "httpFrom is {}; need a list"),
    ('{"httpFrom": [], "outside": [{}]}', "outside is [{}]; need a list of NetworkPolicyPeers"),
]


@pytest.mark.parametrize(("text", "why"), WRONG)
def test_what_cannot_be_understood_is_named(text: str, why: str) -> None:
    with pytest.raises(InvalidIsolation) as caught:
        Isolation.parse(text)
    assert why in str(caught.value)
