"""Memory that the forward pass keeps for the backward: bytes a token and layer, for real shapes of layers.

`python bench/runtime/activation_memory.py` prints a table. The tensors that autograd saves are counted, on the CPU in
bf16, for a model of two and of one layer; the difference is a layer's. Nothing depends on the number of tokens.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoConfig, AutoModelForCausalLM

from scalerl_runtime.actors.activations import Activations, arrange_activations
from scalerl_runtime.actors.policy import Policy
from scalerl_runtime.actors.varlen_attention import ATTENTION_NAME, register_attention

TOKENS = 32
VOCABULARY = 512  # the embedding is not what is counted

# Widths of published models: hidden, heads, key heads, head dimension, MLP. Qwen3's own config.json has the same.
SHAPES: Mapping[str, Mapping[str, int]] = {
    "Qwen3-0.6B": {"hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 8, "intermediate_size": 3072},
    "Qwen3-8B": {"hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 12_288},
    "Qwen3-32B": {
        "hidden_size": 5120,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "intermediate_size": 25_600,
    },
}
LAYERS = {"Qwen3-0.6B": 28, "Qwen3-8B": 36, "Qwen3-32B": 64}


@dataclass(frozen=True)
class KeptBytes:
    """Bytes a token that are kept until the backward pass."""

    per_layer: float
    rest: float  # embedding, final norm, head, and what all layers share


def measure_kept(shape: Mapping[str, int], activations: Activations) -> KeptBytes:
    """Return what a Qwen3 model of these widths keeps on its device, in bf16."""
    one, two = (count_kept(build_policy(shape, layers), activations) / TOKENS for layers in (1, 2))
    return KeptBytes(per_layer=two - one, rest=2 * one - two)


def build_policy(shape: Mapping[str, int], layers: int) -> Policy:
    """Return a bf16 policy of these widths; its weights are zeros, which take no time to make."""
    config = AutoConfig.for_model(
        "qwen3", num_hidden_layers=layers, head_dim=128, vocab_size=VOCABULARY, tie_word_embeddings=False, **shape
    )
    register_attention()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation=ATTENTION_NAME)
    zeros = {name: torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in _tensors(model)}
    for name, tensor in zeros.items():
        parent, _, own = name.rpartition(".")
        module = model.get_submodule(parent)
        if own in module._parameters:
            setattr(module, own, nn.Parameter(tensor))
        else:
            module.register_buffer(own, tensor, persistent=False)
    model.eval()
    return Policy(model, precision="fp32", temperature=1.0)


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def count_kept(policy: Policy, activations: Activations) -> int:
    """Return the bytes that one forward of TOKENS tokens keeps on the device, weights aside; each storage once."""
    arrange_activations(policy.model, activations)
    weights = {parameter.untyped_storage().data_ptr() for parameter in policy.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address is used twice
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        policy(*make_row(policy.model.config.vocab_size))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def make_row(vocabulary: int) -> tuple[Tensor, ...]:
    """Return a row of two sequences, of which half of the tokens are trained."""
    lengths = (TOKENS // 2, TOKENS // 2)
    tokens = torch.randint(0, vocabulary, (TOKENS,), generator=torch.Generator().manual_seed(0))
    positions = torch.cat([torch.arange(length) for length in lengths])
    trained = torch.arange(TOKENS)[positions >= lengths[0] // 2]
    return tokens, positions, torch.tensor([0, *accumulate(lengths)]), trained - 1, tokens[trained]


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--tokens", type=int, default=16_384, help="of a micro-batch, for the last column")
    options = parser.parse_args(arguments)
    print("| shape | activations | KiB a token and layer | GiB of all layers |\n|---|---|---|---|")
    for name, shape in SHAPES.items():
        for activations in ("keep", "checkpoint", "offload"):
            kept = measure_kept(shape, activations)
            whole = kept.per_layer * LAYERS[name] * options.tokens / 2**30
            print(f"| {name} | {activations} | {kept.per_layer / 1024:.1f} | {whole:.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
