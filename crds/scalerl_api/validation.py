"""From a YAML document to an RLRun, or to every fault in it. PURE."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from scalerl_api.recipe import PRESETS, Recipe, merge
from scalerl_api.rlrun import NAME_PATTERN, QUANTITY_PATTERN, VERIFIER_PATTERN, DatasetSpec, RecipeSpec, RLRun

Model = TypeVar("Model", bound=BaseModel)


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
    run, faults = _parse_as(RLRun, document)
    recipe, recipe_faults = _parse_recipe(document)
    faults += recipe_faults
    if run is not None and recipe is not None and not faults:
        faults += check_run(run, recipe)
    if run is None or faults:
        raise InvalidRun(faults)
    return run


def _parse_recipe(document: Mapping[Any, Any]) -> tuple[Recipe | None, list[Fault]]:
    """Preset and overrides as one recipe; None where RLRun's own faults say why there is none."""
    spec = document.get("spec")
    written = spec.get("recipe", {}) if isinstance(spec, Mapping) else None
    if not isinstance(written, Mapping):
        return None, []
    preset = next((values for name, values in PRESETS.items() if name == written.get("preset", "scalerl")), {})
    overrides = {key: value for key, value in written.items() if key != "preset"}
    return _parse_as(Recipe, merge(preset, overrides), prefix=("spec", "recipe"))


def check_run(run: RLRun, recipe: Recipe) -> Iterator[Fault]:
    """Yield what no single field can see is wrong."""
    yield from _check_model(run)
    yield from _check_data(run)
    yield from _check_groups(run, recipe)
    yield from _check_recipe(run, recipe)
    yield from _check_length(run, recipe)
    yield from _check_stop(run)


def _check_model(run: RLRun) -> Iterator[Fault]:
    model, warm = run.spec.model, run.spec.warm_start
    if model.source == "scratch":
        yield from _check_scratch(run)
    elif model.scratch is not None:
        yield Fault("spec.model.scratch", "set", f"only with source: scratch, not {model.source!r}")
    if warm is not None and warm.wrong_steps > warm.steps:
        yield Fault("spec.warmStart.wrongSteps", str(warm.wrong_steps), f"at most steps ({warm.steps})")


def _check_scratch(run: RLRun) -> Iterator[Fault]:
    sizes = run.spec.model.scratch
    if sizes is None:
        yield Fault("spec.model.scratch", "missing", "needed with source: scratch")
    else:
        if sizes.heads % sizes.kv_heads:
            yield Fault("spec.model.scratch.kvHeads", str(sizes.kv_heads), f"must divide heads ({sizes.heads})")
        if sizes.head_dim % 32:
            yield Fault("spec.model.scratch.headDim", str(sizes.head_dim), "must be a multiple of 32")
    if run.spec.warm_start is None:
        yield Fault("spec.warmStart", "missing", "needed with source: scratch, which can do nothing yet")
    if run.spec.data.prompt_format == "chat":
        yield Fault("spec.data.promptFormat", "chat", "source: scratch has no chat template; use plain")


def _check_data(run: RLRun) -> Iterator[Fault]:
    data, held_out = run.spec.data, run.spec.data.held_out
    if held_out.prompts >= data.train.size:
        allowed = f"less than data.train.size ({data.train.size})"
        yield Fault("spec.data.heldOut.prompts", str(held_out.prompts), allowed)
    if data.prompt_template.count("{prompt}") != 1:
        yield Fault("spec.data.promptTemplate", repr(data.prompt_template), "must hold {prompt} once")
    names = [each.name for each in data.downstream]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield Fault(f"spec.data.downstream[{index}].name", name, "every name once")
    yield from _check_source(run, "spec.data.train", data.train)
    for index, each in enumerate(data.downstream):
        yield from _check_source(run, f"spec.data.downstream[{index}]", each)


def _check_source(run: RLRun, path: str, data: DatasetSpec) -> Iterator[Fault]:
    generated = data.source.startswith("reasoning_gym:")
    if data.task and not generated:
        yield Fault(f"{path}.task", "set", "only with source: reasoning_gym:<task>")
    if run.spec.reward.verifier == "reasoning_gym" and not generated:
        yield Fault(f"{path}.source", data.source, "reward.verifier reasoning_gym needs reasoning_gym:<task>")


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


def _check_recipe(run: RLRun, recipe: Recipe) -> Iterator[Fault]:
    if recipe.loss.kl_target is not None and recipe.loss.kl_coefficient == 0:
        yield Fault("spec.recipe.loss.klTarget", str(recipe.loss.kl_target), "only with klCoefficient above 0")
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
            seen = "neither below nor above" if bounds[0].below is None else "below and above"
            yield Fault(f"{path}.when", seen, "exactly one of below, above")


def _parse_as(root: type[Model], document: object, prefix: tuple[str, ...] = ()) -> tuple[Model | None, list[Fault]]:
    """The typed object, or why there is none. Only the YAML's own names count: an API server knows no others."""
    try:
        return root.model_validate(document, by_alias=True, by_name=False), []
    except ValidationError as error:
        faults = [_fault(item, root, prefix) for item in error.errors()]
        return None, list({fault.path: fault for fault in faults}.values())


def _fault(item: ErrorDetails, root: type[BaseModel], prefix: tuple[str, ...]) -> Fault:
    location = item["loc"]
    if location[-1:] and location[-1] in _UNION_MEMBERS:
        return Fault(
            _join((*prefix, *location[:-1])), _show(item["input"]), "allowed are a number, a string, true, false"
        )
    return Fault(_join((*prefix, *location)), *_explain(item, root))


def _explain(item: ErrorDetails, root: type[BaseModel]) -> tuple[str, str]:
    """The value that was found and what is allowed, for one pydantic error."""
    kind, context, value = item["type"], item.get("ctx", {}), _show(item["input"])
    if kind == "missing":
        return "missing", "this field is required"
    if kind == "extra_forbidden":
        return f"unknown field (value {value})", _suggest(root, item["loc"])
    if kind == "model_type":
        return value, f"a mapping is needed; {_fields(_model_at(root, item['loc']))}"
    if kind == "string_pattern_mismatch":
        return value, _PATTERNS[context["pattern"]]
    if kind in _ALLOWED:
        return value, _ALLOWED[kind].format(**context)
    message = str(item["msg"])
    return value, message[0].lower() + message[1:]


_UNION_MEMBERS = ("int", "float", "str", "bool")  # pydantic adds the member's name to the place of the error

# What is allowed, by pydantic's name of the error; in braces what pydantic says of the bound.
_ALLOWED = {
    "literal_error": "one of {expected}",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "finite_number": "a finite number is needed",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "too_long": "at most {max_length} entries, not {actual_length}",
    "int_type": "a whole number is needed, without quotes",
    "int_from_float": "a whole number is needed",
    "float_type": "a number is needed",
    "float_parsing": "a number is needed",
    "string_type": "a string is needed; put it in quotes",
    "bool_type": "true or false is needed",
    "list_type": "a list is needed",
    "dict_type": "a mapping is needed",
    "invalid_key": "field names are strings",
}
_PATTERNS = {
    NAME_PATTERN: "1 to 52 lower-case letters, digits and '-', with a letter or digit at both ends",
    QUANTITY_PATTERN: "a whole number with Ki, Mi, Gi, Ti or Pi behind it",
    VERIFIER_PATTERN: "one of math, reasoning_gym, code, python:package.module:function",
}


def _suggest(root: type[BaseModel], location: tuple[str | int, ...]) -> str:
    """Name the fields that exist where `location` points, the nearest first."""
    model = _model_at(root, location[:-1])
    near = difflib.get_close_matches(str(location[-1]), _names(model), n=1)
    return f"did you mean {near[0]}?" if near else _fields(model)


def _fields(model: type[BaseModel]) -> str:
    return f"fields here are {', '.join(_names(model))}"


def _names(model: type[BaseModel]) -> list[str]:
    if model is RecipeSpec:
        return sorted(["preset", *_names(Recipe)])
    return sorted(field.alias or name for name, field in model.model_fields.items())


def _model_at(root: type[BaseModel], location: tuple[str | int, ...]) -> type[BaseModel]:
    """The model whose fields `location` may name; positions in lists are passed over."""
    model = root
    for part in location:
        if not isinstance(part, int):
            field = next(each for name, each in model.model_fields.items() if part in (each.alias, name))
            model = _inner_model(field.annotation) or model
    return model


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = map(_inner_model, get_args(annotation))
    return next((model for model in found if model is not None), None)


def _join(parts: tuple[str | int, ...]) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".") or "(document)"


def _show(value: object) -> str:
    """A value as YAML's reader wrote it, short."""
    match value:
        case None:
            return "empty"
        case bool():
            return str(value).lower()
        case Mapping():
            return "a mapping"
        case list():
            return "a list"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
