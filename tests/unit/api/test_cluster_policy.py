"""CEL made from rules, by hand-worked examples; that it means what Python means, tests/cluster tries on a server."""

from typing import Any

import pytest

from scalerl_api.cluster_policy import build_policy, build_roles, build_validations
from scalerl_api.cross_field_rules import POLICY_RULES
from scalerl_api.recipe import PRESETS, Recipe

POLICY, BINDING = build_policy()
VARIABLES = {each["name"]: each["expression"] for each in POLICY["spec"]["variables"]}


def find_validation(blamed: str) -> dict[str, Any]:
    (found,) = [
        each for _, each in build_validations() if each.get("fieldPath") == blamed and "oldSelf" not in str(each)
    ]
    return found


def test_values_are_shown_in_a_message() -> None:
    assert find_validation(".generator.maxReplicas")["messageExpression"] == (
        '"%s, at least minReplicas (%s)".format('
        "[string(self.generator.maxReplicas), string(self.generator.minReplicas)])"
    )


def test_a_message_without_values_is_plain() -> None:
    validation = find_validation(".warmStart")
    assert validation["message"] == "missing, needed with source: scratch, which can do nothing yet"
    assert "messageExpression" not in validation


def test_braces_in_a_message_are_kept() -> None:
    assert find_validation(".promptTemplate")["messageExpression"].startswith('"%s places, must hold {prompt} once"')


def test_optional_fixed_field_may_be_neither_set_nor_removed() -> None:
    rules = [each["rule"] for _, each in build_validations() if each.get("fieldPath") == ".checkpoint.path"]
    (rule,) = [each for each in rules if "oldSelf" in each]
    assert rule == (
        "has(self.checkpoint.path) == has(oldSelf.checkpoint.path) && "
        "(!has(self.checkpoint.path) || self.checkpoint.path == oldSelf.checkpoint.path)"
    )


@pytest.mark.parametrize(
    ("name", "expression"),
    [
        ("thinkTokens", "object.spec.recipe.?length.?thinkTokens.orValue(12288)"),
        ("klCoefficient", "double(object.spec.recipe.?loss.?klCoefficient.orValue(0.0))"),
        (
            "promptsPerStep",
            "object.spec.recipe.?promptsPerStep.orValue("
            "{'dapo': 80, 'magistral': 80, 'minimax': 80}[?object.spec.recipe.preset].orValue(48))",
        ),
        ("sequenceTokens", "variables.promptTokens + variables.completionTokens"),
    ],
)
def test_variable_is_as_written_else_the_presets_else_the_default(name: str, expression: str) -> None:
    assert VARIABLES[name] == expression


def test_a_variable_names_one_value_of_the_recipe() -> None:
    """Variables are called by the last word of the path; two of one name would be one."""
    leaves = [leaf for group in _groups(Recipe().model_dump(by_alias=True)) for leaf in group]
    assert all(leaves.count(name) == 1 for name in VARIABLES if name in leaves)
    assert PRESETS  # their paths are those of the recipe: tests/unit/api/test_recipe.py


def _groups(values: dict[str, Any]) -> list[list[str]]:
    inner = [each for value in values.values() if isinstance(value, dict) for each in _groups(value)]
    return [[name for name, value in values.items() if not isinstance(value, dict)], *inner]


def test_every_policy_message_names_its_field() -> None:
    for rule, validation in zip(POLICY_RULES, POLICY["spec"]["validations"], strict=False):
        text = validation.get("message") or validation["messageExpression"].strip('"')
        assert text.startswith(f"{rule.blamed}: ")


def test_policy_is_bound_to_every_run_and_refuses() -> None:
    assert BINDING["spec"] == {"policyName": POLICY["metadata"]["name"], "validationActions": ["Deny"]}
    assert POLICY["spec"]["failurePolicy"] == "Fail"


def test_policy_ignores_updates_outside_the_spec() -> None:
    (condition,) = POLICY["spec"]["matchConditions"]
    assert condition["expression"] == "oldObject == null || object.spec != oldObject.spec"


@pytest.mark.parametrize(
    ("level", "may_write"), [("view", False), ("edit", True), ("admin", True)], ids=["view", "edit", "admin"]
)
def test_role_is_aggregated_into_the_one_of_kubernetes(level: str, may_write: bool) -> None:
    (role,) = [each for each in build_roles() if each["metadata"]["name"] == f"scalerl-rlruns-{level}"]
    assert role["metadata"]["labels"] == {f"rbac.authorization.k8s.io/aggregate-to-{level}": "true"}
    runs, status = role["rules"]
    assert ("patch" in runs["verbs"]) == may_write
    assert status == {"apiGroups": ["scalerl.io"], "resources": ["rlruns/status"], "verbs": ["get"]}


def test_the_right_to_export_is_bound_by_its_name() -> None:
    """The right to edit runs does not bring the right to execute in pods."""
    (role,) = [each for each in build_roles() if each["metadata"]["name"] == "scalerl-rlruns-export"]
    assert "labels" not in role["metadata"]
    granted = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    assert granted == {
        *(("rlruns", "get"), ("configmaps", "get"), ("pods/exec", "get"), ("pods/exec", "create")),
        *(("pods", "get"), ("pods", "create"), ("pods", "delete")),
    }
