"""Packing makes no difference on CUDA: the loss of a packed plan is that of its sequences one by one."""

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from scalerl_runtime.actors.varlen_attention import ATTENTION_NAME, forward_hidden, register_attention
from scalerl_runtime.algorithm.head import linear_logprob, select_positions
from scalerl_runtime.algorithm.packing import plan_packs


def _loss(model: Qwen3ForCausalLM, sequences: list[torch.Tensor]) -> torch.Tensor:
    """Sum of log-probabilities of all tokens but the first of each sequence."""
    lengths = [len(sequence) for sequence in sequences]
    bounds = torch.tensor([0, *lengths], device="cuda").cumsum(0)
    positions = torch.cat([torch.arange(length, device="cuda") for length in lengths])
    tokens = torch.cat(sequences)
    hidden = forward_hidden(model, tokens, positions, bounds)
    chosen = select_positions(hidden, tokens, positions > 0, bounds)
    return linear_logprob(chosen.hidden, model.lm_head.weight, chosen.target, precision="fp32", chunk=64)[0].sum()


def test_packed_loss_and_gradient_equal_one_by_one() -> None:
    register_attention()
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen3ForCausalLM._from_config(config, attn_implementation=ATTENTION_NAME).cuda()
    lengths = torch.randint(2, 60, (24,)).tolist()
    sequences = [torch.randint(0, 64, (length,), device="cuda") for length in lengths]
    plan = plan_packs(lengths, budget=200, ranks=2, quadratic=1e-3)

    packs = [pack for rank in plan.packs for pack in rank if pack]
    losses, gradients = [], []
    for groups in (packs, [(index,) for index in range(24)]):
        model.zero_grad()
        loss = sum(_loss(model, [sequences[index] for index in group]) for group in groups)
        loss.backward()
        losses.append(loss.item())
        gradients.append(model.model.embed_tokens.weight.grad.clone())
    assert abs(losses[0] - losses[1]) < 1e-4 * abs(losses[1])
    assert float((gradients[0] - gradients[1]).abs().max()) < 1e-3 * float(gradients[1].abs().max())
