"""The chart's objects as Helm renders them: this needs Helm, but no cluster."""

import json
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from scalerl_api.wire import EVAL_LABELS, PATH_HEALTH, PATH_METRICS, PATH_READY, PORT_HTTP
from scalerl_operator.cli.parser import parse_arguments
from scalerl_operator.kube.client import CHILDREN, EVENTS, LEASES, PODS, RUNS, Resource
from scalerl_operator.resources import names
from scalerl_operator.resources.network_policy import Isolation
from scalerl_operator.telemetry.promql import TARGET_ATTEMPT, TARGET_UID

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/scalerl"
CODE = ROOT / "operator/scalerl_operator"
MONITORING = [f"monitoring.coreos.com/v1/{kind}" for kind in ("ServiceMonitor", "PodMonitor", "PrometheusRule")]
DIGEST = "sha256:" + "a" * 64
Json = dict[str, Any]

MODES: dict[str, Json] = {
    "cluster": {},
    "namespaced": {
        "watch": {"namespaces": ["team-a", "team-b"]},
        "image": {"repository": "registry.test/op", "digest": DIGEST, "pullPolicy": "Always"},
        "runtimeImage": {"repository": "registry.test/run", "tag": "7"},
        "imagePullSecrets": ["pull"],
        "replicas": 3,
        "tokenKey": {"existingSecret": "mine", "key": "k"},
        "pollSeconds": 4,
        "podLabels": {"team": "rl"},
        "podAnnotations": {"note": "seen"},
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"key": "system", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "important",
        "serviceAccount": {"name": "op", "annotations": {"role": "none"}},
        "networkPolicy": {
            "metricsFrom": [],
            "apiServer": {"cidrs": ["10.0.0.1/32"], "ports": [16443]},
            "runs": {"outside": [{"podSelector": {"matchLabels": {"app": "hub"}}}]},
        },
    },
    "single": {"replicas": 1, "networkPolicy": {"enabled": False, "runs": {"enabled": False}}},
    "monitored": {
        "telemetry": {
            "prometheus": {
                "url": "https://prom.test/tenant",
                "existingSecret": "reader",
                "tokenKey": "t",
                "caKey": "ca.crt",
            }
        },
        "networkPolicy": {
            "prometheus": {"peers": [{"podSelector": {"matchLabels": {"app": "prom"}}}], "ports": [9443]},
        },
        "serviceMonitor": {"enabled": True, "labels": {"release": "prom"}, "interval": "7s"},
        "podMonitor": {"enabled": True, "labels": {"release": "prom"}, "interval": "9s"},
        "prometheusRule": {"enabled": True, "labels": {"release": "prom"}, "runbookUrlPrefix": "https://wiki.test/"},
        "dashboards": {"enabled": True, "namespace": "grafana", "annotations": {"grafana_folder": "rl"}},
    },
}

Template = Callable[..., "subprocess.CompletedProcess[str]"]
Render = Callable[..., list[Json]]


@pytest.fixture(scope="session")
def template(helm: str, tmp_path_factory: pytest.TempPathFactory) -> Template:
    folder = tmp_path_factory.mktemp("values")

    def run(values: Json, *, release: str = "rl", apis: list[str] | None = None) -> "subprocess.CompletedProcess[str]":
        file = folder / "values.yaml"
        file.write_text(json.dumps(values))
        command = [helm, "template", release, str(CHART), "--namespace", "rl-system", "--values", str(file)]
        command += [part for api in apis or [] for part in ("--api-versions", api)]
        return subprocess.run(command, capture_output=True, text=True)

    return run


@pytest.fixture(scope="session")
def render(template: Template) -> Render:
    def objects(values: Json, **options: Any) -> list[Json]:
        done = template({"crds": {"enabled": False}, **values}, **options)
        assert done.returncode == 0, done.stderr
        return [each for each in yaml.safe_load_all(done.stdout) if each]

    return objects


def pick(objects: list[Json], kind: str, name: str = "") -> Json:
    found = [each for each in objects if each["kind"] == kind and name in ("", each["metadata"]["name"])]
    assert len(found) == 1, [each["metadata"]["name"] for each in found]
    return found[0]


def pods_of(objects: list[Json]) -> list[Json]:
    return [pick(objects, "Deployment")["spec"]["template"]["spec"], pick(objects, "Pod")["spec"]]


@pytest.mark.parametrize("mode", MODES)
def test_mode(mode: str, template: Template, golden: Callable[[str, str], None]) -> None:
    """Every object except the CRD and the dashboards, which are files."""
    done = template({"crds": {"enabled": False}, **MODES[mode]}, apis=MONITORING)
    assert done.returncode == 0, done.stderr
    text = re.sub(r"(?m)^(  token-key:) .{64}$", r"\1 <random>", done.stdout)
    text = re.sub(r"(?m)^(  scalerl-[a-z]+[.]json: [|])\n(    .*\n| *\n)+", r"\1 <the file>\n", text)
    golden(f"chart_{mode}.yaml", text)


def test_lint(helm: str) -> None:
    done = subprocess.run([helm, "lint", "--strict", str(CHART)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"replica": 2}, "replica"),
        ({"replicas": 0}, "/replicas"),
        ({"replicas": "2"}, "/replicas"),
        ({"image": {"name": "x"}}, "/image"),
        ({"image": {"repository": ""}}, "/image/repository"),
        ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
        ({"image": {"digest": "sha256:12"}}, "/image/digest"),
        ({"watch": {"namespaces": "team-a"}}, "/watch/namespaces"),
        ({"watch": {"namespaces": ["Team_A"]}}, "/watch/namespaces/0"),
        ({"watch": {"namespaces": ["a", "a"]}}, "/watch/namespaces"),
        ({"tokenKey": {"key": "a/b"}}, "/tokenKey/key"),
        ({"pollSeconds": 0}, "/pollSeconds"),
        ({"telemetry": {"prometheus": {"url": "prom:9090"}}}, "/telemetry/prometheus/url"),
        ({"telemetry": {"prometheus": {"url": "http://u:p@prom"}}}, "/telemetry/prometheus/url"),
        ({"telemetry": {"prometheus": {"tokenKey": "t"}}}, "/telemetry/prometheus/tokenKey"),
        ({"networkPolicy": {"prometheus": {"ports": [0]}}}, "/networkPolicy/prometheus/ports/0"),
        ({"resources": {"limits": {"memory": "lots"}}}, "/resources/limits/memory"),
        ({"resources": {"request": {}}}, "/resources"),
        ({"podLabels": {"app.kubernetes.io/name": "x"}}, "/podLabels"),
        ({"tolerations": [{"keys": "a"}]}, "/tolerations/0"),
        ({"networkPolicy": {"apiServer": {"ports": []}}}, "/networkPolicy/apiServer/ports"),
        ({"networkPolicy": {"apiServer": {"cidrs": ["everywhere"]}}}, "/networkPolicy/apiServer/cidrs/0"),
        ({"networkPolicy": {"metricsFrom": [{"namespace": "m"}]}}, "/networkPolicy/metricsFrom/0"),
        ({"networkPolicy": {"runs": {"outside": [{}]}}}, "/networkPolicy/runs/outside/0"),
        ({"serviceMonitor": {"interval": 30}}, "/serviceMonitor/interval"),
        ({"prometheusRule": {"runbookUrlPrefix": "x"}}, "/prometheusRule/runbookUrlPrefix"),
        ({"dashboards": {"labels": {"grafana_dashboard": 1}}}, "/dashboards/labels/grafana_dashboard"),
        ({"crds": {"keep": True}}, "/crds"),
    ],
    ids=lambda value: value if isinstance(value, str) else json.dumps(value)[1:-1],
)
def test_wrong_value_is_refused_by_its_path(values: Json, path: str, template: Template) -> None:
    done = template(values)
    assert done.returncode != 0
    assert f"'{path}'" in done.stderr


def test_part_of_another_chart(template: Template) -> None:
    assert template({"global": {"anything": 1}}).returncode == 0


def test_crds_are_the_generated_ones_and_stay(template: Template, render: Render) -> None:
    plain = {(each["kind"], each["metadata"]["name"]) for each in render({})}
    rendered = [each for each in yaml.safe_load_all(template({}).stdout) if each]
    ours = [each for each in rendered if (each["kind"], each["metadata"]["name"]) not in plain]
    for each in ours:
        assert each["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        labels = each["metadata"]["labels"]
        kept = {key: value for key, value in labels.items() if key.startswith("rbac.authorization")}
        each["metadata"] = {"name": each["metadata"]["name"], **({"labels": kept} if kept else {})}
        assert labels["app.kubernetes.io/part-of"] == "scalerl"
    originals = [each for path in (ROOT / "crds").glob("*.yaml") for each in yaml.safe_load_all(path.read_text())]

    def by_name(objects: list[Json]) -> list[Json]:
        return sorted(objects, key=lambda each: (each["kind"], each["metadata"]["name"]))

    assert by_name(ours) == by_name(originals)


VERBS = {
    "get": ["get"],
    "list": ["list"],
    "gather": ["list"],
    "create": ["create"],
    "replace": ["update"],
    "merge": ["patch"],
    "check": ["patch"],
    "delete": ["delete"],
}
RESOURCES: dict[str, list[Resource]] = {
    "RUNS": [RUNS],
    "PODS": [PODS],
    "EVENTS": [EVENTS],
    "LEASES": [LEASES],
    "CHILDREN": list(CHILDREN.values()),
    "CONFIG_MAPS": [CHILDREN["ConfigMap"]],
}


def rights_in_code() -> set[tuple[str, str, str]]:
    """(group, resource, verb) of every call of the client in the operator's code, and of kopf's watches."""
    found = {("scalerl.io", "rlruns", "watch"), ("", "pods", "watch")}
    # The commands in cli/ and export/ run with their user's permissions; kube/ is the client itself.
    of_users = {"cli", "export", "kube"}
    paths = (path for path in sorted(CODE.rglob("*.py")) if path.relative_to(CODE).parts[0] not in of_users)
    text = "\n".join(path.read_text() for path in paths)
    assert len(re.findall(r"kopf[.]on[.]event[(]", text)) == 2
    calls = re.findall(r"kube[.](get|list|gather|create|replace|apply|merge|check|delete)[(]\s*(\w+)([^\n]*)", text)
    calls += [("get", *each) for each in re.findall(r"find_object[(][\w.]*kube, (\w+)([^\n]*)", text)]
    assert {name for _, name, _ in calls} == set(RESOURCES)
    for verb, name, rest in calls:
        for resource in RESOURCES[name]:
            group = resource.prefix.split("/")[2] if resource.prefix.startswith("/apis") else ""
            plural = f"{resource.plural}/status" if '"status"' in rest else resource.plural
            # An apply creates a missing object, so it needs `create` too. A run exists: the apply carries its uid.
            verbs = (["patch"] if name == "RUNS" else ["create", "patch"]) if verb == "apply" else VERBS[verb]
            found |= {(group, plural, each) for each in verbs}
    return found


def rights_in_roles(objects: list[Json]) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for each in objects
        if each["kind"] in ("Role", "ClusterRole")
        for rule in each["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_rights_equal_the_calls_of_the_code(render: Render) -> None:
    only_with_owner_enforcement = {("scalerl.io", "rlruns/finalizers", "update")}
    for mode in ("cluster", "namespaced"):
        assert rights_in_roles(render(MODES[mode])) == rights_in_code() | only_with_owner_enforcement


def test_no_secret_is_read(render: Render) -> None:
    verbs = {verb for _, resource, verb in rights_in_roles(render({})) if resource == "secrets"}
    assert verbs == {"create", "patch"}


def test_namespaced_needs_no_cluster_role(render: Render) -> None:
    objects = render(MODES["namespaced"])
    assert not [each for each in objects if each["kind"].startswith("ClusterRole")]
    roles = {(each["metadata"]["namespace"], each["metadata"]["name"]) for each in objects if each["kind"] == "Role"}
    assert roles == {("team-a", "rl-scalerl"), ("team-b", "rl-scalerl"), ("rl-system", "rl-scalerl-lease")}


def test_command_line_is_the_operators(render: Render) -> None:
    container = pods_of(render(MODES["namespaced"]))[0]["containers"][0]
    assert container["command"] == ["python", "-m", "scalerl_operator", "operator"]
    found = parse_arguments(["operator", *container["args"]])
    assert found.image == "registry.test/run:7"
    assert found.namespaces == ("team-a", "team-b")
    assert (found.lease_namespace, found.lease_name) == ("rl-system", "rl-scalerl")
    assert found.poll_seconds == 4.0
    assert found.http == container["ports"][0]["containerPort"]
    assert found.token_key_file.parent == Path(container["volumeMounts"][0]["mountPath"])
    assert found.token_key_file.name == "k"
    isolation = Isolation.parse(found.network_policy)
    assert isolation.http_from == (
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "rl-system"}}},
    )
    assert isolation.outside == ({"podSelector": {"matchLabels": {"app": "hub"}}},)


def test_run_metrics_are_open_to_the_operators_scrapers(render: Render) -> None:
    arguments = pods_of(render({}))[0]["containers"][0]["args"]
    isolation = Isolation.parse(parse_arguments(["operator", *arguments]).network_policy)
    scrapers = [each["namespaceSelector"]["matchLabels"] for each in isolation.http_from]
    assert scrapers == [{"kubernetes.io/metadata.name": name} for name in ("rl-system", "monitoring")]
    assert "169.254.169.254/32" in json.dumps(isolation.outside)


def test_prometheus_is_set_only_where_the_user_names_it(render: Render) -> None:
    container = pods_of(render(MODES["monitored"]))[0]["containers"][0]
    found = parse_arguments(["operator", *container["args"]])
    assert found.prometheus_url == "https://prom.test/tenant"
    (mount,) = [each["mountPath"] for each in container["volumeMounts"] if each["name"] == "prometheus"]
    assert (found.prometheus_token_file, found.prometheus_ca_file) == (Path(mount, "t"), Path(mount, "ca.crt"))
    to_it = pick(render(MODES["monitored"]), "NetworkPolicy")["spec"]["egress"][3]
    assert to_it == {
        "ports": [{"port": 9443, "protocol": "TCP"}],
        "to": MODES["monitored"]["networkPolicy"]["prometheus"]["peers"],
    }
    plain = render({})
    assert not [each for each in pods_of(plain)[0]["containers"][0]["args"] if "prometheus" in each]
    assert len(pick(plain, "NetworkPolicy")["spec"]["egress"]) == 3


def test_coordinators_have_the_labels_that_the_operator_queries(render: Render) -> None:
    """The operator's PromQL selects by the labels that the PodMonitor makes of the pods' labels."""
    labels = names.pod_labels("any", names.COORDINATOR, 1) | {names.LABEL_RUN_UID: "u"}
    found = pick(render(MODES["monitored"], apis=MONITORING), "PodMonitor")["spec"]["podMetricsEndpoints"][0]
    targets = {each["targetLabel"]: each["sourceLabels"] for each in found["relabelings"]}
    assert {TARGET_UID, TARGET_ATTEMPT} <= set(targets)
    known = {"__meta_kubernetes_pod_label_" + re.sub("[^a-z]", "_", name): name for name in labels}
    assert {known[source] for (source,) in targets.values()} == {
        names.LABEL_RUN,
        names.LABEL_RUN_UID,
        names.LABEL_ATTEMPT,
    }
    assert known[targets[TARGET_UID][0]] == names.LABEL_RUN_UID
    assert known[targets[TARGET_ATTEMPT][0]] == names.LABEL_ATTEMPT
    assert not set(targets) & set(EVAL_LABELS), "a label of an evaluation would be renamed"


def test_ports_and_paths_are_those_of_the_code(render: Render) -> None:
    objects = render(MODES["monitored"], apis=MONITORING)
    container = pods_of(objects)[0]["containers"][0]
    probes = [container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")]
    assert probes == [PATH_HEALTH, PATH_HEALTH, PATH_READY]
    to_coordinators = pick(objects, "NetworkPolicy")["spec"]["egress"][2]
    assert to_coordinators["ports"] == [{"port": PORT_HTTP, "protocol": "TCP"}]
    coordinator = names.pod_labels("any", names.COORDINATOR, 1)
    monitor = pick(objects, "PodMonitor")["spec"]
    for selector in (to_coordinators["to"][0]["podSelector"], monitor["selector"]):
        assert selector["matchLabels"].items() <= coordinator.items()
    assert monitor["podMetricsEndpoints"][0]["path"] == PATH_METRICS
    assert pick(objects, "ServiceMonitor")["spec"]["endpoints"][0]["path"] == PATH_METRICS


def matches(selector: Mapping[str, str], objects: list[Json]) -> list[str]:
    pods = [pick(objects, "Deployment")["spec"]["template"], pick(objects, "Pod")]
    return [
        pod["metadata"]["labels"]["app.kubernetes.io/component"]
        for pod in pods
        if selector.items() <= pod["metadata"]["labels"].items()
    ]


def test_selectors_meet_the_operators_pods_and_the_tests_only_for_the_network(render: Render) -> None:
    objects = render({})
    assert matches(pick(objects, "Deployment")["spec"]["selector"]["matchLabels"], objects) == ["operator"]
    assert matches(pick(objects, "Service")["spec"]["selector"], objects) == ["operator"]
    assert matches(pick(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"], objects) == ["operator"]
    assert matches(pick(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"], objects) == [
        "operator",
        "test",
    ]


@pytest.mark.parametrize("mode", MODES)
def test_pods_are_restricted(mode: str, render: Render) -> None:
    for pod in pods_of(render(MODES[mode])):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_monitors_are_left_out_where_the_cluster_has_no_such_kinds(render: Render) -> None:
    kinds = {each["kind"] for each in render(MODES["monitored"])}
    assert not kinds & {"ServiceMonitor", "PodMonitor", "PrometheusRule"}


def test_no_hook_but_the_test(render: Render) -> None:
    hooks = {each["metadata"].get("annotations", {}).get("helm.sh/hook") for each in render({})}
    assert hooks == {None, "test"}


def test_one_replica_has_no_budget_and_no_alert_about_a_standby(render: Render) -> None:
    objects = render({**MODES["monitored"], "replicas": 1}, apis=MONITORING)
    assert not [each for each in objects if each["kind"] == "PodDisruptionBudget"]
    rules = [rule for group in pick(objects, "PrometheusRule")["spec"]["groups"] for rule in group["rules"]]
    assert "ScalerlNoStandby" not in {rule["alert"] for rule in rules}
    assert {rule["annotations"]["runbook_url"] for rule in rules} == {
        f"https://wiki.test/{rule['alert']}.md" for rule in rules
    }


def test_dashboards_arrive_as_they_are(render: Render) -> None:
    objects = render(MODES["monitored"])
    for name in ("fleet", "run"):
        found = pick(objects, "ConfigMap", f"rl-scalerl-{name}-dashboard")
        assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
        text = (CHART / f"dashboards/{name}.json").read_text()
        assert json.loads(found["data"][f"scalerl-{name}.json"]) == json.loads(text)


def test_names_of_a_long_release_fit(render: Render) -> None:
    for each in render(MODES["monitored"], release="r" * 53, apis=MONITORING):
        assert len(each["metadata"]["name"]) <= 63
        assert all(len(value) <= 63 for value in each["metadata"]["labels"].values())
