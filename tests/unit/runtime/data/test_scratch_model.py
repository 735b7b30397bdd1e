import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, Qwen3ForCausalLM

from scalerl_api.rlrun import ScratchModel
from scalerl_runtime.data.scratch_model import build_tokenizer, make_scratch_model

SIZES = ScratchModel(
    hidden_size=48, layers=2, heads=3, kv_heads=1, head_dim=64, intermediate_size=80, tied_embeddings=True
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_scratch_model(folder, SIZES, context_tokens=96, seed=11)
    return folder


@pytest.mark.parametrize(
    ("text", "tokens", "rule"),
    [
        ("a", ["a"], "a character is one token"),
        (" a  b\n", [" ", "a", " ", " ", "b", "\n"], "spaces and newlines are tokens too"),
        ("<think>4</think>4", ["<think>", "4", "</think>", "4"], "the marks of thinking are one token each"),
        ("<thin", ["<", "t", "h", "i", "n"], "half a mark is characters"),
        ("</think>.", ["</think>", "."], "nothing is put beside a mark"),
        ("4<eos>", ["4", "<eos>"], "the end of sequence is one token"),
        ("é", ["<unk>"], "an unknown character is <unk>"),
        ("", [], "nothing is put around a text"),
    ],
)
def test_tokens(text, tokens, rule):
    tokenizer = build_tokenizer(64)
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode(text)) == tokens, rule


def test_every_known_character_survives_encoding_and_decoding():
    text = "".join(map(chr, range(32, 127))) + "\n  .  ' , ?<think> x </think> n't 's\n\n"
    tokenizer = build_tokenizer(64)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text, "the marks are not special"


def test_tokenizer_loads_from_the_folder_as_it_was_made(folder):
    loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    text = "12+7 =  19\n<think>a </think>19"
    assert loaded.decode(loaded.encode(text)) == text
    assert (loaded.pad_token, loaded.eos_token, loaded.unk_token) == ("<pad>", "<eos>", "<unk>")
    assert len(loaded.encode(text)) == 17, "ten characters, newline, mark, two characters, mark, two characters"


def test_every_id_of_the_model_decodes(folder):
    loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    assert size % 64 == 0
    assert None not in loaded.convert_ids_to_tokens(list(range(size)))
    assert len(loaded) == size


def test_config_has_the_requested_sizes(folder):
    config = json.loads((folder / "config.json").read_text())
    expected = {
        "architectures": ["Qwen3ForCausalLM"],
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "intermediate_size": 80,
        "tie_word_embeddings": True,
        "max_position_embeddings": 96,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    assert {key: config[key] for key in expected} == expected


def test_weights_are_float32_and_load(folder):
    weights = load_file(folder / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert "lm_head.weight" not in weights, "tied embeddings are stored once"
    assert weights["model.layers.1.self_attn.k_proj.weight"].shape == (64, 48)
    model = Qwen3ForCausalLM.from_pretrained(folder, local_files_only=True)
    assert torch.isfinite(model(torch.tensor([[5, 6, 7]])).logits).all()


def test_untied_embeddings_are_two_matrices(tmp_path: Path):
    make_scratch_model(tmp_path / "m", SIZES.model_copy(update={"tied_embeddings": False}), context_tokens=32, seed=1)
    assert "lm_head.weight" in load_file(tmp_path / "m" / "model.safetensors")


def test_same_seed_same_weights_and_another_seed_others(folder, tmp_path):
    first = load_file(folder / "model.safetensors")
    for seed, same in ((11, True), (12, False)):
        make_scratch_model(tmp_path / str(seed), SIZES, context_tokens=96, seed=seed)
        again = load_file(tmp_path / str(seed) / "model.safetensors")
        assert torch.equal(first["model.embed_tokens.weight"], again["model.embed_tokens.weight"]) is same


def test_the_process_keeps_its_own_random_state(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    make_scratch_model(tmp_path / "m", SIZES, context_tokens=32, seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_a_folder_that_is_not_empty_is_not_changed(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine.txt").write_text("keep")
    with pytest.raises(OSError, match="not empty"):
        make_scratch_model(tmp_path / "m", SIZES, context_tokens=32, seed=1)
    assert [path.name for path in tmp_path.iterdir()] == ["m"], "nothing half-made is left beside it"
    assert (tmp_path / "m" / "mine.txt").read_text() == "keep"
