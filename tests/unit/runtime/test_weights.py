import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from scalerl_runtime.weights import Bucket, Entry, broadcast, checksum, gloo_group, parse_buckets, plan_buckets, view


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def join_pair(seconds):
    """Sender and receiver of one transfer group, in this process."""
    port = free_port()
    with ThreadPoolExecutor(2) as threads:
        pair = [
            threads.submit(gloo_group, "127.0.0.1", port, rank=rank, world=2, timeout_seconds=seconds)
            for rank in (0, 1)
        ]
        return [member.result() for member in pair]


def test_buckets_by_hand():
    """Limit 40: a [3] bfloat16 (6 bytes, padded to 8) and b (32) fill one; c (48) is too large and has its own."""
    parameters = [("a", "bfloat16", (3,), 2), ("b", "float32", (2, 4), 4), ("c", "float32", (12,), 4)]
    found = plan_buckets([*parameters, ("d", "float32", (), 4)], limit=40)
    assert found == (
        Bucket((Entry("a", "bfloat16", (3,), 0), Entry("b", "float32", (2, 4), 8)), 40),
        Bucket((Entry("c", "float32", (12,), 0),), 48),
        Bucket((Entry("d", "float32", (), 0),), 8),
    )
    assert plan_buckets([], limit=40) == ()


def test_buckets_survive_as_plain_mappings():
    plain = [{"entries": [{"name": "a", "dtype": "float32", "shape": [2, 3], "offset": 8}], "num_bytes": 32}]
    assert parse_buckets(plain) == (Bucket((Entry("a", "float32", (2, 3), 8),), 32),)


def test_view_writes_through():
    flat = torch.zeros(32, dtype=torch.uint8)
    view(flat, Entry("a", "float32", (2, 2), 8)).copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert flat.view(torch.float32).tolist() == [0, 0, 1, 2, 3, 4, 0, 0]


def test_checksum_by_hand():
    flat = torch.tensor([5, 7, -1], dtype=torch.int64).view(torch.uint8)
    assert checksum(flat) == 5 * 1 + 7 * 3 - 1 * 5
    assert checksum(torch.tensor([-1], dtype=torch.int64).view(torch.uint8)) == 2**64 - 1, "modulo 2**64"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda words: words[[1, 0, 2, 3]], "swapped words"),
        (lambda words: words.roll(1), "shifted words"),
        (lambda words: words ^ torch.tensor([0, 0, 1, 0]), "a flipped bit"),
    ],
)
def test_checksum_differs(change, rule):
    words = torch.tensor([11, 22, 33, 44])
    assert checksum(change(words).view(torch.uint8)) != checksum(words.view(torch.uint8)), rule


def test_checksum_of_chunks_counts_positions_through(monkeypatch):
    monkeypatch.setattr("scalerl_runtime.weights.CHECKSUM_CHUNK", 2)
    assert checksum(torch.tensor([1, 1, 1], dtype=torch.int64).view(torch.uint8)) == 1 + 3 + 5


def test_broadcast_brings_the_bytes():
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
        gloo_group("127.0.0.1", free_port(), rank=0, world=2, timeout_seconds=0.3)
