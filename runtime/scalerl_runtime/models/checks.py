"""The gate: whether trainer and engine can represent a model, decided from its files before anything starts. I/O.

A check is a function from a `Candidate` to faults; `CHECKS` is the list of them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import gcd
from typing import Any

from scalerl_api import Fault, InvalidRun, RLRun
from scalerl_api.recipe import Recipe
from scalerl_runtime.models.adapter_check import examine_adapters
from scalerl_runtime.models.adapters import LORA_FIELD, require_peft
from scalerl_runtime.models.architecture import MODEL_ERRORS, Unrepresentable, examine, examine_parts
from scalerl_runtime.models.dimensions import attention_heads, context_limit, head_dim, rotary_switch
from scalerl_runtime.models.engine_support import (
    adapter_architectures,
    cpu_head_sizes,
    engine_architectures,
    engine_name,
)
from scalerl_runtime.models.packing_probe import PackedForward
from scalerl_runtime.models.router_replay import REPLAY_FIELD, examine_replay
from scalerl_runtime.models.source import FIELD
from scalerl_runtime.models.tokenizer import check_tokenizer

PARTS_FIELD = "spec.trainer.sequenceParallel"
ALLOWED = "a decoder-only model whose packed rows the trainer represents; docs/models.md lists families"


@dataclass(frozen=True)
class Candidate:
    """A model that a run names, as far as its small files tell: no weights are loaded."""

    run: RLRun
    recipe: Recipe
    source: str  # folder or hub id
    config: Any  # transformers' configuration, of the whole model where that has several parts
    tokenizer: Any  # transformers' tokenizer
    forward: PackedForward  # the trainer's own
    generation_eos: tuple[int, ...] = ()  # tokens that end a completion by the model's generation config

    def fault(self, found: str, allowed: str) -> Fault:
        """A fault of the field that names the model."""
        return Fault(FIELD, f"{self.source}: {found}", allowed)


Check = Callable[[Candidate], Iterable[Fault]]


def check_kind(candidate: Candidate) -> Iterable[Fault]:
    """A decoder of text, with weights as they are."""
    config = candidate.config
    names = getattr(config, "architectures", None) or []
    if getattr(config, "is_encoder_decoder", False):
        yield candidate.fault(f"{_class_name(config)} is an encoder with a decoder", ALLOWED)
    quantized = getattr(config, "quantization_config", None)
    if quantized is not None:
        method = quantized.get("quant_method") if isinstance(quantized, dict) else type(quantized).__name__
        found = f"quantization_config of method {method!r}: quantized weights cannot be trained"
        yield candidate.fault(found, "a checkpoint with plain bf16 or float32 weights")
    if not names:
        yield candidate.fault("config.json names no architectures", "the name of a causal language model's class")


def check_trainer(candidate: Candidate) -> Iterable[Fault]:
    """The trainer's packed rows and fused head represent the architecture."""
    if getattr(candidate.config, "is_encoder_decoder", False):
        return  # said already
    try:
        examine(candidate.config, candidate.forward)
    except Unrepresentable as error:
        yield candidate.fault(f"{_class_name(candidate.config)}: {error}", ALLOWED)


def check_engine(candidate: Candidate) -> Iterable[Fault]:
    """The engine has the architecture, and on a CPU its size of heads."""
    names, known = getattr(candidate.config, "architectures", None) or [], engine_architectures()
    if not names or not known:
        return  # said already, or no engine is installed here
    if not any(name in known for name in names):
        yield candidate.fault(
            f"{engine_name()} has no {names[0]}", f"an architecture that {engine_name()} generates with"
        )
        return
    text, sizes = candidate.config.get_text_config(), cpu_head_sizes()
    on_cpu = candidate.run.spec.generator.gpus_per_replica == 0
    if on_cpu and sizes and not getattr(text, "kv_lora_rank", None) and head_dim(text) not in sizes:
        allowed = f"one of {', '.join(map(str, sorted(sizes)))} for generators on CPUs; or gpusPerReplica of 1 or more"
        yield candidate.fault(f"heads of dimension {head_dim(text)}", allowed)


def check_context(candidate: Candidate) -> Iterable[Fault]:
    """Prompt, thinking and answer must fit into the model's positions."""
    wanted, have = candidate.recipe.length.sequence_tokens, context_limit(candidate.config)
    if have is not None and wanted > have:
        found = f"{have} positions, but promptTokens + thinkTokens + answerTokens are {wanted}"
        yield candidate.fault(found, f"shorter lengths in recipe.length, {have} in all, or a model with more positions")
    switch = rotary_switch(candidate.config)
    if switch is not None and wanted > switch[1]:
        kind, trained = switch
        found = f"rotary scaling {kind!r}, which treats sequences beyond {trained} tokens differently from shorter ones"
        yield candidate.fault(
            found, f"at most {trained} tokens in recipe.length (promptTokens, thinkTokens, answerTokens)"
        )


def _class_name(config: Any) -> str:
    return str(next(iter(getattr(config, "architectures", None) or ()), config.model_type))


def check_tokens(candidate: Candidate) -> Iterable[Fault]:
    """The tokenizer spells the run's tags and phrase, and a completion can end."""
    rows = getattr(candidate.config.get_text_config(), "vocab_size", None)
    data, recipe = candidate.run.spec.data, candidate.recipe
    return check_tokenizer(candidate.tokenizer, data, recipe, candidate.generation_eos, rows)


def check_replay(candidate: Candidate) -> Iterable[Fault]:
    """The trainer's routers can replay the engine's choice of experts, where the recipe wants it."""
    if not candidate.recipe.router_replay:
        return
    try:
        examine_replay(candidate.config, candidate.forward)
    except MODEL_ERRORS as error:
        words = " ".join(str(error).split())[:300] or type(error).__name__
        found = f"true for {candidate.source}, {_class_name(candidate.config)}: {words}"
        yield Fault(REPLAY_FIELD, found, "false, or a model of experts whose routers replay; docs/models.md")


def check_adapters(candidate: Candidate) -> Iterable[Fault]:
    """The model has the layers that get adapters, and the engine can add them."""
    lora, names = candidate.run.spec.model.lora, getattr(candidate.config, "architectures", None) or []
    if lora is None or getattr(candidate.config, "is_encoder_decoder", False):
        return
    known = adapter_architectures()
    if known and names and names[0] in engine_architectures() and names[0] not in known:
        allowed = f"an architecture of which {engine_name()} has adapters; docs/lora.md"
        yield Fault(LORA_FIELD, f"set, but {engine_name()} has no adapters for {names[0]}", allowed)
    try:
        require_peft()
        examine_adapters(candidate.config, lora, candidate.forward)
    except InvalidRun as error:
        yield from error.faults
    except MODEL_ERRORS as error:
        words = " ".join(str(error).split())[:300] or type(error).__name__
        yield Fault(LORA_FIELD, f"set for {candidate.source}, {_class_name(candidate.config)}: {words}", ALLOWED)


def check_parts(candidate: Candidate) -> Iterable[Fault]:
    """The ranks that share a row can share the model's heads, and compute its layers in parts."""
    size = candidate.run.spec.trainer.sequence_parallel
    if size == 1 or getattr(candidate.config, "is_encoder_decoder", False):
        return
    heads = attention_heads(candidate.config)
    name = f"{size} for {candidate.source}, {_class_name(candidate.config)}"
    if any(count % size for count in heads):
        shared = gcd(*heads)
        allowed = ", ".join(str(n) for n in range(1, shared + 1) if shared % n == 0)
        words = " and ".join(map(str, heads))
        yield Fault(PARTS_FIELD, f"{name}, with {words} attention heads", f"one of {allowed}: it must divide the heads")
    try:
        examine_parts(candidate.config, candidate.forward)
    except Unrepresentable as error:
        yield Fault(PARTS_FIELD, f"{name}: {error}", "1 for this model; docs/models.md")


# Each is called with every candidate; the faults of all are reported together.
CHECKS: tuple[Check, ...] = (
    check_kind, check_trainer, check_engine, check_context, check_tokens, check_replay, check_adapters,
    check_parts,
)  # fmt: skip


def find_faults(candidate: Candidate) -> tuple[Fault, ...]:
    """Return the faults that the checks find."""
    return tuple(fault for check in CHECKS for fault in check(candidate))


def require_model(candidate: Candidate) -> None:
    """Raise InvalidRun with every fault that the checks find."""
    if faults := find_faults(candidate):
        raise InvalidRun(faults)
