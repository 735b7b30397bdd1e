import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from scalerl_runtime.weights.buckets import (
    GlooSender,
    TensorEntry,
    WeightBucket,
    broadcast,
    bucket_checksums,
    gloo_group,
    parse_buckets,
    plan_buckets,
    view,
)
from scalerl_runtime.weights.checksums import checksums
from scalerl_runtime.weights.zero_partitions import full_shape


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def join_pair(seconds):
    """Sender and receiver of one transfer group, in this process."""
    port = free_port()
    with ThreadPoolExecutor(2) as threads:
        pair = [
            threads.submit(gloo_group, "127.0.0.1", port, rank=rank, world_size=2, timeout_seconds=seconds)
            for rank in (0, 1)
        ]
        return [member.result() for member in pair]


def test_buckets_by_hand():
    """Limit 40: a [3] bfloat16 (6 bytes, padded to 8) and b (32) fill one; c (48) is too large and has its own."""
    parameters = [("a", "bfloat16", (3,), 2), ("b", "float32", (2, 4), 4), ("c", "float32", (12,), 4)]
    found = plan_buckets([*parameters, ("d", "float32", (), 4)], limit=40)
    assert found == (
        WeightBucket((TensorEntry("a", "bfloat16", (3,), 0), TensorEntry("b", "float32", (2, 4), 8)), 40),
        WeightBucket((TensorEntry("c", "float32", (12,), 0),), 48),
        WeightBucket((TensorEntry("d", "float32", (), 0),), 8),
    )
    assert plan_buckets([], limit=40) == ()


def test_zero3_bucket_by_ds_numel():
    """Under ZeRO-3 a parameter is an empty placeholder: buckets laid out by its own size would all be empty."""
    placeholder = torch.nn.Parameter(torch.empty(0))
    placeholder.ds_shape = torch.Size((3, 5))
    whole = torch.nn.Parameter(torch.empty(2))
    named = [("a", placeholder), ("b", whole)]
    (bucket,) = plan_buckets(((n, "float32", full_shape(p), 4) for n, p in named), limit=1000)
    assert [(e.shape, e.offset) for e in bucket.entries] == [((3, 5), 0), ((2,), 64)]
    assert bucket.num_bytes == 64 + 8


def test_buckets_survive_as_plain_mappings():
    plain = [{"entries": [{"name": "a", "dtype": "float32", "shape": [2, 3], "offset": 8}], "num_bytes": 32}]
    assert parse_buckets(plain) == (WeightBucket((TensorEntry("a", "float32", (2, 3), 8),), 32),)


def test_view_writes_through():
    flat = torch.zeros(32, dtype=torch.uint8)
    view(flat, TensorEntry("a", "float32", (2, 2), 8)).copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert flat.view(torch.float32).tolist() == [0, 0, 1, 2, 3, 4, 0, 0]


def test_checksums_of_buckets_are_those_of_their_parameters():
    bucket = WeightBucket((TensorEntry("a", "bfloat16", (3,), 0), TensorEntry("b", "float32", (1, 2), 8)), 16)
    flat = torch.zeros(16, dtype=torch.uint8)
    a, b = torch.ones(3, dtype=torch.bfloat16), torch.tensor([[1.0, -2.0]])
    view(flat, bucket.entries[0]).copy_(a)
    view(flat, bucket.entries[1]).copy_(b)
    assert bucket_checksums([bucket, bucket], [flat, flat]) == checksums([a, b, a, b]), "the same outside of a bucket"


def test_the_gloo_sender_sends_every_bucket():
    port = free_port()
    with ThreadPoolExecutor(2) as threads:
        receiver = threads.submit(gloo_group, "127.0.0.1", port, rank=1, world_size=2, timeout_seconds=5.0)
        sender = GlooSender("127.0.0.1", port, world_size=2, timeout_seconds=5.0)
        flats = [torch.full((16,), value, dtype=torch.uint8) for value in (3, 4)]
        sent = threads.submit(sender.send, (), flats)
        for flat in flats:
            taken = torch.zeros(16, dtype=torch.uint8)
            broadcast(receiver.result(), taken)
            assert torch.equal(taken, flat)
        sent.result()


def test_broadcast_transfers_the_bytes():
    sender, receiver = join_pair(5.0)
    given = torch.arange(64, dtype=torch.uint8)
    taken = torch.zeros(64, dtype=torch.uint8)
    with ThreadPoolExecutor(1) as threads:
        sent = threads.submit(broadcast, sender, given)
        broadcast(receiver, taken)
        sent.result()
    assert torch.equal(given, taken)


def test_sender_times_out_when_receiver_dies():
    sender, receiver = join_pair(0.3)
    del receiver
    with pytest.raises(RuntimeError):
        broadcast(sender, torch.zeros(2**23, dtype=torch.uint8))  # more than the sockets' buffers hold


def test_missing_peer_is_an_error():
    with pytest.raises(RuntimeError):
        gloo_group("127.0.0.1", free_port(), rank=0, world_size=2, timeout_seconds=0.3)
