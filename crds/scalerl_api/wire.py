"""The interface between operator and runtime: paths, ports, names, exit codes, JSON bodies. PURE.

Each block of constants states its writer and its reader.
"""

from typing import Literal

from scalerl_api.base import ApiModel
from scalerl_api.status import PreflightStatus, SourceStatus

# Exit codes of the runtime (written by the runtime, read by the actuators).
EXIT_FINISHED = 0
EXIT_INVALID = 64  # the spec is wrong; never retried
EXIT_NON_FINITE = 65  # loss or gradient is not finite; the last checkpoint is sound
EXIT_RETRY = 75  # a fault of the surroundings, not of the run
EXIT_UNFIT = 76  # a node failed the preflight; the termination message names it
EXIT_EXPORT_REFUSED = 3  # of `export`: the checkpoint, the target or the hub refuses; a repetition changes nothing

# Targets of `python -m scalerl_runtime export --to` (written by the command line, read by the runtime); else a folder.
EXPORT_HUB = "hub:"
EXPORT_STREAM = "-"  # a tar on stdout

# Environment of the runtime (written by the actuators, read by the runtime): names and places, no secret.
ENV_SPEC = "SCALERL_SPEC"  # path of the run's YAML
ENV_FOLDER = "SCALERL_FOLDER"  # the run's folder: records and, unless the spec says otherwise, checkpoints
ENV_CACHE = "SCALERL_CACHE"  # folder of fetched models and data, shared by the processes of a node
ENV_OFFLINE = "SCALERL_OFFLINE"  # set by `scalerl validate`, which fetches nothing from object storage
ENV_ATTEMPT = "SCALERL_ATTEMPT"  # 1 for the first start
ENV_PORT = "SCALERL_PORT"  # the coordinator's HTTP port; 0 lets the kernel choose, see ADDRESS_FILE
ENV_TOKEN_FILE = "SCALERL_TOKEN_FILE"  # path of the bearer token that guards /v1
ENV_TERMINATION_FILE = "SCALERL_TERMINATION_FILE"  # path to which the coordinator writes its Termination

ENV_ACCEPT_DATA = "SCALERL_ACCEPT_NEW_DATA"  # resume with other data than the checkpoint's: ACCEPT_DATA, or a digest
ACCEPT_DATA = "true"  # any data
# Annotation of an RLRun with the digest of the data, tokenizer and model that it may resume with (written by the user,
# read by the operator); the refusal has the digest, so an old annotation accepts no later change.
ANNOTATION_ACCEPT_DATA = "scalerl.io/accept-new-data"
# Annotation of an RLRun with names of nodes, separated by commas, that are fit again; `*`: all (written by the user,
# read by the operator).
ANNOTATION_FIT_NODES = "scalerl.io/fit-nodes"

# Only on a cluster (written by the operator, read by the runtime's pods).
ENV_REPLICAS = "SCALERL_TRAINER_REPLICAS"  # of an attempt with fewer trainer pods than the spec has; else not set
ENV_ROLE = "SCALERL_ROLE"  # trainer or generator
ENV_INDEX = "SCALERL_INDEX"  # 0 for the role's first pod
ENV_COORDINATOR = "SCALERL_COORDINATOR"  # DNS name of the coordinator's pod; set if the run has several pods
ENV_NODE = "SCALERL_NODE"  # name of the pod's node
ENV_POD_IP = "SCALERL_POD_IP"  # address of this pod for its peers
ENV_CLUSTER = "SCALERL_RAY_CLUSTER"  # address of Ray's head (written and read by the coordinator's pod itself)
ENV_TERMINATION_PATH = "SCALERL_TERMINATION_PATH"  # path from which Kubernetes reads the termination message

# Fixed ports of a pod (read by both); Ray chooses a random port where none is given. A run's NetworkPolicy names
# PORT_HTTP only: between the pods of a run every port is open, because collectives listen on ports of the kernel's
# choice.
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
EVALS_FILE = "evals.jsonl"  # one EvalPoint a line, durable before it is reported
LEDGER_FILE = "ledger.jsonl"  # one line a step: the prompts it trained
CHECKPOINTS = "checkpoints"
FINAL_MODEL = "model-final"  # Hugging Face folder of the weights at the run's end
BEST_MODEL = "model-best"  # of the weights with the highest held-out pass rate; of equal ones the earlier
EXPORT_FILE = "scalerl-export.json"  # what a model folder was made of; it is the last file that is written
CARD_FILE = "README.md"
CARD_FORECAST = "<!-- scalerl forecast -->"  # line of a model card that the operator's side replaces by the forecast

# The coordinator's HTTP.
PATH_METRICS = "/metrics"
PATH_PROGRESS = "/v1/progress"
PATH_HEALTH = "/healthz"
PATH_READY = "/readyz"

# Series of the coordinator's /metrics (written by the runtime, read by the operator from a Prometheus server).
SERIES_PREFIX = "scalerl_"
SERIES_PHASE = "phase"  # 1 for the coordinator's phase, which is the label of the same name
SERIES_EARLIER = "earlier_gpu_seconds"  # by role; with SERIES_SPENT it is `Progress.gpu_seconds`
SERIES_SPENT = "gpu_seconds_total"  # by role and phase
# One series for each of these numbers of an EvalPoint, `scalerl_eval_<field>`; all its other fields are labels.
EVAL_SERIES = ("pass_rate", "standard_error", "compute_gpu_hours", "mean_tokens", "entropy")
EVAL_LABELS = {  # label -> field; the label `attempt` is of the scraped target, perhaps a later attempt
    "dataset": "dataset",
    "index": "index",
    "step": "step",
    "version": "version",
    "version_end": "version_end",
    "prompts": "prompts",
    "unsampled": "unsampled",
    "samples": "samples",
    "excluded": "excluded",
    "measured_by": "attempt",
}

CONTAINER = "runtime"  # the container of our processes in a pod; a user's template names it too

Phase = Literal["starting", "warmStart", "training", "evaluating", "stopping", "finished"]
HELD_OUT = "held_out"  # name of the fitted test set, all sources pooled; downstream sets have the user's names
SOURCE_PREFIX = f"{HELD_OUT}."  # before a source's name; no name of a downstream set holds a full stop


def source_dataset(name: str) -> str:
    """Return the test set of one training source's held-out prompts: `held_out.math`."""
    return f"{SOURCE_PREFIX}{name}"


def is_source_dataset(dataset: str) -> bool:
    """Whether a test set has the held-out prompts of one training source."""
    return dataset.startswith(SOURCE_PREFIX)


def source_of(dataset: str) -> str:
    """Return the source's name of `held_out.<name>`."""
    return dataset.removeprefix(SOURCE_PREFIX)


class EvalPoint(ApiModel):
    """One evaluation of one version on one test set."""

    index: int
    """Position in the run's history, from 0; `since` in `/v1/progress` counts these."""
    dataset: str = HELD_OUT
    """`held_out`, `held_out.<source>` with several training sources, or the name of a downstream set."""
    step: int
    """Optimizer steps done by the evaluated weights."""
    version: int
    """Lowest version of the weights that sampled its tokens: `step`, or a later one."""
    version_end: int = 0
    """Highest version that did: above `version` if an engine was updated meanwhile; 0 in points of older versions."""
    compute_gpu_hours: float
    """GPU-hours (device-hours on CPU) of the whole run when that step ended; warm start excluded."""
    pass_rate: float
    """Mean over prompts and samples, in [0, 1]."""
    prompts: int
    """Prompts with a graded completion."""
    unsampled: int = 0
    """Prompts of the set that were not sampled, because the evaluation was late; the others are a random part."""
    samples: int
    """Completions per prompt."""
    standard_error: float
    """Of `pass_rate`, clustered by prompt."""
    excluded: int = 0
    """Completions for which the verifier failed."""
    pass_at_k: dict[str, float] | None = None
    """Chance that one of k completions passes, by k: 1, 2, 4, ... and `samples`; the unbiased estimate of Chen et al.
    2021. Absent with one completion per prompt, and in points of older versions."""
    maj_at_k: dict[str, float] | None = None
    """Chance that the most frequent of k answers is right, by k as above. Absent unless the verifier of every prompt is
    `math` or `choice` alone, with one completion per prompt, and in points of older versions."""
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
    """Mean reward of the batch, in [-1, 1]; absent if the verifier failed for all completions."""
    reward_by_judge: dict[str, float] = {}
    """Mean reward of each verifier, by its label; of completions that it graded."""
    values: dict[str, float]
    """Metrics by their name without the `scalerl_` prefix; see docs/metrics.md."""


class SelfCheck(ApiModel):
    """Engine against trainer on the same tokens and weights: |difference| of their log-probabilities."""

    version: int
    """The weights' version."""
    generator: int
    """Index of the engine that sampled the tokens."""
    tokens: int
    mean: float
    """Nats."""
    largest: float
    """Nats."""
    worst_prompt: int
    """Id of the prompt with the largest mean."""
    worst_mean: float
    """Mean over that prompt's tokens (nats)."""


class StepVital(ApiModel):
    """The watchdog's data of one optimizer step."""

    step: int
    finite: bool = True
    """False: loss or gradient norm was not finite, and the update was skipped."""
    entropy: float | None = None
    """Mean over the trained tokens (nats); absent if nothing was trained."""
    lag: float | None = None
    """Largest lag of a trained token, in steps."""
    mismatch: float | None = None
    """Mean |difference| of log-probability (nats) over the tokens of completions that the trained version sampled;
    absent with fewer than MISMATCH_TOKENS of them."""
    gradient: bool = True
    """False: all rewards were equal in every group, so that the step had no gradient of the reward."""
    reward: float | None = None
    """Mean reward of the batch."""


class Checkpoint(ApiModel):
    """The last durable checkpoint."""

    step: int
    time: float
    path: str


class RolloutExample(ApiModel):
    """One completion of a step, its texts cut to some hundred characters, beside the step's counts."""

    step: int
    prompt: str
    completion: str
    reward: float | None
    """In [-1, 1]; the highest of the step. None: the verifier failed for all completions."""
    passed: int
    """Completions with a reward above 0."""
    graded: int
    """Completions with a reward."""
    completions: int


class Progress(ApiModel):
    """Body of `/v1/progress?since=N`: everything a restarted operator needs."""

    run: str
    attempt: int
    phase: Phase
    detail: str = ""
    """The current wait or activity, for a person."""
    step: int
    version: int
    compute_gpu_hours: float
    gpu_seconds: dict[str, float] = {}
    """By role, over all attempts that are recorded in the run's folder."""
    idle_fraction: dict[str, float] = {}
    """By role, of this attempt."""
    generators_ready: int = 0
    generator_restarts: int = 0
    latest: StepRecord | None = None
    example: RolloutExample | None = None
    """Of the newest step of this attempt; absent before it."""
    warning: str = ""
    """All rewards of this attempt's first steps are equal: completions, and how they were read. Empty: they are not."""
    vitals: list[StepVital] = []
    """The last steps of this attempt, VITAL_STEPS at most, oldest first, so that infrequent polls miss none."""
    self_check: SelfCheck | None = None
    """The last self-check of this attempt."""
    still_seconds: float | None = None
    """Seconds since the last step ended or training began; absent before."""
    evals: list[EvalPoint] = []
    """Every point from index `since` on."""
    sources: list[SourceStatus] = []
    """The data, as this attempt read it; empty while it has not."""
    preflight: PreflightStatus | None = None
    """The check of this attempt's trainer ranks; absent before it, and without `spec.preflight.enabled`."""
    checkpoint: Checkpoint | None = None
    time: float
    """Unix seconds on the coordinator's clock."""


class UnfitNode(ApiModel):
    """A node that failed the preflight."""

    node: str
    reason: str
    """The measured and the allowed value."""


class Termination(ApiModel):
    """The coordinator's termination message; of other pods, if the preflight refuses their node."""

    reason: Literal["Finished", "AllPromptsSolved", "Stopped", "Invalid", "Retry", "Failed", "Unfit"]
    step: int = 0
    checkpoint: Checkpoint | None = None
    """The newest durable checkpoint; absent if this attempt neither wrote nor found one."""
    last_eval: EvalPoint | None = None
    self_check: SelfCheck | None = None
    """The last self-check of this attempt."""
    refused_data: str = ""
    """Digest of data, tokenizer and model, if the attempt ends because they are not the checkpoint's."""
    unfit_nodes: list[UnfitNode] = []
    """Nodes that the next attempts must avoid."""
    error: str = ""
    """One line."""


class RunFault(ApiModel):
    """One fault of a run: path of the field, found value, allowed values."""

    path: str
    value: str
    allowed: str


class RunVerdict(ApiModel):
    """Whether a run's model can be represented, and its self-test (written by the runtime's check, read by the CLI)."""

    faults: tuple[RunFault, ...] = ()
    unchecked: str = ""
    """Why the model was not checked; empty if it was."""
    untested: tuple[str, ...] = ()
    """Parts of the data and its verifiers that were not tested, and why."""
    sources: tuple[SourceStatus, ...] = ()
    """The data that was read, with the self-tests; empty if none was."""
