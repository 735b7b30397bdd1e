"""Runs of parameters that are sent at a time; tests/local/test_generator.py compares them with vLLM's own."""

import pytest
import torch

from scalerl_runtime.weights.buckets import plan_buckets, view
from scalerl_runtime.weights.packets import fill_packet, plan_packets, send_order

SIZES = [3, 5, 20, 1, 1, 9]  # bytes


def test_a_packet_ends_with_the_parameter_that_takes_it_beyond_the_limit() -> None:
    buckets = plan_buckets([(f"p{i}", "uint8", (size,), 1) for i, size in enumerate(SIZES)], limit=24)
    assert len(buckets) > 1, "packets go on over the end of a bucket"
    packets = plan_packets(buckets, limit=8)
    assert [[entry.name for _, entry in each.pieces] for each in packets] == [["p0", "p1", "p2"], ["p3", "p4", "p5"]]
    assert [each.num_bytes for each in packets] == [28, 11]
    assert plan_packets((), limit=8) == ()


def test_a_packet_holds_parameters_end_to_end() -> None:
    buckets = plan_buckets([(f"p{i}", "uint8", (size,), 1) for i, size in enumerate(SIZES)], limit=24)
    flats = [torch.full((bucket.num_bytes,), 255, dtype=torch.uint8) for bucket in buckets]
    for bucket, flat in zip(buckets, flats, strict=True):
        for entry in bucket.entries:
            view(flat, entry).fill_(int(entry.name[1:]))
    buffer = torch.zeros(28, dtype=torch.uint8)
    first, second = (fill_packet(each, flats, buffer).tolist() for each in plan_packets(buckets, limit=8))
    assert first == [0] * 3 + [1] * 5 + [2] * 20
    assert second == [3, 4] + [5] * 9


@pytest.mark.parametrize("limit", [1, 50, 1000])
def test_every_value_is_aligned_in_its_packet(limit: int) -> None:
    """The receiver views the packet's bytes as values: an odd number of bfloat16 must not precede a float32."""
    named = [("a", "bfloat16", (3,), 2), ("b", "float32", (5,), 4), ("c", "bfloat16", (1,), 2), ("d", "float32", (), 4)]
    buckets = plan_buckets(named, limit=16)
    for packet in plan_packets(buckets, limit=limit):
        place = 0
        for _, entry in packet.pieces:
            assert place % entry.item_bytes == 0, entry.name
            place += entry.num_bytes
    assert [(place, entry.name) for place, _, entry in send_order(buckets)] == [(1, "b"), (3, "d"), (0, "a"), (2, "c")]
