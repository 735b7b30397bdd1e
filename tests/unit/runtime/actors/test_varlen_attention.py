"""Packed rows equal each sequence alone, by value and gradient; no row-squared tensor; misuse is refused."""

import functools
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM
from transformers.masking_utils import causal_mask_function, or_masks

from scalerl_runtime.actors import varlen_attention
from scalerl_runtime.actors.block_attention import AttentionRule
from scalerl_runtime.actors.packed_row import LengthBucket, plan_row
from scalerl_runtime.actors.varlen_attention import (
    ATTENTION_NAME,
    RowMask,
    attend_row,
    forward_hidden,
    register_attention,
)

LENGTHS = [5, 1, 17, 3, 9]  # buckets of 17 and 9, of 5 and 3, of 1


def _cu_seqlens(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def _qwen3(attention: str, **settings: float) -> PreTrainedModel:
    register_attention()
    torch.manual_seed(3)
    config = Qwen3Config(
        vocab_size=23,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        initializer_range=0.2,
        **settings,
    )
    model: PreTrainedModel = Qwen3ForCausalLM._from_config(config, attn_implementation=attention)
    return model


def _row(lengths: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    tokens = torch.randint(0, 23, (sum(lengths),), generator=torch.Generator().manual_seed(4))
    return tokens, torch.cat([torch.arange(length) for length in lengths]), _cu_seqlens(lengths)


def test_equal_scores_average_the_earlier_tokens_of_the_sequence() -> None:
    # Zero queries: every visible token has equal weight. Sequences of values 1 3 and 10 20 60.
    value = torch.tensor([1.0, 3.0, 10.0, 20.0, 60.0]).view(5, 1, 1)
    query, key = torch.zeros(5, 2, 1), torch.ones(5, 1, 1)
    out = attend_row(query, key, value, plan_row(_cu_seqlens([2, 3])))
    assert out.shape == (5, 2, 1)
    for head in range(2):
        torch.testing.assert_close(out[:, head, 0], torch.tensor([1.0, 2.0, 10.0, 15.0, 30.0]))


def test_scale_is_of_the_scores() -> None:
    # Keys 0 and ln 9, query 1: scores halved are 0 and ln 3, weights 1/4 and 3/4 of values 0 and 8.
    key = torch.tensor([1.0, 9.0]).log().view(2, 1, 1)
    value = torch.tensor([0.0, 8.0]).view(2, 1, 1)
    out = attend_row(torch.ones(2, 1, 1), key, value, plan_row(_cu_seqlens([2])), rule=AttentionRule(0.5))
    torch.testing.assert_close(out.flatten(), torch.tensor([0.0, 6.0]))


@pytest.mark.parametrize("lengths", [LENGTHS, [4], [1, 1, 1], [2, 64, 2], [7, 8, 9, 10]])
def test_row_equals_each_sequence_alone(lengths: list[int]) -> None:
    g = torch.Generator().manual_seed(6)
    heads = (4, 2, 2)
    packed = [torch.randn(sum(lengths), n, 8, generator=g, dtype=torch.float64).requires_grad_() for n in heads]
    alone = [tensor.detach().clone().requires_grad_() for tensor in packed]
    out = attend_row(*packed, plan_row(_cu_seqlens(lengths)))
    expected = torch.cat([_attend_alone(*(t[a:b] for t in alone)) for a, b in pairwise(_cu_seqlens(lengths).tolist())])
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=0.0)
    weights = torch.randn(out.shape, generator=g, dtype=torch.float64)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    for one, other in zip(packed, alone, strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-12, rtol=0.0)


def _attend_alone(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention of one sequence, written out; [T, heads, D]."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = torch.einsum("ihd,jhd->hij", query, key) * query.shape[-1] ** -0.5
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return torch.einsum("hij,jhd->ihd", scores.masked_fill(future, -torch.inf).softmax(-1), value)


@pytest.mark.parametrize(
    ("lengths", "buckets"),
    [
        ([3], [LengthBucket(1, 3)]),
        ([5, 8, 4], [LengthBucket(3, 8)]),  # 4 is just half of 8
        ([5, 8, 3], [LengthBucket(2, 8), LengthBucket(1, 3)]),  # 3 is less
        ([100, 2, 50, 1, 49], [LengthBucket(2, 100), LengthBucket(1, 49), LengthBucket(2, 2)]),
    ],
)
def test_sequences_of_similar_length_share_a_bucket(lengths: list[int], buckets: list[LengthBucket]) -> None:
    row = plan_row(_cu_seqlens(lengths))
    assert list(row.buckets) == buckets
    assert row.max_length == max(lengths)
    assert row.cu_seqlens.dtype == torch.int32


def test_slots_by_hand() -> None:
    # Sequences of 2, 5, 1. Bucket of the 5: slots 0 to 4. Bucket of the 2 and the 1, both padded to 2: 5 6 and 7 (8).
    row = plan_row(_cu_seqlens([2, 5, 1]))
    assert row.slots.tolist() == [5, 6, 0, 1, 2, 3, 4, 7]
    assert row.num_slots == 9


def test_model_on_a_packed_row_equals_each_sequence_alone() -> None:
    tokens, positions, cu_seqlens = _row(LENGTHS)
    model, other = _qwen3(ATTENTION_NAME), _qwen3("eager")
    for one in (model, other):
        one.base_model.layers[1].self_attn.scaling = 0.5  # not what the head size alone would give
    hidden = forward_hidden(model, tokens, positions, cu_seqlens)
    alone = torch.cat(
        [other.base_model(tokens[a:b][None]).last_hidden_state[0] for a, b in pairwise(cu_seqlens.tolist())]
    )
    assert hidden.shape == (35, 32)
    assert float((hidden - alone).detach().abs().max()) <= 1e-5
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(8)) / len(tokens)
    (hidden * weights).sum().backward()
    (alone * weights).sum().backward()
    others = dict(other.base_model.named_parameters())
    for name, parameter in model.base_model.named_parameters():
        assert parameter.grad is not None
        assert others[name].grad is not None
        assert float(parameter.grad.abs().max()) > 0
        assert float((parameter.grad - others[name].grad).abs().max()) <= 1e-5, name


def test_positions_reach_the_model() -> None:
    """Rotary attention depends on differences of positions only, so its values cannot show it."""
    model, positions = _qwen3(ATTENTION_NAME), []
    model.base_model.rotary_emb.register_forward_pre_hook(lambda _module, args: positions.append(args[1].tolist()))
    forward_hidden(model, *_row([3, 2]))
    assert positions == [[[0, 1, 2, 0, 1]]]


def test_checkpointed_model_has_the_same_gradients_bit_for_bit() -> None:
    tokens, positions, cu_seqlens = _row(LENGTHS)
    grads = []
    for checkpointed in (False, True):
        model = _qwen3(ATTENTION_NAME).train()
        if checkpointed:
            model.gradient_checkpointing_enable()
        calls = []
        model.base_model.layers[0].input_layernorm.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        forward_hidden(model, tokens, positions, cu_seqlens).square().sum().backward()
        assert len(calls) == (2 if checkpointed else 1)
        grads.append([parameter.grad for parameter in model.base_model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*grads, strict=True))


class _LargestTensor(TorchDispatchMode):
    """The number of elements of the largest tensor created inside it."""

    numbers = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],  # noqa: ARG002  # the signature is torch's
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        out = func(*args, **(kwargs or {}))
        made = [leaf.untyped_storage().nbytes() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.numbers = max([self.numbers, *(size // 4 for size in made)])
        return out


@pytest.mark.parametrize(("attention", "squared"), [(ATTENTION_NAME, False), ("sdpa", True)])
def test_nothing_is_as_large_as_row_squared(attention: str, *, squared: bool) -> None:
    """transformers' own packed rows prove that the measurement detects its N x N mask (a byte an element)."""
    lengths = [40] * 20
    tokens, positions, cu_seqlens = _row(lengths)
    model = _qwen3(attention)
    with _LargestTensor() as largest:
        if attention == ATTENTION_NAME:
            forward_hidden(model, tokens, positions, cu_seqlens)
        else:
            model.base_model(input_ids=tokens[None], position_ids=positions[None], use_cache=False)
    assert (largest.numbers >= sum(lengths) ** 2 / 4) == squared


def test_registering_twice_is_harmless() -> None:
    register_attention()
    register_attention()


@pytest.mark.parametrize("bounds", [[0], [1, 4], [0, 4, 4], [0, 4, 3], []])
def test_impossible_bounds_are_refused(bounds: list[int]) -> None:
    with pytest.raises(ValueError, match="cu_seqlens is"):
        plan_row(torch.tensor(bounds, dtype=torch.int64))


def test_row_of_another_length_is_refused() -> None:
    rows = torch.zeros(6, 1, 1)
    with pytest.raises(ValueError, match="6 queries and 6 keys; its layout 5"):
        attend_row(rows, rows, rows, plan_row(_cu_seqlens([2, 3])))


def test_another_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="model's attention is 'sdpa'"):
        forward_hidden(_qwen3("sdpa"), *_row([3, 2]))


def test_dropout_is_refused() -> None:
    with pytest.raises(ValueError, match="Qwen3Attention has dropout 0.1: scalerl_varlen has not"):
        forward_hidden(_qwen3(ATTENTION_NAME, attention_dropout=0.1).train(), *_row([3, 2]))


def test_attention_mask_is_refused() -> None:
    row = plan_row(_cu_seqlens([3]))
    describe = functools.partial(varlen_attention._describe_mask, mask_function=causal_mask_function)
    token = varlen_attention._current_mask.set(RowMask(row))
    with pytest.raises(ValueError, match="packs without padding"):
        describe(attention_mask=torch.tensor([[0, 1, 1]]))
    assert describe(attention_mask=torch.ones(1, 3)) == RowMask(row)
    varlen_attention._current_mask.reset(token)


def test_model_called_without_a_packed_row_is_refused() -> None:
    with pytest.raises(ValueError, match="attends one packed row"):
        _qwen3(ATTENTION_NAME)(torch.zeros(1, 3, dtype=torch.int64))


def test_attention_of_another_direction_is_refused() -> None:
    model = _qwen3(ATTENTION_NAME)
    model.base_model.layers[1].self_attn.is_causal = False
    with pytest.raises(ValueError, match="Qwen3Attention has attention to later tokens"):
        forward_hidden(model, *_row([3, 2]))


def test_unknown_argument_is_refused_by_name_if_it_has_a_value() -> None:
    model = _qwen3(ATTENTION_NAME)
    attend = functools.partial(varlen_attention._transformers_attention, model.base_model.layers[0].self_attn)
    rows, mask = [torch.zeros(1, 2, 3, 4)] * 3, RowMask(plan_row(_cu_seqlens([3])))
    attend(*rows, attention_mask=mask, position_bias=None, output_attentions=False)
    for given, said in ((torch.zeros(1), "Tensor"), (0.5, "0.5")):
        with pytest.raises(ValueError, match=f"Qwen3Attention has position_bias {said}: scalerl_varlen has not"):
            attend(*rows, attention_mask=mask, position_bias=given)


def test_layer_with_a_mask_of_its_own_is_refused() -> None:
    layer = _qwen3(ATTENTION_NAME).base_model.layers[0].self_attn
    for mask in (None, torch.zeros(1, 1, 3, 3)):
        with pytest.raises(ValueError, match="Qwen3Attention has a mask of its own"):
            varlen_attention._transformers_attention(layer, *[torch.zeros(1, 2, 3, 4)] * 3, attention_mask=mask)


def test_unknown_mask_is_refused() -> None:
    with pytest.raises(ValueError, match=r"masks attention by or_masks\.<locals>\.or_mask"):
        varlen_attention._mask_sizes(or_masks(causal_mask_function, lambda *_: True))


def test_window_that_differs_from_the_mask_is_refused() -> None:
    """Kernels with a window of their own would follow the argument, transformers' eager attention the mask."""
    model = _qwen3(ATTENTION_NAME)
    model.base_model.layers[0].self_attn.sliding_window = 7
    with pytest.raises(ValueError, match="Qwen3Attention has sliding_window 7"):
        forward_hidden(model, *_row([3, 2]))
