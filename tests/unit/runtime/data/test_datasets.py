import errno
import json
from types import SimpleNamespace

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from datasets.exceptions import DatasetGenerationError

from scalerl_api import InvalidRun, parse_run
from scalerl_api.data import DatasetSpec
from scalerl_api.validation import Fault
from scalerl_runtime.data.columns import find_field
from scalerl_runtime.data.datasets import DataUnavailable
from scalerl_runtime.data.held_out import collect_keys, remove_near_duplicates, split_prompts
from scalerl_runtime.data.near_duplicates import build_key
from scalerl_runtime.data.prompts import parse_entry_answer
from scalerl_runtime.data.rows import bind_verifiers, parse_row, spell_reference
from scalerl_runtime.data.run_data import load_data
from scalerl_runtime.data.scratch_model import build_tokenizer
from scalerl_runtime.types import Prompt

TOKENIZER = build_tokenizer(512)


def make_run(train: dict, *, held_out: int = 2, verifier: str = "math", prompt_tokens: int = 60, **data):
    return parse_run(
        {
            "metadata": {"name": "r"},
            "spec": {
                "model": {"source": "some/model"},
                "data": {"promptFormat": "plain", "train": train, "heldOut": {"prompts": held_out}, **data},
                "reward": {"verifier": verifier},
                "recipe": {"length": {"promptTokens": prompt_tokens}},
                "budget": {"steps": 500},
            },
        }
    )


def load(run, seed=7, tokenizer=TOKENIZER):
    return load_data(run, run.spec.resolved_recipe(), tokenizer, seed)


def write_lines(path, lines):
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    return str(path)


def rows(count, start=0):
    return [{"prompt": f"{i}+1=", "answer": str(i + 1)} for i in range(start, start + count)]


CHAIN = {"source": "reasoning_gym:chain_sum", "task": {"max_terms": 3, "max_digits": 1}}


# --- rows


@pytest.mark.parametrize(
    ("record", "expected", "rule"),
    [
        ({"prompt": "a", "answer": "b"}, ("a", "b", None), "two strings"),
        ({"prompt": "a", "answer": 7}, ("a", "7", None), "a whole number is as good as its digits"),
        ({"prompt": "a", "answer": "b", "difficulty": 3}, ("a", "b", 3.0), "a difficulty is kept"),
        (
            {"prompt": "a", "answer": "b", "difficulty": "hard"},
            ("a", "b", None),
            "one that is no number is none",
        ),
        ({"prompt": "a", "answer": "b", "difficulty": float("nan")}, ("a", "b", None), "nor is NaN"),
        ({"prompt": "a"}, "answer is missing", "a missing field"),
        ({"prompt": None, "answer": "b"}, "prompt is missing", "null is missing"),
        ({"prompt": " \n", "answer": "b"}, "prompt is empty", "white space is empty"),
        ({"prompt": "a", "answer": 0.1}, ("a", "0.1", None), "a fraction as its digits"),
        ({"prompt": "a", "answer": True}, "answer is True", "a truth value is no number"),
        ({"prompt": ["a"], "answer": "b"}, "prompt is ['a']", "a list is no string"),
        ({"prompt": "a\ud800", "answer": "b"}, "prompt holds half a character (a lone surrogate)", "no valid Unicode"),
        (["a", "b"], "['a', 'b']", "a row is an object"),
    ],
)
def test_parse_row(record, expected, rule):
    build_answer = bind_verifiers(spell_reference, ["math"])
    parsed = parse_row(record, DatasetSpec(source="f.jsonl"), build_answer, index=4, where="f.jsonl:5")
    if isinstance(parsed, Fault):
        assert (parsed.path, parsed.value) == ("f.jsonl:5", expected), rule
    else:
        assert (parsed.prompt, parsed.answer, parsed.difficulty) == expected, rule
        assert parsed.index == 4


@pytest.mark.parametrize(
    ("name", "expected", "rule"),
    [
        ("a", 1, "a field"),
        ("b.c", 2, "a path"),
        ("d.e", 3, "a field whose name holds a dot goes first"),
        ("f.1.g", 5, "a place in a list"),
        ("f.2.g", None, "past the list's end"),
        ("b.x", None, "no such field"),
        ("a.x", None, "nothing is below a number"),
    ],
)
def test_find_field(name, expected, rule):
    record = {"a": 1, "b": {"c": 2}, "d.e": 3, "d": {"e": 4}, "f": [{}, {"g": 5}]}
    assert find_field(record, name) == expected, rule


# --- files


def test_bad_rows_are_skipped_and_listed_by_file_and_line(tmp_path):
    lines = [
        *rows(4),
        b"{not json",
        {"prompt": "x"},
        b"\xff\xfe",
        b"",
        *rows(4, start=4),
        {"prompt": "y" * 61, "answer": "1"},
    ]
    source = write_lines(tmp_path / "d.jsonl", [*lines, {"prompt": "é", "answer": "1"}])
    data = load(make_run({"source": source}, maxBadShare=0.5))
    assert sorted(fault.path.rsplit("/", 1)[-1] for fault in data.bad_rows) == [
        *("d.jsonl:13", "d.jsonl:14", "d.jsonl:5", "d.jsonl:6", "d.jsonl:7")
    ]
    by_line = {fault.path.rsplit(":", 1)[-1]: f"{fault.value}, {fault.allowed}" for fault in data.bad_rows}
    assert by_line["13"] == "prompt of 61 tokens, at most 60 (promptTokens)"
    assert by_line["14"] == "prompt 'é', characters that the tokenizer knows"
    assert by_line["5"].startswith("not JSON")
    assert len(data.train) + len(data.held_out) == 8, "the empty line is no row"


def test_ids_are_positions_in_the_file_with_bad_rows_counted(tmp_path):
    source = write_lines(tmp_path / "d.jsonl", [{"prompt": "x"}, *rows(5)])
    data = load(make_run({"source": source}, maxBadShare=0.5))
    by_id = {prompt.id: prompt.text for prompt in (*data.train, *data.held_out)}
    assert by_id == {1: "0+1=", 2: "1+1=", 3: "2+1=", 4: "3+1=", 5: "4+1="}


@pytest.mark.parametrize(("share", "starts"), [(0.25, True), (0.24, False), (0.0, False)])
def test_a_run_stops_when_more_than_the_stated_share_is_bad(tmp_path, share, starts):
    source = write_lines(tmp_path / "d.jsonl", [*rows(6), b"?", b"?"])
    run = make_run({"source": source}, maxBadShare=share)
    if starts:
        assert len(load(run).bad_rows) == 2
        return
    with pytest.raises(InvalidRun) as caught:
        load(run)
    summary, *named = caught.value.faults
    assert summary.path == "spec.data.maxBadShare"
    assert summary.value == f"2 of 8 rows of {source} are bad (0.25)"
    assert [fault.path for fault in named] == [f"{source}:7", f"{source}:8"]


def test_parquet_reads_as_jsonl_does_and_at_most_size_rows(tmp_path):
    table = rows(9)
    table[2]["answer"] = None
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), tmp_path / "d.parquet")
    data = load(make_run({"source": str(tmp_path / "d.parquet"), "size": 7}, maxBadShare=0.5))
    assert {prompt.id for prompt in (*data.train, *data.held_out)} == {0, 1, 3, 4, 5, 6}
    assert [(f.path, f.value) for f in data.bad_rows] == [(f"{tmp_path}/d.parquet:3", "answer is missing")]


@pytest.mark.parametrize(
    ("name", "content", "allowed"),
    [
        ("no.jsonl", None, "a file that exists"),
        ("empty.jsonl", b"", "at least one row"),
        ("broken.parquet", b"PAR1 but no table", "a file that can be read"),
    ],
)
def test_a_file_without_a_data_set_is_a_fault_of_the_spec(tmp_path, name, content, allowed):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidRun) as caught:
        load(make_run({"source": str(tmp_path / name)}))
    (fault,) = caught.value.faults
    assert fault.path == "spec.data.train.source"
    assert fault.allowed.startswith(allowed)


# --- the hub


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (ConnectionError("offline"), DataUnavailable, "spec.data.train.source: org/set, the hub does not answer"),
        (FileNotFoundError("none"), InvalidRun, "a hub data set with split 'part'"),
        (ValueError("no split"), InvalidRun, "a hub data set with split 'part'"),
        (DatasetGenerationError("broken"), InvalidRun, "a hub data set with split 'part'"),
        (RuntimeError("Dataset scripts are no longer supported"), InvalidRun, "scripts are no longer"),
        (NotImplementedError("x"), InvalidRun, "NotImplementedError"),
        (KeyError("column"), InvalidRun, "KeyError"),
        (PermissionError(errno.EACCES, "Permission denied"), InvalidRun, "Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), DataUnavailable, "No space left"),
        (TimeoutError("read"), DataUnavailable, "the hub does not answer"),
    ],
)
def test_hub_errors(monkeypatch, error, raised, message):
    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(raised, match=message):
        load(make_run({"source": "org/set", "split": "part"}))


def test_hub_rows_are_read(monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: asked.append((args, options)) or rows(6))
    data = load(make_run({"source": "org/set", "split": "part", "size": 5}))
    assert asked == [(("org/set",), {"split": "part"})]
    assert len(data.train) + len(data.held_out) == 5


# --- rendering


def test_plain_prompts_are_the_template_alone(tmp_path):
    lines = [{"q": {"text": text}, "a": "x"} for text in ("1{2}", "3", "4", "5")]
    train = {"source": write_lines(tmp_path / "d.jsonl", lines), "promptField": "q.text", "answerField": "a"}
    data = load(make_run(train, held_out=1, promptTemplate="Q: {prompt}\n<think>"))
    prompts = {prompt.id: prompt for prompt in (*data.train, *data.held_out)}
    assert prompts[0].text == "Q: 1{2}\n<think>"
    assert TOKENIZER.convert_ids_to_tokens(prompts[0].tokens.tolist()) == [*"Q: 1{2}\n", "<think>"]
    assert prompts[0].tokens.dtype == np.int32
    assert prompts[0].difficulty == 9.0, "without a difficulty the length in tokens stands for it"


def test_chat_prompts_go_through_the_chat_template(tmp_path):
    tokenizer = build_tokenizer(512)
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[bot]{% endif %}"
    )
    source = write_lines(tmp_path / "d.jsonl", rows(3))
    run = make_run({"source": source}, promptFormat="chat", promptTemplate="Solve {prompt}", held_out=1)
    data = load(run, tokenizer=tokenizer)
    assert {p.id: p.text for p in (*data.train, *data.held_out)}[2] == "[user]Solve 2+1=[bot]"


def test_chat_needs_a_template(tmp_path):
    source = write_lines(tmp_path / "d.jsonl", rows(3))
    with pytest.raises(InvalidRun, match="spec.data.promptFormat: chat, the tokenizer has no chat template; use plain"):
        load(make_run({"source": source}, promptFormat="chat"))


# --- generated tasks


@pytest.mark.parametrize(
    ("train", "path", "words"),
    [
        ({"source": "reasoning_gym:chain_summ"}, "spec.data.train.source", "chain_sum"),
        (CHAIN | {"task": {"max_term": 3}}, "spec.data.train.task.max_term", "options of chain_sum are allow_negation"),
        (CHAIN | {"task": {"seed": 3}}, "spec.data.train.task.seed", "options of chain_sum are allow_negation"),
        (CHAIN | {"task": {"min_terms": 5, "max_terms": 3}}, "spec.data.train.task", "max_terms must be >= min_terms"),
        (CHAIN | {"task": {"min_terms": "two"}}, "spec.data.train.task", "chain_sum refuses it"),
    ],
)
def test_wrong_tasks_are_faults_of_the_spec(train, path, words):
    with pytest.raises(InvalidRun) as caught:
        load(make_run(train))
    (fault,) = caught.value.faults
    assert fault.path == path
    assert words in fault.allowed


def test_a_generated_prompt_can_be_the_expression_alone():
    run = make_run(
        CHAIN | {"promptField": "metadata.expression", "size": 40}, promptTemplate="{prompt}=", verifier="reasoning_gym"
    )
    for prompt in load(run).train:
        assert set(prompt.text) <= set("0123456789 +-=")
        entry = parse_entry_answer(prompt.answer)
        assert entry.task == "chain_sum"
        assert entry.options == {"max_terms": 3, "max_digits": 1}
        assert str(eval(prompt.text.removesuffix("="))) == entry.record["answer"]


def test_a_generated_prompt_is_the_question_unless_another_field_is_named():
    data = load(make_run(CHAIN | {"size": 10}, prompt_tokens=200))
    assert all(prompt.text.startswith("State the final answer") for prompt in data.train)
    assert all(prompt.answer.lstrip("-").isdigit() for prompt in data.train), "other verifiers get the plain answer"


def test_neighbouring_seeds_share_no_shifted_rows():
    """reasoning_gym seeds row i with seed + i: seeds 7 and 8 would give the same rows, shifted by one."""
    wide = {"source": "reasoning_gym:chain_sum", "task": {"min_terms": 6, "min_digits": 4}, "size": 50}
    first, second = (load(make_run(wide, prompt_tokens=200), seed=seed) for seed in (7, 8))
    assert not {p.text for p in first.train} & {p.text for p in second.train}


# --- the split


def make_prompts(texts):
    return [Prompt(10 + i, text, np.array([1], dtype=np.int32), "a") for i, text in enumerate(texts)]


def split(prompts, num_held_out, tested=()):
    """The training and the held-out texts."""
    found = split_prompts(prompts, num_held_out=num_held_out, rng=np.random.default_rng(0))
    train = remove_near_duplicates(found.rest, collect_keys([*found.held_out, *tested]))
    return [prompt.text for prompt in train], sorted(prompt.text for prompt in found.held_out)


def test_held_out_texts_are_removed_from_training():
    prompts = make_prompts(["a", "a", "a", "b", "c", "c"])
    assert split(prompts, 3) == ([], ["a", "b", "c"]), "no text twice"


def test_downstream_texts_are_removed_from_training():
    train, held_out = split(make_prompts(["a", "b", "c", "d"]), 1, make_prompts("abcd"))
    assert (train, len(held_out)) == ([], 1)


def test_near_duplicates_are_never_on_both_sides():
    spellings = "What is {}+1?", "what is {} + 1", "WHAT IS {}+1 ?", " What  is {}+1"
    prompts = make_prompts([spelling.format(number) for number in range(9) for spelling in spellings])
    train, held_out = split(prompts, 5)
    assert not {build_key(text) for text in train} & {build_key(text) for text in held_out}
    assert len(train) == 36 - 4 * len({build_key(text) for text in held_out})


def test_held_out_is_random_stable_and_disjoint(tmp_path):
    run = make_run({"source": write_lines(tmp_path / "d.jsonl", rows(60))}, held_out=20)
    first, again, other = load(run, seed=7), load(run, seed=7), load(run, seed=8)
    chosen = [prompt.id for prompt in first.held_out]
    assert chosen == [prompt.id for prompt in again.held_out]
    assert chosen != [prompt.id for prompt in other.held_out], "the seed decides"
    assert chosen != list(range(20)), "not the first ones"
    assert sorted(chosen + [prompt.id for prompt in first.train]) == list(range(60))


def test_repeating_tasks_leak_no_held_out_prompt_into_training():
    run = make_run(CHAIN | {"promptField": "metadata.expression", "size": 3000}, held_out=200)
    data = load(run)
    held_out = {prompt.text for prompt in data.held_out}
    assert len(held_out) == 200
    assert not held_out & {prompt.text for prompt in data.train}
    assert data.num_removed > 0
    assert len(data.train) == 3000 - 200 - data.num_removed


def test_downstream_sets_are_loaded_and_never_trained_on(tmp_path):
    train, test = write_lines(tmp_path / "d.jsonl", rows(8)), write_lines(tmp_path / "t.jsonl", rows(3, start=6))
    data = load(make_run({"source": train}, downstream=[{"name": "near", "source": test}]))
    assert [prompt.text for prompt in data.downstream["near"]] == ["6+1=", "7+1=", "8+1="]
    assert not {"6+1=", "7+1="} & {prompt.text for prompt in data.train}


@pytest.mark.parametrize(("train", "name"), [({}, ""), ({"name": "sums"}, "sums")])
def test_a_prompt_has_the_name_of_its_source(tmp_path, train, name):
    source, test = write_lines(tmp_path / "d.jsonl", rows(8)), write_lines(tmp_path / "t.jsonl", rows(3, start=9))
    data = load(make_run({"source": source, **train}, downstream=[{"name": "near", "source": test}]))
    assert {prompt.source for prompt in (*data.train, *data.held_out)} == {name}
    assert {prompt.source for prompt in data.downstream["near"]} == {"near"}


@pytest.mark.parametrize(
    ("texts", "held_out", "allowed"),
    [
        ([0, 1, 2], 4, "less than the 3 different prompts of"),
        ([0, 0, 0, 1], 3, "less than the 2 different prompts of"),
        ([0, 0, 1, 1], 2, "fewer: no prompt of"),
        ([0, 1, 2], 3, "fewer: no prompt of"),
    ],
)
def test_too_many_held_out_prompts_are_a_fault_of_the_spec(tmp_path, texts, held_out, allowed):
    lines = [{"prompt": f"p{text}", "answer": "1"} for text in texts]
    with pytest.raises(InvalidRun) as caught:
        load(make_run({"source": write_lines(tmp_path / "d.jsonl", lines)}, held_out=held_out))
    (fault,) = caught.value.faults
    assert (fault.path, fault.value) == ("spec.data.heldOut.prompts", str(held_out))
    assert fault.allowed.startswith(allowed)


def test_entries_that_cannot_be_stored_are_refused():
    from scalerl_runtime.data.prompts import GeneratedRecord, build_entry_answer

    with pytest.raises(ValueError, match="cannot be stored"):
        build_entry_answer(GeneratedRecord("t", {}, {"x": SimpleNamespace()}))
    entry = GeneratedRecord(
        "t", {"size_max": 3}, {"answer": "1", "metadata": {"pair": (1, 2), "by": {3: "c"}, "set": {4}}}
    )
    assert parse_entry_answer(build_entry_answer(entry)) == entry, "tuples, integer keys and sets come back as such"


# --- the user's faults


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sub.jsonl", "no file in"),
        ("rows.csv", "does not exist"),
        ("there.xlsx", "a .jsonl, .json, .csv, .tsv or .parquet file"),
        ("rows.jsonl.gz", "does not exist"),
        ("rows.txt", "does not exist"),
        ("part-*.jsonl", "a pattern that a file matches"),
        ("none.jsonl", "a file that exists"),
        ("none.JSONL", "a file that exists"),
        ("none", "does not exist"),
    ],
)
def test_a_path_is_never_a_name_of_the_hub(tmp_path, monkeypatch, name, words):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_a, **_k: pytest.fail("looked up on the hub"))
    (tmp_path / "sub.jsonl").mkdir()
    (tmp_path / "there.xlsx").write_text("x")
    with pytest.raises(InvalidRun) as caught:
        load(make_run({"source": f"{tmp_path}/{name}" if name else str(tmp_path)}))
    (fault,) = caught.value.faults
    assert fault.path == "spec.data.train.source"
    assert words in fault.allowed


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), InvalidRun),
        (OSError(errno.EIO, "Input/output error"), DataUnavailable),
        (OSError(errno.ESTALE, "Stale file handle"), DataUnavailable),
    ],
)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_a_file_that_cannot_be_opened(tmp_path, monkeypatch, name, error, raised):
    path = tmp_path / name
    path.touch()

    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(type(path), "open", fail)
    monkeypatch.setattr(pyarrow.parquet, "ParquetFile", fail)
    with pytest.raises(raised, match=r"spec.data.train.source"):
        load(make_run({"source": str(path)}))


def test_a_file_that_is_not_utf_8_is_refused_with_its_first_lines(tmp_path):
    text = "\n".join(json.dumps(row) for row in rows(9))
    (tmp_path / "rows.jsonl").write_bytes(text.encode("utf-32"))
    with pytest.raises(InvalidRun, match=r"rows.jsonl:1: not JSON"):
        load(make_run({"source": str(tmp_path / "rows.jsonl")}))


class Templated:
    """The trained tokenizer with a chat template, rendered by transformers."""

    def __init__(self, template):
        self.chat_template = template
        self.eos_token_id, self.unk_token_id = TOKENIZER.eos_token_id, TOKENIZER.unk_token_id
        self.added_tokens_decoder = TOKENIZER.added_tokens_decoder

    def decode(self, token_ids, **options):
        return TOKENIZER.decode(token_ids, **options)

    def __call__(self, text, *, add_special_tokens):
        return TOKENIZER(text, add_special_tokens=add_special_tokens)

    def apply_chat_template(self, conversation, **options):
        return TOKENIZER.apply_chat_template(conversation, chat_template=self.chat_template, **options)


TEMPLATES = {
    "none": (None, "has no chat template; use plain"),
    "one that needs a system turn": (
        "{% if messages[0].role != 'system' %}{{ raise_exception('System role required') }}{% endif %}",
        "TemplateError: System role required",
    ),
    "one with an undefined variable": ("{{ no_such_token + messages[0].content }}", "UndefinedError"),
    "one with an unknown filter": ("{{ messages[0].content | shout }}", "shout"),
    "one that is no template": ("{% for", "TemplateSyntaxError"),
    "one with a wrong type": ("{{ messages[0].content + 1 }}", "TypeError"),
    "one that drops the text": ("question:", "drops or changes the user's text"),
    "one that shows another turn": ("{{ messages[1:] }}", "drops or changes the user's text"),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_chat_template_that_takes_no_question_is_a_fault_of_the_spec(tmp_path, name):
    template, words = TEMPLATES[name]
    source = write_lines(tmp_path / "rows.jsonl", rows(9))
    with pytest.raises(InvalidRun) as caught:
        load(make_run({"source": source}, promptFormat="chat"), tokenizer=Templated(template))
    (fault,) = caught.value.faults
    assert (fault.path, fault.value) == ("spec.data.promptFormat", "chat")
    assert words in fault.allowed


PICKY = "{% if '5' in messages[0].content %}{{ raise_exception('no five') }}{% endif %}{{ messages[0].content | trim }}"


def test_a_template_that_refuses_some_rows_makes_them_bad_rows(tmp_path):
    source = write_lines(tmp_path / "rows.jsonl", rows(20))  # of 0 to 19, two hold a five
    run = make_run({"source": source}, promptFormat="chat", promptTemplate=" {prompt}\n", maxBadShare=0.1)
    data = load(run, tokenizer=Templated(PICKY))
    assert [fault.path.rsplit(":", 1)[1] for fault in data.bad_rows] == ["6", "16"]
    assert "no five" in data.bad_rows[0].allowed
    with pytest.raises(InvalidRun, match=r"maxBadShare: 2 of 20 rows"):
        load(make_run({"source": source}, promptFormat="chat", maxBadShare=0.05), tokenizer=Templated(PICKY))


def test_a_token_beyond_the_embedding_makes_a_bad_row(tmp_path):
    source = write_lines(tmp_path / "rows.jsonl", [{"prompt": str(i), "answer": "0"} for i in range(20)])
    run = make_run({"source": source}, maxBadShare=0.9, promptTemplate="{prompt}")
    digits = [TOKENIZER(str(i), add_special_tokens=False)["input_ids"] for i in range(10)]
    last = max(max(each) for each in digits)
    owner = next(str(i) for i, each in enumerate(digits) if last in each)
    data = load_data(run, run.spec.resolved_recipe(), TOKENIZER, 7, vocab_size=last)
    assert all("embedding" in fault.allowed for fault in data.bad_rows)
    assert len(data.bad_rows) > 0
    assert all(owner not in prompt.text for prompt in data.train)
    with pytest.raises(InvalidRun, match=r"maxBadShare: 20 of 20 rows"):
        load_data(run, run.spec.resolved_recipe(), TOKENIZER, 7, vocab_size=2)
