"""Reads a cluster's nodes, and the pods on them where that is allowed. I/O."""

import asyncio
import os
from collections.abc import Mapping
from typing import Any

from scalerl_operator.capacity.placement import ClusterNode, parse_node, with_used
from scalerl_operator.cli.cluster_reader import to_command_error
from scalerl_operator.cli.exit_codes import EXIT_FAILED, CommandError, UsageError
from scalerl_operator.kube.client import PODS, KubeClient, KubeError, Resource
from scalerl_operator.kube.kubeconfig import Access, NoCluster, find_access

NODES = Resource("/api/v1", "nodes")


def fetch_nodes(context: str | None) -> tuple[list[ClusterNode], str, bool]:
    """Return the nodes of a cluster, its name for messages, and whether GPUs in use are known.

    Raises CommandError: no cluster, no answer, or nodes may not be listed.
    """
    try:
        access = find_access(os.environ, context=context, namespace=None)
    except NoCluster as error:
        raise UsageError(str(error)) from error
    nodes, is_use_known = asyncio.run(_fetch(access))
    return nodes, access.place, is_use_known


async def _fetch(access: Access) -> tuple[list[ClusterNode], bool]:
    kube = KubeClient(access.connection)
    try:
        nodes, _ = await kube.gather(NODES, None, keep=parse_node)
        try:
            pods, _ = await kube.gather(PODS, None, fields="spec.nodeName!=", keep=_trim)
        except KubeError as error:
            if error.status != 403:
                raise
            return nodes, False
        return with_used(nodes, pods), True
    except KubeError as error:
        if error.status == 403:
            text = f"--cluster reads nodes, which you may not list on {access.place}: {error.message}"
            allowed = "ask for the right `list` on nodes, or name the GPU by --device"
            raise CommandError(f"{text}; {allowed}", EXIT_FAILED) from error
        raise to_command_error(error, access) from error
    finally:
        await kube.close()


def _trim(pod: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is read of a pod: a large cluster has many."""
    spec = {name: pod["spec"].get(name) for name in ("nodeName", "containers", "initContainers")}
    return {"spec": spec, "status": {"phase": pod.get("status", {}).get("phase")}}
