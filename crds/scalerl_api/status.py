"""RLRun's status: the same document in the cluster and in a run folder's status.yaml. PURE."""

from datetime import datetime
from typing import Literal

from scalerl_api.base import ApiModel

StopCause = Literal[
    "Interrupted",
    "Suspended",
    "StoppedByPolicy",
    "DeadlineExceeded",
    "PendingDeadline",
    "Stuck",
    "GangBroken",
    "WatchdogRestart",
    "WatchdogStop",
]
"""Why an actuator asked a coordinator to end."""
ConditionType = Literal[
    "Ready", "Progressing", "Healthy", "Suspended", "ForecastReady", "StopRecommended", "Complete", "Failed"
]
FailureAction = Literal["FailRun", "Ignore", "Count"]


class Condition(ApiModel):
    """metav1.Condition."""

    type: ConditionType
    """What is said. `Complete` with reason `StoppedByPolicy` is a run that a policy ended: no failure."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: str
    """One CamelCase word, for programs."""
    message: str
    """One sentence, for people."""
    last_transition_time: datetime
    """When `status` last changed."""
    observed_generation: int = 1
    """The spec's generation that this was said about."""


class RoleStatus(ApiModel):
    """One role's replicas."""

    name: Literal["trainer", "generator"]
    """The role."""
    desired: int
    """Replicas that are wanted."""
    ready: int
    """Replicas that are at work."""
    restarts: int
    """Replicas that were replaced, over all attempts."""


class ProgressStatus(ApiModel):
    """How far the run is."""

    phase: str
    """A summary for `kubectl get`; programs read the conditions."""
    step: int
    """Optimizer steps done."""
    version: int
    """The weights that the generators have."""
    pass_rate: float | None = None
    """The last measured held-out pass rate, in [0, 1]."""
    compute_gpu_hours: float
    """GPU-hours spent (device-hours on CPU); warm start excluded."""
    eta_seconds: float | None = None
    """Seconds to the budget's end at the present pace."""


class ForecastStatus(ApiModel):
    """The last forecast. Without a fit the numbers are absent, never guessed."""

    verdict: Literal["Identified", "Weak", "NotIdentified"]
    """`Identified`: the interval can be acted on. `Weak`: it is wide, or a rival law disagrees. `NotIdentified`: the
    points do not say."""
    reason: str
    """Why, in a sentence."""
    law: str | None = None
    """The law that was fitted."""
    points: int
    """Evaluations that were used."""
    ceiling: float | None = None
    """The pass rate that endless compute would reach (A of Eq. 1)."""
    ceiling_low: float | None = None
    """Lower end of its 90 % interval."""
    ceiling_high: float | None = None
    """Upper end of its 90 % interval."""
    c_mid_gpu_hours: float | None = None
    """Compute at which half of the gain is reached."""
    b: float | None = None
    """Steepness (B of Eq. 1)."""
    r0: float | None = None
    """Pass rate before RL (R0 of Eq. 1)."""
    predicted_at_budget: float | None = None
    """Pass rate at the end of the budget."""
    low: float | None = None
    """Lower end of its 90 % interval."""
    high: float | None = None
    """Upper end of its 90 % interval."""
    target_gpu_hours: float | None = None
    """Compute at which `spec.forecast.target` is reached; absent if it never is."""
    summary: str | None = None
    """Ceiling and interval for one column: `0.61 [0.59,0.63]`. Absent without a fit."""
    updated_at: datetime | None = None
    """When this was computed."""


class StopInput(ApiModel):
    """One evaluation that a policy looked at."""

    step: int
    """Optimizer steps of the evaluated weights."""
    compute_gpu_hours: float
    """Compute at that step."""
    value: float
    """What the policy's bound was held against."""
    verdict: str | None = None
    """Of the forecast that it came from; absent for what is measured."""


class StopStatus(ApiModel):
    """Which policy spoke, and on what."""

    policy: str
    """Its name."""
    mode: Literal["Enforce", "Observe"]
    """Whether it ended the run or would have."""
    reason: str
    """What held, with the numbers."""
    quantity: str = ""
    """What its condition is about, by its name in the spec."""
    inputs: list[StopInput] = []
    """The numbers that it looked at, oldest first; of more than ten the last."""
    saved_gpu_hours: float | None = None
    """Budget that was left at the last of them."""
    others: list[str] = []
    """Further policies that hold."""


class CheckpointStatus(ApiModel):
    """The last durable checkpoint."""

    step: int
    """Optimizer steps it holds."""
    time: datetime
    """When it became durable."""
    uri: str
    """Where it is."""


class CostStatus(ApiModel):
    """What the run has used, lost work included."""

    gpu_seconds: dict[str, float]
    """By role."""
    idle_fraction: dict[str, float]
    """By role, in [0, 1]."""


class AttemptStatus(ApiModel):
    """One life of the trainer group on a cluster."""

    number: int
    """1 for the run's first."""
    replicas: int
    """Trainer pods that it has."""
    created: datetime
    """When its pods were asked for."""
    started: datetime | None = None
    """When its coordinator's process began."""
    seen: bool = False
    """Whether the coordinator's pod has existed: if it does not now, it is lost."""
    stop_cause: StopCause | None = None
    """Why it was asked to end; absent while nobody has asked."""
    stop_time: datetime | None = None
    """When it was asked."""
    stop_message: str = ""
    """What was seen then."""
    ended: datetime | None = None
    """When its coordinator's end was seen."""
    exit_code: int | None = None
    """Of what ended it, 128 + N for signal N; absent if that left none."""
    infrastructure: bool = False
    """A node, an eviction or a deletion by others ended it: it costs no restart."""
    rule: str | None = None
    """The rule of `spec.failurePolicy` that fits its end; absent if none does."""
    ruled: FailureAction | None = None
    """What that rule says."""
    said: Literal["Finished", "Stopped", "Invalid", "Retry", "Failed"] | None = None
    """The coordinator's last word."""
    error: str = ""
    """One line."""
    step: int = 0
    """Optimizer steps at its end."""
    checkpoint_step: int | None = None
    """Newest durable checkpoint known when it ended."""

    @property
    def over(self) -> bool:
        """Whether the coordinator has ended."""
        return self.ended is not None


class EarlierAttempts(ApiModel):
    """What remains of attempts that are no longer listed."""

    active_seconds: float = 0.0
    """How long they ran."""
    failures: int = 0
    """Those that cost a restart, since the last new checkpoint."""
    retries: int = 0
    """Those that cost none, since the last new checkpoint."""
    checkpoint_step: int | None = None
    """Newest checkpoint that one of them left."""


class RLRunStatus(ApiModel):
    """What was seen, as of the last write."""

    observed_generation: int = 1
    """The spec's generation that this status is about."""
    conditions: list[Condition] = []
    """What holds now."""
    roles: list[RoleStatus] = []
    """Replicas by role."""
    attempt: int = 1
    """1 for the first start."""
    progress: ProgressStatus | None = None
    """How far the run is."""
    forecast: ForecastStatus | None = None
    """The last forecast."""
    stop: StopStatus | None = None
    """The policy that spoke."""
    checkpoint: CheckpointStatus | None = None
    """The last durable checkpoint."""
    cost: CostStatus | None = None
    """What was used."""
    attempts: list[AttemptStatus] = []
    """On a cluster: the last attempts, oldest first."""
    earlier: EarlierAttempts | None = None
    """On a cluster: the attempts before those."""
