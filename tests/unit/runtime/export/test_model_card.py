import pytest

from scalerl_api import parse_run
from scalerl_runtime.export.model_card import CardFacts, build_card


@pytest.mark.parametrize(
    ("data", "present", "absent"),
    [
        ({}, [], ["| system prompt |", "| chat template arguments |"]),
        (
            {"systemPrompt": "Be short.", "templateArguments": {"enable_thinking": False}},
            ["| system prompt | 'Be short.' |", "| chat template arguments | enable_thinking=False |"],
            [],
        ),
    ],
)
def test_the_card_has_the_turns_around_a_prompt(data, present, absent):
    run = parse_run(
        {
            "metadata": {"name": "r"},
            "spec": {
                "model": {"source": "some/model"},
                "data": {"train": {"source": "a.jsonl"}, **data},
                "reward": {"verifier": "math"},
                "budget": {"steps": 500},
            },
        }
    )
    card = build_card(CardFacts("r", 5, "float32", "last", run, {}, [], [], is_local_source=False))
    assert all(line in card for line in present)
    assert not any(line in card for line in absent)


@pytest.mark.parametrize(
    ("model", "package", "loader"),
    [
        ({}, "transformers", "AutoModelForCausalLM"),
        ({"lora": {"rank": 8}}, "peft", "AutoPeftModelForCausalLM"),
    ],
)
def test_the_card_says_what_loads_the_folder(model, package, loader):
    run = parse_run(
        {
            "metadata": {"name": "r"},
            "spec": {
                "model": {"source": "some/model", **model},
                "data": {"train": {"source": "a.jsonl"}},
                "reward": {"verifier": "math"},
                "budget": {"steps": 500},
            },
        }
    )
    card = build_card(CardFacts("r", 5, "float32", "last", run, {}, [], [], is_local_source=False))
    assert f"library_name: {package}" in card
    assert f"from {package} import {loader}\n" in card
