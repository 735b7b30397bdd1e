"""Every shape of a published data set, from file to verdict: right answers are right, empty and other ones wrong."""

import json

import pyarrow
import pyarrow.parquet
import pytest
from public_rows import PUBLIC_SETS

from scalerl_api import parse_run
from scalerl_runtime.data.datasets import LoadingContext, load_prompts
from scalerl_runtime.data.scratch_model import build_tokenizer
from scalerl_runtime.rewards.code_reference import do_nothing_programs, parse_code_reference
from scalerl_runtime.rewards.reading.choice_answers import is_right_choice
from scalerl_runtime.rewards.reading.math_answers import is_right_mathematics
from scalerl_runtime.rewards.references import WRONG_ANSWERS, build_reference, build_right_answers
from scalerl_runtime.rewards.sandbox import Sandbox

TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}[end]{% endfor %}[assistant]"


def load(public, path):
    spec = {
        "model": {"source": "some/model"},
        "data": {"train": {"source": str(path), **public.fields}, "maxBadShare": 0.0},
        "reward": {},
        "recipe": {"length": {"control": "none"}},
        "budget": {"steps": 500},
    }
    run = parse_run({"metadata": {"name": "r"}, "spec": spec})
    tokenizer = build_tokenizer(4096)
    tokenizer.chat_template = TEMPLATE
    context = LoadingContext(run, run.spec.resolved_recipe(), tokenizer, None, build_reference)
    loaded = load_prompts(context, "spec.data.train", run.spec.data.train[0], 0)
    assert list(loaded.bad_rows) == []
    return loaded.prompts


def write(public, kind, folder):
    path = folder / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, public.rows)))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(public.rows)), path)
    return path


def judge(public):
    if public.fields["verifier"] == "math":
        return is_right_mathematics
    if public.fields["verifier"] == "choice":
        return is_right_choice
    sandbox = Sandbox(timeout_seconds=60.0, memory_megabytes=512, packages=list(public.packages))
    return lambda answer, reference: sandbox.check(answer, reference).right


@pytest.mark.parametrize("public", PUBLIC_SETS, ids=[each.name for each in PUBLIC_SETS])
def test_a_row_is_loaded_and_judged(public, tmp_path):
    loaded = [load(public, write(public, kind, tmp_path)) for kind in public.files]
    prompt = loaded[0][0]
    for again in loaded[1:]:
        assert [(each.text, each.answer) for each in again] == [(each.text, each.answer) for each in loaded[0]]
    last_turn = prompt.text.rpartition("[user]")[2].removesuffix("[end][assistant]")
    start = public.prompt.removesuffix("...")
    assert last_turn.startswith(start) if start != public.prompt else last_turn == public.prompt

    is_right = judge(public)
    if public.fields["verifier"] == "code":
        solution = parse_code_reference(prompt.answer).solution
        right, wrong = [*([solution] if solution else []), *public.right], do_nothing_programs(prompt.answer)
    else:
        right, wrong = [*build_right_answers(public.fields["verifier"], prompt.answer), *public.right], WRONG_ANSWERS
    assert right, "no answer that must be right"
    assert [answer for answer in right if not is_right(answer, prompt.answer)] == []
    assert [answer for answer in [*wrong, *public.wrong] if is_right(answer, prompt.answer)] == []
