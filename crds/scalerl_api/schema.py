"""Generates the CRD from the types; `python -m scalerl_api.schema` writes it and docs/api.md. PURE except `main`.

Kubernetes accepts structural schemas only: no `$ref`, no `anyOf`, no `null`; the API server itself refuses unknown
fields. Defaults are written into stored objects: `kubectl get -o yaml` shows the values that a run was started with,
and a later release does not change them. The recipe has none: its defaults depend on the preset.
"""

import argparse
import copy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from scalerl_api.cluster_policy import build_policy, build_roles, build_validations
from scalerl_api.pages.reference_page import build_reference
from scalerl_api.recipe import Recipe
from scalerl_api.rlrun import API_VERSION, GROUP, KIND, PLURAL, RLRun, RLRunSpec
from scalerl_api.status import RLRunStatus

Schema = dict[str, Any]

VERSION = API_VERSION.split("/")[1]
CRD_FILE = f"crds/{GROUP}_{PLURAL}.yaml"
POLICY_FILE = f"crds/{GROUP}_{PLURAL}_policy.yaml"
ROLES_FILE = f"crds/{GROUP}_{PLURAL}_roles.yaml"
REFERENCE_FILE = "docs/api.md"
CHART_FOLDER = "charts/scalerl/files"  # copies of crds/*.yaml: a chart can read only its own files

# name, type, place, 0 for every `kubectl get` or 1 for `-o wide`
COLUMNS = [
    ("State", "string", ".status.progress.phase", 0),
    ("Step", "integer", ".status.progress.step", 0),
    ("Pass", "number", ".status.progress.passRate", 0),
    ("Ceiling", "string", ".status.forecast.summary", 0),
    ("GPU-h", "number", ".status.progress.computeGpuHours", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Verdict", "string", ".status.forecast.verdict", 1),
    ("Model", "string", ".spec.model.source", 1),
]

# Lists whose entries have a name: unique, and merged by it under server-side apply.
LIST_KEYS = {
    "spec.data.downstream": "name",
    "spec.stopPolicies": "name",
    "spec.failurePolicy.rules": "name",
    "status.conditions": "type",
    "status.roles": "name",
    "status.sourceForecasts": "name",
}


UNTYPED = "spec.data.train"  # one source or a list of them: a structural schema has no type for that


def build_crd() -> Schema:
    """Return the CustomResourceDefinition of RLRun."""
    columns = [
        {"name": name, "type": kind, "jsonPath": path, **({"priority": wide} if wide else {})}
        for name, kind, path, wide in COLUMNS
    ]
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": columns,
        "schema": {"openAPIV3Schema": build_structural_schema()},
    }
    names = {"kind": KIND, "listKind": f"{KIND}List", "plural": PLURAL, "singular": KIND.lower()}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {**names, "shortNames": ["rlr"], "categories": ["all", "scalerl"]},
            "scope": "Namespaced",
            "versions": [version],
        },
    }


def build_structural_schema() -> Schema:
    """Return the schema that the API server gets: `build_schema` without a type where a field has two."""
    schema = build_schema()
    field = find_schema(schema, UNTYPED)
    words = field["description"]
    field.clear()
    field |= {"description": f"{words} docs/api.md has its fields.", "x-kubernetes-preserve-unknown-fields": True}
    return schema


def build_schema() -> Schema:
    """Return the schema of one RLRun, rules included, with each list as a list."""
    spec = _structural(RLRunSpec.model_json_schema(by_alias=True))
    recipe = _without_defaults(_structural(Recipe.model_json_schema(by_alias=True)))
    preset = spec["properties"]["recipe"]["properties"]["preset"]
    spec["properties"]["recipe"]["properties"] = {"preset": preset, **recipe["properties"]}
    schema = {
        "description": RLRun.__doc__,
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": _without_defaults(_structural(RLRunStatus.model_json_schema(by_alias=True))),
        },
    }
    # A benchmark's values fill in what an entry does not say; defaults of the API server would come before them.
    downstream = find_schema(spec, "data.downstream")
    downstream["items"] = _without_defaults(downstream["items"])
    for path, validation in build_validations():
        find_schema(schema, path).setdefault("x-kubernetes-validations", []).append(validation)
    for path, key in LIST_KEYS.items():
        target = find_schema(schema, path)
        target |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}
    return schema


def find_schema(schema: Schema, path: str) -> Schema:
    """Return the part of `schema` at `path`, such as `spec.stopPolicies[].when`. Raises KeyError."""
    for part in path.split(".") if path else []:
        schema = schema["properties"][part.removesuffix("[]")]
        schema = schema["items"] if part.endswith("[]") else schema
    return schema


def _structural(schema: Schema) -> Schema:
    """Return pydantic's schema without references, nulls and other parts that Kubernetes refuses."""
    return _convert(schema, schema.get("$defs", {}))


def _convert(node: Schema, definitions: dict[str, Schema]) -> Schema:
    if "$ref" in node:
        beside = {key: value for key, value in node.items() if key != "$ref"}
        return _convert({**definitions[node["$ref"].rsplit("/", 1)[1]], **beside}, definitions)
    kinds = [kind for kind in node.get("anyOf", []) if kind != {"type": "null"}]
    if len(kinds) == 1:
        beside = {key: value for key, value in node.items() if key != "anyOf"}
        return _convert({**kinds[0], **beside}, definitions)
    if kinds:
        return {"x-kubernetes-preserve-unknown-fields": True}
    return _convert_plain(node, definitions)


def _convert_plain(node: Schema, definitions: dict[str, Schema]) -> Schema:
    new: Schema = {}
    if "description" in node:
        new["description"] = " ".join(node["description"].split())
    kept = ("type", "format", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems")
    new |= {key: copy.copy(node[key]) for key in (*kept, "minProperties", "maxProperties", "required") if key in node}
    if "const" in node:
        new["enum"] = [node["const"]]
    if "items" in node:
        new["items"] = _convert(node["items"], definitions)
    if isinstance(node.get("additionalProperties"), dict):
        new["additionalProperties"] = _convert(node["additionalProperties"], definitions)
    if "properties" in node:
        new["properties"] = {name: _convert(field, definitions) for name, field in node["properties"].items()}
    new |= _minimum_rule(node.get("minimum", 0))
    default = node.get("default")
    if "properties" in node and default is not None:
        new["default"] = {}  # the API server fills it from the fields' own defaults
    elif default is not None and not isinstance(default, (list, dict)):
        new["default"] = default
    return new


def _minimum_rule(least: float) -> Schema:
    """Return a rule for a fractional `minimum`: the API server compares whole numbers with it rounded down."""
    if least == int(least):
        return {}
    return {"x-kubernetes-validations": [{"rule": f"self >= {least}", "message": f"at least {least}"}]}


def _without_defaults(schema: Schema) -> Schema:
    new = {key: value for key, value in schema.items() if key != "default"}
    if "properties" in new:
        new["properties"] = {name: _without_defaults(field) for name, field in new["properties"].items()}
    if "items" in new:
        new["items"] = _without_defaults(new["items"])
    return new


def build_files() -> dict[str, str]:
    """Return the generated files: path in the repository -> text."""
    objects = {
        CRD_FILE: _dump([build_crd()]),
        POLICY_FILE: _dump(build_policy()),
        ROLES_FILE: _dump(build_roles()),
    }
    copies = {f"{CHART_FOLDER}/{path}": text for path, text in objects.items()}
    return {**objects, **copies, REFERENCE_FILE: build_reference(build_schema())}


def _dump(objects: Sequence[Schema]) -> str:
    head = "# Generated from crds/scalerl_api by `make generate`; do not edit.\n"
    return head + yaml.dump_all(objects, Dumper=_PlainDumper, sort_keys=False, width=120, allow_unicode=True)


class _PlainDumper(yaml.SafeDumper):
    """Writes equal parts in full instead of as aliases."""

    def ignore_aliases(self, _data: object) -> bool:
        return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the generated files into the repository; with --check compare them, 1 if one is stale."""
    parser = argparse.ArgumentParser(prog="python -m scalerl_api.schema", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is stale")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[2], help="the repository")
    options = parser.parse_args(arguments)
    stale = []
    for name, text in build_files().items():
        path = options.root / name
        if options.check and not (path.exists() and path.read_text() == text):
            stale.append(name)
        elif not options.check:
            path.write_text(text)
    if stale:
        sys.stderr.write(f"stale: {', '.join(stale)}; run `make generate` and commit the result\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
