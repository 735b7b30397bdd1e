"""The rows that the self-test tries."""

import numpy as np

from scalerl_api import parse_run
from scalerl_api.recipe import merge
from scalerl_runtime.data.run_data import Data
from scalerl_runtime.process.verifier_start import list_sources
from scalerl_runtime.rewards.verifier import first_requests
from scalerl_runtime.types import Prompt

DOCUMENT = {
    "apiVersion": "scalerl.io/v1alpha1",
    "kind": "RLRun",
    "metadata": {"name": "mixed"},
    "spec": {
        "model": {"source": "Qwen/Qwen3-8B"},
        "data": {
            "train": [
                {"source": "sums.jsonl", "name": "sums"},
                {"source": "code.jsonl", "name": "code", "verifier": "code", "validation": {"source": "held.jsonl"}},
            ],
            "downstream": [{"source": "aime.jsonl", "name": "aime"}],
        },
        "reward": {"verifier": "math"},
        "budget": {"steps": 400},
    },
}


def prompt(number, source):
    return Prompt(number, f"{source} {number}", np.zeros(1, np.int32), str(number), source=source)


MIXED = Data(
    train=tuple(prompt(number, source) for number in range(3) for source in ("sums", "code")),
    held_out=(prompt(7, "sums"), prompt(8, "code")),
    downstream={"aime": (prompt(9, "aime"),)},
    bad_rows=(),
    num_removed=0,
)


def test_every_source_is_tried_with_its_own_rows():
    found = [
        (each.path, each.name, [row.id for row in each.prompts]) for each in list_sources(parse_run(DOCUMENT), MIXED)
    ]
    assert found == [
        ("spec.data.train[0]", "sums", [0, 1, 2]),
        ("spec.data.train[1]", "code", [0, 1, 2]),
        ("spec.data.train[1].validation", "code", [8]),
        ("spec.data.downstream[0]", "aime", [9]),
    ]


def test_a_single_source_needs_no_name():
    changes = {"spec": {"data": {"train": {"source": "sums.jsonl"}, "downstream": []}}}
    (only,) = list_sources(parse_run(merge(DOCUMENT, changes)), Data((prompt(4, ""),), (), {}, (), 0))
    assert (only.path, only.name, [row.id for row in only.prompts]) == ("spec.data.train", "", [4])


def test_a_function_is_tried_with_the_first_row_and_its_reference():
    first = first_requests(MIXED)
    assert sorted(first) == ["aime", "code", "sums"]
    assert (first["sums"].prompt, first["sums"].answer, first["sums"].reference) == ("sums 0", "0", "0")
