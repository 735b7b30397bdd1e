"""The self-check's prompts, requests, rows and verdict, on numbers worked out by hand."""

import numpy as np
import pytest

from scalerl_api import InvalidRun, parse_run
from scalerl_api.recipe import merge
from scalerl_api.wire import SelfCheck
from scalerl_runtime.algorithm.self_check import (
    CheckResult,
    build_requests,
    build_rows,
    choose_prompts,
    compare,
    find_mismatch,
)
from scalerl_runtime.types import EngineOutput, Prompt

RUN = {
    "apiVersion": "scalerl.io/v1alpha1",
    "kind": "RLRun",
    "metadata": {"name": "unit"},
    "spec": {
        "model": {"source": "some/model", "dtype": "float32"},
        "data": {"train": {"source": "none.jsonl"}, "promptFormat": "plain", "promptTemplate": "{prompt}"},
        "reward": {"verifier": "python:toy:any"},
        "recipe": {"temperature": 0.7, "length": {"control": "none", "thinkTokens": 4, "answerTokens": 4}},
        "budget": {"steps": 900},
        "seed": 5,
    },
}


def make_run(**spec):
    return parse_run(merge(RUN, {"spec": spec}))


def prompt(name, length):
    return Prompt(name, "", np.full(length, name, np.int32), "")


def output(*logps):
    size = len(logps)
    tokens = np.arange(size, dtype=np.int32)
    return EngineOutput(tokens, np.array(logps, np.float32), np.zeros(size, np.int32), "", "length")


def test_prompts_are_spread_from_the_shortest_to_the_longest():
    lengths = {3: 50, 1: 9, 8: 2, 5: 30, 2: 10, 9: 40, 4: 20}
    assert [each.id for each in choose_prompts([prompt(*item) for item in lengths.items()])] == [8, 2, 5, 3]
    assert [each.id for each in choose_prompts([prompt(7, 3), prompt(6, 3)])] == [6, 7]


def test_requests_have_the_runs_temperature_seeds_and_no_thinking_budget():
    requests = build_requests(make_run(), 1, prompt(2, 3))
    assert {(each.max_tokens, each.temperature, each.think_budget) for each in requests} == {(8, 0.7, None)}
    assert all(each.ignore_ends for each in requests), "short answers would leave a few tokens only"
    seeds = [each.seed for seed in (5, 6) for version in (0, 1) for name in (2, 3)
             for each in build_requests(make_run(seed=seed), version, prompt(name, 3))]  # fmt: skip
    assert len(set(seeds)) == len(seeds) == 8 * 4
    assert None not in seeds


@pytest.mark.parametrize(("think", "sizes"), [(4000, [32]), (20, [24, 24]), (4, [8] * 4)])
def test_every_prompt_has_32_tokens_at_least(think: int, sizes: list[int]):
    run = make_run(recipe={"length": {"control": "none", "thinkTokens": think, "answerTokens": 4}})
    assert [each.max_tokens for each in build_requests(run, 1, prompt(2, 3))] == sizes


def test_rows_hold_each_completion_behind_its_prompt_within_the_budget():
    prompts, outputs = [prompt(7, 3), prompt(8, 5)], [output(-0.1, -0.2), output(-0.3)]
    for budget, counts in ((11, [3]), (6, [1, 2])):
        rows, owners = build_rows(prompts, outputs, budget=budget)
        assert [len(row.targets) for row in rows] == counts
        found = {7: [], 8: []}
        for owner, logp in zip(owners, np.concatenate([row.logp_gen for row in rows]), strict=True):
            found[int(owner)].append(round(float(logp), 1))
        assert found == {7: [-0.1, -0.2], 8: [-0.3]}
        for row in rows:
            assert (row.tokens[row.select + 1] == row.targets).all()


def test_the_worst_rank_and_the_worst_prompt_count():
    rows, owners = build_rows([prompt(7, 3), prompt(8, 3)], [output(-1.0, -1.0), output(-1.0, -1.0)], budget=100)
    assert owners.tolist() == [7, 7, 8, 8]
    ranks = [np.array([-1.0, -1.0, -1.5, -1.0]), np.array([-1.0, -0.75, -1.25, -1.0])]
    found = compare(rows, owners, ranks, version=1, generator=3)
    assert found == CheckResult(
        version=1, generator=3, tokens=4, mean=0.1875, largest=0.5, worst_prompt=8, worst_mean=0.25
    )


@pytest.mark.parametrize("logps", [(np.nan, -1.0), (-np.inf, -1.0), (np.inf, -1.0)])
@pytest.mark.parametrize("side", ["engine", "trainer", "both"])
def test_what_is_no_number_is_a_mismatch(side, logps):
    good = (-1.0, -1.0)
    rows, owners = build_rows([prompt(7, 3)], [output(*(good if side == "trainer" else logps))], budget=100)
    found = compare(rows, owners, [np.array(good if side == "engine" else logps)], version=0, generator=0)
    assert isinstance(find_mismatch(make_run(), found), InvalidRun)
    assert found.to_report() is None


def test_the_report_has_the_numbers():
    assert check(0.31).to_report() == SelfCheck(**vars(check(0.31)))


def check(mean):
    return CheckResult(version=1, generator=3, tokens=64, mean=mean, largest=9.0, worst_prompt=17, worst_mean=0.4)


@pytest.mark.parametrize(
    ("spec", "bound", "rule"),
    [
        ({}, 1e-3, "float32 on both sides"),
        ({"model": {"dtype": "bfloat16"}}, 5e-2, "bfloat16 weights"),
        ({"recipe": {"head": "bf16"}}, 5e-2, "float32 weights, logits rounded to bf16 by the trainer"),
        ({"watchdog": {"mismatch": {"above": 0.2}}}, 0.2, "a larger bound of the watchdog is the user's word"),
        ({"watchdog": {"mismatch": {"above": 1e-5}}}, 1e-3, "a smaller one only warns"),
    ],
)
def test_the_bound_follows_the_precision(spec, bound, rule):
    run = make_run(**spec)
    assert find_mismatch(run, check(bound)) is None, rule
    assert find_mismatch(run, check(bound * 1.01)) is not None, rule


def test_the_error_has_all_numbers():
    (fault,) = find_mismatch(make_run(), check(0.31)).faults
    assert str(fault) == (
        "spec.model.source: 'some/model', a model that engine and trainer compute alike is needed, but self-check of "
        "version 1 on generator 3: the log-probabilities of 64 tokens differ from the trainer's by 0.31 nats on "
        "average, at most by 9; worst prompt 17, 0.4 on average; allowed are 0.001 nats on average with model.dtype "
        "float32 and recipe.head fp32"
    )
