"""Rules over several fields, each written once for a file (Python) and for the API server (CEL). PURE.

`validation` evaluates `holds` on a parsed file. `schema` writes `cel` into the CRD. Rules that need the recipe, or
values outside the reach of the CRD's own rules, go into a ValidatingAdmissionPolicy. Both sides share message and path;
tests/cluster checks on a real API server that they accept and refuse the same documents.

In messages `{it.max_replicas}` is a value of the part that the rule is about.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic.alias_generators import to_camel

from scalerl_api.addresses import CHECKPOINT_ADDRESSES, DATA_ADDRESSES, MODEL_ADDRESSES, AddressForms
from scalerl_api.data import DataSpec, NamedDatasetSpec
from scalerl_api.policies import Bound, FailureRule, SetBound, StopCondition
from scalerl_api.recipe import MIN_TEMPERATURE, Recipe
from scalerl_api.rlrun import LoraSpec, RLRunSpec, ScratchModel, WarmStartSpec

Part = TypeVar("Part")

# Parts of the spec that may not change in a run: evaluations before and after would belong to different runs, or its
# checkpoints would not be found. The recipe may change on purpose: annealing a rate can save a run.
FIXED = ("model", "warmStart", "data", "reward", "seed", "checkpoint.path", "managedBy")
FIXED_MESSAGE = "fixed for the run's life"

# Valid in a file, impossible on a cluster: the API server's policy and the operator refuse it, `validate` does not.
COLOCATED_PATH = "spec.generator.colocated"
COLOCATED_ALLOWED = "only with `scalerl run` on one machine: two pods cannot share a GPU"

MAX_COLOCATED_SHARE = 0.7  # weights, gradients and AdamW's float32 state take 18 bytes a parameter, an engine 2


@dataclass(frozen=True)
class Rule(Generic[Part]):
    """One condition on a part of the spec."""

    at: str
    """The part, `it` here and `self` in CEL; `[]` stands for any entry of a list."""
    blamed: str
    """Path of the faulty field below `at`; empty for `at` itself."""
    cel: str
    """True for a valid part."""
    holds: Callable[[Part], bool]
    """The same in Python."""
    found: str
    """The value that was found, with `{it...}` for values."""
    allowed: str
    """The allowed values."""
    derived: Mapping[str, str] = field(default_factory=dict)
    """CEL for names in messages that are properties in Python."""


@dataclass(frozen=True)
class Resolved:
    """A run's spec beside its recipe with preset and overrides applied."""

    spec: RLRunSpec
    recipe: Recipe


def _count(names: Iterable[str]) -> str:
    """CEL for the number of optional fields `names` that are set."""
    return f"[{', '.join(f'has(self.{name})' for name in names)}].filter(set, set).size()"


def _bound(quantity: str) -> Rule[Bound]:
    return Rule[Bound](
        at=f"spec.stopPolicies[].when.{quantity}",
        blamed="",
        cel="has(self.below) != has(self.above)",
        holds=lambda it: it.num_set == 1,
        found="{it.num_set} bounds",
        allowed="exactly one of below, above",
        derived={"it.num_set": _count(("below", "above"))},
    )


def _address(path: str, forms: AddressForms, shown: str) -> Rule[RLRunSpec]:
    """A source or folder that, if it is an address, is of one of `forms`; its message repeats no password."""
    parts = path.split(".")
    unset = " || ".join(f"!has(self.{'.'.join(parts[:end])})" for end in range(1, len(parts) + 1))
    pattern = forms.pattern.replace("\\", "\\\\")
    return Rule[RLRunSpec](
        at="spec",
        blamed=path,
        cel=f"{unset} || !self.{path}.contains('://') || self.{path}.matches('{pattern}')",
        holds=lambda it: forms.fits(it.find_text(path)),
        found=f"{{it.{shown}}}",
        allowed=forms.allowed,
        derived={f"it.{shown}": f"(self.{path}.contains('@') ? self.{path}.split('://')[0] + '://...' : self.{path})"},
    )


_QUANTITIES = tuple(map(to_camel, StopCondition.model_fields))
_SET = _count(_QUANTITIES)
_CAUSES = _count(("onExitCodes", "onPodConditions", "onReasons"))

# No rule is attached to a group with a default: the API server evaluates it on `{}` before filling in the defaults.
CRD_RULES: tuple[Rule[Any], ...] = (
    Rule[RLRunSpec](
        at="spec",
        blamed="generator.gpusPerReplica",
        cel="(self.trainer.gpusPerReplica == 0) == (self.generator.gpusPerReplica == 0)",
        holds=lambda it: (it.trainer.gpus_per_replica == 0) == (it.generator.gpus_per_replica == 0),
        found="{it.generator.gpus_per_replica}",
        allowed="trainer has {it.trainer.gpus_per_replica}: both on GPUs or both on the CPU",
    ),
    _address("checkpoint.path", CHECKPOINT_ADDRESSES, "shown_path"),
    _address("model.source", MODEL_ADDRESSES, "shown_model"),
    _address("warmStart.source", DATA_ADDRESSES, "shown_demonstrations"),
    Rule[RLRunSpec](
        at="spec",
        blamed="trainer.minReplicas",
        cel="!has(self.trainer.minReplicas) || self.trainer.minReplicas <= self.trainer.replicas",
        holds=lambda it: it.trainer.min_replicas is None or it.trainer.min_replicas <= it.trainer.replicas,
        found="{it.trainer.min_replicas}",
        allowed="at most replicas ({it.trainer.replicas})",
    ),
    Rule[RLRunSpec](
        at="spec",
        blamed="trainer.sequenceParallel",
        cel="[self.trainer.replicas, has(self.trainer.minReplicas) ? self.trainer.minReplicas : 0].all(n, "
        "n * (self.trainer.gpusPerReplica > 0 ? self.trainer.gpusPerReplica : 1) % self.trainer.sequenceParallel == 0)",
        holds=lambda it: it.trainer.has_whole_groups,
        found="{it.trainer.sequence_parallel}",
        allowed="must divide the ranks of replicas, and of minReplicas where it is set",
    ),
    Rule[RLRunSpec](
        at="spec",
        blamed="generator.maxReplicas",
        cel="self.generator.maxReplicas >= self.generator.minReplicas",
        holds=lambda it: it.generator.max_replicas >= it.generator.min_replicas,
        found="{it.generator.max_replicas}",
        allowed="at least minReplicas ({it.generator.min_replicas})",
    ),
    Rule[RLRunSpec](
        at="spec",
        blamed="generator.colocated",
        cel="!self.generator.colocated || (self.trainer.replicas == 1 && self.trainer.gpusPerReplica == 1 && "
        "self.generator.minReplicas == 1 && self.generator.gpusPerReplica == 1)",
        holds=lambda it: not it.generator.colocated or it.is_one_gpu_each,
        found="true",
        allowed="only with one replica of one GPU in trainer and generator",
    ),
    Rule[RLRunSpec](
        at="spec",
        blamed="generator.gpuMemoryShare",
        cel=f"!self.generator.colocated || self.generator.gpuMemoryShare <= {MAX_COLOCATED_SHARE}",
        holds=lambda it: not it.generator.colocated or it.generator.gpu_memory_share <= MAX_COLOCATED_SHARE,
        found="{it.generator.gpu_memory_share}",
        allowed=f"at most {MAX_COLOCATED_SHARE} with colocated: the trainer needs the rest",
    ),
    Rule[RLRunSpec](
        at="spec",
        blamed="trainer.offload.parameters",
        cel="self.trainer.offload.parameters == 'none' || "
        "(self.trainer.zeroStage == 3 && self.trainer.offload.optimizer == 'cpu')",
        holds=lambda it: (
            it.trainer.offload.parameters == "none"
            or (it.trainer.zero_stage == 3 and it.trainer.offload.optimizer == "cpu")
        ),
        found="{it.trainer.offload.parameters}",
        allowed="only with zeroStage 3 and optimizer cpu (zeroStage is {it.trainer.zero_stage}, optimizer "
        "{it.trainer.offload.optimizer})",
    ),
    Rule[RLRunSpec](
        at="spec",
        blamed="warmStart",
        cel="self.model.source != 'scratch' || has(self.warmStart)",
        holds=lambda it: it.model.source != "scratch" or it.warm_start is not None,
        found="missing",
        allowed="needed with source: scratch, which can do nothing yet",
    ),
    Rule[RLRunSpec](
        at="spec",
        blamed="data.promptFormat",
        cel="self.model.source != 'scratch' || self.data.promptFormat == 'plain'",
        holds=lambda it: it.model.source != "scratch" or it.data.prompt_format == "plain",
        found="{it.data.prompt_format}",
        allowed="source: scratch has no chat template; use plain",
    ),
    Rule[RLRunSpec](
        at="spec",
        blamed="model.scratch",
        cel="self.model.source != 'scratch' || has(self.model.scratch)",
        holds=lambda it: it.model.source != "scratch" or it.model.scratch is not None,
        found="missing",
        allowed="needed with source: scratch",
    ),
    Rule[RLRunSpec](
        at="spec",
        blamed="model.scratch",
        cel="self.model.source == 'scratch' || !has(self.model.scratch)",
        holds=lambda it: it.model.source == "scratch" or it.model.scratch is None,
        found="set",
        allowed="only with source: scratch, not '{it.model.source}'",
    ),
    Rule[RLRunSpec](
        at="spec",
        blamed="model.lora",
        cel="self.model.source != 'scratch' || !has(self.model.lora)",
        holds=lambda it: it.model.source != "scratch" or it.model.lora is None,
        found="set",
        allowed="not with source: scratch: adapters change a trained model, and random weights would stay random",
    ),
    Rule[LoraSpec](
        at="spec.model.lora",
        blamed="dropout",
        cel="self.dropout == 0.0",
        holds=lambda it: it.dropout == 0.0,
        found="{it.dropout}",
        allowed="0: the generators have no dropout, so the trainer's log-probabilities would not be theirs",
    ),
    Rule[LoraSpec](
        at="spec.model.lora",
        blamed="modulesToSave",
        cel="!has(self.modulesToSave) || self.modulesToSave.size() == 0",
        holds=lambda it: not it.modules_to_save,
        found="set",
        allowed="must be empty: generators get adapters only; leave model.lora out to train whole layers",
    ),
    Rule[ScratchModel](
        at="spec.model.scratch",
        blamed="kvHeads",
        cel="self.heads % self.kvHeads == 0",
        holds=lambda it: it.heads % it.kv_heads == 0,
        found="{it.kv_heads}",
        allowed="must divide heads ({it.heads})",
    ),
    Rule[ScratchModel](
        at="spec.model.scratch",
        blamed="headDim",
        cel="self.headDim % 32 == 0",
        holds=lambda it: it.head_dim % 32 == 0,
        found="{it.head_dim}",
        allowed="must be a multiple of 32",
    ),
    Rule[WarmStartSpec](
        at="spec.warmStart",
        blamed="wrongSteps",
        cel="self.wrongSteps <= self.steps",
        holds=lambda it: it.wrong_steps <= it.steps,
        found="{it.wrong_steps}",
        allowed="at most steps ({it.steps})",
    ),
    Rule[DataSpec](
        at="spec.data",
        blamed="promptTemplate",
        cel="self.promptTemplate.split('{prompt}').size() == 2",
        holds=lambda it: it.num_places == 1,
        found="{it.num_places} places",
        allowed="must hold {{prompt}} once",
        derived={"it.num_places": "(self.promptTemplate.split('{prompt}').size() - 1)"},
    ),
    Rule[NamedDatasetSpec](
        at="spec.data.downstream[]",
        blamed="temperature",
        cel=f"!has(self.temperature) || self.temperature == 0.0 || self.temperature >= {MIN_TEMPERATURE}",
        holds=lambda it: it.temperature is None or it.temperature == 0.0 or it.temperature >= MIN_TEMPERATURE,
        found="{it.temperature}",
        allowed=f"0 (the likeliest token), or at least {MIN_TEMPERATURE}: the engine raises smaller ones to it",
    ),
    Rule[StopCondition](
        at="spec.stopPolicies[].when",
        blamed="",
        cel=f"{_SET} == 1",
        holds=lambda it: it.num_set == 1,
        found="{it.num_set} conditions",
        allowed="exactly one",
        derived={"it.num_set": _SET},
    ),
    *(_bound(quantity) for quantity in _QUANTITIES if quantity != "downstream"),
    Rule[dict[str, SetBound]](
        at="spec.stopPolicies[].when.downstream",
        blamed="",
        cel="self.all(name, [has(self[name].below), has(self[name].above), has(self[name].drop)]"
        ".filter(set, set).size() == 1)",
        holds=lambda it: all(each.num_set == 1 for each in it.values()),
        found="no bound, or several",
        allowed="exactly one of below, above, drop",
    ),
    Rule[RLRunSpec](
        at="spec",
        blamed="failurePolicy.backoffMaxSeconds",
        cel="self.failurePolicy.backoffMaxSeconds >= self.failurePolicy.backoffSeconds",
        holds=lambda it: it.failure_policy.backoff_max_seconds >= it.failure_policy.backoff_seconds,
        found="{it.failure_policy.backoff_max_seconds}",
        allowed="at least backoffSeconds ({it.failure_policy.backoff_seconds})",
    ),
    Rule[FailureRule](
        at="spec.failurePolicy.rules[]",
        blamed="",
        cel=f"{_CAUSES} == 1",
        holds=lambda it: it.num_set == 1,
        found="{it.num_set} of them",
        allowed="exactly one of onExitCodes, onPodConditions, onReasons",
        derived={"it.num_set": _CAUSES},
    ),
)

POLICY_RULES: tuple[Rule[Any], ...] = (
    Rule[Resolved](
        at="",
        blamed="spec.recipe.promptsPerStep",
        cel="variables.promptsPerStep % variables.dataParallelRanks == 0",
        holds=lambda it: it.recipe.prompts_per_step % it.spec.trainer.data_parallel_ranks == 0,
        found="{it.recipe.prompts_per_step}",
        allowed="must be a multiple of the {it.spec.trainer.data_parallel_ranks} data-parallel ranks",
    ),
    Rule[Resolved](
        at="",
        blamed="spec.recipe.loss.klTarget",
        cel="!has(object.spec.recipe.loss) || !has(object.spec.recipe.loss.klTarget) || variables.klCoefficient > 0.0",
        holds=lambda it: it.recipe.loss.kl_target is None or it.recipe.loss.kl_coefficient > 0,
        found="{it.recipe.loss.kl_target}",
        allowed="only with klCoefficient above 0",
        derived={"it.recipe.loss.kl_target": "object.spec.recipe.loss.klTarget"},  # has no default, so no variable
    ),
    Rule[Resolved](
        at="",
        blamed="spec.recipe.optimizer.warmupSteps",
        cel="variables.warmupSteps < object.spec.budget.steps",
        holds=lambda it: it.recipe.optimizer.warmup_steps < it.spec.budget.steps,
        found="{it.recipe.optimizer.warmup_steps}",
        allowed="less than budget.steps ({it.spec.budget.steps})",
    ),
    Rule[Resolved](
        at="",
        blamed="spec.trainer.microBatchTokens",
        cel="variables.sequenceTokens <= object.spec.trainer.microBatchTokens",
        holds=lambda it: it.recipe.length.sequence_tokens <= it.spec.trainer.micro_batch_tokens,
        found="{it.spec.trainer.micro_batch_tokens}",
        allowed="at least promptTokens + thinkTokens + answerTokens ({it.recipe.length.sequence_tokens})",
    ),
    Rule[Resolved](
        at="",
        blamed="spec.recipe.length.interruptMin",
        cel="variables.interruptMin <= variables.interruptMax",
        holds=lambda it: it.recipe.length.interrupt_min <= it.recipe.length.interrupt_max,
        found="{it.recipe.length.interrupt_min}",
        allowed="at most interruptMax ({it.recipe.length.interrupt_max})",
    ),
    Rule[Resolved](
        at="",
        blamed="spec.recipe.length.interruptMax",
        cel="variables.control != 'interruption' || variables.interruptMax <= variables.thinkTokens",
        holds=lambda it: (
            it.recipe.length.control != "interruption"
            or it.recipe.length.interrupt_max <= it.recipe.length.think_tokens
        ),
        found="{it.recipe.length.interrupt_max}",
        allowed="above the context left for thinking: at most thinkTokens ({it.recipe.length.think_tokens})",
    ),
    Rule[Resolved](
        at="",
        blamed="spec.recipe.length.phrase",
        cel="variables.control != 'interruption' || variables.phrase.contains('{close}') || "
        "variables.phrase.contains(variables.close)",
        holds=lambda it: (
            it.recipe.length.control != "interruption"
            or it.recipe.length.think_tags.close in it.recipe.length.forced_phrase
        ),
        found="'{it.recipe.length.phrase}'",
        allowed="must close the thinking with {{close}} or {it.recipe.length.think_tags.close}",
    ),
    Rule[Resolved](
        at="",
        blamed="spec.recipe.length.thinkTags",
        cel="!variables.open.contains(variables.close) && !variables.close.contains(variables.open)",
        holds=lambda it: not it.recipe.length.think_tags.overlap,
        found="'{it.recipe.length.think_tags.open}' and '{it.recipe.length.think_tags.close}'",
        allowed="two different texts, neither of them a part of the other",
    ),
    Rule[Resolved](
        at="",
        blamed="spec.recipe.routerReplay",
        cel="!variables.routerReplay || variables.control != 'interruption' || "
        "object.spec.generator.gpusPerReplica == 0",
        holds=lambda it: (
            it.spec.generator.gpus_per_replica == 0
            or not (it.recipe.router_replay and it.recipe.length.control == "interruption")
        ),
        found="true",
        allowed="only with length.control penalty or none on GPUs: an engine that returns experts forces no phrase",
    ),
    Rule[Resolved](
        at="",
        blamed="spec.recipe.length.penaltyCache",
        cel="variables.control != 'penalty' || variables.penaltyCache <= variables.completionTokens",
        holds=lambda it: (
            it.recipe.length.control != "penalty"
            or it.recipe.length.penalty_cache <= it.recipe.length.completion_tokens
        ),
        found="{it.recipe.length.penalty_cache}",
        allowed="at most thinkTokens + answerTokens ({it.recipe.length.completion_tokens})",
    ),
)
