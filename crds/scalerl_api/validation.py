"""Parses a YAML document into an RLRun, or into every fault of it. PURE."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_snake
from pydantic_core import ErrorDetails

from scalerl_api.base import NAME_ALLOWED, NAME_PATTERN, RUN_NAME_ALLOWED, RUN_NAME_PATTERN
from scalerl_api.cross_field_rules import CRD_RULES, POLICY_RULES, Resolved, Rule
from scalerl_api.passthrough import DEEPSPEED_PATH, ENGINE_PATH, OWNED_DEEPSPEED, OWNED_ENGINE, find_owned
from scalerl_api.policies import WORD_ALLOWED, WORD_PATTERN
from scalerl_api.recipe import PRESETS, TAG_ALLOWED, TAG_PATTERN, Recipe, merge
from scalerl_api.reward import PACKAGE_PATTERN, URL_PATTERN, VARIABLE_PATTERN, VERIFIER_PATTERN
from scalerl_api.rlrun import QUANTITY_PATTERN, SECRET_KEY_PATTERN, RecipeSpec, RLRun
from scalerl_api.source_rules import find_source_faults

Model = TypeVar("Model", bound=BaseModel)


def shorten(text: str, limit: int) -> str:
    """Return `text` for a message, or its start and three dots in `limit` characters."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


@dataclass(frozen=True)
class Fault:
    """One fault of a document: path, found value, allowed values."""

    path: str
    value: str
    allowed: str

    def __str__(self) -> str:
        """`spec.path: value, what is allowed`."""
        return f"{self.path}: {self.value}, {self.allowed}"


class InvalidRun(ValueError):
    """The document is not a valid run; a retry cannot succeed."""

    def __init__(self, faults: Sequence[Fault]):
        super().__init__("\n".join(map(str, faults)))
        self.faults = tuple(faults)

    def __reduce__(self) -> tuple[type["InvalidRun"], tuple[tuple[Fault, ...]]]:
        """Pickle by the faults, so that the error crosses processes whole."""
        return InvalidRun, (self.faults,)


def parse_run(document: object) -> RLRun:
    """Return the run that `document` describes. Raises InvalidRun with every fault found."""
    if not isinstance(document, Mapping):
        raise InvalidRun([Fault("(document)", _show(document), "an RLRun mapping is needed")])
    run, faults = _parse_as(RLRun, document)
    faults = [_as_written(fault, document) for fault in faults]
    recipe, recipe_faults = _parse_recipe(document)
    faults += recipe_faults
    if run is not None and recipe is not None and not faults:
        faults += check_run(run, recipe)
    if run is None or faults:
        raise InvalidRun(faults)
    return run


def _as_written(fault: Fault, document: Mapping[Any, Any]) -> Fault:
    """The fault with the path that the document has: one training source may be written without a list."""
    data = document["spec"].get("data") if isinstance(document.get("spec"), Mapping) else None
    if not isinstance(data, Mapping) or not isinstance(data.get("train"), Mapping):
        return fault
    return replace(fault, path=fault.path.replace("spec.data.train[0]", "spec.data.train", 1))


def _parse_recipe(document: Mapping[Any, Any]) -> tuple[Recipe | None, list[Fault]]:
    """Preset and overrides as one recipe; None if the faults of RLRun cover it."""
    spec = document.get("spec")
    written = spec.get("recipe", {}) if isinstance(spec, Mapping) else None
    if not isinstance(written, Mapping):
        return None, []
    preset = next((values for name, values in PRESETS.items() if name == written.get("preset", "scalerl")), {})
    overrides = {key: value for key, value in written.items() if key != "preset"}
    return _parse_as(Recipe, merge(preset, overrides), prefix=("spec", "recipe"))


def check_run(run: RLRun, recipe: Recipe) -> Iterator[Fault]:
    """Yield the faults that involve several fields."""
    yield from _check_names("spec.data.downstream", [each.name for each in run.spec.data.downstream])
    yield from _check_names("spec.stopPolicies", [each.name for each in run.spec.stop_policies])
    yield from _check_names("spec.failurePolicy.rules", [each.name for each in run.spec.failure_policy.rules])
    yield from (Fault(*each) for each in find_source_faults(run))
    yield from _check_settings(DEEPSPEED_PATH, run.spec.trainer.deepspeed, OWNED_DEEPSPEED)
    yield from _check_settings(ENGINE_PATH, run.spec.generator.engine_args, OWNED_ENGINE)
    for rule in CRD_RULES:
        for path, part in _find_parts(run, "", rule.at.split(".")):
            yield from _try_rule(rule, path, part)
    for rule in POLICY_RULES:
        yield from _try_rule(rule, "", Resolved(run.spec, recipe))


def _check_names(path: str, names: Sequence[str]) -> Iterator[Fault]:
    """Yield repeated names. The API server refuses them by itself: the lists are keyed by name."""
    for index, name in enumerate(names):
        if name in names[:index]:
            yield Fault(f"{path}[{index}].name", name, "every name once")


def _check_settings(path: str, settings: Mapping[str, Any], owned: Mapping[str, str]) -> Iterator[Fault]:
    for name, value, reason in find_owned(settings, owned):
        yield Fault(f"{path}.{name}", _show(value), f"cannot be set here: {reason}")


def _try_rule(rule: Rule[Any], path: str, part: object) -> Iterator[Fault]:
    if not rule.holds(part):
        where = f"{path}.{rule.blamed}".strip(".")
        yield Fault(where, rule.found.format(it=part), rule.allowed.format(it=part))


def _find_parts(value: object, path: str, steps: Sequence[str]) -> Iterator[tuple[str, object]]:
    """Every part of a run at `steps`, such as `spec`, `stopPolicies[]`, with its path; nothing where it is unset."""
    if not steps or value is None:
        yield from [(path, value)] if value is not None else []
        return
    name = steps[0].removesuffix("[]")
    inner, place = getattr(value, to_snake(name)), f"{path}.{name}".lstrip(".")
    entries = [(place, inner)] if name == steps[0] else [(f"{place}[{i}]", each) for i, each in enumerate(inner)]
    for where, each in entries:
        yield from _find_parts(each, where, steps[1:])


def _parse_as(root: type[Model], document: object, prefix: tuple[str, ...] = ()) -> tuple[Model | None, list[Fault]]:
    """The typed object, or its faults. Only YAML's camel-case names are accepted, as by the API server."""
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
    """The found value and the allowed ones, for one pydantic error."""
    kind, context, value = item["type"], item.get("ctx", {}), _show(item["input"])
    if kind == "missing":
        return "missing", "this field is required"
    if kind == "extra_forbidden":
        return f"unknown field (value {value})", _suggest(root, item["loc"])
    if kind == "model_type":
        return value, f"a mapping is needed; {_fields(_model_at(root, item['loc']))}"
    if kind == "string_pattern_mismatch":
        return value, PATTERNS[context["pattern"]]
    if context.get("actual_length", 0) is None:  # of a mapping
        context = {**context, "actual_length": len(item["input"])}
    if kind in _ALLOWED:
        return value, _ALLOWED[kind].format(**context)
    message = str(item["msg"])
    return value, message[0].lower() + message[1:]


_UNION_MEMBERS = ("int", "float", "str", "bool")  # pydantic appends the member's name to the error's location

# The allowed values, by pydantic's error type; names in braces come from the error's context.
_ALLOWED = {
    "literal_error": "one of {expected}",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "finite_number": "a finite number is needed",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "too_long": "at most {max_length} entries, not {actual_length}",
    "too_short": "at least {min_length} entries, not {actual_length}",
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
PATTERNS = {
    NAME_PATTERN: NAME_ALLOWED,
    RUN_NAME_PATTERN: RUN_NAME_ALLOWED,
    WORD_PATTERN: WORD_ALLOWED,
    TAG_PATTERN: TAG_ALLOWED,
    SECRET_KEY_PATTERN: "letters, digits, '-', '_' and '.'",
    QUANTITY_PATTERN: "a whole number with Ki, Mi, Gi, Ti or Pi behind it",
    VERIFIER_PATTERN: "one of math, choice, reasoning_gym, code, http:name, python:package.module:function, "
    "env:package.module:Class",
    PACKAGE_PATTERN: "the name under which a package is imported",
    URL_PATTERN: "an address that begins with http:// or https://, without blanks, user and password",
    VARIABLE_PATTERN: "the name of an environment variable",
}


def _suggest(root: type[BaseModel], location: tuple[str | int, ...]) -> str:
    """Suggest the field nearest to the unknown one at `location`, else list the fields there."""
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
    """The model whose fields `location` may name; list positions and a mapping's keys are skipped."""
    model = root
    for part in location:
        field = next((each for name, each in model.model_fields.items() if part in (each.alias, name)), None)
        if field is not None:
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
    """A value in YAML's spelling, shortened."""
    match value:
        case None:
            return "empty"
        case bool():
            return str(value).lower()
        case Mapping():
            return "a mapping"
        case list():
            return "a list"
    return shorten(repr(value), 80)
