"""Find the cluster, namespace and credentials of a command, as kubectl does. I/O.

A kubeconfig takes precedence (KUBECONFIG, else ~/.kube/config) over the service account of the pod.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scalerl_operator.kube.client import ACCOUNT, Connection, load_connection, load_kubeconfig

DEFAULT_NAMESPACE = "default"


class NoCluster(Exception):
    """No configuration names a cluster, or the configuration is unusable."""


@dataclass(frozen=True)
class Access:
    """Connection to a cluster, and the namespace to use there."""

    connection: Connection
    namespace: str
    place: str
    """For messages: `context kind-dev (https://127.0.0.1:6443)`."""


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
    """Return the path, or several separated by colons as in KUBECONFIG; None if no file exists."""
    given = environment.get("KUBECONFIG") or str(Path(environment.get("HOME", "~")).expanduser() / ".kube" / "config")
    return given if any(Path(each).expanduser().is_file() for each in given.split(":") if each) else None


def _load(load: Callable[[], Access]) -> Access:
    from kubernetes.config import ConfigException

    try:
        return load()
    except (ConfigException, OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise NoCluster(f"the cluster's configuration cannot be used: {error}") from error


def _of_this_pod(environment: Mapping[str, str], namespace: str | None) -> Access:
    connection = load_connection(environment)
    own = (ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
    return Access(connection, namespace or own, "this pod's cluster")


def _of_kubeconfig(path: str, context: str | None, namespace: str | None) -> Access:
    from kubernetes.config import ConfigException

    contexts, current = _read_contexts(path)
    chosen = context or current
    if not chosen:
        raise ConfigException(
            f"{path} names no current context; --context chooses one of {', '.join(contexts) or 'none'}"
        )
    if chosen not in contexts:
        raise ConfigException(f"no context {chosen!r} in {path}; it has {', '.join(contexts) or 'none'}")
    connection = load_kubeconfig(path, chosen)
    place = f"context {chosen} ({connection.server})"
    return Access(connection, namespace or contexts[chosen] or DEFAULT_NAMESPACE, place)


def _read_contexts(path: str) -> tuple[dict[str, str], str]:
    """Return each context's namespace, by name, and the current context.

    Of several files the first that has a value counts, as in kubectl. The client library uses the current context of
    the last file, so a command would read another cluster than kubectl does.
    """
    contexts: dict[str, str] = {}
    current = ""
    for file in (Path(each).expanduser() for each in path.split(":") if each):
        document: Any = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
        if not isinstance(document, dict):
            continue
        for each in document.get("contexts") or []:
            contexts.setdefault(each["name"], each["context"].get("namespace") or "")
        current = current or document.get("current-context") or ""
    return contexts, current
