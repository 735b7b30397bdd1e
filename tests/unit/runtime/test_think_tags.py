import functools
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from scalerl_api.recipe import ThinkTags
from scalerl_runtime.data.scratch_model import build_tokenizer
from scalerl_runtime.think_tags import TagFinder, opens_thinking

TAGS = ["<think>", "</think>", "[/THINK]", "<|channel|>final<|message|>", "#", "◁/think▷", "思考終了", "end of thought"]
AROUND = ["", "\n", " ", "x", ">", "<", "</", "=>\n", "思", "é", "think", "\n\n", "/", "[", "|>", "◁"]


@functools.cache
def byte_level():
    """A byte-level BPE trained on text in which tags stand in many contexts, so that merges reach over their ends."""
    texts = [f"{left}{tag}{right}" for tag in TAGS for left in AROUND for right in AROUND] * 3
    return train(Tokenizer(models.BPE()), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), texts)


@functools.cache
def sentence_piece():
    """A BPE with a mark for spaces and tokens for bytes, as of Llama 2, Gemma and Mistral."""
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    bpe = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    texts = [f"{left}{tag}{right}" for tag in TAGS[:5] for left in AROUND for right in AROUND if right.isascii()]
    made = train(bpe, pre_tokenizers.Metaspace(), [text for text in texts if text.isascii()] * 3, bytes_)
    made.backend_tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return made


def train(tokenizer, pre_tokenizer, texts, special=()):
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet() if not special else []
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=alphabet, special_tokens=["<unk>", *special], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def ends_by_definition(tokenizer, tag, tokens):
    """Where the text of the first tokens holds the tag for the first time."""
    decode = functools.partial(tokenizer.decode, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return next((end for end in range(1, len(tokens) + 1) if tag in decode(tokens[:end])), None)


@settings(deadline=None)
@given(
    make=st.sampled_from([byte_level, sentence_piece]),
    tag=st.sampled_from(TAGS),
    parts=st.lists(st.sampled_from([*AROUND, *TAGS]), max_size=12),
    cuts=st.lists(st.integers(0, 60), max_size=4),
)
def test_a_tag_is_found_where_the_text_first_holds_it(make, tag, parts, cuts):
    tokenizer = make()
    tokens = tokenizer.encode("".join(parts), add_special_tokens=False)
    wanted = ends_by_definition(tokenizer, tag, tokens)
    finder = TagFinder(tag, tokenizer)
    assert finder.find_end(tokens, 0, len(tokens)) == wanted
    # The same piece by piece, as an engine sees a completion.
    places = sorted({0, *(cut for cut in cuts if cut < len(tokens)), len(tokens)})
    found = [finder.find_end(tokens[:stop], begin, stop) for begin, stop in pairwise(places)]
    assert next((end for end in found if end is not None), None) == wanted


@settings(deadline=None)
@given(
    tag=st.sampled_from(TAGS),
    parts=st.lists(st.integers(0, 699), max_size=40),
)
def test_any_tokens_of_a_model(tag, parts):
    tokenizer = byte_level()
    tokens = [token % len(tokenizer) for token in parts]
    assert TagFinder(tag, tokenizer).find_end(tokens, 0, len(tokens)) == ends_by_definition(tokenizer, tag, tokens)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("2+2=<think>", 0), ("<think>2+2=<think>\n", 1), ("2+2=<think>ab", 2), ("2+2=", 0), ("", 0)],
)
def test_tokens_after_the_last_tag(text, wanted):
    tokenizer = build_tokenizer(64)
    assert TagFinder("<think>", tokenizer).count_after(tokenizer.encode(text)) == wanted


@settings(deadline=None)
@given(tag=st.sampled_from(TAGS), before=st.sampled_from(AROUND), after=st.sampled_from(["", "\n", "\n\n", " x", "x"]))
def test_what_follows_the_tag_in_a_prompt_is_counted(tag, before, after):
    tokenizer = byte_level()
    tokens = tokenizer.encode(before + tag + after, add_special_tokens=False)
    count = TagFinder(tag, tokenizer).count_after(tokens)
    assert tag in tokenizer.decode(tokens[: len(tokens) - count])
    assert tag not in tokenizer.decode(tokens[: len(tokens) - count - 1])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("", False), ("<a>", True), ("<a></a>", False), ("<a></a><a>\n", True), ("</a>", False), ("<a> in <a>", True)],
)
def test_open_thinking(text, wanted):
    assert opens_thinking(text, ThinkTags(open="<a>", close="</a>")) == wanted
