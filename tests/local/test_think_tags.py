"""A real engine whose tokenizer has no think tokens: tags of several tokens, and tokens that end a completion."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from scalerl_api.recipe import ThinkTags
from scalerl_api.rlrun import ScratchModel
from scalerl_runtime.actors.generator import EngineOptions, Generator
from scalerl_runtime.algorithm.interruption import Interruption, forced_mask
from scalerl_runtime.data.scratch_model import make_scratch_model
from scalerl_runtime.rewards.reading.answers import find_answer
from scalerl_runtime.types import EngineOutput, SamplingRequest

TAGS = ThinkTags(open="[T", close="T]")
PHRASE = "up. T]"
BUDGET, LIMIT = 12, 40
Sampler = Callable[..., list[EngineOutput]]


def build_bpe() -> PreTrainedTokenizerFast:
    """64 tokens. `T]` is two tokens, and others where merges reach over its ends: `aT` and `]a`."""
    merges = [("a", "T"), ("]", "a"), ("[", "b"), ("u", "p")]
    tokens = ["<pad>", "<eos>", "<end>", *"abcdefgh[]T. up=+0123456789\n", *(left + right for left, right in merges)]
    tokens += [f"<{index}>" for index in range(64 - len(tokens))]
    bpe = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    bpe.decoder = decoders.Fuse()
    bpe.add_special_tokens([AddedToken(token, normalized=False) for token in ("<pad>", "<eos>", "<end>")])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", eos_token="<eos>")


TOKENIZER = build_bpe()
END, EOS = 2, 1
INTERRUPTION = Interruption.build(TAGS.open, TAGS.close, PHRASE, TOKENIZER)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sampler]:
    """`sample(prompt, count, think_tokens=0)`: completions of one engine."""
    folder: Path = tmp_path_factory.mktemp("tags") / "model"
    small = ScratchModel(hidden_size=64, layers=2)
    make_scratch_model(folder, small, context_tokens=64, seed=1)
    TOKENIZER.save_pretrained(folder)
    options = EngineOptions(
        model=str(folder), dtype="float32", head="fp32", context_tokens=64, max_sequences=64, tensor_parallel=0,
        gpu_memory_share=0.9, kv_cache_megabytes=64, temperature=1.0, phrase=PHRASE, seed=0,
        tags=(TAGS.open, TAGS.close), stop_ids=(END, EOS),
    )  # fmt: skip
    generator, loop = Generator(options), asyncio.new_event_loop()
    loop.run_until_complete(generator.start())

    def draw(prompt: str, count: int, think_tokens: int | None) -> list[EngineOutput]:
        request = SamplingRequest(LIMIT, 1.0, think_budget=BUDGET, think_tokens=think_tokens)
        tokens = np.array(TOKENIZER.encode(prompt, add_special_tokens=False), dtype=np.int32)
        return loop.run_until_complete(generator.sample(tokens, [request] * count))

    yield draw
    loop.run_until_complete(generator.stop())
    loop.close()


def test_the_tags_are_what_this_file_says() -> None:
    ids = lambda text: TOKENIZER.convert_ids_to_tokens(TOKENIZER.encode(text))  # noqa: E731 # one line
    assert (ids("T]"), ids("aT]a"), ids("[T")) == (["T", "]"], ["aT", "]a"], ["[", "T"])
    assert len(TOKENIZER) == 64


@pytest.mark.parametrize(
    ("prompt", "think_tokens"),
    [
        pytest.param("2+2=[T", 0, id="the prompt opens the thinking"),
        pytest.param("2+2=[Tab", 2, id="and begins it"),
        pytest.param("2+2=", None, id="the model opens it, or nobody does"),
    ],
)
def test_interruptions_land_where_the_mask_says(sample: Sampler, prompt: str, think_tokens: int | None) -> None:
    samples = sample(prompt, 512, think_tokens)
    masks = [forced_mask(each.tokens, INTERRUPTION, BUDGET, think_tokens) for each in samples]
    assert sum(found.mismatches for found in masks) == 0
    interrupted = [(each, found.mask) for each, found in zip(samples, masks, strict=True) if found.mask.any()]
    assert interrupted
    for each, mask in interrupted:
        assert tuple(each.tokens[mask]) == INTERRUPTION.phrase[: int(mask.sum())]
        assert each.logps[mask].mean() < -1.0, "the model's own log-probability"
        if mask.sum() == len(INTERRUPTION.phrase):
            assert find_answer(each.text, TAGS, opened=think_tokens is not None) is not None
    free = [each for each, found in zip(samples, masks, strict=True) if not found.mask.any()]
    assert not any("up. T]" in each.text for each in free), "random weights do not write six given tokens"
    if think_tokens is None:
        assert any(TAGS.open not in each.text and len(each.tokens) == LIMIT for each in free), "no thinking, no budget"


def test_a_natural_end_in_any_spelling_is_not_interrupted(sample: Sampler) -> None:
    """Random weights also write ids that no token has; they are no text, and a tag around one is none to the engine."""
    spellings = {tuple(TOKENIZER.encode(text)) for text in ("T]", "aT]", "T]a", "aT]a")}
    found: dict[tuple[int, ...], list[EngineOutput]] = {}
    for each in sample("2+2=[T", 1024, 0):
        written = [int(token) for token in each.tokens[:BUDGET]]
        for spelling in spellings:
            if any(tuple(written[i : i + len(spelling)]) == spelling for i in range(BUDGET)):
                found.setdefault(spelling, []).append(each)
    assert len(found) > 1, "the model wrote the tag in several ways"
    assert not any("up. T]" in each.text for closed in found.values() for each in closed)


def test_a_stop_token_ends_a_completion_and_is_its_last_token(sample: Sampler) -> None:
    samples = sample("2+2=", 256, None)
    ended = [each for each in samples if each.finish == "stop"]
    assert {int(each.tokens[-1]) for each in ended} == {END, EOS}
    for each in ended:
        assert not set(each.tokens[:-1].tolist()) & {END, EOS}
        assert len(each.logps) == len(each.tokens)
        assert -20.0 < each.logps[-1] < 0.0, "it is trained like any other token"
        assert "<end>" not in each.text
        assert "<eos>" not in each.text
    for each in samples:
        if each.finish == "length":
            assert len(each.tokens) == LIMIT
            assert not set(each.tokens.tolist()) & {END, EOS}
