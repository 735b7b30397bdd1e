"""docs/api.md: every field, its type, bounds, default and meaning, as Markdown. PURE."""

from collections.abc import Iterable, Iterator
from typing import Any

from scalerl_api.cross_field_rules import FIXED
from scalerl_api.recipe import PRESETS, Recipe

Schema = dict[str, Any]

_FIXED_NAMES = ", ".join(f"`{path}`" for path in FIXED)
INTRODUCTION = f"""\
# RLRun, field by field

Generated from `crds/scalerl_api` by `make generate`. Start from the example `examples/quickstart.yaml`.

An unknown field is an error. A number's unit is in its name. These fields cannot change after
the creation of a run: {_FIXED_NAMES}. A change of any other field takes effect
at the next start of the run's processes. `scalerl validate FILE` prints every fault of a file as
`spec.path: value, what is allowed`; the API server returns the same messages.

## Spec

"""
RECIPE = """
## Recipe

Any field may be set beside `preset` and overrides it. The defaults are those of the preset `scalerl`.

"""
PRESET_INTRODUCTION = """
### Presets

The table shows what each preset changes; an empty cell is ScaleRL's value. `crds/scalerl_api/recipe.py` has sources
and doubts.

"""
HEADER = "| field | type | allowed | default | meaning |\n|---|---|---|---|---|\n"


def build_reference(schema: Schema) -> str:
    """Return the page for the structural schema of one RLRun."""
    spec = schema["properties"]["spec"]
    recipe = spec["properties"]["recipe"]
    others = {**spec, "properties": {k: v for k, v in spec["properties"].items() if k != "recipe"}}
    return "".join(
        [
            INTRODUCTION,
            _table(list_fields(others, "spec")),
            RECIPE,
            _table(list_fields(recipe, "spec.recipe"), {"preset": "scalerl", **Recipe().model_dump(by_alias=True)}),
            PRESET_INTRODUCTION,
            _preset_table(),
            "\n## Status\n\n",
            _table(list_fields(schema["properties"]["status"], "status")),
        ]
    )


def list_fields(schema: Schema, prefix: str) -> Iterator[tuple[str, Schema, bool]]:
    """Yield path, schema and whether it is required, for every field below `prefix`.

    `[]` stands for any entry of a list, `<name>` for any key of a mapping.
    """
    for name, field in schema.get("properties", {}).items():
        path = f"{prefix}.{name}"
        yield path, field, name in schema.get("required", ())
        yield from list_fields(field, path)
        yield from list_fields(field.get("items", {}), f"{path}[]")
        yield from list_fields(field.get("additionalProperties", {}), f"{path}.<name>")


def _table(fields: Iterable[tuple[str, Schema, bool]], defaults: Schema | None = None) -> str:
    rows = []
    for path, field, required in fields:
        default = field.get("default")
        if defaults is not None:
            default = _at(defaults, path.split(".")[2:])
        shown = (
            "**required**" if required else "" if default is None or "properties" in field else f"`{_yaml(default)}`"
        )
        rows.append(_row(f"`{path}`", _type(field), _allowed(field), shown, field.get("description", "")))
    return HEADER + "".join(rows)


def _at(values: Schema, path: list[str]) -> Any:
    value: Any = values
    for part in path:
        value = value[part]
    return value


def _type(field: Schema) -> str:
    if "items" in field:
        return f"list of {field['items']['type']}"
    if "additionalProperties" in field:
        return "mapping"
    return "time" if field.get("format") == "date-time" else str(field["type"])


def _allowed(field: Schema) -> str:
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "pattern" in field:
        return f"`{field['pattern']}`"
    if "minimum" in field:
        return f"{field['minimum']:,g} … {field['maximum']:,g}" if field["type"] == "number" else _range(field)
    for key, noun in (("maxLength", "characters"), ("maxItems", "entries"), ("maxProperties", "entries")):
        if key in field:
            return f"at most {field[key]:,} {noun}"
    return ""


def _range(field: Schema) -> str:
    return f"{field['minimum']:,} … {field['maximum']:,}"


def _preset_table() -> str:
    changed = {name: dict(_leaves(values)) for name, values in PRESETS.items() if values}
    paths = list(dict.fromkeys(path for values in changed.values() for path in values))
    base = dict(_leaves(Recipe().model_dump(by_alias=True)))
    lines = [_row("field", "scalerl", *changed), "|---" * (len(changed) + 2) + "|\n"]
    for path in sorted(paths):
        cells = [values.get(path, "") for values in changed.values()]
        lines.append(
            _row(f"`{path}`", _yaml(base[path]), *("" if cell == base[path] else _yaml(cell) for cell in cells))
        )
    return "".join(lines)


def _leaves(values: Schema, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"
