"""Builds validation and access for the API server: CEL, ValidatingAdmissionPolicy, ClusterRoles. PURE.

Messages are those of `scalerl validate`: `spec.path: value, what is allowed`.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from pydantic.alias_generators import to_camel

from scalerl_api.base import RUN_NAME_ALLOWED, RUN_NAME_PATTERN
from scalerl_api.cross_field_rules import (
    COLOCATED_ALLOWED,
    COLOCATED_PATH,
    CRD_RULES,
    FIXED,
    FIXED_MESSAGE,
    POLICY_RULES,
    Rule,
)
from scalerl_api.recipe import PRESETS, Recipe
from scalerl_api.rlrun import GROUP, PLURAL

Object = dict[str, Any]

POLICY_NAME = f"{PLURAL}.{GROUP}"
OPTIONAL_FIXED = ("warmStart", "checkpoint.path")  # may be absent; setting or removing one is a change too

# A run that was stored before a rule existed must still accept labels and lose finalizers, or it could not be deleted.
# For rules of the CRD the API server itself skips unchanged parts.
SPEC_CHANGES = "oldObject == null || object.spec != oldObject.spec"

# Sums that the rules use, built from the variables before them; in Python they are properties.
SUMS = {
    "ranks": "object.spec.trainer.replicas * "
    "(object.spec.trainer.gpusPerReplica > 0 ? object.spec.trainer.gpusPerReplica : 1)",
    "dataParallelRanks": "variables.ranks >= object.spec.trainer.sequenceParallel ? "
    "variables.ranks / object.spec.trainer.sequenceParallel : 1",
    "completionTokens": "variables.thinkTokens + variables.answerTokens",
    "sequenceTokens": "variables.promptTokens + variables.completionTokens",
}

# Rules for the API server alone: a file has no such values, or the types check them, or they concern a cluster only.
_SCALARS = " || ".join(f"type({{options}}[key]) == {kind}" for kind in ("int", "double", "string", "bool"))
SERVER_ONLY = [
    (
        "!has(object.spec.data.downstream) || object.spec.data.downstream.all(each, !has(each.task) || "
        f"each.task.all(key, {_SCALARS.format(options='each.task')}))",
        "spec.data.downstream: in a task allowed are numbers, strings, true, false",
    ),
    (
        # The sources' names are in a field without a type, which no rule of the CRD sees.
        "!has(object.spec.stopPolicies) || object.spec.stopPolicies.all(policy, !has(policy.when.downstream) || "
        "policy.when.downstream.all(name, "
        "(has(object.spec.data.downstream) && object.spec.data.downstream.exists(each, each.name == name)) || "
        "(type(object.spec.data.train) == list && object.spec.data.train.size() > 1 && "
        "object.spec.data.train.exists(each, has(each.name) && each.name == name))))",
        "spec.stopPolicies: when.downstream needs the name of a test set of this run: one of data.downstream, or a "
        "source where data.train has several",
    ),
    ("!object.spec.generator.colocated", f"{COLOCATED_PATH}: true, {COLOCATED_ALLOWED}"),
]


def build_validations() -> Iterator[tuple[str, Object]]:
    """Yield place in the schema and entry of x-kubernetes-validations, for every rule of the CRD."""
    # A name never changes: a run that was stored before this rule must still accept a status and lose finalizers.
    name = f"oldSelf.hasValue() || self.metadata.name.matches('{RUN_NAME_PATTERN}')"
    yield "", {"rule": name, "message": f"metadata.name: {RUN_NAME_ALLOWED}", "optionalOldSelf": True}
    for path in FIXED:
        yield "spec", {"rule": _fixed(path), "message": FIXED_MESSAGE, "fieldPath": f".{path}"}
    for rule in CRD_RULES:
        where = {"fieldPath": f".{rule.blamed}"} if rule.blamed else {}
        yield rule.at, {"rule": rule.cel, **_message(f"{rule.found}, {rule.allowed}", rule, _of_self), **where}


def _fixed(path: str) -> str:
    same = f"self.{path} == oldSelf.{path}"
    if path not in OPTIONAL_FIXED:
        return same
    return f"has(self.{path}) == has(oldSelf.{path}) && (!has(self.{path}) || {same})"


def build_policy() -> list[Object]:
    """Return the ValidatingAdmissionPolicy and its binding."""
    validations = [
        {"expression": rule.cel, **_message(f"{rule.blamed}: {rule.found}, {rule.allowed}", rule, _of_policy)}
        for rule in POLICY_RULES
    ]
    validations += [{"expression": cel, "message": message} for cel, message in SERVER_ONLY]
    resources = {
        "apiGroups": [GROUP],
        "apiVersions": ["*"],
        "operations": ["CREATE", "UPDATE"],
        "resources": [PLURAL],
    }
    policy = {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [resources]},
        "matchConditions": [{"name": "spec-changes", "expression": SPEC_CHANGES}],
        "variables": [{"name": name, "expression": cel} for name, cel in _variables().items()],
        "validations": validations,
    }
    kind = "ValidatingAdmissionPolicy"
    head = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": POLICY_NAME}}
    binding = {"policyName": POLICY_NAME, "validationActions": ["Deny"]}
    return [{"kind": kind, **head, "spec": policy}, {"kind": f"{kind}Binding", **head, "spec": binding}]


def _variables() -> dict[str, str]:
    """The recipe's values that the rules use, with the preset applied, and sums of them."""
    messages = (_message(rule.found + rule.allowed, rule, _of_policy) for rule in POLICY_RULES)
    texts = [*SUMS.values(), *(rule.cel for rule in POLICY_RULES), *map(str, messages)]
    used = set(re.findall(r"variables\.(\w+)", " ".join(texts)))
    defaults = dict(_leaves(Recipe().model_dump(by_alias=True)))
    values = {path.rsplit(".", 1)[-1]: _resolved(path, default) for path, default in defaults.items()}
    return {**{name: cel for name, cel in values.items() if name in used}, **SUMS}


def _resolved(path: str, default: object) -> str:
    """CEL for one value of the recipe: as written, else the preset's, else the default."""
    written = "object.spec.recipe." + ".".join(f"?{part}" for part in path.split("."))
    presets = {name: dict(_leaves(values)) for name, values in PRESETS.items()}
    other = {name: _literal(values[path]) for name, values in presets.items() if path in values}
    fallback = _literal(default)
    if other:
        table = ", ".join(f"'{name}': {value}" for name, value in other.items())
        fallback = f"{{{table}}}[?object.spec.recipe.preset].orValue({fallback})"
    value = f"{written}.orValue({fallback})"
    return f"double({value})" if isinstance(default, float) else value  # 1 arrives as an integer


def _literal(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _leaves(values: Object, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _message(template: str, rule: Rule[Any], to_cel: Callable[[str], str]) -> Object:
    """`message`, or `messageExpression` where values are shown."""
    pieces = re.split(r"(?<!\{)\{([a-z_.]+)\}", template)
    if len(pieces) == 1:
        return {"message": template.format()}
    texts = [piece.format() for piece in pieces[::2]]
    values = [f"string({rule.derived.get(piece) or to_cel(piece)})" for piece in pieces[1::2]]
    # Not `+`: CEL estimates its cost from the longest possible text, and string(integer) has no known bound.
    return {"messageExpression": f'"{"%s".join(texts)}".format([{", ".join(values)}])'}


def _of_self(name: str) -> str:
    """`it.max_replicas` -> `self.maxReplicas`."""
    return ".".join(["self", *map(to_camel, name.split(".")[1:])])


def _of_policy(name: str) -> str:
    """`it.spec.budget.steps` -> `object.spec.budget.steps`; a value of the recipe or a sum is a variable."""
    parts = [to_camel(part) for part in name.split(".")[1:]]
    if parts[0] == "recipe" or parts[-1] in SUMS:
        return f"variables.{parts[-1]}"
    return ".".join(["object", *parts])


def build_roles() -> list[Object]:
    """Return the ClusterRoles that Kubernetes aggregates into view, edit and admin, and that of `scalerl export`."""
    read, write = ["get", "list", "watch"], ["create", "update", "patch", "delete", "deletecollection"]
    return [
        _role("view", read),
        _role("edit", read + write),
        _role("admin", read + write),
        _export_role(),
    ]


def _export_role() -> Object:
    """The rights of `scalerl export` on a cluster. Kubernetes' own edit has them; this one is bound by its name.

    Not aggregated: the right to execute in pods would otherwise come with the right to edit runs.
    """
    rules = [
        {"apiGroups": [GROUP], "resources": [PLURAL], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "create", "delete"]},
        {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["get", "create"]},
    ]
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": f"scalerl-{PLURAL}-export"},
        "rules": rules,
    }


def _role(level: str, verbs: list[str]) -> Object:
    """A role that is aggregated into Kubernetes' role `level`. Only the operator writes the status; users read it."""
    rules = [
        {"apiGroups": [GROUP], "resources": [PLURAL], "verbs": verbs},
        {"apiGroups": [GROUP], "resources": [f"{PLURAL}/status"], "verbs": ["get"]},
    ]
    labels = {f"rbac.authorization.k8s.io/aggregate-to-{level}": "true"}
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": f"scalerl-{PLURAL}-{level}", "labels": labels},
        "rules": rules,
    }
