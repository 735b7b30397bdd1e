"""Checksums of weights in host memory and, by the same code on the CPU, on a device."""

import pytest
import torch

from scalerl_runtime.weights import checksums as module
from scalerl_runtime.weights.checksums import WORD_MASK, checksums, word_sum


def on_host(tensor: torch.Tensor) -> int:
    return checksums([tensor])[0]


def on_device(tensor: torch.Tensor) -> int:
    return int(word_sum(tensor)) & WORD_MASK


BOTH = pytest.mark.parametrize("compute", [on_host, on_device])


def test_a_word_sum_by_hand() -> None:
    assert on_device(torch.tensor([5, 7, -1])) == 5 * 1 + 7 * 3 - 1 * 5
    assert on_device(torch.tensor([-1])) == 2**64 - 1, "modulo 2**64"
    assert on_device(torch.ones(3, dtype=torch.bfloat16)) == 0x3F803F803F80, "filled with zeros to a word"
    assert on_device(torch.tensor([[1.0, -2.0]])) == 0xC0000000_3F800000


def test_positions_are_counted_through_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 2)
    assert on_device(torch.tensor([1, 1, 1])) == 1 + 3 + 5


@BOTH
@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda words: words[[1, 0, 2, 3]], "swapped words"),
        (lambda words: words.roll(1), "shifted words"),
        (lambda words: words ^ torch.tensor([0, 0, 1, 0]), "a flipped bit"),
        (lambda words: words[:3], "a lost word"),
    ],
)
def test_a_change_is_seen(compute, change, rule: str) -> None:
    words = torch.tensor([11, 22, 33, 44])
    assert compute(change(words)) != compute(words), rule


@BOTH
def test_a_view_between_two_words_has_the_checksum_of_its_bytes(compute) -> None:
    """vLLM's packed buffers put parameters end to end: one may begin at any even byte."""
    packed = torch.arange(40, dtype=torch.uint8)
    expected = compute(packed[6:22].clone())
    assert compute(packed[6:22]) == expected
    assert compute(packed[6:22].view(torch.bfloat16).view(2, 4)) == expected


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.bool])
@pytest.mark.parametrize("shape", [(), (3,), (5, 7)])
def test_every_dtype_and_shape_has_a_checksum(compute, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    ones = torch.ones(shape).to(dtype)
    assert compute(ones) == compute(ones.clone())
    assert compute(ones) != compute(torch.zeros(shape).to(dtype))
    assert 0 <= compute(ones) <= WORD_MASK
