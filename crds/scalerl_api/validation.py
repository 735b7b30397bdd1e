"""From a YAML document to an RLRun, or to every fault in it. PURE."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from scalerl_api.recipe import PRESETS, Recipe
from scalerl_api.rlrun import RLRun


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: where, what was found, what is allowed."""

    path: str
    value: str
    allowed: str

    def __str__(self) -> str:
        """`spec.path: value, what is allowed`."""
        return f"{self.path}: {self.value}, {self.allowed}"


class InvalidRun(ValueError):
    """The document is not a run that can be started; never worth a retry."""

    def __init__(self, faults: Sequence[Fault]):
        super().__init__("\n".join(map(str, faults)))
        self.faults = tuple(faults)


def parse_run(document: object) -> RLRun:
    """Return the run that `document` describes. Raises InvalidRun with every fault found."""
    if not isinstance(document, Mapping):
        raise InvalidRun([Fault("(document)", _show(document), "an RLRun mapping is needed")])
    try:
        run = RLRun.model_validate(document)
    except ValidationError as error:
        raise InvalidRun(_faults(error, RLRun, document, prefix=())) from error
    try:
        recipe = run.spec.resolved_recipe()
    except ValidationError as error:
        raise InvalidRun(_faults(error, Recipe, run.spec.recipe.overrides, prefix=("spec", "recipe"))) from error
    faults = list(check_run(run, recipe))
    if faults:
        raise InvalidRun(faults)
    return run


def check_run(run: RLRun, recipe: Recipe) -> Iterator[Fault]:
    """Yield what no single field can see is wrong."""
    yield from _check_model(run)
    yield from _check_data(run)
    yield from _check_groups(run, recipe)
    yield from _check_length(run, recipe)
    yield from _check_stop(run)


def _check_model(run: RLRun) -> Iterator[Fault]:
    model = run.spec.model
    if model.source == "scratch":
        sizes = model.scratch
        if sizes is None:
            yield Fault("spec.model.scratch", "missing", "needed with source: scratch")
        elif sizes.heads % sizes.kv_heads:
            yield Fault("spec.model.scratch.kvHeads", str(sizes.kv_heads), f"must divide heads ({sizes.heads})")
        elif sizes.head_dim % 32:
            yield Fault("spec.model.scratch.headDim", str(sizes.head_dim), "must be a multiple of 32")
        if run.spec.warm_start is None:
            yield Fault("spec.warmStart", "missing", "needed with source: scratch, which can do nothing yet")
        if run.spec.data.prompt_format == "chat":
            yield Fault("spec.data.promptFormat", "chat", "source: scratch has no chat template; use plain")
    elif model.scratch is not None:
        yield Fault("spec.model.scratch", "set", f"only with source: scratch, not {model.source!r}")
    warm = run.spec.warm_start
    if warm is not None and warm.wrong_steps > warm.steps:
        yield Fault("spec.warmStart.wrongSteps", str(warm.wrong_steps), f"at most steps ({warm.steps})")


def _check_data(run: RLRun) -> Iterator[Fault]:
    data, held_out = run.spec.data, run.spec.data.held_out
    if held_out.prompts >= data.train.size:
        yield Fault(
            "spec.data.heldOut.prompts", str(held_out.prompts), f"less than data.train.size ({data.train.size})"
        )
    if data.prompt_template.count("{prompt}") != 1:
        yield Fault("spec.data.promptTemplate", repr(data.prompt_template), "must hold {prompt} once")
    names = [each.name for each in data.downstream]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Fault("spec.data.downstream", name, "every name once")
    for index, source in enumerate([data.train, *data.downstream]):
        generated = source.source.startswith("reasoning_gym:")
        path = "spec.data.train" if index == 0 else f"spec.data.downstream[{index - 1}]"
        if source.task and not generated:
            yield Fault(f"{path}.task", "set", "only with source: reasoning_gym:<task>")
        if run.spec.reward.verifier == "reasoning_gym" and not generated:
            yield Fault(f"{path}.source", source.source, "reward.verifier reasoning_gym needs reasoning_gym:<task>")


def _check_groups(run: RLRun, recipe: Recipe) -> Iterator[Fault]:
    trainer, generator = run.spec.trainer, run.spec.generator
    if recipe.prompts_per_step % trainer.ranks:
        yield Fault(
            "spec.recipe.promptsPerStep",
            str(recipe.prompts_per_step),
            f"must be a multiple of the {trainer.ranks} ranks",
        )
    if generator.max_replicas < generator.min_replicas:
        yield Fault(
            "spec.generator.maxReplicas",
            str(generator.max_replicas),
            f"at least minReplicas ({generator.min_replicas})",
        )
    if (trainer.gpus_per_replica == 0) != (generator.gpus_per_replica == 0):
        yield Fault(
            "spec.generator.gpusPerReplica",
            str(generator.gpus_per_replica),
            f"trainer has {trainer.gpus_per_replica}: both on GPUs or both on the CPU",
        )
    warmup = recipe.optimizer.warmup_steps
    if warmup >= run.spec.budget.steps:
        yield Fault(
            "spec.recipe.optimizer.warmupSteps", str(warmup), f"less than budget.steps ({run.spec.budget.steps})"
        )


def _check_length(run: RLRun, recipe: Recipe) -> Iterator[Fault]:
    length = recipe.length
    total = length.prompt_tokens + length.completion_tokens
    if total > run.spec.trainer.micro_batch_tokens:
        yield Fault(
            "spec.trainer.microBatchTokens",
            str(run.spec.trainer.micro_batch_tokens),
            f"at least promptTokens + thinkTokens + answerTokens ({total})",
        )
    if length.interrupt_min > length.interrupt_max:
        yield Fault(
            "spec.recipe.length.interruptMin",
            str(length.interrupt_min),
            f"at most interruptMax ({length.interrupt_max})",
        )
    if length.control == "interruption" and length.interrupt_max > length.think_tokens:
        yield Fault(
            "spec.recipe.length.interruptMax",
            str(length.interrupt_max),
            f"above the context left for thinking: at most thinkTokens ({length.think_tokens})",
        )
    if length.control == "interruption" and "</think>" not in length.phrase:
        yield Fault("spec.recipe.length.phrase", repr(length.phrase), "must close the thinking with </think>")
    if length.control == "penalty" and length.penalty_cache > length.completion_tokens:
        yield Fault(
            "spec.recipe.length.penaltyCache",
            str(length.penalty_cache),
            f"at most thinkTokens + answerTokens ({length.completion_tokens})",
        )


def _check_stop(run: RLRun) -> Iterator[Fault]:
    policies = run.spec.stop_policies
    names = [policy.name for policy in policies]
    for index, policy in enumerate(policies):
        path = f"spec.stopPolicies[{index}]"
        if names.count(policy.name) > 1:
            yield Fault(f"{path}.name", policy.name, "every name once")
        bounds = [bound for bound in policy.when.__dict__.values() if bound is not None]
        if len(bounds) != 1:
            yield Fault(f"{path}.when", f"{len(bounds)} conditions", "exactly one")
        elif (bounds[0].below is None) == (bounds[0].above is None):
            yield Fault(f"{path}.when", "below and above", "exactly one of below, above")


def _faults(error: ValidationError, root: type[BaseModel], document: object, prefix: tuple[str, ...]) -> list[Fault]:
    faults = []
    for item in error.errors():
        location = tuple(part for part in item["loc"] if not str(part).startswith("function-"))
        path = _join((*prefix, *location))
        faults.append(Fault(path, *_explain(item, root, location)))
    return faults


def _explain(item: Any, root: type[BaseModel], location: tuple[str | int, ...]) -> tuple[str, str]:
    """The value that was found and what is allowed, for one pydantic error."""
    context = item.get("ctx", {})
    value = _show(item.get("input"))
    match item["type"]:
        case "missing":
            return "missing", "this field is required"
        case "extra_forbidden":
            return f"unknown field (value {value})", _suggest(root, location)
        case "literal_error":
            return value, f"one of {context['expected']}" + (_preset_hint() if location[-1:] == ("preset",) else "")
        case "greater_than_equal":
            return value, f"at least {context['ge']}"
        case "less_than_equal":
            return value, f"at most {context['le']}"
        case "string_pattern_mismatch":
            return value, f"must match {context['pattern']}"
        case _:
            message = str(item["msg"])
            return value, message[0].lower() + message[1:]


def _preset_hint() -> str:
    return f"; presets are {', '.join(PRESETS)}"


def _suggest(root: type[BaseModel], location: tuple[str | int, ...]) -> str:
    """Name the fields that exist where `location` points, the nearest first."""
    model: Any = root
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        field = next((f for n, f in model.model_fields.items() if part in (f.alias, n)), None)
        model = _inner_model(field.annotation) if field else None
        if model is None:
            return "no such field"
    names = sorted(field.alias or name for name, field in model.model_fields.items() if name != "overrides")
    near = difflib.get_close_matches(str(location[-1]), names, n=1)
    return f"did you mean {near[0]}?" if near else f"fields here are {', '.join(names)}"


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _inner_model(inner)
        if found is not None:
            return found
    return None


def _join(parts: tuple[str | int, ...]) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".") or "(document)"


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
