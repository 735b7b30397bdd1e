"""Which cluster a person means, and how it is reached: as kubectl finds it. I/O.

A kubeconfig comes first (KUBECONFIG, else ~/.kube/config), then the account of the pod that this runs in.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scalerl_operator.kube import ACCOUNT, Connection, load_connection, load_kubeconfig

DEFAULT_NAMESPACE = "default"


class NoCluster(Exception):
    """Nothing says which cluster is meant, or what says so cannot be used."""


@dataclass(frozen=True)
class Access:
    """A cluster, and the namespace that is meant there."""

    connection: Connection
    namespace: str
    place: str
    """For people: `context kind-dev (https://127.0.0.1:6443)`."""


def find_access(environment: Mapping[str, str], *, context: str | None, namespace: str | None) -> Access:
    """Return the cluster of `context`, the current one unless named, and the namespace. Raises NoCluster."""
    path = _find_kubeconfig(environment)
    if path is None and context is None and "KUBERNETES_SERVICE_HOST" in environment:
        return _load(lambda: _of_this_pod(environment, namespace))
    if path is None:
        given = environment.get("KUBECONFIG")
        where = (
            f"KUBECONFIG is {given}, which is not there" if given else "KUBECONFIG is unset, ~/.kube/config not there"
        )
        raise NoCluster(f"no kubeconfig: {where}, and this is no pod of a cluster")
    return _load(lambda: _of_kubeconfig(path, context, namespace))


def _find_kubeconfig(environment: Mapping[str, str]) -> str | None:
    """Return the path, or several with colons between as KUBECONFIG has them; None if none of them is there."""
    given = environment.get("KUBECONFIG") or str(Path(environment.get("HOME", "~")).expanduser() / ".kube" / "config")
    return given if any(Path(each).expanduser().is_file() for each in given.split(":") if each) else None


def _load(load: Callable[[], Access]) -> Access:
    from kubernetes.config import ConfigException

    try:
        return load()
    except (ConfigException, OSError, yaml.YAMLError) as error:
        raise NoCluster(f"the cluster's configuration cannot be used: {error}") from error


def _of_this_pod(environment: Mapping[str, str], namespace: str | None) -> Access:
    connection = load_connection(environment)
    own = (ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
    return Access(connection, namespace or own, "this pod's cluster")


def _of_kubeconfig(path: str, context: str | None, namespace: str | None) -> Access:
    from kubernetes import config
    from kubernetes.config import ConfigException

    contexts: list[dict[str, Any]]
    contexts, active = config.list_kube_config_contexts(config_file=path)
    if context is not None:
        named = [each for each in contexts if each["name"] == context]
        if not named:
            known = ", ".join(sorted(each["name"] for each in contexts))
            raise ConfigException(f"no context {context!r} in {path}; it has {known or 'none'}")
        active = named[0]
    connection = load_kubeconfig(path, active["name"])
    chosen = namespace or active["context"].get("namespace") or DEFAULT_NAMESPACE
    return Access(connection, chosen, f"context {active['name']} ({connection.server})")
