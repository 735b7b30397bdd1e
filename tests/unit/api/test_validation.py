"""Each rule by an accepted and a rejected example; messages word for word."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from scalerl_api import InvalidRun, parse_run

Edit = Callable[[dict[str, Any]], dict[str, Any]]
BROKEN = sorted((Path(__file__).parent / "broken").glob("*.yaml"))

SCRATCH = {
    "spec.model": {"source": "scratch", "scratch": {"heads": 6, "kvHeads": 3}},
    "spec.warmStart": {"source": "reasoning_gym:chain_sum", "steps": 50},
    "spec.data.promptFormat": "plain",
}
GYM = {"spec.data.train": {"source": "reasoning_gym:chain_sum", "task": {"min_terms": 2}}}
STOP = {"name": "flat", "when": {"remainingGain": {"below": 0.01}}}


def faults(document: object) -> list[str]:
    with pytest.raises(InvalidRun) as caught:
        parse_run(document)
    assert str(caught.value) == "\n".join(map(str, caught.value.faults))
    return [str(fault) for fault in caught.value.faults]


ACCEPTED: dict[str, dict[str, Any]] = {
    "the smallest run": {},
    "sizes come with source: scratch": SCRATCH,
    "all of warm start may be of mixed quality": {
        "spec.warmStart": {"source": "traces.jsonl", "steps": 50, "wrongSteps": 50}
    },
    "one row is left to train on": {"spec.data.train.size": 1001},
    "the prompt is in the middle": {"spec.data.promptTemplate": "Q: {prompt}\nA:"},
    "two downstream sets": {"spec.data.downstream": [{"name": "a", "source": "a"}, {"name": "b", "source": "b"}]},
    "a generated task has options": GYM,
    "reasoning_gym judges what it made": {**GYM, "spec.reward.verifier": "reasoning_gym"},
    "48 prompts over 2 x 8 ranks": {"spec.trainer": {"replicas": 2, "gpusPerReplica": 8}},
    "on the CPU a replica is one rank": {
        "spec.trainer": {"replicas": 3, "gpusPerReplica": 0},
        "spec.generator.gpusPerReplica": 0,
    },
    "as many at most as at least": {"spec.generator": {"minReplicas": 5, "maxReplicas": 5}},
    "the last step is the first at full rate": {"spec.budget.steps": 101},
    "an adaptive KL term": {"spec.recipe.loss": {"klCoefficient": 0.001, "klTarget": 0.02}},
    "the longest sequence just fits": {
        "spec.trainer.microBatchTokens": 16000,
        "spec.recipe.length": {"promptTokens": 1664},
    },
    "interruption at one fixed place": {"spec.recipe.length": {"interruptMin": 12288, "interruptMax": 12288}},
    "without interruption its budget does not matter": {
        "spec.recipe.length": {"control": "none", "thinkTokens": 5000, "phrase": "stop"}
    },
    "the penalty may cover the whole completion": {"spec.recipe.length": {"control": "penalty", "penaltyCache": 14336}},
    "one condition with one bound": {"spec.stopPolicies": [STOP, {**STOP, "name": "flatter", "for": 5}]},
    "YAML 1.1 reads 5e-7 as a string": {"spec.recipe.optimizer": {"learningRate": "5e-7"}},
    "a whole number for a fraction": {"spec.reward.timeoutSeconds": 3},
}


@pytest.mark.parametrize("changes", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_accepted(changes: dict[str, Any], edit: Edit) -> None:
    parse_run(edit(changes))


REJECTED: dict[str, tuple[dict[str, Any], str]] = {
    "scratch has sizes": (
        {**SCRATCH, "spec.model": {"source": "scratch"}},
        "spec.model.scratch: missing, needed with source: scratch",
    ),
    "sizes belong to scratch": (
        {"spec.model.scratch": {}},
        "spec.model.scratch: set, only with source: scratch, not 'Qwen/Qwen3-0.6B'",
    ),
    "query heads share key heads evenly": (
        {**SCRATCH, "spec.model": {"source": "scratch", "scratch": {"heads": 6, "kvHeads": 4}}},
        "spec.model.scratch.kvHeads: 4, must divide heads (6)",
    ),
    "vLLM's CPU attention": (
        {**SCRATCH, "spec.model": {"source": "scratch", "scratch": {"headDim": 48}}},
        "spec.model.scratch.headDim: 48, must be a multiple of 32",
    ),
    "random weights need a first lesson": (
        {"spec.model": {"source": "scratch", "scratch": {}}, "spec.data.promptFormat": "plain"},
        "spec.warmStart: missing, needed with source: scratch, which can do nothing yet",
    ),
    "a made tokenizer has no chat template": (
        {**SCRATCH, "spec.data.promptFormat": "chat"},
        "spec.data.promptFormat: chat, source: scratch has no chat template; use plain",
    ),
    "mixed quality is a part of warm start": (
        {"spec.warmStart": {"source": "traces.jsonl", "steps": 50, "wrongSteps": 51}},
        "spec.warmStart.wrongSteps: 51, at most steps (50)",
    ),
    "something is left to train on": (
        {"spec.data.train.size": 1000},
        "spec.data.heldOut.prompts: 1000, less than data.train.size (1000)",
    ),
    "the prompt is in the template": (
        {"spec.data.promptTemplate": "Q: A:"},
        "spec.data.promptTemplate: 'Q: A:', must hold {prompt} once",
    ),
    "the prompt is there once": (
        {"spec.data.promptTemplate": "{prompt}{prompt}"},
        "spec.data.promptTemplate: '{prompt}{prompt}', must hold {prompt} once",
    ),
    "downstream names label results": (
        {"spec.data.downstream": [{"name": "a", "source": "a"}, {"name": "a", "source": "b"}]},
        "spec.data.downstream[1].name: a, every name once",
    ),
    "options are for generated tasks": (
        {"spec.data.train.task": {"min_terms": 2}},
        "spec.data.train.task: set, only with source: reasoning_gym:<task>",
    ),
    "options of a downstream set": (
        {"spec.data.downstream": [{"name": "a", "source": "a", "task": {"x": 1}}]},
        "spec.data.downstream[0].task: set, only with source: reasoning_gym:<task>",
    ),
    "reasoning_gym judges only what it made": (
        {"spec.reward.verifier": "reasoning_gym"},
        "spec.data.train.source: questions.jsonl, reward.verifier reasoning_gym needs reasoning_gym:<task>",
    ),
    "every rank has as many prompts": (
        {"spec.trainer.gpusPerReplica": 5},
        "spec.recipe.promptsPerStep: 48, must be a multiple of the 5 ranks",
    ),
    "at most is not less than at least": (
        {"spec.generator": {"minReplicas": 3, "maxReplicas": 2}},
        "spec.generator.maxReplicas: 2, at least minReplicas (3)",
    ),
    "one kind of device": (
        {"spec.generator.gpusPerReplica": 0},
        "spec.generator.gpusPerReplica: 0, trainer has 1: both on GPUs or both on the CPU",
    ),
    "warm-up ends before the run does": (
        {"spec.budget.steps": 100},
        "spec.recipe.optimizer.warmupSteps: 100, less than budget.steps (100)",
    ),
    "a factor cannot adapt from 0": (
        {"spec.recipe.loss": {"klTarget": 0.02}},
        "spec.recipe.loss.klTarget: 0.02, only with klCoefficient above 0",
    ),
    "the longest sequence fits one micro-batch": (
        {"spec.trainer.microBatchTokens": 16383},
        "spec.trainer.microBatchTokens: 16383, at least promptTokens + thinkTokens + answerTokens (16384)",
    ),
    "the interruption's range is a range": (
        {"spec.recipe.length": {"interruptMin": 12001}},
        "spec.recipe.length.interruptMin: 12001, at most interruptMax (12000)",
    ),
    "the interruption comes before the room ends": (
        {"spec.recipe.length": {"interruptMax": 12289}},
        "spec.recipe.length.interruptMax: 12289, above the context left for thinking: at most thinkTokens (12288)",
    ),
    "the phrase ends the thinking": (
        {"spec.recipe.length": {"phrase": "stop"}},
        "spec.recipe.length.phrase: 'stop', must close the thinking with </think>",
    ),
    "the penalty lies inside the completion": (
        {"spec.recipe.length": {"control": "penalty", "penaltyCache": 14337}},
        "spec.recipe.length.penaltyCache: 14337, at most thinkTokens + answerTokens (14336)",
    ),
    "a policy without a condition": (
        {"spec.stopPolicies": [{"name": "flat", "when": {}}]},
        "spec.stopPolicies[0].when: 0 conditions, exactly one",
    ),
    "a policy with two conditions": (
        {"spec.stopPolicies": [{"name": "x", "when": {"passRate": {"below": 0.1}, "ceilingUpper": {"below": 0.5}}}]},
        "spec.stopPolicies[0].when: 2 conditions, exactly one",
    ),
    "a condition with two bounds": (
        {"spec.stopPolicies": [{"name": "x", "when": {"passRate": {"below": 0.1, "above": 0.2}}}]},
        "spec.stopPolicies[0].when: below and above, exactly one of below, above",
    ),
    "a condition without a bound": (
        {"spec.stopPolicies": [{"name": "x", "when": {"passRate": {}}}]},
        "spec.stopPolicies[0].when: neither below nor above, exactly one of below, above",
    ),
}


@pytest.mark.parametrize(("changes", "message"), REJECTED.values(), ids=REJECTED.keys())
def test_rejected(changes: dict[str, Any], message: str, edit: Edit) -> None:
    assert faults(edit(changes)) == [message]


def test_policies_with_one_name_are_both_shown(edit: Edit) -> None:
    assert faults(edit({"spec.stopPolicies": [STOP, STOP]})) == [
        "spec.stopPolicies[0].name: flat, every name once",
        "spec.stopPolicies[1].name: flat, every name once",
    ]


CHECKPOINT_FIELDS = "fields here are claimName, claimSize, everySteps, keep, path, storageClassName"

FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "true is not a number": (
        {"spec.budget.steps": True},
        "spec.budget.steps: true, a whole number is needed, without quotes",
    ),
    "true is not a choice of numbers": (
        {"spec.trainer.zeroStage": True},
        "spec.trainer.zeroStage: true, a whole number is needed, without quotes",
    ),
    "true is not a fraction": (
        {"spec.budget.gpuHours": True},
        "spec.budget.gpuHours: true, a number is needed",
    ),
    "a quoted number": (
        {"spec.budget.steps": "8"},
        "spec.budget.steps: '8', a whole number is needed, without quotes",
    ),
    "1 is not true": (
        {"spec.recipe": {"noPositiveResampling": 1}},
        "spec.recipe.noPositiveResampling: 1, true or false is needed",
    ),
    "a fraction": ({"spec.seed": 1.5}, "spec.seed: 1.5, a whole number is needed"),
    "words for a number": ({"spec.budget.gpuHours": "lots"}, "spec.budget.gpuHours: 'lots', a number is needed"),
    "not a number": ({"spec.budget.gpuHours": float("nan")}, "spec.budget.gpuHours: nan, a finite number is needed"),
    "a number for a string": ({"spec.model.source": 7}, "spec.model.source: 7, a string is needed; put it in quotes"),
    "nothing for a string": ({"spec.model.source": ""}, "spec.model.source: '', at least 1 characters"),
    "nothing for a mapping": (
        {"spec.checkpoint": None},
        f"spec.checkpoint: empty, a mapping is needed; {CHECKPOINT_FIELDS}",
    ),
    "a list for a mapping": (
        {"spec.checkpoint": [1]},
        f"spec.checkpoint: a list, a mapping is needed; {CHECKPOINT_FIELDS}",
    ),
    "a mapping for a list": ({"spec.stopPolicies": STOP}, "spec.stopPolicies: a mapping, a list is needed"),
    "a list inside the task's options": (
        {"spec.data.train": {"source": "reasoning_gym:chain_sum", "task": {"sizes": [1, 2]}}},
        "spec.data.train.task.sizes: a list, allowed are a number, a string, true, false",
    ),
    "too long": (
        {"spec.model.source": "x" * 501},
        f"spec.model.source: '{'x' * 76}..., at most 500 characters",
    ),
    "too many": (
        {"spec.data.downstream": [{"name": f"n{i}", "source": "x"} for i in range(21)]},
        "spec.data.downstream: a list, at most 20 entries, not 21",
    ),
    "above": ({"spec.trainer.gpusPerReplica": 17}, "spec.trainer.gpusPerReplica: 17, at most 16"),
    "below": ({"spec.checkpoint.keep": 1}, "spec.checkpoint.keep: 1, at least 2"),
    "not a choice": ({"spec.model.dtype": "fp8"}, "spec.model.dtype: 'fp8', one of 'float32' or 'bfloat16'"),
    "not a name": (
        {"metadata.name": "My_run"},
        "metadata.name: 'My_run', 1 to 52 lower-case letters, digits and '-', with a letter or digit at both ends",
    ),
    "not a verifier": (
        {"spec.reward.verifier": "vibes"},
        "spec.reward.verifier: 'vibes', one of math, reasoning_gym, code, python:package.module:function",
    ),
    "missing": ({"spec.reward": {}}, "spec.reward.verifier: missing, this field is required"),
    "another kind": ({"kind": "RLJob"}, "kind: 'RLJob', one of 'RLRun'"),
    "misspelt": (
        {"spec.trainer": {"zerostage": 3}},
        "spec.trainer.zerostage: unknown field (value 3), did you mean zeroStage?",
    ),
    "Python's spelling": (
        {"spec.warm_start": None},
        "spec.warm_start: unknown field (value empty), did you mean warmStart?",
    ),
    "misspelt inside a list": (
        {"spec.stopPolicies": [{**STOP, "modus": "Observe"}]},
        "spec.stopPolicies[0].modus: unknown field (value 'Observe'), did you mean mode?",
    ),
    "misspelt inside the recipe": (
        {"spec.recipe": {"preset": "gspo", "loss": {"cliplow": 0.1}}},
        "spec.recipe.loss.cliplow: unknown field (value 0.1), did you mean clipLow?",
    ),
    "nothing near": (
        {"spec.checkpoint.zzz": 1},
        f"spec.checkpoint.zzz: unknown field (value 1), {CHECKPOINT_FIELDS}",
    ),
}


@pytest.mark.parametrize(("changes", "message"), FIELDS.values(), ids=FIELDS.keys())
def test_field_message(changes: dict[str, Any], message: str, edit: Edit) -> None:
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
def test_what_is_no_mapping_is_a_fault(document: object) -> None:
    assert faults(document)[0].endswith("an RLRun mapping is needed")


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_broken_file_gives_its_message(path: Path) -> None:
    text = path.read_text()
    expected = re.findall(r"^# expect: (.*)$", text, flags=re.MULTILINE)
    assert sorted(faults(yaml.safe_load(text))) == sorted(expected)


def test_there_are_six_broken_files() -> None:
    assert len(BROKEN) == 6
