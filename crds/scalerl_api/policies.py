"""Rules that end or restart a run: stop policies, watchdog, failure policy, deadlines. PURE."""

from typing import Annotated, Literal

from pydantic import Field

from scalerl_api.base import NAME_PATTERN, ApiModel
from scalerl_api.status import FailureAction

VITAL_STEPS = 100  # last steps that a coordinator reports; no rule of the watchdog needs more
MISMATCH_TOKENS = 64  # least number of lag-0 tokens of a step whose mean difference is taken
MISMATCH_BOUNDS = {"float32": 1e-3, "bfloat16": 5e-2}  # nats, by the coarser of dtype and head; measured in note 062
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
        """Number of bounds that are set."""
        return len(self.model_dump(exclude_none=True))


class SetBound(Bound):
    """A bound on the pass rate of one test set: exactly one of the three."""

    drop: float | None = Field(default=None, ge=0.0, le=1.0)
    """True while the pass rate is below its own best by more than this."""


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
    downstream: dict[str, SetBound] | None = Field(default=None, min_length=1, max_length=1)
    """The measured pass rate of one other test set, by the name of a downstream set, or of a source where
    `data.train` has several. `for` and `minEvidence` count the evaluations of that set."""

    @property
    def num_set(self) -> int:
        """Number of quantities that are set."""
        return len(self.model_dump(exclude_none=True))


class MinEvidence(ApiModel):
    """The evidence that a policy needs before it may hold."""

    evals: int = Field(default=1, ge=1, le=10_000)
    """Evaluations of the condition's test set, including that of step 0."""
    gpu_hours: float = Field(default=0.0, ge=0.0, le=1e9)
    """Compute at the last of them."""
    verdict: Literal["Identified", "Weak"] = "Identified"
    """Lowest verdict of the forecast at every evaluation that counts, for a bound on a predicted quantity. With `Weak`
    wide intervals count too; `NotIdentified` never does."""


class StopPolicy(ApiModel):
    """Ends a run when its condition holds for some evaluations of its test set in a row."""

    name: str = Field(pattern=NAME_PATTERN, max_length=52)
    """Names the policy in status and logs."""
    when: StopCondition
    """The condition."""
    for_evals: int = Field(default=3, ge=1, le=1000, alias="for")
    """Consecutive evaluations for which it holds."""
    min_evidence: MinEvidence = MinEvidence()
    """Evidence that is needed first."""
    mode: Literal["Enforce", "Observe"] = "Enforce"
    """`Observe` reports that the policy holds and lets the run continue."""


WatchAction = Literal["Restart", "Stop", "Warn"]


class NoStepRule(ApiModel):
    """No optimizer step ends for too long, while the run trains and its coordinator responds."""

    seconds: int | None = Field(default=None, ge=1, le=604_800)
    """Longest time from step to step; unset: the sum of the deadlines that one step may use up."""
    action: WatchAction = "Restart"
    """Action when the rule holds."""


class NonFiniteRule(ApiModel):
    """Loss or gradient norm is not finite. The update is skipped: the weights stay those of the previous step."""

    action: WatchAction = "Restart"
    """`Restart` and `Stop` end the attempt at once and save nothing; `Warn` continues with the next step."""


class StalenessRule(ApiModel):
    """A step trains on tokens that were sampled by too old weights."""

    above: int | None = Field(default=None, ge=0, le=1000)
    """Largest lag of a token, in steps; unset: the bound of the recipe's `asynchrony`."""
    steps: int = Field(default=5, ge=1, le=VITAL_STEPS)
    """Consecutive steps."""
    action: WatchAction = "Warn"
    """Action when the rule holds."""


class EntropyRule(ApiModel):
    """The policy has almost no choice left."""

    below: float | None = Field(default=None, ge=0.0, le=20.0)
    """Mean entropy at the trained tokens (nats); unset: not watched, because a healthy level depends on the task."""
    steps: int = Field(default=20, ge=1, le=VITAL_STEPS)
    """Consecutive steps."""
    action: WatchAction = "Warn"
    """Action when the rule holds. The newest checkpoint has almost the same policy: `Restart` serves to apply a changed
    recipe."""


class MismatchRule(ApiModel):
    """Trainer and engine compute different log-probabilities with the same weights."""

    above: float | None = Field(default=None, ge=0.0, le=100.0)
    """Mean difference (nats) over the tokens of completions that the trained version sampled; unset: 0.001, or 0.05
    where `model.dtype` or `recipe.head` is bfloat16. A larger bound is also that of the self-check at a run's start."""
    steps: int = Field(default=5, ge=1, le=VITAL_STEPS)
    """Consecutive steps that have at least 64 such tokens."""
    action: WatchAction = "Warn"
    """Action when the rule holds."""


class NoGradientRule(ApiModel):
    """No completion of a step is better than the others of its group, so there is nothing to learn from."""

    steps: int = Field(default=5, ge=1, le=VITAL_STEPS)
    """Consecutive steps."""
    action: WatchAction = "Warn"
    """Action when the rule holds."""


class Watchdog(ApiModel):
    """Rules for a run that goes wrong without ending.

    `Restart` saves a checkpoint, ends the attempt and starts another. It costs a restart of `failurePolicy`; only a
    checkpoint of at least `checkpoint.everySteps` further steps restores that. `Stop` saves a checkpoint and fails the
    run. `Warn` sets the condition `Healthy` to false and records an event.
    """

    no_step: NoStepRule = NoStepRule()
    """No step for too long."""
    non_finite: NonFiniteRule = NonFiniteRule()
    """NaN or infinity."""
    staleness: StalenessRule = StalenessRule()
    """Too old data."""
    entropy: EntropyRule = EntropyRule()
    """Entropy collapse."""
    mismatch: MismatchRule = MismatchRule()
    """Wrong log-probabilities."""
    no_gradient: NoGradientRule = NoGradientRule()
    """Nothing to learn from."""


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
    """The cost of an attempt's end, by how its pod ended. Exactly one of the three `on...` fields is set."""

    name: str = Field(pattern=NAME_PATTERN, max_length=52)
    """Names the rule in status and events."""
    action: FailureAction
    """`FailRun`: no further attempt. `Ignore`: it costs no restart, like a lost node. `Count`: it always
    costs one."""
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
        """Number of `on...` fields that are set."""
        return sum(each is not None for each in (self.on_exit_codes, self.on_pod_conditions, self.on_reasons))


class FailurePolicy(ApiModel):
    """How often a failed run is restarted from its checkpoint.

    A crash, an OOM kill and an unresponsive coordinator cost a restart. An eviction, a preemption, a lost node and exit
    code 75 cost none, but are retried at most ten times in a row.
    """

    max_restarts: int = Field(default=3, ge=0, le=1000)
    """Restarts before the run fails; a new checkpoint restores the budget."""
    backoff_seconds: int = Field(default=10, ge=0, le=86_400)
    """Wait before the second restart, and before the first retry; doubled for each further one without progress."""
    backoff_max_seconds: int = Field(default=600, ge=0, le=604_800)
    """Longest wait."""
    rules: list[FailureRule] = Field(default=[], max_length=20)
    """The first rule that matches the end of an attempt decides; without a match the defaults above apply. Rules are
    matched against the trainer pod that ended the attempt, but not for requested ends and exit codes 0 and 64."""


class PreflightSpec(ApiModel):
    """Checks of each pod's node before the model is loaded.

    A node that fails ends the attempt at no cost to `failurePolicy`, and the run's later pods avoid it: see
    docs/gpu-cluster.md.
    """

    enabled: bool = True
    """Check devices, memory and, for the trainer, speed and network."""
    min_free_memory_share: float = Field(default=0.85, ge=0.0, le=1.0)
    """Share of each device's memory that must be free."""
    max_slowdown: float = Field(default=0.3, ge=0.01, le=0.99)
    """A device whose matrix product is slower than the gang's median by more than this share is unfit."""
    min_bandwidth: float | None = Field(default=None, ge=0.0, le=100_000.0)
    """Least bus bandwidth of an all-reduce over all trainer ranks, in GB/s; unset: it is measured and not compared."""


class Deadlines(ApiModel):
    """Longest waits, in seconds. A longer wait ends the attempt; the error names its phase."""

    pending_seconds: int | None = Field(default=None, ge=1, le=31_536_000)
    """On a cluster: from the creation of an attempt's trainer pods until all of them run. Then all pods are deleted,
    which frees their devices for other runs, and created again after the backoff; this costs no restart. Unset: no
    limit, for clusters where runs queue for devices."""
    gang_seconds: int = Field(default=300, ge=1, le=31_536_000)
    """On a cluster, with `trainer.minReplicas`: from the creation of a restarted attempt's trainer pods until it is
    given up for one with as many as have room. Only pods that cannot be scheduled count as having none."""
    preflight_seconds: int = Field(default=300, ge=1, le=86_400)
    """The check of the trainer ranks' nodes, once all ranks have started."""
    start_seconds: int = Field(default=1800, ge=1, le=604_800)
    """From the start of the processes until the engines respond."""
    active_seconds: int | None = Field(default=None, ge=1, le=31_536_000)
    """The whole run, over all attempts; then a checkpoint is saved and the run ends."""
    generate_seconds: int = Field(default=1800, ge=1, le=604_800)
    """One group of completions; a generator that takes longer is replaced, and the group generated again."""
    train_seconds: int = Field(default=1800, ge=1, le=604_800)
    """One optimizer step."""
    sync_seconds: int = Field(default=300, ge=1, le=604_800)
    """One weight update on every generator."""
    checkpoint_seconds: int = Field(default=1800, ge=1, le=604_800)
    """Saving or loading one checkpoint, and writing the models at the run's end."""
    eval_seconds: int = Field(default=7200, ge=1, le=604_800)
    """One evaluation."""

    @property
    def batch_seconds(self) -> int:
        """Longest wait for a batch: a hung generator is detected, replaced and updated, and generates again."""
        return self.generate_seconds + self.start_seconds + self.sync_seconds + self.generate_seconds

    @property
    def stop_seconds(self) -> int:
        """From a request to end until all is saved: checkpoints first, then the models made of the last."""
        before, last = 2, 3  # written and sealed; copied, written and sealed
        return (before + last + 1) * self.checkpoint_seconds

    @property
    def step_seconds(self) -> int:
        """Longest time between steps that these deadlines allow: evaluation, checkpoint, weights, batch, step."""
        saving = 3 * self.checkpoint_seconds  # the one before is written, then sealed; then the copy
        return self.eval_seconds + saving + self.sync_seconds + self.batch_seconds + self.train_seconds
