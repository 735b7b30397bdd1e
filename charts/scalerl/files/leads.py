"""`helm test` in the operator's image: a replica leads, and the operator's account may list runs. I/O.

    python -c ... LEASE_NAMESPACE LEASE_NAME [NAMESPACE]...

It connects to the API server only.
"""

import asyncio
import os
import sys
import time

from scalerl_operator.kube.client import LEASES, PODS, RUNS, KubeClient, KubeError, load_connection

WAIT_SECONDS = 120.0  # after an install, pods may still be starting
RETRY_SECONDS = 2.0  # as often as a lease is renewed


async def main(lease_namespace: str, lease_name: str, namespaces: list[str]) -> str:
    """Return the leader. Raises KubeError if a permission or the CRD is missing."""
    kube = KubeClient(load_connection(os.environ))
    try:
        for namespace in namespaces or [None]:
            await kube.list(RUNS, namespace)
            await kube.list(PODS, namespace, "app.kubernetes.io/managed-by=scalerl-operator")
        return await find_leader(kube, lease_namespace, lease_name)
    finally:
        await kube.close()


async def find_leader(kube: KubeClient, namespace: str, name: str) -> str:
    """Return the holder once it renews the lease, which changes the resource version. Uses the local clock only."""
    deadline, known = time.monotonic() + WAIT_SECONDS, ""
    while time.monotonic() < deadline:
        try:
            lease = await kube.get(LEASES, namespace, name)
        except KubeError as error:
            if error.status != 404:
                raise
        else:
            version, holder = lease["metadata"]["resourceVersion"], lease["spec"].get("holderIdentity", "")
            if holder and known and version != known:
                return holder
            known = version
        await asyncio.sleep(RETRY_SECONDS)
    raise SystemExit(f"no replica renews the lease {namespace}/{name} within {WAIT_SECONDS:g} s")


if __name__ == "__main__":
    leader = asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
    print(f"runs can be listed; {leader} leads")  # noqa: T201 # the test's result
