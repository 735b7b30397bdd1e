"""Options of `scalerl operator`. PURE."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class OperatorOptions:
    """Settings of one replica of the operator."""

    image: str
    """Of the runtime, for pod templates that name none."""
    token_key_file: Path
    namespaces: tuple[str, ...]
    """Namespaces to serve; empty for all."""
    lease_namespace: str
    lease_name: str
    identity: str | None
    """Of this replica in the lease; None: the host name and a random part."""
    http: int
    """Port of health and metrics."""
    poll_seconds: float
    prometheus_url: str | None
    prometheus_token_file: Path | None
    prometheus_ca_file: Path | None
    network_policy: str | None
    """JSON of `Isolation`; None: the operator creates no NetworkPolicy."""
    cache_host_path: str | None
    """Folder of each node for fetched models and data; None, as is `cache_claim`: each run's claim."""
    cache_claim: str | None
    """PersistentVolumeClaim for them, in each run's namespace."""
