"""What becomes of a run that goes badly, or well enough: stop policies, watchdog, failures, deadlines. PURE."""

from typing import Annotated, Literal

from pydantic import Field

from scalerl_api.base import NAME_PATTERN, ApiModel
from scalerl_api.status import FailureAction

VITAL_STEPS = 100  # a coordinator tells of so many of its last steps; no rule of the watchdog looks further back
WORD_PATTERN = r"^[A-Za-z0-9]([-A-Za-z0-9_./]{0,314}[A-Za-z0-9])?$"  # 316: a condition's type in Kubernetes
WORD_ALLOWED = "1 to 316 letters, digits and '-', '_', '.', '/', with a letter or digit at both ends"


class Bound(ApiModel):
    """One side of a number."""

    below: float | None = None
    """True while the number is below this."""
    above: float | None = None
    """True while the number is above this."""

    @property
    def num_set(self) -> int:
        """How many of the two are given."""
        return len(self.model_dump(exclude_none=True))


class StopCondition(ApiModel):
    """Exactly one quantity of a held-out evaluation, or of the forecast after it, and its bound."""

    ceiling_upper: Bound | None = None
    """Upper end of the predicted ceiling's 90 % interval."""
    remaining_gain: Bound | None = None
    """Predicted pass rate at the budget, less the one now: upper end."""
    marginal_gain: Bound | None = None
    """Predicted rise of the pass rate per GPU-hour, now: upper end."""
    pass_rate: Bound | None = None
    """The measured pass rate."""
    pass_rate_drop: Bound | None = None
    """The best measured pass rate so far, less the one now: a collapse."""
    entropy: Bound | None = None
    """Mean surprise of the completions' tokens (nats), an estimate of the policy's entropy. It falls in healthy runs as
    well, and its floor is not the pass rate's ceiling."""
    truncation: Bound | None = None
    """Share of the completions that were cut at the length limit, in [0, 1]. The paper's runs became unstable from 0.1
    to 0.15 on."""
    gpu_hours: Bound | None = None
    """Compute when it was measured. `budget.gpuHours` ends a run more exactly; this one may only report."""

    @property
    def num_set(self) -> int:
        """How many quantities are given."""
        return len(self.model_dump(exclude_none=True))


class MinEvidence(ApiModel):
    """What must be known before a policy may hold."""

    evals: int = Field(default=1, ge=1, le=10_000)
    """Held-out evaluations, that of step 0 among them."""
    gpu_hours: float = Field(default=0.0, ge=0.0, le=1e9)
    """Compute at the last of them."""
    verdict: Literal["Identified", "Weak"] = "Identified"
    """The least that a forecast must be, at every evaluation that counts, for a bound on what it predicts. With `Weak`
    wide intervals count too; `NotIdentified` never does."""


class StopPolicy(ApiModel):
    """Ends a run when its condition holds for some evaluations in a row."""

    name: str = Field(pattern=NAME_PATTERN, max_length=52)
    """Names the policy in status and logs."""
    when: StopCondition
    """The condition."""
    for_evals: int = Field(default=3, ge=1, le=1000, alias="for")
    """Consecutive evaluations for which it holds."""
    min_evidence: MinEvidence = MinEvidence()
    """What must be known first."""
    mode: Literal["Enforce", "Observe"] = "Enforce"
    """`Observe` reports and goes on."""


WatchAction = Literal["Restart", "Stop", "Warn"]


class NoStepRule(ApiModel):
    """No optimizer step ends for too long, while the run trains and answers."""

    seconds: int | None = Field(default=None, ge=1, le=604_800)
    """Longest time from step to step; unset: the sum of the deadlines that one step may use up."""
    action: WatchAction = "Restart"
    """What is done."""


class NonFiniteRule(ApiModel):
    """Loss or gradient norm is no finite number. The update is left out: the weights are those of the step before."""

    action: WatchAction = "Restart"
    """`Restart` and `Stop` end the attempt at once and save nothing; `Warn` goes on with the next step."""


class StalenessRule(ApiModel):
    """Tokens that a step trains on were sampled by weights that are too old."""

    above: int | None = Field(default=None, ge=0, le=1000)
    """Largest lag of a token, in steps; unset: what the recipe's `asynchrony` promises."""
    steps: int = Field(default=5, ge=1, le=VITAL_STEPS)
    """Consecutive steps."""
    action: WatchAction = "Warn"
    """What is done."""


class EntropyRule(ApiModel):
    """The policy has almost no choice left."""

    below: float | None = Field(default=None, ge=0.0, le=20.0)
    """Mean entropy at the trained tokens (nats); unset: not watched, for how low is too low depends on the task."""
    steps: int = Field(default=20, ge=1, le=VITAL_STEPS)
    """Consecutive steps."""
    action: WatchAction = "Warn"
    """What is done. The newest checkpoint's policy is hardly another: `Restart` is for changes of the recipe."""


class Watchdog(ApiModel):
    """What is done about a run that goes wrong without ending.

    `Restart` saves a checkpoint, ends the attempt and starts another: it costs a restart of `failurePolicy`, which
    only a checkpoint of at least `checkpoint.everySteps` further steps restores. `Stop` saves and fails the run.
    `Warn` makes the condition `Healthy` false and an event.
    """

    no_step: NoStepRule = NoStepRule()
    """A run that stands still."""
    non_finite: NonFiniteRule = NonFiniteRule()
    """NaN or infinity."""
    staleness: StalenessRule = StalenessRule()
    """Data that is too old."""
    entropy: EntropyRule = EntropyRule()
    """Entropy collapse."""


class ExitCodes(ApiModel):
    """Exit codes of a process, 128 + N for signal N; 0 never matches."""

    operator: Literal["In", "NotIn"]
    """Whether the code is one of `values`, or none of them."""
    values: list[Annotated[int, Field(ge=1, le=255, strict=True)]] = Field(min_length=1, max_length=20)
    """1 to 255."""


class PodCondition(ApiModel):
    """A condition in a pod's status."""

    type: str = Field(pattern=WORD_PATTERN, max_length=316)
    """Its type, such as `DisruptionTarget`."""
    status: Literal["True", "False", "Unknown"] = "True"
    """Its status."""


class FailureRule(ApiModel):
    """What the end of an attempt costs, by how its pod ended. Exactly one of the three is given."""

    name: str = Field(pattern=NAME_PATTERN, max_length=52)
    """Names the rule in status and events."""
    action: FailureAction
    """`FailRun`: no further attempt. `Ignore`: it costs no restart, as a lost node. `Count`: it costs one, whatever it
    was."""
    on_exit_codes: ExitCodes | None = None
    """By the exit code."""
    on_pod_conditions: list[PodCondition] | None = Field(default=None, min_length=1, max_length=20)
    """On a cluster: any of these conditions of the pod."""
    on_reasons: list[Annotated[str, Field(pattern=WORD_PATTERN, max_length=316)]] | None = Field(
        default=None, min_length=1, max_length=20
    )
    """On a cluster: any of these reasons, of the container's end, the pod, or one of its true conditions: `OOMKilled`,
    `Evicted`, `PreemptionByScheduler`."""

    @property
    def num_set(self) -> int:
        """How many of the three are given."""
        return sum(each is not None for each in (self.on_exit_codes, self.on_pod_conditions, self.on_reasons))


class FailurePolicy(ApiModel):
    """How often a failed run is started again from its checkpoint.

    Costs a restart: a crash, an OOM kill, a coordinator that does not answer. Costs none, but is tried at most ten
    times in a row: an eviction, a preemption, a lost node, exit code 75.
    """

    max_restarts: int = Field(default=3, ge=0, le=1000)
    """Restarts before the run fails; a new checkpoint restores the budget."""
    backoff_seconds: int = Field(default=10, ge=0, le=86_400)
    """Wait before the second restart, and before the first retry; doubled for each further one without progress."""
    backoff_max_seconds: int = Field(default=600, ge=0, le=604_800)
    """Longest wait."""
    rules: list[FailureRule] = Field(default=[], max_length=20)
    """The first that fits the end of an attempt decides; none: as above. They look at the trainers' pod that ended it,
    and not at ends that were asked for, nor at exit codes 0 and 64."""


class Deadlines(ApiModel):
    """Longest waits, in seconds. A wait that is longer ends the attempt and names its phase."""

    pending_seconds: int | None = Field(default=None, ge=1, le=31_536_000)
    """On a cluster: from the making of an attempt's trainer pods until all of them run. Then all pods are deleted, what
    they hold is free for others, and they are made again after the backoff; this costs no restart. Unset: for ever, as
    is right where a run queues for devices."""
    start_seconds: int = Field(default=1800, ge=1, le=604_800)
    """From the start of the processes until the engines answer."""
    active_seconds: int | None = Field(default=None, ge=1, le=31_536_000)
    """Whole run, over all attempts; then it is checkpointed and ended."""
    generate_seconds: int = Field(default=1800, ge=1, le=604_800)
    """One group of completions; a generator that takes longer is replaced, and the group generated again."""
    train_seconds: int = Field(default=1800, ge=1, le=604_800)
    """One optimizer step."""
    sync_seconds: int = Field(default=300, ge=1, le=604_800)
    """One weight update on every generator."""
    checkpoint_seconds: int = Field(default=1800, ge=1, le=604_800)
    """Saving or loading one checkpoint."""
    eval_seconds: int = Field(default=7200, ge=1, le=604_800)
    """One evaluation."""

    @property
    def batch_seconds(self) -> int:
        """Longest wait for a batch: a hung generator is found out, replaced and updated, and generates again."""
        return self.generate_seconds + self.start_seconds + self.sync_seconds + self.generate_seconds

    @property
    def step_seconds(self) -> int:
        """Longest time from step to step that these allow: evaluation before, checkpoint, weights, batch, step."""
        saving = 2 * self.checkpoint_seconds  # written, then sealed
        return self.eval_seconds + saving + self.sync_seconds + self.batch_seconds + self.train_seconds
