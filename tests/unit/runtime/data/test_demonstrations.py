import json
from pathlib import Path

import numpy as np
import pytest

from scalerl_api import InvalidRun, RLRun, parse_run
from scalerl_api.recipe import ThinkTags
from scalerl_runtime.data.demonstrations import CompletionStyle, DemonstrationSource, load_demonstrations
from scalerl_runtime.data.prompts import GeneratedRecord, build_entry_answer
from scalerl_runtime.data.run_data import Data
from scalerl_runtime.data.scratch_model import build_tokenizer
from scalerl_runtime.types import Prompt

TOKENIZER = build_tokenizer(256)
CHAIN = "reasoning_gym:chain_sum"


def make_run(warm_start: dict, *, train: str = CHAIN, verifier: str = "reasoning_gym", think_tokens: int = 40) -> RLRun:
    return parse_run(
        {
            "metadata": {"name": "r"},
            "spec": {
                "model": {"source": "some/model"},
                "data": {
                    "promptFormat": "plain",
                    "train": {"source": train},
                    "heldOut": {"prompts": 3},
                    "maxBadShare": 0.5,
                },
                "reward": {"verifier": verifier},
                "recipe": {
                    "length": {
                        "promptTokens": 60,
                        "thinkTokens": think_tokens,
                        "answerTokens": 10,
                        "interruptMin": 2,
                        "interruptMax": think_tokens,
                    }
                },
                "warmStart": {"steps": 20, **warm_start},
                "budget": {"steps": 500},
            },
        }
    )


def chain_prompt(index: int, first: int, second: int) -> Prompt:
    text = f"{first} + {second} ="
    record = {"question": text, "answer": str(first + second), "metadata": {"expression": f"{first} + {second}"}}
    tokens = np.array(TOKENIZER(text)["input_ids"], dtype=np.int32)
    return Prompt(index, text, tokens, build_entry_answer(GeneratedRecord("chain_sum", {}, record)))


def make_data(*, held_out: tuple[Prompt, ...] = (), downstream: tuple[Prompt, ...] = ()) -> Data:
    train = tuple(chain_prompt(index, 20 + index, 31) for index in range(12))
    return Data(train, held_out, {"other": downstream}, bad_rows=(), num_removed=0)


def texts(source: DemonstrationSource, *, steps: range, size: int = 40) -> list[tuple[str, str]]:
    """(prompt, completion) of every demonstration."""
    return [
        (TOKENIZER.decode(each.tokens[: each.loss_from]), TOKENIZER.decode(each.tokens[each.loss_from :]))
        for step in steps
        for each in source.batch(step, size)
    ]


def load(run: RLRun, data: Data, seed: int = 5) -> DemonstrationSource:
    return load_demonstrations(run, TOKENIZER, data, np.random.default_rng(seed), stop_id=TOKENIZER.eos_token_id)


def write_pairs(path: Path, pairs: list[tuple[str, str]]) -> str:
    path.write_text("".join(json.dumps({"prompt": prompt, "completion": done}) + "\n" for prompt, done in pairs))
    return str(path)


def test_a_trace_follows_its_prompt_and_ends_the_sequence():
    source = load(make_run({"source": CHAIN}), make_data())
    found = set(texts(source, steps=range(5)))
    assert ("22 + 31 =", "<think>22+31=53</think>53<eos>") in found
    assert len(found) == 12, "one for every training prompt"


@pytest.mark.parametrize(
    ("think_tokens", "expected", "rule"),
    [
        (None, "[T]hm[/T]4", "the completion opens its thinking"),
        (0, "hm[/T]4", "a prompt that opened it is not opened again"),
    ],
)
def test_completion(think_tokens, expected, rule):
    style = CompletionStyle(TOKENIZER, ThinkTags(open="[T]", close="[/T]"), 77)
    prompt = Prompt(0, "2+2=", np.zeros(1, np.int32), "4", think_tokens=think_tokens)
    assert style.build(prompt, "hm", "4") == expected, rule
    assert style.encode(["4"])[0].tolist() == [TOKENIZER.encode("4")[0], 77], "the stop token is learned"


def test_wrong_answers_come_in_the_last_steps_only_and_in_their_share():
    run = make_run({"source": CHAIN, "wrongSteps": 8, "wrongShare": 0.25})
    source = load(run, make_data())

    def share_wrong(steps: range) -> float:
        right = [
            completion.endswith(f"</think>{sum(map(int, prompt.rstrip(' =').split(' + ')))}<eos>")
            for prompt, completion in texts(source, steps=steps, size=100)
        ]
        return 1 - sum(right) / len(right)

    assert share_wrong(range(12)) == 0.0
    assert share_wrong(range(12, 20)) == pytest.approx(0.25, abs=0.06), "800 draws: three standard errors are 0.046"


def test_a_wrong_answer_keeps_its_right_thinking():
    run = make_run({"source": CHAIN, "wrongSteps": 8, "wrongShare": 1.0})
    for prompt, completion in texts(load(run, make_data()), steps=range(12, 14)):
        first, second = map(int, prompt.rstrip(" =").split(" + "))
        assert completion.startswith(f"<think>{first}+{second}={first + second}</think>")
        assert not completion.endswith(f"</think>{first + second}<eos>")


def test_a_batch_depends_on_seed_and_step_alone():
    run = make_run({"source": CHAIN})
    first, again, other = (load(run, make_data(), seed) for seed in (5, 5, 6))
    assert texts(first, steps=range(9, 10)) == texts(again, steps=range(9, 10)), "a resumed stage sees the same"
    assert texts(first, steps=range(9, 10)) != texts(other, steps=range(9, 10))
    assert texts(first, steps=range(9, 10)) != texts(first, steps=range(10, 11))


def test_held_out_and_downstream_prompts_are_never_demonstrated(tmp_path):
    """A file of pairs is independent of the split: evaluated prompts must be removed from it."""
    pairs = [("1+1=", "2"), ("2+2=", "4"), ("3+3=", "6")]
    run = make_run({"source": write_pairs(tmp_path / "p.jsonl", pairs)}, train="rows.jsonl", verifier="math")
    data = make_data(
        held_out=(Prompt(0, "1+1=", np.zeros(1, np.int32), "2"),),
        downstream=(Prompt(0, "3+3=", np.zeros(1, np.int32), "6"),),
    )
    assert set(texts(load(run, data), steps=range(3))) == {("2+2=", "4<eos>")}


def test_a_generated_demonstration_is_never_of_a_held_out_text():
    data = make_data(held_out=(chain_prompt(77, 22, 31),))
    found = {prompt for prompt, _ in texts(load(make_run({"source": CHAIN}), data), steps=range(5))}
    assert len(found) == 11
    assert "22 + 31 =" not in found


def test_a_pair_that_does_not_fit_is_skipped_and_not_cut(tmp_path):
    """12 + 10 tokens are allowed. A completion has its end of sequence too."""
    pairs = [("1+1=", "2" * 21), ("2+2=", "4" * 22)]
    source = write_pairs(tmp_path / "p.jsonl", pairs)
    run = make_run({"source": source}, train="rows.jsonl", verifier="math", think_tokens=12)
    limit = run.spec.resolved_recipe().length.completion_tokens
    assert limit == 22, "the numbers below rest on it"
    assert set(texts(load(run, make_data()), steps=range(3))) == {("1+1=", "2" * 21 + "<eos>")}


def test_a_wrong_answer_has_room_to_be_longer():
    """`<think>22+31=53</think>53<eos>` is 13 tokens, and a wrong answer may have two more: 15 = 5 + 10."""
    assert load(make_run({"source": CHAIN}, think_tokens=5), make_data()).pairs
    with pytest.raises(InvalidRun, match="one demonstration that is not held out and fits"):
        load(make_run({"source": CHAIN}, think_tokens=4), make_data())


@pytest.mark.parametrize(
    ("warm_start", "changes", "path", "message", "rule"),
    [
        ({"source": "reasoning_gym:sudoku"}, {}, "spec.warmStart.source", "traces are written for", "no traces"),
        ({"source": "reasoning_gym:gcd"}, {}, "spec.warmStart.source", "data.train.source", "another task"),
        ({"source": CHAIN}, {"verifier": "math"}, "spec.reward.verifier", "reasoning_gym with", "no records"),
        ({"source": "FILE", "wrongSteps": 5}, {}, "spec.warmStart.wrongSteps", "0 with", "pairs cannot be missed"),
        ({"source": "gone.jsonl"}, {}, "spec.warmStart.source", "a file that exists", "no such file"),
    ],
)
def test_a_warm_start_that_is_refused(tmp_path, warm_start, changes, path, message, rule):
    if warm_start["source"] == "FILE":
        warm_start = {**warm_start, "source": write_pairs(tmp_path / "p.jsonl", [("1+1=", "2")])}
    with pytest.raises(InvalidRun, match=message) as caught:
        load(make_run(warm_start, **changes), make_data())
    assert [fault.path for fault in caught.value.faults] == [path], rule


def test_too_many_bad_pairs_stop_the_run_and_are_listed(tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "1+1=", "completion": "2"}\n{"prompt": "2+2="}\nnot json\n')
    run = make_run({"source": str(file)}, train="rows.jsonl", verifier="math")
    with pytest.raises(InvalidRun, match="completion is missing") as caught:
        load(run, make_data())
    assert {f"{file}:2", f"{file}:3"} <= {fault.path for fault in caught.value.faults}
