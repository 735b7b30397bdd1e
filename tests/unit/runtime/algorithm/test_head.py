"""The fused head against hand-worked numbers and a dense float64 reference; its memory; known wrong implementations."""

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scalerl_runtime.algorithm.head import (
    CHUNK_BYTES,
    IDENTITY,
    HeadTransform,
    Precision,
    linear_logprob,
    plan_chunk,
    select_positions,
)

N, H, V = 300, 5, 600  # more rows than a backward tile on a CPU (256), more columns than its narrowest (256)
LN3 = math.log(3.0)


def _reference(hidden: Tensor, weight: Tensor, target: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    logp = (hidden.double() @ weight.double().T / temperature).log_softmax(-1)
    return logp.gather(1, target[:, None]).squeeze(1), -(logp.exp() * logp).sum(-1)


def _inputs(*dtypes: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(5)
    hidden_dtype, weight_dtype = dtypes or (torch.float32, torch.float32)
    hidden = torch.randn(N, H, generator=g).to(hidden_dtype).requires_grad_()
    weight = torch.randn(V, H, generator=g).to(weight_dtype).requires_grad_()
    return hidden, weight, torch.randint(0, V, (N,), generator=g)


def _leaf(values: Sequence[Sequence[float]], dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(values, dtype=dtype, requires_grad=True)


def test_three_to_one_odds() -> None:
    # Logits ln 3 and 0: probabilities 3/4 and 1/4.
    hidden, weight = _leaf([[1.0]]), _leaf([[LN3], [0.0]])
    logp, entropy = linear_logprob(hidden, weight, torch.tensor([0]), precision="fp32", chunk=1)
    assert logp.item() == pytest.approx(math.log(0.75))
    assert entropy.item() == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4))
    logp.sum().backward()
    # By the logits: 1 - 3/4 and 0 - 1/4.
    torch.testing.assert_close(weight.grad, torch.tensor([[0.25], [-0.25]]))
    torch.testing.assert_close(hidden.grad, torch.tensor([[0.25 * LN3]]))


def test_gradient_of_entropy_by_hand() -> None:
    hidden, weight = _leaf([[1.0]]), _leaf([[LN3], [0.0]])
    _, entropy = linear_logprob(hidden, weight, torch.tensor([1]), precision="fp32", chunk=1)
    entropy.sum().backward()
    # H = 2 ln 2 - 3/4 ln 3; by a logit -p (ln p + H): -3/4 (ln 3 - 3/4 ln 3) = -3/16 ln 3, and its opposite.
    torch.testing.assert_close(weight.grad, torch.tensor([[-3 / 16 * LN3], [3 / 16 * LN3]]))


def test_temperature_divides_the_logits() -> None:
    hidden, weight = _leaf([[1.0]]), _leaf([[2 * LN3], [0.0]])
    logp, _ = linear_logprob(hidden, weight, torch.tensor([0]), precision="fp32", temperature=2.0, chunk=1)
    assert logp.item() == pytest.approx(math.log(0.75))
    logp.sum().backward()
    torch.testing.assert_close(weight.grad, torch.tensor([[0.125], [-0.125]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_the_bf16_arm_rounds_logits(dtype: torch.dtype) -> None:
    # Logits 257 and 256, sums of numbers bf16 holds. Between 256 and 512 bf16 holds even numbers only: 257 becomes 256.
    hidden, weight = _leaf([[1.0, 1.0]], dtype), _leaf([[256.0, 1.0], [256.0, 0.0]], dtype)
    exact, _ = linear_logprob(hidden, weight, torch.tensor([0]), precision="fp32", chunk=1)
    rounded, _ = linear_logprob(hidden, weight, torch.tensor([0]), precision="bf16", chunk=1)
    assert exact.dtype == rounded.dtype == torch.float32
    assert exact.item() == pytest.approx(-math.log1p(math.exp(-1.0)))
    assert rounded.item() == pytest.approx(-math.log(2.0))


def test_huge_logits_stay_finite() -> None:
    hidden, weight = _leaf([[1.0]]), _leaf([[1e4], [-1e4]])
    logp, entropy = linear_logprob(hidden, weight, torch.tensor([1]), precision="fp32", chunk=1)
    (logp + entropy).sum().backward()
    assert logp.item() == -2e4
    assert entropy.item() == 0.0
    torch.testing.assert_close(weight.grad, torch.tensor([[-1.0], [1.0]]))


CASES = [
    # what it stands for, chunk, temperature, hidden's and weight's dtype, relative tolerance of gradients
    ("one row at a time", 1, 1.0, torch.float32, torch.float32, 1e-5),
    ("the last chunk is short", 77, 0.7, torch.float32, torch.float32, 1e-5),
    ("one chunk holds all", 10**6, 1.3, torch.float32, torch.float32, 1e-5),
    ("bf16 operands; gradients end in bf16", 77, 1.0, torch.bfloat16, torch.bfloat16, 2**-8),
    ("bf16 weight only", 300, 1.0, torch.float32, torch.bfloat16, 2**-8),
    ("bf16 hidden only", 299, 1.0, torch.bfloat16, torch.float32, 2**-8),
]


@pytest.mark.parametrize(
    ("chunk", "temperature", "hidden_dtype", "weight_dtype", "tolerance"),
    [row[1:] for row in CASES],
    ids=[row[0] for row in CASES],
)
@pytest.mark.parametrize("part", ["logp", "entropy", "both"])
def test_equals_dense_float64(
    *,
    chunk: int,
    temperature: float,
    hidden_dtype: torch.dtype,
    weight_dtype: torch.dtype,
    tolerance: float,
    part: str,
) -> None:
    hidden, weight, target = _inputs(hidden_dtype, weight_dtype)
    g = torch.Generator().manual_seed(7)
    on_logp = torch.randn(N, generator=g) * (part != "entropy")
    on_entropy = torch.randn(N, generator=g) * (part != "logp")
    logp, entropy = linear_logprob(hidden, weight, target, precision="fp32", temperature=temperature, chunk=chunk)
    exact_hidden, exact_weight = (t.detach().double().requires_grad_() for t in (hidden, weight))
    exact_logp, exact_entropy = _reference(exact_hidden, exact_weight, target, temperature)
    assert float((logp - exact_logp).detach().abs().max()) < 4e-6  # logits reach 30
    assert float((entropy - exact_entropy).detach().abs().max()) < 4e-6  # logits reach 30

    loss = {"logp": logp @ on_logp, "entropy": entropy @ on_entropy, "both": logp @ on_logp + entropy @ on_entropy}
    loss[part].backward()
    (exact_logp @ on_logp.double() + exact_entropy @ on_entropy.double()).backward()
    for leaf, exact in ((hidden, exact_hidden), (weight, exact_weight)):
        assert leaf.grad is not None
        assert exact.grad is not None
        assert leaf.grad.dtype == leaf.dtype
        assert float((leaf.grad - exact.grad).abs().max() / exact.grad.abs().max()) < tolerance


def test_bias_scale_and_cap_in_this_order() -> None:
    # Products 1 and -1, bias 1 and 1: 2 and 0. Doubled: 4 and 0. Capped at 3: 3 tanh(4/3) and 0. Halved.
    hidden, weight = _leaf([[1.0]]), _leaf([[1.0], [-1.0]])
    bias = torch.ones(2, requires_grad=True)
    logp, _ = linear_logprob(
        hidden, weight, torch.tensor([0]), precision="fp32", chunk=1, temperature=2.0, bias=bias,
        transform=HeadTransform(scale=2.0, softcap=3.0),
    )  # fmt: skip
    capped = 3.0 * math.tanh(4.0 / 3.0)
    assert logp.item() == pytest.approx(-math.log1p(math.exp(-capped / 2.0)))
    logp.sum().backward()
    # By the first product: 1 - p, over the temperature, times 1 - tanh^2(4/3), doubled; by the second: its slope is 1.
    other = 1.0 / (1.0 + math.exp(capped / 2.0))
    expected = torch.tensor([other / 2.0 * (1.0 - math.tanh(4.0 / 3.0) ** 2) * 2.0, -other / 2.0 * 2.0])
    torch.testing.assert_close(bias.grad, expected)
    torch.testing.assert_close(weight.grad, expected[:, None])


def _dense(leaves: Sequence[Tensor], target: Tensor, case: "_Case") -> tuple[Tensor, Tensor]:
    """The same in float64 under autograd, rounding straight through."""

    def rounded(logits: Tensor) -> Tensor:
        return logits if case.precision == "fp32" else logits + (logits.bfloat16().double() - logits).detach()

    hidden, weight, *bias = leaves
    logits = rounded(hidden @ weight.T + (bias[0] if bias else 0.0))
    logits = logits * case.transform.scale
    if case.transform.softcap is not None:
        logits = case.transform.softcap * torch.tanh(logits / case.transform.softcap)
    if case.transform != IDENTITY:
        logits = rounded(logits)
    logp = (logits / case.temperature).log_softmax(-1)
    return logp.gather(1, target[:, None]).squeeze(1), -(logp.exp() * logp).sum(-1)


@dataclass(frozen=True)
class _Case:
    transform: HeadTransform
    precision: Precision
    temperature: float
    chunk: int
    bias: bool
    part: str
    dtype: torch.dtype
    seed: int


CASES_OF_HEADS = st.builds(
    _Case,
    transform=st.builds(
        HeadTransform, scale=st.sampled_from([1.0, 0.25, 3.0]), softcap=st.sampled_from([None, 2.0, 30.0])
    ),
    precision=st.sampled_from(["fp32", "bf16"]),
    temperature=st.sampled_from([1.0, 0.7, 1.3]),
    chunk=st.sampled_from([1, 77, 10**6]),
    bias=st.booleans(),
    part=st.sampled_from(["logp", "entropy", "both"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)


@settings(max_examples=60, deadline=None)
@given(case=CASES_OF_HEADS)
def test_every_head_equals_dense_float64(case: _Case) -> None:
    hidden, weight, target = _inputs(case.dtype, case.dtype)
    g = torch.Generator().manual_seed(case.seed)
    bias = torch.randn(V, generator=g).to(case.dtype).requires_grad_()
    leaves = [hidden, weight, *([bias] if case.bias else [])]
    upstream = [torch.randn(N, generator=g) * (case.part in (name, "both")) for name in ("logp", "entropy")]
    logp, entropy = linear_logprob(
        hidden, weight, target, precision=case.precision, chunk=case.chunk, temperature=case.temperature,
        bias=bias if case.bias else None, transform=case.transform,
    )  # fmt: skip
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    exact_logp, exact_entropy = _dense(exact, target, case)
    # A float32 product beside a bf16 number's border may round to its neighbour: single logits then differ by 2^-8.
    tolerance = 2e-5 if case.precision == "fp32" else 0.2
    assert float((logp - exact_logp).detach().abs().max()) < tolerance
    assert float((entropy - exact_entropy).detach().abs().max()) < tolerance
    used = {"logp": logp @ upstream[0], "entropy": entropy @ upstream[1]}
    (used[case.part] if case.part in used else used["logp"] + used["entropy"]).backward()
    (exact_logp @ upstream[0].double() + exact_entropy @ upstream[1].double()).backward()
    low = case.precision == "bf16" or case.dtype == torch.bfloat16
    # The backward computes the product again in other pieces; scale and temperature multiply what it rounds otherwise.
    limit = 2**-7 if low else 1e-5 * max(1.0, case.transform.scale / case.temperature)
    for leaf, reference in zip(leaves, exact, strict=True):
        assert leaf.grad is not None
        assert reference.grad is not None
        assert leaf.grad.dtype == leaf.dtype
        assert float((leaf.grad - reference.grad).norm() / reference.grad.norm()) < limit


def test_low_precision_weight_is_cast_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, target = _inputs(torch.bfloat16, torch.bfloat16)
    whole = linear_logprob(hidden, weight, target, precision="fp32", chunk=77)
    monkeypatch.setattr("scalerl_runtime.algorithm.head.CAST_NUMBERS", 7 * H)  # 600 is not a multiple of 7
    pieces = linear_logprob(hidden, weight, target, precision="fp32", chunk=77)
    for one, other in zip(whole, pieces, strict=True):
        torch.testing.assert_close(one, other)


def test_fp32_head_tied_embeddings() -> None:
    """The embedding's gradient is its two uses added; its dtype and identity are untouched (open-instruct #1387)."""
    g = torch.Generator().manual_seed(2)
    tokens, target = torch.randint(0, V, (40,), generator=g), torch.randint(0, V, (40,), generator=g)
    embedding = torch.nn.Embedding(V, H)
    with torch.no_grad():
        embedding.weight.copy_(torch.randn(V, H, generator=g))
    logp, _ = linear_logprob(embedding(tokens).tanh(), embedding.weight, target, precision="fp32", chunk=16)
    logp.sum().backward()

    exact = embedding.weight.detach().double().requires_grad_()
    exact_logp, _ = _reference(exact[tokens].tanh(), exact, target, 1.0)
    exact_logp.sum().backward()
    assert embedding.weight.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(embedding.weight.grad.double(), exact.grad, atol=1e-5, rtol=1e-5)
    assert embedding.weight.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fp32_cache_not_stale_after_update(dtype: torch.dtype) -> None:
    """The next call uses an optimizer's in-place update (prime-rl #2438)."""
    hidden, weight, target = _inputs(dtype, dtype)
    before, _ = linear_logprob(hidden, weight, target, precision="fp32", chunk=77)
    with torch.no_grad():
        weight.mul_(2.0)
    after, _ = linear_logprob(hidden, weight, target, precision="fp32", chunk=77)
    expected, _ = _reference(hidden, weight, target, 1.0)
    assert float((after - expected).detach().abs().max()) < 1e-5
    assert float((after - before).detach().abs().max()) > 0.1


def test_update_between_forward_and_backward_is_an_error() -> None:
    hidden, weight, target = _inputs()
    logp, _ = linear_logprob(hidden, weight, target, precision="fp32", chunk=77)
    with torch.no_grad():
        weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        logp.sum().backward()


class _PeakBytes(TorchDispatchMode):
    """The peak of bytes in storages that are created inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.peak, self._storages = 0, 0, set[int]()

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],  # noqa: ARG002  # the signature is torch's
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        old = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._count(leaf, old)
        return out

    def _count(self, tensor: Tensor, old: set[int]) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in old | self._storages:
            return
        self._storages.add(storage._cdata)
        self.alive += storage.nbytes()
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self.alive -= size


def _chunk_loop(hidden: Tensor, weight: Tensor, target: Tensor, chunk: int) -> Tensor:
    """The wrong implementation: chunks under autograd, which keeps each chunk's log-probabilities for its backward."""
    parts = zip(hidden.split(chunk), target.split(chunk), strict=True)
    return torch.cat([(h @ weight.T).log_softmax(-1).gather(1, t[:, None]).squeeze(1) for h, t in parts])


def _fused(hidden: Tensor, weight: Tensor, target: Tensor, chunk: int) -> Tensor:
    return linear_logprob(hidden, weight, target, precision="fp32", chunk=chunk)[0]


@pytest.mark.parametrize(("head", "retains"), [(_fused, False), (_chunk_loop, True)])
def test_chunk_loop_does_not_retain(head: Callable[..., Tensor], *, retains: bool) -> None:
    """Between forward and backward and at the peak, no tensor of size N x V is held (NeMo #4222).

    The loop proves that the test detects one.
    """
    hidden, weight, target = _inputs()
    saved = dict[int, int]()

    def note(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with _PeakBytes() as memory, torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        head(hidden, weight, target, 10).sum().backward()
    logits_bytes = N * V * 4
    assert (sum(saved.values()) > logits_bytes) == retains
    assert (memory.peak > logits_bytes) == retains


def test_peak_memory_is_a_chunk_or_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalerl_runtime.algorithm.head.STATS_LOGITS_CPU", 2000)  # the exponentials of one row
    g = torch.Generator().manual_seed(1)
    hidden, weight = torch.randn(2000, 4, generator=g).requires_grad_(), torch.randn(2000, 4, generator=g)
    target = torch.zeros(2000, dtype=torch.int64)
    with _PeakBytes() as memory:
        logp, _ = linear_logprob(hidden, weight, target, precision="fp32", chunk=150)
        chunk_bytes, per_row = 150 * 2000 * 4, 2000 * 4
        assert chunk_bytes < memory.peak < chunk_bytes + 10 * per_row
        memory.peak = memory.alive
        logp.sum().backward()
    tile_bytes, gradient_bytes = 256 * 256 * 4, hidden.nbytes
    assert tile_bytes < memory.peak < 2 * tile_bytes + gradient_bytes + 10 * per_row


def test_autocast_does_not_lower_the_precision() -> None:
    found = []
    for enabled in (False, True):
        hidden, weight, target = _inputs()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            logp, entropy = linear_logprob(hidden, weight, target, precision="fp32", chunk=77)
            logp.sum().backward()
        found.append((logp, entropy, hidden.grad, weight.grad))
    assert all(torch.equal(plain, cast) for plain, cast in zip(*found, strict=True))


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_frozen_operand_gets_no_gradient(frozen: str) -> None:
    hidden, weight, target = _inputs()
    leaves = {"hidden": hidden, "weight": weight}
    linear_logprob(hidden, weight, target, precision="fp32", chunk=77)[0].sum().backward()
    both = {name: leaf.grad for name, leaf in leaves.items()}
    hidden.grad = weight.grad = None
    leaves[frozen].requires_grad_(False)
    linear_logprob(hidden, weight, target, precision="fp32", chunk=77)[0].sum().backward()
    (other,) = set(leaves) - {frozen}
    assert leaves[frozen].grad is None
    torch.testing.assert_close(leaves[other].grad, both[other], atol=0.0, rtol=0.0)


def test_no_trained_position_gives_zero_gradients() -> None:
    _, weight, _ = _inputs()
    hidden = torch.zeros(0, H, requires_grad=True)
    logp, entropy = linear_logprob(hidden, weight, torch.zeros(0, dtype=torch.int64), precision="fp32", chunk=77)
    assert logp.shape == entropy.shape == (0,)
    logp.sum().backward()
    assert weight.grad is not None
    assert float(weight.grad.abs().sum()) == 0.0


def test_select_positions_pairs_a_token_with_the_state_before_it() -> None:
    # Two sequences, tokens 10 11 12 and 20 21; trained are 12 and 21, predicted by states 1 and 3.
    hidden = torch.arange(5.0)[:, None].requires_grad_()
    trained = torch.tensor([False, False, True, False, True])
    chosen = select_positions(hidden, torch.tensor([10, 11, 12, 20, 21]), trained, torch.tensor([0, 3, 5]))
    assert chosen.hidden.squeeze(1).tolist() == [1.0, 3.0]
    assert chosen.target.tolist() == [12, 21]
    assert chosen.index.tolist() == [2, 4]
    chosen.hidden.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.squeeze(1).tolist() == [0.0, 1.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize("first", [0, 3])
def test_first_token_of_a_sequence_cannot_be_trained(first: int) -> None:
    trained = torch.arange(5) == first
    with pytest.raises(ValueError, match="first token of a sequence"):
        select_positions(torch.zeros(5, 1), torch.zeros(5, dtype=torch.int64), trained, torch.tensor([0, 3, 5]))


@pytest.mark.parametrize(
    ("bias", "transform", "said"),
    [
        (8, IDENTITY, r"bias \[8\]; need \[9\]"),
        (9, HeadTransform(scale=0.0), "scale and softcap must be > 0"),
        (9, HeadTransform(softcap=-1.0), "scale and softcap must be > 0"),
    ],
)
def test_impossible_bias_or_transform_is_refused(bias: int, transform: HeadTransform, said: str) -> None:
    hidden, weight, target = torch.zeros(4, 3), torch.zeros(9, 3), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match=said):
        linear_logprob(hidden, weight, target, precision="fp32", chunk=2, bias=torch.zeros(bias), transform=transform)


def test_plan_chunk_fills_its_budget() -> None:
    assert CHUNK_BYTES == 134_217_728
    assert plan_chunk(152_064) == 220  # 220.66
    assert plan_chunk(100, budget_bytes=1200) == 3
    assert plan_chunk(100, budget_bytes=1) == 1


@pytest.mark.parametrize(
    ("hidden", "weight", "target", "temperature", "chunk", "said"),
    [
        ((4, 3), (9, 2), (4,), 1.0, 2, r"hidden \[4, 3\], weight \[9, 2\]"),
        ((4, 3), (9, 3), (5,), 1.0, 2, r"target \[5\]"),
        ((4, 3), (9, 3), (4,), 0.0, 2, "temperature is 0.0"),
        ((4, 3), (9, 3), (4,), 1.0, 0, "chunk 0"),
    ],
)
def test_impossible_is_refused(
    *,
    hidden: tuple[int, ...],
    weight: tuple[int, ...],
    target: tuple[int, ...],
    temperature: float,
    chunk: int,
    said: str,
) -> None:
    ids = torch.zeros(target, dtype=torch.int64)
    with pytest.raises(ValueError, match=said):
        linear_logprob(
            torch.zeros(hidden), torch.zeros(weight), ids, precision="fp32", temperature=temperature, chunk=chunk
        )
