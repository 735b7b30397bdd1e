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
    "GangIncomplete",
    "Stuck",
    "GangBroken",
    "WatchdogRestart",
    "WatchdogStop",
]
"""Why an actuator requested a coordinator to end."""
ConditionType = Literal[
    "Ready",
    "Progressing",
    "Healthy",
    "NodesFit",
    "Suspended",
    "ForecastReady",
    "StopRecommended",
    "Complete",
    "Failed",
]
FailureAction = Literal["FailRun", "Ignore", "Count"]


class Condition(ApiModel):
    """metav1.Condition."""

    type: ConditionType
    """Type of the condition. `Complete` with reason `StoppedByPolicy` is a run that a policy ended: no failure."""
    status: Literal["True", "False", "Unknown"]
    """Whether the condition holds."""
    reason: str
    """One CamelCase word, for programs."""
    message: str
    """One sentence, for people."""
    last_transition_time: datetime
    """When `status` last changed."""
    observed_generation: int = 1
    """The spec's generation that the condition is about."""


class RoleStatus(ApiModel):
    """One role's replicas."""

    name: Literal["trainer", "generator"]
    """The role."""
    desired: int
    """Desired replicas."""
    ready: int
    """Replicas that are ready."""
    restarts: int
    """Replicas that were replaced, over all attempts."""


class ProgressStatus(ApiModel):
    """Progress of the run."""

    phase: str
    """A summary for `kubectl get`; programs read the conditions."""
    step: int
    """Optimizer steps done."""
    version: int
    """Version of the weights that the generators use."""
    pass_rate: float | None = None
    """The last measured held-out pass rate, in [0, 1]."""
    compute_gpu_hours: float
    """GPU-hours spent (device-hours on CPU); warm start excluded."""
    reward_by_judge: dict[str, float] = {}
    """Mean reward of each verifier in the last step, in [-1, 1], by its label."""
    mismatch: float | None = None
    """Mean difference of log-probability between trainer and engine with the same weights (nats), as last measured:
    over a step's tokens of lag 0, else by the self-check."""
    eta_seconds: float | None = None
    """Seconds to the budget's end at the present speed."""


class ForecastStatus(ApiModel):
    """The last forecast. Without a fit the numbers are absent, never guessed."""

    verdict: Literal["Identified", "Weak", "NotIdentified"]
    """`Identified`: the interval can be acted on. `Weak`: it is wide, or a rival law disagrees. `NotIdentified`: the
    evaluations do not determine it."""
    reason: str
    """Reason of the verdict, in a sentence."""
    law: str | None = None
    """The law that was fitted."""
    points: int
    """Evaluations that were used."""
    ceiling: float | None = None
    """The pass rate that unlimited compute would reach (A of Eq. 1)."""
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
    """Compute at which `spec.forecast.target` is reached; absent if it is never reached."""
    summary: str | None = None
    """Ceiling and interval for one column: `0.61 [0.59,0.63]`. Absent without a fit."""
    updated_at: datetime | None = None
    """Time of the computation."""


class SourceForecastStatus(ForecastStatus):
    """The last forecast of one training source, from its own held-out prompts."""

    name: str
    """Name of the source."""
    pass_rate: float | None = None
    """The last measured pass rate of its held-out prompts, in [0, 1]."""


class SelfTestStatus(ApiModel):
    """How one verifier judged a sample of a source's rows before the engines started."""

    verifier: str
    """Label of the verifier."""
    rows: int
    """Rows that were tried."""
    failed: int
    """Rows that were not judged as expected."""
    note: str = ""
    """Remark for a person; empty: nothing."""


class SourceStatus(ApiModel):
    """One source of prompts as the last attempt read it, and how its verifiers judged it."""

    path: str
    """Place of the source in the spec."""
    name: str = ""
    """Name of its results; empty: the only training source, without a name."""
    rows: int
    """Rows that were read, bad ones included."""
    bad: int = 0
    """Rows that could not be used."""
    cut: str = ""
    """Words on the rows that `size` left out; empty: there are none."""
    train: int = 0
    """Prompts to train on."""
    held_out: int = 0
    """Prompts that are never trained on."""
    duplicates: int = 0
    """Rows that left training: near duplicates of held-out or downstream prompts."""
    self_tests: list[SelfTestStatus] = []
    """The self-test of each of its verifiers."""


class PreflightStatus(ApiModel):
    """Measurements of an attempt's trainer ranks before the model was loaded."""

    ranks: int
    """Ranks that were checked."""
    nodes: int
    """Nodes of these ranks."""
    seconds: float
    """Duration of the check."""
    teraflops: float | None = None
    """Matrix product of the median rank, in 1e12 operations per second."""
    slowest_teraflops: float | None = None
    """The same of the slowest rank."""
    slowest_node: str = ""
    """Node of that rank."""
    bandwidth: float | None = None
    """All-reduce over all ranks: bus bandwidth in GB/s; absent with one rank."""
    node_bandwidth: float | None = None
    """The same within one node, of the slowest node; absent where no node has two ranks."""
    network: str = ""
    """NCCL's network between nodes, by its name: `IB`, `Socket`, a plugin's; empty: not known."""
    warnings: list[str] = []
    """Findings that do not end the attempt, ten at most."""


class ExcludedNode(ApiModel):
    """A node that failed the run's preflight; the run's later pods avoid it."""

    name: str
    """Name of the node."""
    reason: str
    """The measured and the allowed value."""
    time: datetime
    """When it was excluded."""


class StopInput(ApiModel):
    """One evaluation that a policy used."""

    step: int
    """Optimizer steps of the evaluated weights."""
    compute_gpu_hours: float
    """Compute at that step."""
    value: float
    """The value that was compared with the policy's bound."""
    verdict: str | None = None
    """Verdict of the forecast that gave the value; absent for measured values."""


class StopStatus(ApiModel):
    """The stop policy that held, and its evidence."""

    policy: str
    """Name of the policy."""
    mode: Literal["Enforce", "Observe"]
    """`Enforce`: the policy ended the run. `Observe`: it would have."""
    reason: str
    """The condition that held, with its numbers."""
    quantity: str = ""
    """Quantity of its condition, by its name in the spec."""
    inputs: list[StopInput] = []
    """The last ten values that it used, oldest first."""
    saved_gpu_hours: float | None = None
    """Budget that was unspent at the last of them."""
    others: list[str] = []
    """Other policies that hold."""


class CheckpointStatus(ApiModel):
    """The last durable checkpoint."""

    step: int
    """Optimizer steps at the checkpoint."""
    time: datetime
    """When it became durable."""
    uri: str
    """Location of the checkpoint."""


class CostStatus(ApiModel):
    """Device time of the run, lost work included."""

    gpu_seconds: dict[str, float]
    """Device-seconds by role."""
    idle_fraction: dict[str, float]
    """Share of device time without work, by role, in [0, 1]."""


class AttemptStatus(ApiModel):
    """One attempt: from the start of the trainer group to its end."""

    number: int
    """1 for the run's first attempt."""
    replicas: int
    """Number of trainer pods; fewer than `trainer.replicas` where not all had room."""
    room: int | None = None
    """Number of its pods that had room, if it was given up for a smaller one."""
    created: datetime
    """When its pods were requested."""
    started: datetime | None = None
    """When its coordinator's process began."""
    seen: bool = False
    """Whether the coordinator's pod has been observed: if it is missing later, it is lost."""
    stop_cause: StopCause | None = None
    """Why its end was requested; absent without a request."""
    stop_time: datetime | None = None
    """When its end was requested."""
    stop_message: str = ""
    """The observation that caused the request."""
    ended: datetime | None = None
    """When its coordinator's end was observed."""
    exit_code: int | None = None
    """Exit code of the container that ended it, 128 + N for signal N; absent if there is none."""
    infrastructure: bool = False
    """Whether a lost node, an eviction or a deletion by others ended it: such an end costs no restart."""
    rule: str | None = None
    """The rule of `spec.failurePolicy` that matches its end; absent if none does."""
    ruled: FailureAction | None = None
    """Action of that rule."""
    said: Literal["Finished", "AllPromptsSolved", "Stopped", "Invalid", "Retry", "Failed", "Unfit"] | None = None
    """Reason in the coordinator's termination message."""
    error: str = ""
    """Error in the termination message: one line."""
    refused_data: str = ""
    """Digest of data, tokenizer and model that the attempt refused, because its checkpoint has others."""
    accepted_data: str = ""
    """That digest, if the run's annotation accepts it for this attempt."""
    step: int = 0
    """Optimizer steps at its end."""
    checkpoint_step: int | None = None
    """Newest durable checkpoint known when it ended."""

    @property
    def over(self) -> bool:
        """Whether the coordinator has ended."""
        return self.ended is not None


class EarlierAttempts(ApiModel):
    """Totals of the attempts that are no longer listed."""

    active_seconds: float = 0.0
    """Seconds that they ran."""
    failures: int = 0
    """Attempts that cost a restart, since the last new checkpoint."""
    retries: int = 0
    """Attempts that cost none, since the last new checkpoint."""
    checkpoint_step: int | None = None
    """Step of the newest checkpoint that one of them wrote."""


class RLRunStatus(ApiModel):
    """The observed state of a run, as of the last write."""

    observed_generation: int = 1
    """The spec's generation that this status is about."""
    conditions: list[Condition] = []
    """Current conditions."""
    roles: list[RoleStatus] = []
    """Replicas by role."""
    attempt: int = 1
    """Number of the attempt; 1 for the first."""
    progress: ProgressStatus | None = None
    """Progress of the run."""
    forecast: ForecastStatus | None = None
    """The last forecast, of all held-out prompts together."""
    source_forecasts: list[SourceForecastStatus] = []
    """With several training sources: the last forecast of each."""
    sources: list[SourceStatus] = []
    """The data, as the last attempt read it."""
    preflight: PreflightStatus | None = None
    """The check of the last attempt's trainer ranks."""
    excluded_nodes: list[ExcludedNode] = []
    """On a cluster: nodes that failed the preflight, 16 at most, oldest first. The annotation `scalerl.io/fit-nodes`
    takes nodes off this list."""
    stop: StopStatus | None = None
    """The stop policy that held."""
    checkpoint: CheckpointStatus | None = None
    """The last durable checkpoint."""
    cost: CostStatus | None = None
    """Device time."""
    attempts: list[AttemptStatus] = []
    """On a cluster: the last attempts, oldest first."""
    earlier: EarlierAttempts | None = None
    """On a cluster: the attempts before those."""
