"""The cluster of a command, found as kubectl finds it, and the errors where there is none."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from scalerl_operator.kube.kubeconfig import NoCluster, find_access


def write(path: Path, **namespaces: str) -> str:
    """A kubeconfig with a context for each argument, the first one current."""
    names = list(namespaces)
    contexts: list[dict[str, Any]] = []
    for name, namespace in namespaces.items():
        context = {"cluster": name, "user": name} | ({"namespace": namespace} if namespace else {})
        contexts.append({"name": name, "context": context})
    config = {
        "current-context": names[0],
        "contexts": contexts,
        "clusters": [{"name": name, "cluster": {"server": f"http://{name}.test:8001"}} for name in names],
        "users": [{"name": name, "user": {"token": f"token-of-{name}"}} for name in names],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config))
    return str(path)


def test_the_current_context_and_its_namespace(tmp_path: Path) -> None:
    environment = {"KUBECONFIG": write(tmp_path / "config", dev="research", prod="")}
    found = find_access(environment, context=None, namespace=None)
    assert (found.namespace, found.place) == ("research", "context dev (http://dev.test:8001)")
    assert found.connection.token() == "token-of-dev"


def test_a_named_context_and_namespace_take_precedence(tmp_path: Path) -> None:
    environment = {"KUBECONFIG": write(tmp_path / "config", dev="research", prod="")}
    found = find_access(environment, context="prod", namespace=None)
    assert (found.namespace, found.connection.server) == ("default", "http://prod.test:8001")
    assert find_access(environment, context="dev", namespace="other").namespace == "other"


def test_the_home_folders_kubeconfig_is_the_default(tmp_path: Path) -> None:
    write(tmp_path / ".kube" / "config", home="")
    assert (
        find_access({"HOME": str(tmp_path)}, context=None, namespace=None).connection.server == "http://home.test:8001"
    )


def test_several_kubeconfigs_are_merged(tmp_path: Path) -> None:
    """As in kubectl, the first file's current context counts, and missing files are skipped."""
    paths = [str(tmp_path / "none"), write(tmp_path / "a", dev=""), write(tmp_path / "b", prod="")]
    environment = {"KUBECONFIG": ":".join(paths)}
    assert find_access(environment, context=None, namespace=None).connection.server == "http://dev.test:8001"
    assert find_access(environment, context="prod", namespace=None).connection.token() == "token-of-prod"


def test_a_context_may_be_chosen_where_none_is_current(tmp_path: Path) -> None:
    path = write(tmp_path / "config", dev="research")
    text = (tmp_path / "config").read_text().replace("current-context: dev\n", "")
    (tmp_path / "config").write_text(text)
    assert find_access({"KUBECONFIG": path}, context="dev", namespace=None).namespace == "research"


def test_a_kubeconfig_takes_precedence_over_the_pods_account(tmp_path: Path) -> None:
    in_a_pod = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443", "HOME": str(tmp_path)}
    given = {**in_a_pod, "KUBECONFIG": write(tmp_path / "config", dev="")}
    assert find_access(given, context=None, namespace=None).connection.server == "http://dev.test:8001"
    with pytest.raises(NoCluster, match=r"cannot be used: .*No such file"):  # no account's files are here
        find_access(in_a_pod, context=None, namespace=None)


FAULTS: list[tuple[str, str | None, str]] = [
    ("a: [1\n", None, "the cluster's configuration cannot be used"),
    ("contexts: []\ncurrent-context: dev\n", None, "no context 'dev' in .*; it has none"),
    ("contexts: [{name: dev, context: {}}]\n", None, "names no current context; --context chooses one of dev"),
    ("contexts: [{context: {}}]\n", None, "cannot be used"),
    ("", None, "names no current context"),
]


@pytest.mark.parametrize(("text", "context", "why"), FAULTS, ids=["torn", "unknown", "none chosen", "no name", "empty"])
def test_an_unusable_kubeconfig_is_refused(tmp_path: Path, text: str, context: str | None, why: str) -> None:
    (tmp_path / "config").write_text(text)
    with pytest.raises(NoCluster, match=why):
        find_access({"KUBECONFIG": str(tmp_path / "config")}, context=context, namespace=None)


def test_an_unknown_context_lists_the_known_ones(tmp_path: Path) -> None:
    environment = {"KUBECONFIG": write(tmp_path / "config", dev="", prod="")}
    with pytest.raises(NoCluster, match=r"no context 'staging' in .*config; it has dev, prod"):
        find_access(environment, context="staging", namespace=None)


def test_a_missing_kubeconfig_lists_the_places_searched(tmp_path: Path) -> None:
    with pytest.raises(NoCluster, match=r"KUBECONFIG is unset, ~/.kube/config not there, and this is no pod"):
        find_access({"HOME": str(tmp_path)}, context=None, namespace=None)
    with pytest.raises(NoCluster, match=r"KUBECONFIG is /nowhere, which is not there"):
        find_access({"KUBECONFIG": "/nowhere"}, context=None, namespace=None)
