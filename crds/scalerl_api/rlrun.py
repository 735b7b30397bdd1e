"""RLRun, the custom resource: the spec that a user writes. The CRD is generated from these classes. PURE."""

from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_serializer, model_validator

from scalerl_api.addresses import show_address
from scalerl_api.base import RUN_NAME_PATTERN, ApiModel
from scalerl_api.data import DatasetSpec, DataSpec
from scalerl_api.passthrough import PodTemplate, Settings
from scalerl_api.policies import MISMATCH_BOUNDS, Deadlines, FailurePolicy, PreflightSpec, StopPolicy, Watchdog
from scalerl_api.recipe import PRESETS, PresetName, Recipe, merge
from scalerl_api.reward import RewardSpec, WeightedVerifier
from scalerl_api.status import RLRunStatus
from scalerl_api.trainer_spec import TrainerSpec

GROUP = "scalerl.io"
PLURAL = "rlruns"
API_VERSION: Final = "scalerl.io/v1alpha1"
KIND: Final = "RLRun"
MANAGED_BY: Final = "scalerl.io/operator"
SCRATCH: Final = "scratch"  # a model's source: it is made when the run starts
OPTIMIZER_STATE_BYTES: Final = 12  # of a trained value in a checkpoint: float32 weight, two moments
SECRET_KEY_PATTERN = r"^[-._a-zA-Z0-9]+$"
# vLLM's possible largest ranks; its memory and its kernels are sized by them.
ENGINE_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
QUANTITY_PATTERN = r"^[1-9][0-9]{0,8}(Ki|Mi|Gi|Ti|Pi)$"


class ScratchModel(ApiModel):
    """A Qwen3-architecture model with random weights and a tokenizer of single characters."""

    hidden_size: int = Field(default=128, ge=16, le=4096)
    """Width."""
    layers: int = Field(default=4, ge=1, le=64)
    """Decoder layers."""
    heads: int = Field(default=4, ge=1, le=64)
    """Query heads of `headDim`."""
    kv_heads: int = Field(default=2, ge=1, le=64)
    """Key and value heads; divides `heads`."""
    head_dim: int = Field(default=32, ge=32, le=256)
    """Width of a head; vLLM's CPU attention needs a multiple of 32."""
    intermediate_size: int = Field(default=384, ge=16, le=16_384)
    """Width of the MLP."""
    tied_embeddings: bool = True
    """Input and output embeddings are one matrix."""


LayerName = Annotated[str, Field(min_length=1, max_length=100)]


class LoraSpec(ApiModel):
    """Low-rank adapters (LoRA): they are trained, stored and sent to generators; the model stays as it is."""

    rank: int = Field(default=16, ge=1, le=ENGINE_RANKS[-1])
    """Rank of every adapter. An adapter of a layer from n to m numbers has rank * (n + m) trained values."""
    alpha: float = Field(default=32.0, ge=0.001, le=65_536.0)
    """An adapter's output is scaled by alpha / rank; with `useRslora` by alpha / sqrt(rank)."""
    use_rslora: bool = False
    """Scale by the square root of the rank (arXiv:2312.03732), for ranks of 64 and more."""
    target_modules: list[LayerName] | None = Field(default=None, min_length=1, max_length=20)
    """Last names of the linear layers that get an adapter: `[q_proj, v_proj]`. Unset: all linear layers of the decoder
    blocks, without routers and experts. docs/lora.md lists what a model has."""
    dropout: float = Field(default=0.0, ge=0.0, le=1.0)
    """Always 0: generators have no dropout, so their log-probabilities would be another policy's."""
    modules_to_save: list[LayerName] = Field(default=[], max_length=20)
    """Always empty: only adapters are trained and sent."""

    @property
    def engine_rank(self) -> int:
        """The rank that an engine's adapters have room for."""
        return next(each for each in ENGINE_RANKS if each >= self.rank)


class ModelSpec(ApiModel):
    """The policy that is trained."""

    source: str = Field(min_length=1, max_length=500)
    """Hub id, local folder, `scratch`, or an address: `hf://org/name@revision`, `s3://bucket/folder`, `gs://...`,
    `file:///folder` (docs/storage.md). Cannot change after the run's creation."""
    scratch: ScratchModel | None = None
    """Sizes of the model; only with `source: scratch`."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Type of weights and activations; the optimizer always keeps float32."""
    lora: LoraSpec | None = None
    """Train low-rank adapters in place of the model's weights: docs/lora.md. Unset: all weights are trained."""

    @property
    def item_bytes(self) -> int:
        """Bytes of one weight."""
        return {"float32": 4, "bfloat16": 2}[self.dtype]

    def checkpoint_bytes(self, parameters: int) -> int:
        """Return the size of a checkpoint with so many trained values: weights, and AdamW's float32 state."""
        return (self.item_bytes + OPTIMIZER_STATE_BYTES) * parameters


class WarmStartSpec(ApiModel):
    """Supervised fine-tuning before RL; its end is step 0 of the run."""

    source: str = Field(min_length=1, max_length=500)
    """File, address or hub data set of `prompt` and `completion`, or `reasoning_gym:<task>` for generated traces."""
    steps: int = Field(ge=1, le=1_000_000)
    """Optimizer steps."""
    batch_size: int = Field(default=64, ge=1, le=100_000)
    """Sequences in one step."""
    learning_rate: float = Field(default=3e-5, ge=0.0, le=1.0)
    """Rate after the warm-up."""
    warmup_steps: int = Field(default=20, ge=0, le=100_000)
    """Steps of linear warm-up."""
    wrong_steps: int = Field(default=0, ge=0, le=1_000_000)
    """Number of steps, the last of `steps`, with traces of mixed quality: see `wrongShare`."""
    wrong_share: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of traces with a wrong answer in those steps; it sets how much RL can gain."""


class RecipeSpec(ApiModel):
    """A preset and overrides, under the recipe's own field names."""

    preset: PresetName = "scalerl"
    """The values that are not set here come from this preset."""
    overrides: dict[str, Any] = {}
    """Filled from the other keys: `recipe: {preset: scalerl, loss: {kind: gspo}}`."""

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, data: Any) -> Any:
        """Every key but `preset` is an override."""
        if not isinstance(data, dict) or "overrides" in data:
            return data
        return {"preset": data.get("preset", "scalerl"), "overrides": {k: v for k, v in data.items() if k != "preset"}}

    @model_serializer
    def _spread(self) -> dict[str, Any]:
        """Write the form that users write and the CRD defines."""
        return {"preset": self.preset, **self.overrides}


class BudgetSpec(ApiModel):
    """When the run ends."""

    steps: int = Field(ge=1, le=10_000_000)
    """Optimizer steps."""
    gpu_hours: float | None = Field(default=None, ge=0.0, le=1e9)
    """Stop when this compute is spent, even if steps remain (device-hours on CPU)."""
    eval_every_steps: int = Field(default=100, ge=1, le=1_000_000)
    """Steps between evaluations. Step 0 and the last step are always evaluated. Each evaluated step has a
    checkpoint."""
    eval_share: float = Field(default=0.5, ge=0.01, le=1.0)
    """Share of the engines that an evaluation takes while training goes on: that many of them, rounded up but not the
    last one, keep the evaluated weights until it is done. With one engine it is a share of its sequences, and the
    weights are updated meanwhile. docs/evaluations.md has the consequences."""


class GeneratorSpec(ApiModel):
    """The generator pool (vLLM): replicas may be added and lost during a run."""

    min_replicas: int = Field(default=1, ge=1, le=4096)
    """Replicas that must run before training begins; later it continues with any number."""
    max_replicas: int = Field(default=1, ge=1, le=4096)
    """Number of pods on a cluster: those beyond `minReplicas` join when they are scheduled. `scalerl run` starts
    `minReplicas`."""
    gpus_per_replica: int = Field(default=1, ge=0, le=16)
    """GPUs of one engine (tensor parallel); 0 generates on the CPU."""
    max_sequences: int = Field(default=256, ge=1, le=65_536)
    """Completions that one engine runs at once."""
    gpu_memory_share: float = Field(default=0.9, ge=0.05, le=0.99)
    """Share of a GPU's memory that the engine takes."""
    colocated: bool = False
    """The one engine shares the one trainer's GPU; weights then go through host memory. Only for `scalerl run`:
    refused on a cluster, where two pods cannot share a device."""
    kv_cache_megabytes: int = Field(default=256, ge=16, le=10_000_000)
    """Key-value cache of an engine on the CPU."""
    engine_args: Settings = Field(default={}, max_length=50)
    """Further arguments of vLLM's engine, under its names: `kv_cache_dtype: fp8`. An argument that scalerl sets itself
    is refused by name, and one that vLLM does not know; docs/gpu.md has examples."""
    template: PodTemplate = PodTemplate()
    """Additions to the pods of the pool, on a cluster."""


class CheckpointSpec(ApiModel):
    """Checkpoints: interval, number, storage."""

    path: str | None = Field(default=None, max_length=1000)
    """Folder for checkpoints, also as `file:///folder`; unset: `checkpoints` in the run's folder."""
    every_steps: int = Field(default=50, ge=1, le=1_000_000)
    """Steps between checkpoints."""
    keep: int = Field(default=3, ge=2, le=1000)
    """Number of checkpoints to keep. At least 2: if the newest is damaged, the one before is used."""
    claim_name: str | None = Field(default=None, min_length=1, max_length=253)
    """On a cluster: the PersistentVolumeClaim of the run's folder, writable from every node; never deleted. Unset:
    the operator creates `<run>-checkpoints` and keeps it when the run is deleted. Read when a run's pods start."""
    claim_size: str | None = Field(default=None, pattern=QUANTITY_PATTERN, max_length=12)
    """Size of the created claim; unset: what the model's checkpoints need, or 100Gi where its size is not known
    (docs/storage.md). Changing it later has no effect."""
    storage_class_name: str | None = Field(default=None, min_length=1, max_length=253)
    """Storage class of the created claim; unset: the cluster's default. Changing it later has no effect."""


class RolloutsSpec(ApiModel):
    """The completions that are stored in the run's folder, for `scalerl rollouts` and the report."""

    share: float = Field(default=1.0, ge=0.05, le=1.0)
    """Share of each step's groups that are stored, whole groups, chosen by seed. Evaluations are stored in full."""
    max_megabytes: int = Field(default=2000, ge=0, le=10_000_000)
    """Largest size of all stored completions, compressed; 0: none are stored. When it is reached, the stored steps and
    evaluations become sparser with their age; the first, the best and the last evaluation are kept."""


class TargetSpec(ApiModel):
    """A pass rate; the compute to reach it is predicted."""

    pass_rate: float = Field(ge=0.0, le=1.0)
    """Held-out pass rate to reach."""


class ForecastSpec(ApiModel):
    """How the curve is fitted."""

    law: Literal["auto", "sigmoid"] = "auto"
    """`auto`: rival laws are fitted too and may lower the verdict. `sigmoid`: Eq. 1 alone."""
    burn_in_gpu_hours: float | None = Field(default=None, ge=0.0, le=1e9)
    """Evaluations before this compute are excluded; unset: the rule in docs/forecast.md decides."""
    target: TargetSpec | None = None
    """A pass rate; the compute to reach it is predicted."""


class SecretKey(ApiModel):
    """One key of a Secret in the run's namespace."""

    name: str = Field(min_length=1, max_length=253)
    """Of the Secret."""
    key: str = Field(default="token", pattern=SECRET_KEY_PATTERN, max_length=253)
    """Its key."""


class SecretsSpec(ApiModel):
    """Secrets that a run's pods get on a cluster, by reference; on one machine the environment has them."""

    hub_token: SecretKey | None = None
    """Token of the Hugging Face hub: the variable HF_TOKEN of the pods that fetch a model or data."""


class RLRunSpec(ApiModel):
    """The desired state of a run."""

    suspend: bool = False
    """Save a checkpoint, end every process and free its devices. When it is false again, the run resumes at once."""
    managed_by: str = Field(default=MANAGED_BY, min_length=1, max_length=63)
    """The controller that runs it. The operator ignores runs with any value but its own. Cannot change after the run's
    creation."""
    ttl_seconds_after_finished: int | None = Field(default=None, ge=0, le=315_360_000)
    """On a cluster: seconds from the run's end until the operator deletes it; unset: never."""
    model: ModelSpec
    """The policy."""
    warm_start: WarmStartSpec | None = None
    """Optional supervised stage before RL."""
    data: DataSpec
    """Prompts."""
    reward: RewardSpec
    """Verifier."""
    recipe: RecipeSpec = RecipeSpec()
    """Algorithm."""
    budget: BudgetSpec
    """Length of the run."""
    trainer: TrainerSpec = TrainerSpec()
    """Trainer group."""
    generator: GeneratorSpec = GeneratorSpec()
    """Generator pool."""
    checkpoint: CheckpointSpec = CheckpointSpec()
    """Durability."""
    rollouts: RolloutsSpec = RolloutsSpec()
    """Stored completions."""
    secrets: SecretsSpec = SecretsSpec()
    """Secrets of the pods."""
    forecast: ForecastSpec = ForecastSpec()
    """Curve fit."""
    stop_policies: list[StopPolicy] = Field(default=[], max_length=20)
    """Automated stops."""
    watchdog: Watchdog = Watchdog()
    """Rules for a run that goes wrong without ending."""
    failure_policy: FailurePolicy = FailurePolicy()
    """Restarts."""
    preflight: PreflightSpec = PreflightSpec()
    """Checks of nodes."""
    deadlines: Deadlines = Deadlines()
    """Longest waits."""
    trackers: list[Literal["wandb", "tensorboard", "mlflow"]] = Field(default=[], max_length=3)
    """Experiment trackers that get the spec, every step and every evaluation; each needs its package: see
    docs/trackers.md. Credentials come from the tracker's own environment variables."""
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    """Seeds data order, sampling, splits and weights."""

    @property
    def shown_path(self) -> str:
        """`checkpoint.path` for a message: without what may be a password."""
        return show_address(self.checkpoint.path or "")

    @property
    def shown_model(self) -> str:
        """`model.source` for a message."""
        return show_address(self.model.source)

    @property
    def shown_demonstrations(self) -> str:
        """`warmStart.source` for a message."""
        return show_address("" if self.warm_start is None else self.warm_start.source)

    def resolved_recipe(self) -> Recipe:
        """Return the recipe with preset and overrides applied. Raises pydantic.ValidationError."""
        return Recipe.model_validate(merge(PRESETS[self.recipe.preset], self.recipe.overrides))

    def judges_of(self, source: DatasetSpec) -> tuple[WeightedVerifier, ...]:
        """Return the verifiers of a source: its own, else those of `reward`; none if validation has to refuse it.

        A validation set is one of `data.sources`, which gives it the verifiers of its training source.
        """
        return source.judges or self.reward.judges

    def judges_by_source(self) -> dict[str, tuple[WeightedVerifier, ...]]:
        """Return the verifiers of every training source and downstream set, by its label."""
        return {each.label: self.judges_of(each) for each in (*self.data.train, *self.data.downstream)}

    @property
    def judge_labels(self) -> tuple[str, ...]:
        """Names of all verifiers of the training sources, each once."""
        return tuple(dict.fromkeys(each.label for source in self.data.train for each in self.judges_of(source)))

    @property
    def is_one_gpu_each(self) -> bool:
        """Whether trainer and generators have one GPU."""
        trainer, generator = self.trainer, self.generator
        counts = (trainer.replicas, trainer.gpus_per_replica, generator.min_replicas, generator.gpus_per_replica)
        return counts == (1, 1, 1, 1)


class Metadata(ApiModel, extra="ignore"):
    """The metadata that is read; other fields are ignored."""

    name: str = Field(pattern=RUN_NAME_PATTERN, max_length=52)
    namespace: str = Field(default="default", max_length=63)


class RLRun(ApiModel):
    """One run."""

    api_version: Literal["scalerl.io/v1alpha1"] = API_VERSION
    kind: Literal["RLRun"] = KIND
    metadata: Metadata
    spec: RLRunSpec
    status: RLRunStatus | None = None

    @property
    def name(self) -> str:
        """The run's name."""
        return self.metadata.name

    @property
    def mismatch_bound(self) -> float:
        """The bound of `watchdog.mismatch` (nats)."""
        above = self.spec.watchdog.mismatch.above
        return above if above is not None else self._rounding_bound

    @property
    def self_check_bound(self) -> float:
        """Largest mean difference that passes the self-check (nats)."""
        return max(self.mismatch_bound, self._rounding_bound)

    @property
    def _rounding_bound(self) -> float:
        is_coarse = self.spec.model.dtype == "bfloat16" or self.spec.resolved_recipe().head == "bf16"
        return MISMATCH_BOUNDS["bfloat16" if is_coarse else "float32"]
