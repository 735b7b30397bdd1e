"""RLRun's status: the same document in the cluster and in a run folder's status.yaml. PURE."""

from datetime import datetime
from typing import Literal

from scalerl_api.model import ApiModel


class Condition(ApiModel):
    """metav1.Condition."""

    type: Literal["Ready", "Progressing", "ForecastReady", "StopRecommended", "Complete", "Failed"]
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str
    last_transition_time: datetime
    observed_generation: int = 1


class RoleStatus(ApiModel):
    """One role's replicas."""

    name: Literal["trainer", "generator"]
    desired: int
    ready: int
    restarts: int


class ProgressStatus(ApiModel):
    """How far the run is."""

    phase: str
    step: int
    version: int
    pass_rate: float | None = None
    compute_gpu_hours: float
    eta_seconds: float | None = None


class ForecastStatus(ApiModel):
    """The last forecast. Without a fit the numbers are absent, never guessed."""

    verdict: Literal["Identified", "Weak", "NotIdentified"]
    reason: str
    law: str | None = None
    points: int
    ceiling: float | None = None
    ceiling_low: float | None = None
    ceiling_high: float | None = None
    c_mid_gpu_hours: float | None = None
    b: float | None = None
    r0: float | None = None
    predicted_at_budget: float | None = None
    low: float | None = None
    high: float | None = None
    target_gpu_hours: float | None = None
    updated_at: datetime | None = None


class StopStatus(ApiModel):
    """Which policy spoke."""

    policy: str
    mode: Literal["Enforce", "Observe"]
    reason: str
    saved_gpu_hours: float | None = None


class CheckpointStatus(ApiModel):
    """The last durable checkpoint."""

    step: int
    time: datetime
    uri: str


class CostStatus(ApiModel):
    """What the run has used, lost work included."""

    gpu_seconds: dict[str, float]
    idle_fraction: dict[str, float]


class RLRunStatus(ApiModel):
    """What was seen, as of the last write."""

    observed_generation: int = 1
    conditions: list[Condition] = []
    roles: list[RoleStatus] = []
    attempt: int = 1
    progress: ProgressStatus | None = None
    forecast: ForecastStatus | None = None
    stop: StopStatus | None = None
    checkpoint: CheckpointStatus | None = None
    cost: CostStatus | None = None
