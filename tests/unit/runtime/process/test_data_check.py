"""`scalerl validate` reads data and tries verifiers as the run's start does: the same rows, the same words."""

import asyncio
import gzip
import json
import threading

import pytest

from scalerl_api import InvalidRun, parse_run
from scalerl_api.recipe import merge
from scalerl_runtime.deadlines import DeadlineExceeded
from scalerl_runtime.process import data_check
from scalerl_runtime.process.data_check import Consent, check_run_data, find_skipped, limit_rows, run_within
from scalerl_runtime.process.verifier_start import load_run_data, start_judges
from scalerl_runtime.process.word_tokenizer import WordTokenizer

SECONDS = 600.0  # no test waits for it


def write_rows(folder, name, count, *, answer=str, **columns):
    path = folder / name
    rows = [{"question": f"What is {i} plus {i}?", "answer": answer(i), **columns} for i in range(count)]
    lines = [json.dumps(row) for row in rows]
    path.write_bytes(gzip.compress("\n".join(lines).encode()) if name.endswith(".gz") else "\n".join(lines).encode())
    return str(path)


def run_on(source, **changes):
    document = {
        "apiVersion": "scalerl.io/v1alpha1",
        "kind": "RLRun",
        "metadata": {"name": "sums"},
        "spec": {
            "model": {"source": "org/not-here"},
            "data": {"train": {"source": source, "promptField": "question"}, "heldOut": {"prompts": 4}},
            "reward": {"verifier": "math"},
            "budget": {"steps": 400},
        },
    }
    return parse_run(merge(document, {"spec": changes}))


def refusal(call):
    with pytest.raises(InvalidRun) as caught:
        call()
    return [str(fault) for fault in caught.value.faults]


def start(run):
    async def begin():
        judges = await start_judges(run, load_run_data(run, WordTokenizer(), None))
        await judges.close()

    asyncio.run(begin())


def test_data_that_is_sound_is_counted_and_tested(tmp_path):
    report = check_run_data(run_on(write_rows(tmp_path, "rows.jsonl", 20)), None, Consent(), seconds=SECONDS)
    (source,) = report.sources
    assert (source.path, source.rows, source.train, source.held_out) == ("spec.data.train", 20, 16, 4)
    ((verifier, rows, failed),) = [(each.verifier, each.rows, each.failed) for each in source.self_tests]
    assert (verifier, rows, failed) == ("math", 16, 0)
    assert report.untested == ("without the model's tokenizer: chat template and lengths of prompts were not tested",)


def test_a_verifier_that_misjudges_is_refused_in_the_words_of_the_start(tmp_path):
    run = run_on(write_rows(tmp_path, "rows.jsonl.gz", 20, answer="see page {}".format), data={"maxBadShare": 0.5})
    words = refusal(lambda: check_run_data(run, None, Consent(), seconds=SECONDS))
    assert words == refusal(lambda: start(run))


def test_a_verifier_that_fails_the_self_test_is_refused_with_three_rows(tmp_path):
    wrong = write_rows(tmp_path, "rows.jsonl", 9, answer="assert f({}) == 3".format, solution="def f(x): return 5")
    run = run_on(wrong, reward={"verifier": "code"})
    words = refusal(lambda: check_run_data(run, None, Consent(), seconds=SECONDS))
    assert words == refusal(lambda: start(run))
    assert words[0].startswith("spec.data.maxBadShare: 5 of 5 rows of spec.data.train by code fail the self-test")
    assert ["its own reference is not right" in each for each in words[1:]] == [True, True, True]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "spec.warmStart.source"),
        ('{"question": "What is 1 plus 1?", "reply": "2"}', "spec.warmStart"),
        ("", "spec.warmStart"),
    ],
    ids=["no file", "no column of completions", "no row"],
)
def test_demonstrations_that_cannot_be_used_are_refused(tmp_path, content, words):
    file = tmp_path / "demonstrations.jsonl"
    if content is not None:
        file.write_text(content)
    run = run_on(write_rows(tmp_path, "rows.jsonl", 20), warmStart={"source": str(file), "steps": 5})
    assert any(words in each for each in refusal(lambda: check_run_data(run, None, Consent(), seconds=SECONDS)))


def test_generated_demonstrations_need_the_tasks_own_verifier():
    task = {"source": "reasoning_gym:chain_sum", "size": 50, "promptField": "question"}
    run = run_on("unused", data={"train": task}, warmStart={"source": "reasoning_gym:chain_sum", "steps": 5})
    (words,) = refusal(lambda: check_run_data(run, None, Consent(), seconds=SECONDS))
    assert words.startswith("spec.reward.verifier: math")


CODE = "python:no_such_module:f"


@pytest.mark.parametrize(
    ("verifier", "consent", "skipped"),
    [
        ("math", Consent(), {}),
        (CODE, Consent(), {CODE: "--run-user-code"}),
        (CODE, Consent(http_judges=True), {CODE: "--run-user-code"}),
        (CODE, Consent(user_code=True), {}),
        ("env:no_such_module:E", Consent(), {"env:no_such_module:E": "--run-user-code"}),
        ("http:rm", Consent(), {"http:rm": "--ask-judges"}),
        ("http:rm", Consent(user_code=True), {"http:rm": "--ask-judges"}),
        ("http:rm", Consent(http_judges=True), {}),
    ],
)
def test_user_code_and_judges_need_consent(verifier, consent, skipped):
    judges = [{"name": "rm", "url": "http://judge/"}] if verifier == "http:rm" else []
    changes = {"recipe": {"length": {"control": "none"}}} if verifier.startswith("env:") else {}
    run = run_on("rows.jsonl", reward={"verifier": verifier, "http": judges}, **changes)
    assert find_skipped(run, consent) == skipped


def test_code_that_may_not_run_is_not_imported_and_said(tmp_path):
    run = run_on(write_rows(tmp_path, "rows.jsonl", 20), reward={"verifier": CODE})
    report = check_run_data(run, None, Consent(), seconds=SECONDS)
    assert report.untested[0] == f"{CODE} was not asked or run: --run-user-code does it"
    assert report.sources[0].self_tests == []
    words = refusal(lambda: check_run_data(run, None, Consent(user_code=True), seconds=SECONDS))
    assert "no_such_module" in words[0]


def test_of_a_large_source_the_first_rows_are_tested_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr(data_check, "MAX_ROWS", 12)
    report = check_run_data(run_on(write_rows(tmp_path, "rows.jsonl", 20)), None, Consent(), seconds=SECONDS)
    assert report.sources[0].rows == 12
    assert report.untested[-1] == "spec.data.train: read the first 12 of 20 rows; the run's start tests a sample of all"


def test_a_cut_of_the_users_own_is_no_remark(tmp_path):
    run = run_on(write_rows(tmp_path, "rows.jsonl", 20), data={"train": {"size": 15}})
    report = check_run_data(run, None, Consent(), seconds=SECONDS)
    assert report.sources[0].cut == "read the first 15 of 20 rows"
    assert len(report.untested) == 1


def test_a_limit_leaves_twice_the_held_out_prompts():
    run = run_on("rows.jsonl", data={"heldOut": {"prompts": 30_000}})
    assert limit_rows(run, 20_000, 9.0).spec.data.train[0].size == 60_000
    assert limit_rows(run, 100_000, 9.0).spec.data.train[0].size == 100_000
    assert limit_rows(run, 100_000, 9.0).spec.deadlines.start_seconds == 9.0


def test_what_hangs_is_left_behind_at_the_deadline():
    never = threading.Event()
    with pytest.raises(DeadlineExceeded, match="testing the data took longer than its deadline of 0.01 s"):
        run_within(0.01, "testing the data", never.wait)
    never.set()


def test_a_source_of_the_hub_is_not_fetched(monkeypatch):
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    report = check_run_data(run_on("scalerl-tests/no-such-data"), None, Consent(), seconds=SECONDS)
    assert report.sources == ()
    assert report.untested[-1].startswith("its data was not tested: it is of the hub and not in the hub's cache")


def test_the_stand_in_tokenizer_keeps_the_text():
    tokenizer, text = WordTokenizer(), " What is\n2 + 2?  <think>"
    (ids,) = tokenizer([text], add_special_tokens=True)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) == text
