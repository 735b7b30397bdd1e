import json
from collections import Counter

import pytest

from scalerl_api import InvalidRun, parse_run
from scalerl_runtime.data.held_out import share_out
from scalerl_runtime.data.near_duplicates import prompt_key
from scalerl_runtime.data.run_data import SOURCE_IDS, load_data
from scalerl_runtime.data.scratch_model import build_tokenizer

TOKENIZER = build_tokenizer(512)


def write(path, texts):
    path.write_text("\n".join(json.dumps({"prompt": text, "answer": str(len(text))}) for text in texts))
    return str(path)


def sums(count, start=0):
    return [f"{number}+1=" for number in range(start, start + count)]


def load(train, *, held_out=4, seed=7, **data):
    run = parse_run(
        {
            "metadata": {"name": "r"},
            "spec": {
                "model": {"source": "some/model"},
                "data": {"promptFormat": "plain", "train": train, "heldOut": {"prompts": held_out}, **data},
                "reward": {"verifier": "math"},
                "recipe": {"length": {"promptTokens": 60}},
                "budget": {"steps": 500},
            },
        }
    )
    return load_data(run, run.spec.resolved_recipe(), TOKENIZER, seed)


@pytest.fixture
def two(tmp_path):
    """Two sources of 30 and 20 prompts."""
    return [
        {"name": "plus", "source": write(tmp_path / "a.jsonl", sums(30)), "weight": 3},
        {"name": "more", "source": write(tmp_path / "b.jsonl", sums(20, 1000))},
    ]


def count(prompts):
    return dict(Counter(prompt.source for prompt in prompts))


@pytest.mark.parametrize(
    ("total", "weights", "parts", "rule"),
    [
        (1000, (1.0,), [1000], "one source has all"),
        (4, (3.0, 1.0), [3, 1], "in proportion"),
        (100, (2.0, 1.0), [67, 33], "the largest remainder is rounded up"),
        (3, (1.0, 1.0, 1.0), [1, 1, 1], "as many as sources"),
        (10, (1000.0, 1.0, 1.0), [8, 1, 1], "at least one each"),
        (5, (1.0, 1.0), [3, 2], "of equal remainders the first"),
    ],
)
def test_held_out_prompts_are_shared_out(total, weights, parts, rule):
    assert share_out(total, weights) == parts, rule


def test_fewer_held_out_prompts_than_sources_cannot_be_shared_out():
    with pytest.raises(ValueError, match="2 prompts for 3 sources"):
        share_out(2, (1.0, 1.0, 1.0))


def test_every_source_has_its_part_of_the_held_out_prompts(two):
    data = load(two, held_out=8)
    assert count(data.held_out) == {"plus": 6, "more": 2}
    assert count(data.train) == {"plus": 24, "more": 18}


def test_ids_are_unique_over_sources_and_show_source_and_row(two):
    data = load(two)
    ids = [prompt.id for prompt in (*data.train, *data.held_out)]
    assert len(set(ids)) == len(ids) == 50
    by_id = {prompt.id: prompt.text for prompt in (*data.train, *data.held_out)}
    assert (by_id[7], by_id[SOURCE_IDS + 7]) == ("7+1=", "1007+1=")


HELD_OUT_BEFORE = [8, 21, 30, 31, 39]


def test_one_source_is_split_as_before(tmp_path):
    """These ids were held out by the version before mixtures; its checkpoints must go on."""
    path = write(tmp_path / "a.jsonl", sums(40))
    data = load({"source": path}, held_out=5, seed=11)
    assert [prompt.id for prompt in data.held_out] == HELD_OUT_BEFORE
    assert [prompt.id for prompt in load([{"source": path}], held_out=5, seed=11).held_out] == HELD_OUT_BEFORE


def test_a_source_may_have_its_own_number_of_held_out_prompts(two):
    data = load([two[0] | {"heldOut": 9}, two[1]], held_out=5)
    assert count(data.held_out) == {"plus": 9, "more": 5}, "the others share heldOut.prompts"


def test_a_validation_set_is_held_out_whole_and_never_trained_on(two, tmp_path):
    own = {"source": write(tmp_path / "v.jsonl", ["3 + 1 =", *sums(4, 500)])}
    data = load([two[0] | {"validation": own}, two[1]], held_out=5)
    assert count(data.held_out) == {"plus": 5, "more": 5}
    assert count(data.train) == {"plus": 29, "more": 15}, "3+1= is a near duplicate"
    assert data.num_removed == 1
    ids = [prompt.id for prompt in (*data.train, *data.held_out)]
    assert len(set(ids)) == len(ids)


def test_only_a_validation_set(two, tmp_path):
    own = {"source": write(tmp_path / "v.jsonl", sums(4, 500))}
    data = load({"source": two[0]["source"], "validation": own}, held_out=1000)
    assert (len(data.train), len(data.held_out)) == (30, 4)


def test_no_near_duplicate_of_a_tested_prompt_is_in_any_source(tmp_path):
    """The other source, the downstream set and the validation set are looked at too."""
    spellings = [f"What is {i} + 1?" for i in range(30)], [f"what is {i}+1" for i in range(30)]
    train = [
        {"name": "one", "source": write(tmp_path / "a.jsonl", spellings[0])},
        {"name": "two", "source": write(tmp_path / "b.jsonl", spellings[1])},
    ]
    near = {"name": "near", "source": write(tmp_path / "d.jsonl", ["WHAT IS 5+1"])}
    data = load(train, held_out=6, downstream=[near])
    tested = {prompt_key(prompt) for prompt in (*data.held_out, *data.downstream["near"])}
    assert not tested & {prompt_key(prompt) for prompt in data.train}
    assert data.num_removed == 60 - 6 - len(data.train) > 0


def test_templates_do_not_hide_a_near_duplicate(tmp_path):
    train = {"source": write(tmp_path / "a.jsonl", sums(9))}
    near = {"name": "near", "source": write(tmp_path / "d.jsonl", ["5 + 1 ="])}
    data = load(train, held_out=2, downstream=[near], promptTemplate="Q: {prompt} A:")
    assert data.downstream["near"][0].question == "5 + 1 ="
    assert "5+1=" not in {prompt.question for prompt in data.train}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"heldOut": 31}, "spec.data.train[0].heldOut: 31"),
        ({"heldOut": 30}, "spec.data.train[0].heldOut: 30"),
        ({"validation": "same"}, "in no validation or downstream set"),
    ],
)
def test_a_source_without_training_prompts_is_refused(two, change, named):
    if change.get("validation") == "same":
        change = {"validation": {"source": two[0]["source"]}}
    with pytest.raises(InvalidRun) as caught:
        load([two[0] | change, two[1]])
    assert named in str(caught.value)


def test_a_held_out_part_that_is_too_large_names_the_source_s_share(two):
    with pytest.raises(InvalidRun, match="less than the 20 different prompts"):
        load([two[0] | {"weight": 1}, two[1] | {"weight": 4}], held_out=30)


@pytest.mark.parametrize(
    ("validation", "fault"),
    [({"verifier": "choice"}, "train.validation.verifier"), ({"verifiers": [{"verifier": "choice"}]}, "validation")],
)
def test_a_validation_set_has_the_verifiers_of_its_source(two, validation, fault):
    with pytest.raises(InvalidRun, match=fault):
        load({"source": two[0]["source"], "validation": {"source": two[1]["source"], **validation}})
