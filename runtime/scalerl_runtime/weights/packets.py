"""Packets of weights: the runs of parameters that `nccl` sends at a time, through two buffers on the device. PURE.

vLLM's receiver (`packed_nccl_broadcast_consumer`) cuts the same parameters by the same rule: a packet ends with the
parameter that takes it beyond the limit. Its bytes are the parameters' without padding, and the receiver views them
where they lie. So wide types are sent first: after an odd number of bfloat16 values a float32 would not be aligned.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from scalerl_runtime.weights.buckets import TensorEntry, WeightBucket


@dataclass(frozen=True)
class Packet:
    """Parameters that are sent together."""

    pieces: tuple[tuple[int, TensorEntry], ...]
    """The number of its bucket, and the parameter."""
    num_bytes: int


def send_order(buckets: Sequence[WeightBucket]) -> list[tuple[int, int, TensorEntry]]:
    """Return each parameter with its place among all of them and its bucket's number, in the order of sending.

    Those with the widest values come first; a model of one type keeps its order.
    """
    pieces = [(number, entry) for number, bucket in enumerate(buckets) for entry in bucket.entries]
    placed = [(place, number, entry) for place, (number, entry) in enumerate(pieces)]
    return sorted(placed, key=lambda each: -each[2].item_bytes)


def plan_packets(buckets: Sequence[WeightBucket], *, limit: int) -> tuple[Packet, ...]:
    """Cut the parameters into packets, in `send_order`; each has at most `limit` bytes and one parameter more."""
    packets: list[Packet] = []
    pieces: list[tuple[int, TensorEntry]] = []
    size = 0
    for _, number, entry in send_order(buckets):
        pieces.append((number, entry))
        size += entry.num_bytes
        if size > limit:
            packets.append(Packet(tuple(pieces), size))
            pieces, size = [], 0
    if pieces:
        packets.append(Packet(tuple(pieces), size))
    return tuple(packets)


def fill_packet(packet: Packet, flats: Sequence[Tensor], buffer: Tensor) -> Tensor:
    """Copy the packet's parameters from the buckets' bytes `flats` into `buffer`; return what is used of it."""
    place = 0
    for number, entry in packet.pieces:
        bytes_ = flats[number][entry.offset : entry.offset + entry.num_bytes]
        buffer[place : place + entry.num_bytes].copy_(bytes_, non_blocking=True)
        place += entry.num_bytes
    return buffer[:place]
