"""What operator and runtime say to each other: paths, ports, names, exit codes, JSON bodies. PURE.

Every constant says who writes it and who reads it.
"""

from typing import Literal

from scalerl_api.base import ApiModel

# Exit codes of the runtime (written by the runtime, read by the actuators).
EXIT_FINISHED = 0
EXIT_INVALID = 64  # the spec is wrong; never retried
EXIT_NON_FINITE = 65  # loss or gradient are no numbers any more; the last checkpoint is sound
EXIT_RETRY = 75  # a fault of the surroundings; does not say the run is bad

# Environment of the runtime (written by the actuators, read by the runtime): names and places, no secret.
ENV_SPEC = "SCALERL_SPEC"  # path of the run's YAML
ENV_FOLDER = "SCALERL_FOLDER"  # the run's folder: records and, unless the spec says otherwise, checkpoints
ENV_ATTEMPT = "SCALERL_ATTEMPT"  # 1 for the first start
ENV_PORT = "SCALERL_PORT"  # the coordinator's HTTP port; 0 lets the kernel choose, see ADDRESS_FILE
ENV_TOKEN_FILE = "SCALERL_TOKEN_FILE"  # path of the bearer token that guards /v1
ENV_TERMINATION_FILE = "SCALERL_TERMINATION_FILE"  # where the coordinator leaves its Termination

# Only on a cluster (written by the operator, read by the runtime's pods).
ENV_ROLE = "SCALERL_ROLE"  # trainer or generator
ENV_INDEX = "SCALERL_INDEX"  # 0 for the role's first pod
ENV_COORDINATOR = (
    "SCALERL_COORDINATOR"  # DNS name of the coordinator's pod; set: the run's processes are spread over pods
)
ENV_POD_IP = "SCALERL_POD_IP"  # where this pod's peers reach it
ENV_CLUSTER = (
    "SCALERL_RAY_CLUSTER"  # Ray's head, once this pod has one (written and read by the coordinator's pod itself)
)
ENV_LAST_WORDS = "SCALERL_LAST_WORDS"  # where Kubernetes reads the Termination from

# Fixed ports of a pod (read by both). Ray chooses at random what it is not told. A run's NetworkPolicy names PORT_HTTP
# only: between the pods of a run every port is open, for collectives listen where the kernel lets them.
PORT_HTTP = 8480  # the coordinator's HTTP
PORT_RAY_GCS = 6379
PORT_RAY_NODE = 6380
PORT_RAY_OBJECTS = 6381
PORT_RAY_AGENT = 6382  # runtime environments
PORT_RAY_DASHBOARD_GRPC = 6383
PORT_RAY_DASHBOARD_HTTP = 6384
PORT_RAY_METRICS = 6385
PORTS_RAY_WORKERS = (10_002, 10_999)  # first and last: one for every Ray process of a pod

# Files in the run's folder (written by the runtime, read by the actuators and the report).
ADDRESS_FILE = "coordinator.address"  # "host:port", written when the coordinator's HTTP answers
METRICS_FILE = "metrics.jsonl"  # one StepRecord a line
EVALS_FILE = "evals.jsonl"  # one EvalPoint a line, durable before it is announced
LEDGER_FILE = "ledger.jsonl"  # one line a step: the prompts it trained
CHECKPOINTS = "checkpoints"

# The coordinator's HTTP.
PATH_METRICS = "/metrics"
PATH_PROGRESS = "/v1/progress"
PATH_HEALTH = "/healthz"
PATH_READY = "/readyz"

# Series of the coordinator's /metrics that the operator can read back from a Prometheus server (written by the
# runtime).
SERIES_PREFIX = "scalerl_"
SERIES_PHASE = "phase"  # 1 for the coordinator's phase, which is the label of the same name
SERIES_EARLIER = "earlier_gpu_seconds"  # by role; with SERIES_SPENT it is `Progress.gpu_seconds`
SERIES_SPENT = "gpu_seconds_total"  # by role and phase
# One series for each of these numbers of an EvalPoint, `scalerl_eval_<field>`; all its other fields are labels.
EVAL_SERIES = ("pass_rate", "standard_error", "compute_gpu_hours", "mean_tokens", "entropy")
EVAL_LABELS = {  # label -> field; `attempt` is the label of whoever is scraped, perhaps a later attempt
    "dataset": "dataset",
    "index": "index",
    "step": "step",
    "version": "version",
    "prompts": "prompts",
    "samples": "samples",
    "excluded": "excluded",
    "measured_by": "attempt",
}

Phase = Literal["starting", "warmStart", "training", "evaluating", "stopping", "finished"]
HELD_OUT = "held_out"  # name of the fitted test set; downstream sets have the user's names


class EvalPoint(ApiModel):
    """One evaluation of one version on one test set."""

    index: int
    """Position in the run's history, from 0; `since` in `/v1/progress` counts these."""
    dataset: str = HELD_OUT
    """`held_out`, or the name of a downstream set."""
    step: int
    """Optimizer steps done by the evaluated weights."""
    version: int
    """The weights' version, the same as `step` unless weights are not pushed every step."""
    compute_gpu_hours: float
    """GPU-hours (device-hours on CPU) of the whole run when that step ended; warm start excluded."""
    pass_rate: float
    """Mean over prompts and samples, in [0, 1]."""
    prompts: int
    samples: int
    """Completions per prompt."""
    standard_error: float
    """Of `pass_rate`, clustered by prompt."""
    excluded: int = 0
    """Completions that the verifier could not judge."""
    mean_tokens: float = 0.0
    """Mean completion length."""
    truncation_share: float | None = None
    """Completions cut at the limit, in [0, 1]; absent in points of older versions."""
    entropy: float | None = None
    """Mean negative log-probability of the sampled tokens (nats): an estimate of the policy's entropy."""
    attempt: int = 1


class StepRecord(ApiModel):
    """One optimizer step: a line of metrics.jsonl."""

    step: int
    time: float
    """Unix seconds at the step's end."""
    attempt: int
    compute_gpu_hours: float
    reward: float | None = None
    """Mean reward of the batch, in [-1, 1]; absent if no completion of it could be judged."""
    values: dict[str, float]
    """Metrics by their name without the `scalerl_` prefix; see docs/metrics.md."""


class StepVital(ApiModel):
    """What the watchdog looks at of one optimizer step."""

    step: int
    finite: bool = True
    """False: loss or gradient norm was no number, and the update was left out."""
    entropy: float | None = None
    """Mean over the trained tokens (nats); absent if nothing was trained."""
    lag: float | None = None
    """Largest of a trained token, in steps."""


class Checkpoint(ApiModel):
    """The last durable checkpoint."""

    step: int
    time: float
    path: str


class Progress(ApiModel):
    """Body of `/v1/progress?since=N`: everything a restarted operator needs."""

    run: str
    attempt: int
    phase: Phase
    detail: str = ""
    """What is being waited for, for a person."""
    step: int
    version: int
    compute_gpu_hours: float
    gpu_seconds: dict[str, float] = {}
    """By role, all attempts that this coordinator knows of."""
    idle_fraction: dict[str, float] = {}
    """By role, of this attempt."""
    generators_ready: int = 0
    generator_restarts: int = 0
    latest: StepRecord | None = None
    vitals: list[StepVital] = []
    """The last steps of this attempt, VITAL_STEPS at most, oldest first: whoever asks seldom misses none."""
    still_seconds: float | None = None
    """Since the last step ended, or since the training began; absent before."""
    evals: list[EvalPoint] = []
    """Every point from index `since` on."""
    checkpoint: Checkpoint | None = None
    time: float
    """Unix seconds on the coordinator's clock."""


class Termination(ApiModel):
    """What the coordinator says last (the pod's termination message)."""

    reason: Literal["Finished", "Stopped", "Invalid", "Retry", "Failed"]
    step: int = 0
    checkpoint: Checkpoint | None = None
    """The newest durable one; absent if this attempt neither made nor found any."""
    last_eval: EvalPoint | None = None
    error: str = ""
    """One line."""
