"""Which pods get the hub's token, and where their cache lies."""

from collections.abc import Callable
from typing import Any

import pytest

from scalerl_api import RLRun
from scalerl_operator.resources.export_pod import ExportPod, build_export_pod
from scalerl_operator.resources.names import PodRole
from scalerl_operator.resources.owner import Owner, PodOptions
from scalerl_operator.resources.pod import build_pod, check_pods
from scalerl_operator.resources.pod_storage import CachePlace, InvalidCache

IN_CLAIM = CachePlace()
TOKEN = {"hubToken": {"name": "hub", "key": "hf"}}
ROLES = (PodRole("trainer", 0), PodRole("trainer", 1), PodRole("generator", 0))


def build(run: RLRun, role: PodRole, cache: CachePlace = IN_CLAIM) -> dict[str, Any]:
    owner = Owner(run, "c0ffee11-2233", "spec", "secret")
    spec: dict[str, Any] = build_pod(owner, role, 1, PodOptions(image="image", exit_seconds=1.0, cache=cache))["spec"]
    return spec


def tokens(run: RLRun) -> list[list[dict[str, Any]]]:
    variables = [build(run, role)["containers"][0]["env"] for role in ROLES]
    return [[each for each in found if each["name"] == "HF_TOKEN"] for found in variables]


REFERENCE = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "hf"}}}


@pytest.mark.parametrize(
    ("source", "fetching"),
    [
        ("org/name", (True, True, True)),
        ("hf://org/name@main", (True, True, True)),
        ("s3://bucket/model", (True, False, False)),
        ("/models/mine", (True, False, False)),
        ("scratch", (True, False, False)),
    ],
)
def test_the_token_is_a_reference_in_the_pods_that_fetch_from_the_hub(
    make_run: Callable[..., RLRun], source: str, fetching: tuple[bool, ...]
) -> None:
    model: dict[str, Any] = {"source": source, **({"scratch": {}} if source == "scratch" else {})}
    found = tokens(make_run(model=model, secrets=TOKEN))
    assert found == [[REFERENCE] if each else [] for each in fetching]
    assert tokens(make_run(model=model)) == [[], [], []]


@pytest.mark.parametrize("role", ["trainer", "generator"])
def test_two_tokens_are_refused(make_run: Callable[..., RLRun], role: str) -> None:
    containers = [{"name": "shipper"}, {"name": "runtime", "env": [{"name": "A"}, {"name": "HF_TOKEN", "value": "x"}]}]
    part = {"template": {"spec": {"containers": containers}}, "gpusPerReplica": 1}
    other = "generator" if role == "trainer" else "trainer"
    parts = {role: part, other: {"gpusPerReplica": 1}}
    (fault,) = check_pods(make_run(secrets=TOKEN, **parts))
    assert fault.path == f"spec.{role}.template.spec.containers[1].env[1].name"
    assert "spec.secrets.hubToken" in fault.allowed
    assert check_pods(make_run(**parts)) == []


@pytest.mark.parametrize(
    ("place", "source"),
    [
        (CachePlace("/fast"), {"hostPath": {"path": "/fast", "type": "DirectoryOrCreate"}}),
        (CachePlace(None, "models"), {"persistentVolumeClaim": {"claimName": "models"}}),
    ],
)
def test_a_cache_outside_the_claim(make_run: Callable[..., RLRun], place: CachePlace, source: dict[str, Any]) -> None:
    for role in ROLES:
        spec = build(make_run(), role, place)
        assert {"name": "scalerl-cache", **source} in spec["volumes"]
        mount = {"name": "scalerl-cache", "mountPath": "/var/lib/scalerl/cache"}
        assert mount in spec["containers"][0]["volumeMounts"]


def test_only_one_place_can_be_the_cache() -> None:
    assert CachePlace.parse("", "") == CachePlace()
    with pytest.raises(InvalidCache, match="only one place"):
        CachePlace.parse("/fast", "models")
    with pytest.raises(InvalidCache, match="from the node's root"):
        CachePlace.parse("fast", None)


@pytest.mark.parametrize("lora", [None, {"rank": 8}])
def test_an_export_can_fetch_only_where_adapters_are_merged(
    make_run: Callable[..., RLRun], lora: dict[str, Any] | None
) -> None:
    model = {"source": "org/name", **({} if lora is None else {"lora": lora})}
    owner = Owner(make_run(model=model, secrets=TOKEN), "c0ffee11-2233", "spec", "secret")
    container = build_export_pod(owner, ExportPod("image", "x", 60))["spec"]["containers"][0]
    variables = {each["name"]: each for each in container["env"]}
    has_cache = "/var/lib/scalerl/cache" in [each["mountPath"] for each in container["volumeMounts"]]
    assert has_cache == (lora is not None)
    assert (variables.get("HF_TOKEN") == REFERENCE) == (lora is not None)
    assert {"HF_HOME", "SCALERL_CACHE"}.issubset(variables) == (lora is not None)
