"""Each rule by an accepted and a rejected example; messages word for word. tests/cluster tries the same on a server."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from scalerl_api import InvalidRun, parse_run
from scalerl_api.cross_field_rules import CRD_RULES, POLICY_RULES, Rule

Edit = Callable[[dict[str, Any]], dict[str, Any]]
ADMISSION = Path(__file__).parents[2] / "admission"
ACCEPTED, REJECTED, FIELDS, CLUSTER = (
    yaml.safe_load((ADMISSION / f"{name}.yaml").read_text()) for name in ("accepted", "rejected", "fields", "cluster")
)
BROKEN = sorted((Path(__file__).parent / "broken").glob("*.yaml"))


def faults(document: object) -> list[str]:
    with pytest.raises(InvalidRun) as caught:
        parse_run(document)
    assert str(caught.value) == "\n".join(map(str, caught.value.faults))
    return [str(fault) for fault in caught.value.faults]


@pytest.mark.parametrize("changes", [row["changes"] for row in ACCEPTED], ids=[row["case"] for row in ACCEPTED])
def test_accepted(changes: dict[str, Any], edit: Edit) -> None:
    parse_run(edit(changes))


@pytest.mark.parametrize("row", CLUSTER, ids=[row["case"] for row in CLUSTER])
def test_one_machine_can_do_more_than_a_cluster(row: dict[str, Any], edit: Edit) -> None:
    parse_run(edit(row["changes"]))


@pytest.mark.parametrize("row", [*REJECTED, *FIELDS], ids=[row["case"] for row in [*REJECTED, *FIELDS]])
def test_rejected(row: dict[str, Any], edit: Edit) -> None:
    assert faults(edit(row["changes"])) == [row["message"]]


@pytest.mark.parametrize("rule", [*CRD_RULES, *POLICY_RULES], ids=lambda rule: f"{rule.at}.{rule.blamed}:{rule.found}")
def test_every_rule_has_a_rejected_example(rule: Rule[Any]) -> None:
    place = f"{rule.at}.{rule.blamed}".strip(".").replace("[]", "[0]")
    words = rule.allowed.format_map(Anything()).split("...")[0]
    assert any(row["message"].startswith(f"{place}: ") and words in row["message"] for row in REJECTED)


class Anything(dict[str, "Anything"]):
    """Stands for every value in a message."""

    def __missing__(self, key: str) -> "Anything":
        return self

    def __getattr__(self, name: str) -> "Anything":
        return self

    def __format__(self, _spec: str) -> str:
        return "..."


def test_what_yaml_reads_as_a_string_is_a_number(edit: Edit) -> None:
    """PyYAML knows no 5e-7; kubectl's reader does."""
    assert parse_run(edit({"spec.recipe.optimizer": {"learningRate": "5e-7"}}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spec.model.source": "x" * 501}, f"spec.model.source: '{'x' * 76}..., at most 500 characters"),
        (
            {"spec.data.downstream": [{"name": f"n{i}", "source": "x"} for i in range(21)]},
            "spec.data.downstream: a list, at most 20 entries, not 21",
        ),
        ({"spec.budget.gpuHours": float("nan")}, "spec.budget.gpuHours: nan, a finite number is needed"),
    ],
    ids=["too long", "too many", "not a number"],
)
def test_too_much(changes: dict[str, Any], message: str, edit: Edit) -> None:
    assert faults(edit(changes)) == [message]


def test_overrides_is_no_field_of_the_file(edit: Edit) -> None:
    (message,) = faults(edit({"spec.recipe": {"overrides": {"head": "bf16"}}}))
    assert message.startswith("spec.recipe.overrides: unknown field (value a mapping), ")


def test_every_fault_is_listed(edit: Edit) -> None:
    changes = {
        "metadata": {},
        "spec.seed": -1,
        "spec.recipe": {"preset": "p", "head": "h"},
        "spec.reward.verifier": "v",
    }
    assert [message.split(":")[0] for message in faults(edit(changes))] == [
        "metadata.name",
        "spec.reward.verifier",
        "spec.recipe.preset",
        "spec.seed",
        "spec.recipe.head",
    ]


@pytest.mark.parametrize("recipe", [None, [], "grpo", {"preset": ["grpo"]}, {3: 4}], ids=repr)
def test_recipe_of_a_wrong_shape_is_a_fault_not_a_crash(recipe: object, edit: Edit) -> None:
    assert faults(edit({"spec.recipe": recipe}))[0].startswith("spec.recipe")


@pytest.mark.parametrize("document", [None, [], "text", 3], ids=repr)
def test_a_document_that_is_not_a_mapping_is_a_fault(document: object) -> None:
    assert faults(document)[0].endswith("an RLRun mapping is needed")


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_broken_file_gives_its_message(path: Path) -> None:
    text = path.read_text()
    expected = re.findall(r"^# expect: (.*)$", text, flags=re.MULTILINE)
    assert sorted(faults(yaml.safe_load(text))) == sorted(expected)


def test_there_are_six_broken_files() -> None:
    assert len(BROKEN) == 6
