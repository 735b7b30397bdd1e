import logging
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from scalerl_api import InvalidRun
from scalerl_api.rlrun import LoraSpec
from scalerl_runtime.data.fingerprint import digest_model, digest_tokenizer
from scalerl_runtime.data.run_data import Data
from scalerl_runtime.process.input_check import DataRefused, check_inputs, describe_inputs
from scalerl_runtime.types import Prompt

RUN = SimpleNamespace(spec=SimpleNamespace(model=SimpleNamespace(source="some/model", lora=None)))


class FakeTokenizer:
    chat_template = "{{ messages }}"

    def __init__(self, **tokens):
        self.tokens = {"a": 0, "b": 1, **tokens}

    def get_vocab(self):
        return self.tokens


def prompts(numbers, offset=0):
    return tuple(Prompt(offset + i, f"q{n}", np.array([n], np.int32), f"a{n}") for i, n in enumerate(numbers))


def data(train=range(6), held_out=(10, 11), downstream=(20,)):
    return Data(prompts(train), prompts(held_out, 100), {"near": prompts(downstream)}, (), 0)


def describe(tmp_path, found=None, tokenizer=None, config=b"{}"):
    (tmp_path / "config.json").write_bytes(config)
    return describe_inputs(RUN, tmp_path, tokenizer or FakeTokenizer(), found or data())


def check(tmp_path, inputs, stored, *, accepted=""):
    return check_inputs(tmp_path, inputs, stored, accepted=accepted)


@pytest.fixture
def stored(tmp_path):
    """The fingerprint of a first attempt, whose prompts' digests are in the folder."""
    inputs = describe(tmp_path)
    assert check(tmp_path, inputs, None) is None
    return inputs.fingerprint.to_dict()


def test_the_same_inputs_go_on(tmp_path, stored):
    assert check(tmp_path, describe(tmp_path), stored) is None


def changed_answer():
    (first, *rest) = data().train
    return replace(data(), train=(replace(first, answer="other"), *rest))


CHANGES = [
    (data(train=range(7)), "train: 1 prompts added, 0 removed, 0 with another reference"),
    (data(train=range(5)), "train: 0 prompts added, 1 removed"),
    (changed_answer(), "train: 0 prompts added, 0 removed, 1 with another reference"),
    (data(train=[1, 0, 2, 3, 4, 5]), "0 with another reference, 2 at another row"),
    (data(held_out=(10, 3)), "1 held-out prompts are such that were trained on"),
    (data(downstream=(21,)), "downstream near: 1 prompts added, 1 removed"),
    (replace(data(), downstream={}), "downstream near: the set is gone"),
    (replace(data(), downstream={**data().downstream, "new": prompts([1])}), "downstream new: the set is new"),
]


@pytest.mark.parametrize(("found", "text"), CHANGES)
def test_other_data_is_refused_with_what_changed(tmp_path, stored, found, text):
    with pytest.raises(InvalidRun, match="accept-new-data") as caught:
        check(tmp_path, describe(tmp_path, found), stored)
    assert text in str(caught.value)


@pytest.mark.parametrize("found", [found for found, _ in CHANGES])
def test_without_stored_digests_it_is_refused_all_the_same(tmp_path, stored, found):
    for path in tmp_path.glob("prompt-digests-*"):
        path.write_bytes(b"damaged")
    with pytest.raises(InvalidRun, match="changed since the checkpoint"):
        check(tmp_path, describe(tmp_path, found), stored)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"tokenizer": FakeTokenizer(c=2)}, "another tokenizer"),
        ({"config": b'{"layers": 2}'}, "another model"),
    ],
)
def test_another_tokenizer_or_model_is_refused(tmp_path, stored, options, text):
    with pytest.raises(InvalidRun, match=text):
        check(tmp_path, describe(tmp_path, **options), stored)


@pytest.mark.parametrize(("lora", "is_refused"), [(LoraSpec(), True), (None, False)])
def test_other_weights_below_adapters_are_refused(tmp_path, monkeypatch, lora, is_refused):
    """A checkpoint of adapters does not hold them; one of a whole model does, and its base plays no part any more."""
    monkeypatch.setattr(RUN.spec.model, "lora", lora)
    for index in (1, 2):
        torch.manual_seed(0)
        save_file({"a": torch.randn(300, 300)}, tmp_path / f"model-{index}.safetensors")
    inputs = describe(tmp_path)
    check(tmp_path, inputs, None)
    stored = inputs.fingerprint.to_dict()
    assert check(tmp_path, describe(tmp_path), stored) is None
    save_file({"a": torch.randn(300, 300)}, tmp_path / "model-2.safetensors")
    if is_refused:
        with pytest.raises(InvalidRun, match="another model .* or the weights below adapters"):
            check(tmp_path, describe(tmp_path), stored)
    else:
        assert check(tmp_path, describe(tmp_path), stored) is None


def test_a_chat_template_is_part_of_the_tokenizer():
    assert digest_tokenizer({"a": 0}, "x") != digest_tokenizer({"a": 0}, "y")
    assert digest_tokenizer({"a": 0, "b": 1}, None) == digest_tokenizer({"b": 1, "a": 0}, None)
    assert digest_model("ab", b"c") != digest_model("a", b"bc")


def test_accepted_data_goes_on_with_the_prompts_that_are_as_they_were(tmp_path, stored, caplog):
    found = data(train=[0, 1, 9, 3])
    inputs = describe(tmp_path, found)
    assert check(tmp_path, inputs, stored, accepted="true") == {0, 1, 3}
    assert "accepted, though changed" in caplog.text
    # An attempt that ends before its first checkpoint leaves the older fingerprint: the next can still count.
    with pytest.raises(InvalidRun, match="1 prompts added, 3 removed"):
        check(tmp_path, inputs, stored)
    assert check(tmp_path, inputs, inputs.fingerprint.to_dict()) is None
    assert len(list(tmp_path.glob("prompt-digests-*"))) == 1, "those of older data are removed"


def test_accepted_data_whose_digests_are_gone_keeps_no_prompt(tmp_path, stored):
    for path in tmp_path.glob("prompt-digests-*"):
        path.unlink()
    assert check(tmp_path, describe(tmp_path, data(train=range(7))), stored, accepted="true") == frozenset()


def test_a_checkpoint_of_an_older_version_goes_on_with_a_line(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    assert check(tmp_path, describe(tmp_path), {}) is None
    assert "no digest of its data" in caplog.text


def test_a_digest_accepts_one_change_and_no_later_one(tmp_path, stored):
    first, later = describe(tmp_path, data(train=range(7))), describe(tmp_path, data(train=range(8)))
    with pytest.raises(DataRefused) as caught:
        check(tmp_path, first, stored)
    digest = caught.value.digest
    assert re.fullmatch("[0-9a-f]{32}", digest)
    assert f"kubectl annotate rlrun NAME --overwrite scalerl.io/accept-new-data={digest}" in str(caught.value)
    assert check(tmp_path, first, stored, accepted=digest) == frozenset(range(6))
    with pytest.raises(DataRefused, match=rf"\(what is accepted, {digest}, is another change\)") as again:
        check(tmp_path, later, stored, accepted=digest)
    assert again.value.digest != digest


@pytest.mark.parametrize("changed", ["tokenizer", "model", "data"])
def test_every_input_is_in_the_digest(tmp_path, changed):
    same = describe(tmp_path).fingerprint.key
    assert same == describe(tmp_path).fingerprint.key
    others = {
        "tokenizer": {"tokenizer": FakeTokenizer(c=2)},
        "model": {"config": b"[]"},
        "data": {"found": data(downstream=(21,))},
    }
    assert describe(tmp_path, **others[changed]).fingerprint.key != same


def test_a_long_change_leaves_room_for_the_digest():
    refused = DataRefused("; ".join(f"downstream set-{i}: 1 prompts added, 1 removed" for i in range(40)), "d" * 32)
    assert "d" * 32 in str(refused)[:1000]
