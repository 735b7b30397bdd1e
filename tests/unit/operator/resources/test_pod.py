"""The objects of a run, compared whole with golden/*.yaml; no value there is a default, and no two are the same."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from scalerl_api import RLRun
from scalerl_api.wire import (
    ENV_ACCEPT_DATA,
    ENV_REPLICAS,
    PORT_HTTP,
    PORT_RAY_AGENT,
    PORT_RAY_DASHBOARD_GRPC,
    PORT_RAY_DASHBOARD_HTTP,
    PORT_RAY_GCS,
    PORT_RAY_METRICS,
    PORT_RAY_NODE,
    PORT_RAY_OBJECTS,
    PORTS_RAY_WORKERS,
)
from scalerl_operator.decide.lifecycle import Limits
from scalerl_operator.resources.names import PodRole, claim_name, pod_name
from scalerl_operator.resources.network_policy import Isolation
from scalerl_operator.resources.owner import Owner, PodOptions, build_annotations
from scalerl_operator.resources.pod import build_pod, check_pods
from scalerl_operator.resources.shared import build_common

ISOLATION = Isolation(
    ({"namespaceSelector": {"matchLabels": {"name": "rl-system"}}},), ({"ipBlock": {"cidr": "::/0"}},)
)
OPTIONS = PodOptions(image="registry.test/runtime:7", exit_seconds=41.0, isolation=ISOLATION)
TEMPLATE = {
    "metadata": {"labels": {"team": "olive"}, "annotations": {"note": "keep"}},
    "spec": {
        "nodeSelector": {"pool": "h100"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "priorityClassName": "research",
        "runtimeClassName": "nvidia",
        "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": "hub"}}],
        "securityContext": {"fsGroup": 2117},
        "containers": [
            {
                "name": "runtime",
                "image": "registry.test/mine:9",
                "env": [{"name": "HF_HOME", "value": "/models"}],
                "volumeMounts": [{"name": "models", "mountPath": "/models", "readOnly": True}],
                "resources": {"requests": {"cpu": "13"}, "limits": {"memory": "211Gi"}},
            },
            {"name": "shipper", "image": "registry.test/shipper:3"},
        ],
    },
}


@pytest.fixture
def owner(make_run: Callable[..., RLRun]) -> Callable[..., Owner]:
    def make(**spec: Any) -> Owner:
        given = {
            "trainer": {"replicas": 4, "gpusPerReplica": 2, "template": TEMPLATE},
            "generator": {"minReplicas": 5, "maxReplicas": 6, "gpusPerReplica": 8},
            "deadlines": {"checkpointSeconds": 307},
            "checkpoint": {"claimName": "lake", "everySteps": 17},
        }
        run = make_run(**{**given, **spec})
        metadata = run.metadata.model_copy(update={"name": "qwen-math", "namespace": "research"})
        return Owner(run.model_copy(update={"metadata": metadata}), "c0ffee11-2233", "spec: of the run\n", "s3cret")

    return make


def dump(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False, width=120)


def test_the_coordinators_pod(owner: Callable[..., Owner], golden: Callable[[str, str], None]) -> None:
    golden("pod_coordinator.yaml", dump(build_pod(owner(), PodRole("trainer", 0), 12, OPTIONS)))


DIGEST = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("place", "replicas", "found"),
    [
        (PodRole("trainer", 0), None, []),
        (PodRole("trainer", 0), 3, ["3"]),
        (PodRole("trainer", 1), 3, []),
    ],
)
def test_the_coordinator_is_told_the_size_of_a_smaller_gang(
    owner: Callable[..., Owner], place: PodRole, replicas: int | None, found: list[str]
) -> None:
    container = build_pod(owner(), place, 3, OPTIONS, replicas=replicas)["spec"]["containers"][0]
    assert [each["value"] for each in container["env"] if each["name"] == ENV_REPLICAS] == found


@pytest.mark.parametrize(
    ("place", "annotation", "accepted"),
    [
        (PodRole("trainer", 0), DIGEST, [DIGEST]),
        (PodRole("trainer", 0), "", []),
        (PodRole("trainer", 0), "true", []),
        (PodRole("trainer", 0), f"{DIGEST}\n", []),
        (PodRole("trainer", 1), DIGEST, []),
        (PodRole("generator", 0), DIGEST, []),
    ],
)
def test_the_coordinator_alone_gets_the_digest_of_accepted_data(
    owner: Callable[..., Owner], place: PodRole, annotation: str, accepted: list[str]
) -> None:
    pod = build_pod(replace(owner(), accepted_data=annotation), place, 3, OPTIONS)
    found = [each["value"] for each in pod["spec"]["containers"][0]["env"] if each["name"] == ENV_ACCEPT_DATA]
    assert found == accepted


SECRET = {"name": "GRADER_TOKEN", "valueFrom": {"secretKeyRef": {"name": "grader", "key": "token"}}}


def test_a_judges_secret_is_a_reference_in_the_coordinators_pod_alone(owner: Callable[..., Owner]) -> None:
    """The operator reads no Secret, so its value is in no object; no other pod names it."""
    judge = {"name": "grader", "url": "http://judge/", "tokenVariable": "GRADER_TOKEN"}
    reward = {"verifier": "http:grader", "http": [judge]}
    other = {"name": "HF_HOME", "value": "/models"}
    template = {"spec": {"containers": [{"name": "runtime", "env": [SECRET, other]}]}}
    given = owner(
        reward=reward,
        trainer={"replicas": 2, "gpusPerReplica": 0, "template": template},
        generator={"minReplicas": 1, "maxReplicas": 1, "gpusPerReplica": 0, "template": template},
    )
    assert check_pods(given.run) == []

    def variables(place: PodRole) -> list[dict[str, Any]]:
        pod = build_pod(given, place, 3, OPTIONS)
        return [each for container in pod["spec"]["containers"] for each in container["env"]]

    assert [each for each in variables(PodRole("trainer", 0)) if each["name"] == "GRADER_TOKEN"] == [SECRET]
    for place in (PodRole("trainer", 1), PodRole("generator", 0)):
        assert "grader" not in dump(build_pod(given, place, 3, OPTIONS)).lower()
        assert other in variables(place), "other variables stay"
    for shared in build_common(given, OPTIONS):
        assert "secretKeyRef" not in dump(shared)


def test_a_members_pod(owner: Callable[..., Owner], golden: Callable[[str, str], None]) -> None:
    golden("pod_member.yaml", dump(build_pod(owner(), PodRole("trainer", 3), 12, OPTIONS)))


def test_a_generators_pod(owner: Callable[..., Owner], golden: Callable[[str, str], None]) -> None:
    golden("pod_generator.yaml", dump(build_pod(owner(), PodRole("generator", 4), 12, OPTIONS)))


def test_what_the_pods_share(owner: Callable[..., Owner], golden: Callable[[str, str], None]) -> None:
    golden("common.yaml", "---\n".join(map(dump, build_common(owner(), OPTIONS))))


def test_a_claim_is_made_where_none_is_named_and_nobody_owns_it(owner: Callable[..., Owner]) -> None:
    found = replace(owner(checkpoint={"storageClassName": "nfs"}), claim_size="73Gi")
    claim = build_common(found, OPTIONS)[-1]
    assert claim["kind"] == "PersistentVolumeClaim"
    assert claim["metadata"]["name"] == claim_name("qwen-math") == "qwen-math-checkpoints"
    assert "ownerReferences" not in claim["metadata"]
    assert claim["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "73Gi"}},
        "storageClassName": "nfs",
    }
    pod = build_pod(found, PodRole("generator", 0), 1, OPTIONS)
    volumes = {each["name"]: each for each in pod["spec"]["volumes"]}
    assert volumes["scalerl-run"]["persistentVolumeClaim"] == {"claimName": "qwen-math-checkpoints"}


def test_a_run_on_the_cpu_asks_for_no_gpu(owner: Callable[..., Owner]) -> None:
    found = owner(trainer={"replicas": 4, "gpusPerReplica": 0}, generator={"gpusPerReplica": 0})
    for place in (PodRole("trainer", 0), PodRole("generator", 0)):
        assert "nvidia.com/gpu" not in dump(build_pod(found, place, 1, OPTIONS))


def test_no_secret_is_in_a_pod(owner: Callable[..., Owner]) -> None:
    for place in (PodRole("trainer", 0), PodRole("trainer", 1), PodRole("generator", 0)):
        assert "s3cret" not in dump(build_pod(owner(), place, 1, OPTIONS))


def test_every_port_has_one_user() -> None:
    ports = [
        PORT_HTTP,
        PORT_RAY_GCS,
        PORT_RAY_NODE,
        PORT_RAY_OBJECTS,
        PORT_RAY_AGENT,
        PORT_RAY_DASHBOARD_GRPC,
        PORT_RAY_DASHBOARD_HTTP,
        PORT_RAY_METRICS,
        *range(PORTS_RAY_WORKERS[0], PORTS_RAY_WORKERS[1] + 1),
    ]
    assert len(set(ports)) == len(ports)


def test_the_kubelets_patience_is_the_plans(owner: Callable[..., Owner]) -> None:
    pod = build_pod(owner(), PodRole("trainer", 0), 1, PodOptions("image", Limits().exit_seconds))
    assert pod["spec"]["terminationGracePeriodSeconds"] == 6 * 307 + Limits().exit_seconds, (
        "two checkpoints, then models"
    )


def test_the_longest_name_still_fits() -> None:
    place = PodRole("generator", 4095)
    assert len(place.hostname) <= 63
    assert len(pod_name("x" * 52, place)) <= 253


def test_annotations_say_nothing_without_a_forecast() -> None:
    assert build_annotations(None, None) == {}
    assert build_annotations("0.61", "[0.59,0.63]") == {
        "scalerl.io/predicted-ceiling": "0.61",
        "scalerl.io/predicted-ceiling-interval": "[0.59,0.63]",
    }


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("a label of ours", {"metadata": {"labels": {"scalerl.io/run": "x"}}},
     "metadata.labels: scalerl.io/run, keys under scalerl.io/, app.kubernetes.io/ are the operator's"),
    ("restarts", {"spec": {"restartPolicy": "Always"}}, "spec.restartPolicy: set, set by the operator, by role"),
    ("the host name", {"spec": {"hostname": "a"}},
     "spec.hostname: set, set by the operator: peers find each other by it"),
    ("the grace", {"spec": {"terminationGracePeriodSeconds": 5}},
     "spec.terminationGracePeriodSeconds: set, follows from deadlines.checkpointSeconds"),
    ("a volume of ours", {"spec": {"volumes": [{"name": "a"}, {"name": "scalerl-x"}]}},
     "spec.volumes[1].name: scalerl-x, names under scalerl- are the operator's"),
    ("no list", {"spec": {"volumes": {"name": "a"}}}, "spec.volumes: not a list, a list is needed"),
    ("no name", {"spec": {"containers": [{"image": "a"}]}}, "spec.containers[0]: no entry, name is needed"),
    ("the command", {"spec": {"containers": [{"name": "runtime", "command": ["sh"]}]}},
     "spec.containers[0].command: set, set by the operator"),
    ("a variable of ours", {"spec": {"containers": [{"name": "runtime", "env": [{"name": "SCALERL_ROLE"}]}]}},
     "spec.containers[0].env[0].name: SCALERL_ROLE, names under SCALERL_ are the operator's"),
    ("how Ray knows its peers", {"spec": {"containers": [{"name": "runtime", "env": [{"name": "RAY_AUTH_MODE"}]}]}},
     "spec.containers[0].env[0].name: RAY_AUTH_MODE, names under RAY_AUTH_ are the operator's"),
    ("where Ray's token is",
     {"spec": {"containers": [{"name": "runtime", "env": [{"name": "A"}, {"name": "RAY_AUTH_TOKEN_PATH"}]}]}},
     "spec.containers[0].env[1].name: RAY_AUTH_TOKEN_PATH, names under RAY_AUTH_ are the operator's"),
    ("a token of the user's own", {"spec": {"containers": [{"name": "runtime", "env": [{"name": "RAY_AUTH_TOKEN"}]}]}},
     "spec.containers[0].env[0].name: RAY_AUTH_TOKEN, names under RAY_AUTH_ are the operator's"),
    ("the name of the coordinator's port",
     {"spec": {"containers": [{"name": "runtime", "ports": [{"name": "http", "containerPort": 9100}]}]}},
     "spec.containers[0].ports[0].name: http, the operator's name for port 8480"),
    ("a port without a number", {"spec": {"containers": [{"name": "runtime", "ports": [{"name": "a"}]}]}},
     "spec.containers[0].ports[0]: no entry, containerPort is needed"),
    ("no protocol",
     {"spec": {"containers": [{"name": "runtime", "ports": [{"containerPort": 9100, "protocol": ["TCP"]}]}]}},
     "spec.containers[0].ports[0].protocol: ['TCP'], one of TCP, UDP, SCTP"),
    ("a place of ours",
     {"spec": {"containers": [{"name": "runtime", "volumeMounts": [{"name": "a", "mountPath": "/dev/shm/"}]}]}},
     "spec.containers[0].volumeMounts[0].mountPath: /dev/shm/, mounted by the operator"),
    ("GPUs", {"spec": {"containers": [{"name": "runtime", "resources": {"limits": {"nvidia.com/gpu": "3"}}}]}},
     "spec.containers[0].resources.limits: nvidia.com/gpu, use gpusPerReplica"),
]  # fmt: skip


@pytest.mark.parametrize(("template", "fault"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_is_owned_is_refused(make_run: Callable[..., RLRun], template: dict[str, Any], fault: str) -> None:
    for role in ("trainer", "generator"):
        run = make_run(trainer={"gpusPerReplica": 0}, generator={"gpusPerReplica": 0} | {})
        group = getattr(run.spec, role).model_copy(update={"template": _template(make_run, template)})
        run = run.model_copy(update={"spec": run.spec.model_copy(update={role: group})})
        assert [str(each) for each in check_pods(run)] == [f"spec.{role}.template.{fault}"]


def _template(make_run: Callable[..., RLRun], template: dict[str, Any]) -> object:
    return make_run(trainer={"gpusPerReplica": 0, "template": template}).spec.trainer.template


def test_a_user_may_command_a_container_of_his_own(make_run: Callable[..., RLRun]) -> None:
    template = {"spec": {"containers": [{"name": "shipper", "command": ["sh"], "env": [{"name": "SCALERL_ROLE"}]}]}}
    assert check_pods(make_run(trainer={"gpusPerReplica": 0, "template": template})) == []


def test_ports_are_identified_by_number_and_protocol(owner: Callable[..., Owner]) -> None:
    """A port need not have a name; the coordinator's own comes first, and may be written down once more."""
    given = [
        {"containerPort": 9100},
        {"containerPort": 9200},
        {"containerPort": 9200, "protocol": "UDP"},
        {"containerPort": 9200, "protocol": "TCP", "name": "debug"},
        {"containerPort": 8480, "hostPort": 18480},
    ]
    template = {"spec": {"containers": [{"name": "runtime", "ports": given}]}}
    found = owner(trainer={"replicas": 4, "gpusPerReplica": 2, "template": template})
    assert check_pods(found.run) == []
    (container,) = build_pod(found, PodRole("trainer", 0), 12, OPTIONS)["spec"]["containers"]
    assert container["ports"] == [
        {"name": "http", "containerPort": 8480, "protocol": "TCP", "hostPort": 18480},
        {"containerPort": 9100},
        {"containerPort": 9200, "protocol": "TCP", "name": "debug"},
        {"containerPort": 9200, "protocol": "UDP"},
    ]


def test_other_variables_of_ray_pass(make_run: Callable[..., RLRun]) -> None:
    variables = [{"name": "RAY_worker_niceness", "value": "0"}]
    template = {"spec": {"containers": [{"name": "runtime", "env": variables}]}}
    assert check_pods(make_run(trainer={"gpusPerReplica": 0, "template": template})) == []


def test_what_one_machine_alone_can_do_is_refused_in_the_words_of_the_api_server(
    make_run: Callable[..., RLRun],
) -> None:
    one = {"gpusPerReplica": 1}
    run = make_run(trainer=one, generator={**one, "colocated": True, "gpuMemoryShare": 0.4})
    tables = Path(__file__).parents[3] / "admission"
    assert [str(each) for each in check_pods(run)] == [
        each["message"] for each in yaml.safe_load((tables / "cluster.yaml").read_text())
    ]
    assert check_pods(make_run(trainer=one, generator=one)) == []


NOT_THERE = {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["gpu-3", "gpu-8"]}


@pytest.mark.parametrize(
    ("affinity", "terms"),
    [
        (None, [{"matchExpressions": [NOT_THERE]}]),
        ({"podAntiAffinity": {}}, [{"matchExpressions": [NOT_THERE]}]),
        (
            {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [
                            {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]},
                            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["spare"]}]},
                        ]
                    }
                }
            },
            [
                {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}, NOT_THERE]},
                {
                    "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["spare"]}],
                    "matchExpressions": [NOT_THERE],
                },
            ],
        ),
    ],
)
def test_pods_avoid_excluded_nodes_in_each_of_the_users_alternatives(
    owner: Callable[..., Owner], affinity: dict[str, Any] | None, terms: list[dict[str, Any]]
) -> None:
    template = {"spec": {} if affinity is None else {"affinity": affinity}}
    parts = {"replicas": 4, "gpusPerReplica": 2, "template": template}
    generators = {"minReplicas": 5, "maxReplicas": 6, "gpusPerReplica": 8, "template": template}
    given = owner(trainer=parts, generator=generators)
    for place in (PodRole("trainer", 0), PodRole("trainer", 2), PodRole("generator", 1)):
        before = build_pod(given, place, 3, OPTIONS)["spec"].get("affinity")
        assert before == affinity
        found = build_pod(replace(given, excluded_nodes=("gpu-3", "gpu-8")), place, 3, OPTIONS)["spec"]["affinity"]
        required = found["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert required["nodeSelectorTerms"] == terms
        assert ("podAntiAffinity" in found) is ("podAntiAffinity" in (affinity or {}))


def test_a_template_may_add_what_rdma_needs(owner: Callable[..., Owner]) -> None:
    container = {
        "name": "runtime",
        "securityContext": {"capabilities": {"add": ["IPC_LOCK"]}},
        "resources": {"limits": {"rdma/hca": 1}},
        "env": [{"name": "NCCL_IB_HCA", "value": "mlx5"}],
    }
    given = owner(trainer={"replicas": 2, "gpusPerReplica": 8, "template": {"spec": {"containers": [container]}}})
    assert check_pods(given.run) == []
    found = build_pod(given, PodRole("trainer", 1), 3, OPTIONS)["spec"]["containers"][0]
    assert found["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    assert found["resources"]["limits"] == {"nvidia.com/gpu": "8", "rdma/hca": 1}


def test_the_hosts_network_is_refused_with_the_reason(owner: Callable[..., Owner]) -> None:
    given = owner(trainer={"replicas": 2, "gpusPerReplica": 8, "template": {"spec": {"hostNetwork": True}}})
    (fault,) = check_pods(given.run)
    assert fault.path == "spec.trainer.template.spec.hostNetwork"
    assert "Ray's ports are fixed" in fault.allowed
