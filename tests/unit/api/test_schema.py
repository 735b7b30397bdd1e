"""The CRD: structural, with bounds, defaults and rules, and no field that nobody argued for."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scalerl_api.cross_field_rules import CRD_RULES, FIXED, Rule
from scalerl_api.pages.reference_page import build_reference, list_fields
from scalerl_api.recipe import Recipe
from scalerl_api.schema import LIST_KEYS, build_crd, build_files, build_schema, find_schema, main
from scalerl_api.validation import PATTERNS

Schema = dict[str, Any]
# Keywords that a CRD's schema may contain (apiextensions.k8s.io/v1), as far as we need it.
ALLOWED_KEYS = {
    "type",
    "format",
    "description",
    "properties",
    "required",
    "items",
    "additionalProperties",
    "enum",
    "pattern",
    "default",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "x-kubernetes-validations",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-preserve-unknown-fields",
}


def nodes(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from nodes(field, f"{path}.{name}".lstrip("."))
    for key, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if key in schema:
            yield from nodes(schema[key], path + mark)


NODES = dict(nodes(build_schema()))
SPEC = {path: node for path, node in NODES.items() if path.startswith("spec.")}


@pytest.mark.parametrize("path", NODES)
def test_schema_is_structural(path: str) -> None:
    node = NODES[path]
    assert node.keys() <= ALLOWED_KEYS
    assert "type" in node or "x-kubernetes-preserve-unknown-fields" in node
    assert not ({"properties", "additionalProperties"} <= node.keys())


@pytest.mark.parametrize("path", [path for path in SPEC if not path.endswith("}")])
def test_spec_field_is_described_and_bounded(path: str) -> None:
    node = SPEC[path]
    if not path.endswith("[]"):
        assert node["description"].endswith((".", "%"))
    if (
        node["type"] in ("integer", "number")
        and "enum" not in node
        and path.rsplit(".", 1)[1] not in ("below", "above")
    ):
        assert node["minimum"] < node["maximum"]
    if node["type"] == "string" and "enum" not in node:
        assert node["maxLength"] <= 10_000  # CEL's cost is counted from it
    if node["type"] == "array":
        assert node["maxItems"] <= 20


# Path -> what the API server must know of it; from the types by hand, no two alike.
EXAMPLES: dict[str, Schema] = {
    "spec.trainer.zeroStage": {"type": "integer", "enum": [1, 2, 3], "default": 1},
    "spec.budget.gpuHours": {"type": "number", "minimum": 0.0, "maximum": 1e9},
    "spec.budget.evalEverySteps": {"type": "integer", "minimum": 1, "maximum": 1_000_000, "default": 100},
    "spec.model.source": {"type": "string", "minLength": 1, "maxLength": 500},
    "spec.model.scratch.tiedEmbeddings": {"type": "boolean", "default": True},
    "spec.stopPolicies[].for": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 3},
    "spec.stopPolicies[].minEvidence.verdict": {
        "type": "string",
        "enum": ["Identified", "Weak"],
        "default": "Identified",
    },
    "spec.failurePolicy.rules[].onExitCodes.values[]": {"type": "integer", "minimum": 1, "maximum": 255},
    "spec.watchdog.noStep.seconds": {"type": "integer", "minimum": 1, "maximum": 604_800},
    "spec.stopPolicies[].mode": {"type": "string", "enum": ["Enforce", "Observe"], "default": "Enforce"},
    "spec.recipe.preset": {
        "type": "string",
        "enum": ["scalerl", "grpo", "dapo", "magistral", "minimax", "gspo"],
        "default": "scalerl",
    },
    "spec.recipe.loss.klTarget": {
        "type": "number",
        "minimum": 1e-6,
        "maximum": 10.0,
        "x-kubernetes-validations": [{"rule": "self >= 1e-06", "message": "at least 1e-06"}],
    },
    "status.conditions[].lastTransitionTime": {"type": "string", "format": "date-time"},
    "status.progress.passRate": {"type": "number"},
}


@pytest.mark.parametrize("path", EXAMPLES)
def test_field_schema(path: str) -> None:
    node = {key: value for key, value in NODES[path].items() if key != "description"}
    assert node == EXAMPLES[path]


def test_recipe_has_every_field_and_no_default() -> None:
    recipe = NODES["spec.recipe"]
    assert list(recipe["properties"]) == ["preset", *(field.alias for field in Recipe.model_fields.values())]
    inside = {path: node for path, node in SPEC.items() if path.startswith("spec.recipe.")}
    assert [path for path, node in inside.items() if "default" in node] == ["spec.recipe.preset"]
    assert not any("required" in node for node in inside.values())


@pytest.mark.parametrize("path", ["spec.trainer", "spec.deadlines", "spec.data.heldOut", "spec.recipe"])
def test_absent_group_is_filled_from_its_fields(path: str) -> None:
    assert NODES[path]["default"] == {}


@pytest.mark.parametrize("path", ["spec.warmStart", "spec.model.scratch", "spec.forecast.target", "spec.budget"])
def test_optional_group_has_no_default(path: str) -> None:
    assert "default" not in NODES[path]


def test_status_has_no_default() -> None:
    assert not [path for path, node in NODES.items() if path.startswith("status") and "default" in node]


@pytest.mark.parametrize("rule", CRD_RULES, ids=lambda rule: f"{rule.at}:{rule.blamed}")
def test_rule_names_an_existing_field_and_is_on_no_default_group(rule: Rule[Any]) -> None:
    assert "default" not in NODES[rule.at]
    assert f"{rule.at}.{rule.blamed}".rstrip(".") in NODES


@pytest.mark.parametrize("path", FIXED)
def test_fixed_field_is_compared_with_its_old_value(path: str) -> None:
    rules = [each for each in NODES["spec"]["x-kubernetes-validations"] if each.get("fieldPath") == f".{path}"]
    assert any(f"self.{path} == oldSelf.{path}" in rule["rule"] for rule in rules)


@pytest.mark.parametrize(("path", "key"), LIST_KEYS.items())
def test_named_entries_are_unique(path: str, key: str) -> None:
    assert NODES[path]["x-kubernetes-list-type"] == "map"
    assert key in NODES[f"{path}[]"]["required"]


def test_columns_of_kubectl_get() -> None:
    columns = build_crd()["spec"]["versions"][0]["additionalPrinterColumns"]
    assert [column["name"] for column in columns if not column.get("priority")] == [
        "State",
        "Step",
        "Pass",
        "Ceiling",
        "GPU-h",
        "Age",
    ]
    for column in columns:
        path = column["jsonPath"].lstrip(".")
        assert path == "metadata.creationTimestamp" or NODES[path]["type"] == column["type"]


def test_crd_names_itself() -> None:
    crd = build_crd()
    assert crd["metadata"]["name"] == "rlruns.scalerl.io"
    assert crd["spec"]["names"]["shortNames"] == ["rlr"]
    assert crd["spec"]["versions"][0]["subresources"] == {"status": {}}


def test_find_schema_names_a_missing_field() -> None:
    with pytest.raises(KeyError, match="trainr"):
        find_schema(build_schema(), "spec.trainr")


def test_every_spec_field_is_listed_with_its_issue() -> None:
    """Options are debt: a field is added to spec_fields.txt with the issue that asked for it."""
    listed = (Path(__file__).parent / "spec_fields.txt").read_text().split()
    assert [path for path, _, _ in list_fields(NODES["spec"], "spec")] == listed


def test_reference_names_every_field_once() -> None:
    page = build_reference(build_schema())
    for path, _, _ in [*list_fields(NODES["spec"], "spec"), *list_fields(NODES["status"], "status")]:
        assert page.count(f"| `{path}` |") == 1 or path == "spec.recipe"


@pytest.mark.parametrize(
    "row",
    [
        "| `spec.checkpoint.keep` | integer | 2 … 1,000 | `3` | Number of checkpoints to "
        "keep. At least 2: if the newest is damaged, the one before is used. |",
        "| `spec.model.source` | string | at most 500 characters | **required** | Hub id, local folder, `scratch`, or "
        "an address: `hf://org/name@revision`, `s3://bucket/folder`, `gs://...`, `file:///folder` (docs/storage.md). "
        "Cannot change after the run's creation. |",
        "| `spec.recipe.noPositiveResampling` | boolean |  | `true` | A prompt whose historic pass rate reaches "
        "`noPositiveThreshold` is excluded from later epochs. |",
        "| `advantage` | batchStd | groupStd | groupStd | groupStd | groupStd |  |",
    ],
)
def test_reference_row(row: str) -> None:
    assert row in build_reference(build_schema()).splitlines()


def test_check_fails_on_a_stale_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in build_files():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    root = ["--root", str(tmp_path)]
    assert main([*root, "--check"]) == 1
    assert "make generate" in capsys.readouterr().err
    assert main(root) == 0
    assert main([*root, "--check"]) == 0
    (tmp_path / "docs/api.md").write_text("edited by hand")
    assert main([*root, "--check"]) == 1
    assert "stale: docs/api.md;" in capsys.readouterr().err


def find_patterns(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("pattern"), str):
            yield node["pattern"]
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from find_patterns(each)


def test_every_pattern_of_the_spec_has_words() -> None:
    """Without them a value that does not match would end `validate` in a KeyError."""
    found = set(find_patterns(find_schema(build_schema(), "spec")))
    assert found
    assert found <= set(PATTERNS)


def unguarded(rule: Rule[Any], schema: Schema) -> set[str]:
    """Return the fields that a rule reads although an object may lack them, without asking `has` first."""
    found = set()
    for path in re.findall(r"\bself((?:\.[a-zA-Z]+\b(?!\())+)", rule.cel):
        parts, place = path[1:].split("."), find_schema(schema, rule.at)
        for depth, part in enumerate(parts, 1):
            if "properties" not in place:  # a map, or what the schema does not know
                break
            field, name = place["properties"][part], ".".join(parts[:depth])
            if part not in place.get("required", []) and "default" not in field and f"has(self.{name})" not in rule.cel:
                found.add(name)
            place = field
    return found


def test_no_rule_reads_a_field_that_may_be_absent() -> None:
    """The API server refuses the object then with "no such key". Lists and maps have no default in the schema."""
    schema = build_schema()
    assert {rule.blamed: names for rule in CRD_RULES if (names := unguarded(rule, schema))} == {}


def find_fractional(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    least = schema.get("minimum", 0)
    if least != int(least):
        yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from find_fractional(field, f"{path}.{name}")
    if "items" in schema:
        yield from find_fractional(schema["items"], f"{path}[]")


def test_a_fractional_minimum_holds_for_whole_numbers_too() -> None:
    """The API server compares a whole number with the minimum rounded down, so 0 passes .01."""
    found = dict(find_fractional(build_schema()))
    assert ".spec.budget.evalShare" in found
    for path, schema in found.items():
        assert f"self >= {schema['minimum']}" in [each["rule"] for each in schema["x-kubernetes-validations"]], path
