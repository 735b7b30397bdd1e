"""A small Qwen3-architecture model with random weights and a tokenizer of single characters, as a folder. I/O."""

import shutil
import tempfile
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from scalerl_api.recipe import ThinkTags
from scalerl_api.rlrun import ScratchModel

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
DEFAULT_TAGS = ThinkTags()
CHARACTERS = "\n" + "".join(chr(code) for code in range(32, 127))  # newline and printable ASCII

# With a multiple of 64 rows the engine does not pad its vocabulary, so both sides have weights of one shape.
VOCABULARY_MULTIPLE = 64


def build_vocabulary(tags: ThinkTags = DEFAULT_TAGS) -> dict[str, int]:
    """Return token -> id; the size is a multiple of VOCABULARY_MULTIPLE.

    The reserved tokens at the end are real: a model with random weights samples every id, and each must decode.
    """
    tokens = list(dict.fromkeys((PAD, EOS, UNKNOWN, tags.open, tags.close, *CHARACTERS)))
    tokens += [f"<reserved_{index}>" for index in range(-len(tokens) % VOCABULARY_MULTIPLE)]
    return {token: index for index, token in enumerate(tokens)}


def build_tokenizer(context_tokens: int, tags: ThinkTags = DEFAULT_TAGS) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per character and per tag; other characters become `<unk>`.

    Encoding adds nothing and decoding joins without a space, so known text is unchanged by a round trip.
    """
    tokenizer = Tokenizer(models.WordLevel(build_vocabulary(tags), unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    # Not special, as in Qwen3: a decoder that skips special tokens must keep them, or no answer can be found.
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in (tags.open, tags.close)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
        model_max_length=context_tokens,
    )


def build_config(sizes: ScratchModel, *, context_tokens: int) -> Qwen3Config:
    """Return the architecture of `sizes`, with room for `context_tokens` of prompt and completion together."""
    vocabulary = build_vocabulary()
    return Qwen3Config(
        vocab_size=len(vocabulary),
        hidden_size=sizes.hidden_size,
        intermediate_size=sizes.intermediate_size,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        max_position_embeddings=context_tokens,
        tie_word_embeddings=sizes.tied_embeddings,
        bos_token_id=None,
        eos_token_id=vocabulary[EOS],
        pad_token_id=vocabulary[PAD],
        dtype="float32",
    )


def make_scratch_model(
    folder: Path, sizes: ScratchModel, *, context_tokens: int, seed: int, tags: ThinkTags = DEFAULT_TAGS
) -> None:
    """Write a Hugging Face folder: config, float32 weights, tokenizer. The same seed gives the same weights.

    Args:
        folder: missing or empty before the call; appears in one rename, so a killed start leaves no partial model.
        sizes: of the network.
        context_tokens: longest prompt and completion together.
        seed: of the random weights; the process's generator state is unchanged.
        tags: around the thinking.

    Raises OSError if `folder` is not empty.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(build_config(sizes, context_tokens=context_tokens)).float()
    model.generation_config = GenerationConfig(
        eos_token_id=model.config.eos_token_id, pad_token_id=model.config.pad_token_id
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        model.save_pretrained(unfinished)
        build_tokenizer(context_tokens, tags).save_pretrained(unfinished)
        unfinished.chmod(0o755)  # mkdtemp's 0700 would hide the model from other users
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
