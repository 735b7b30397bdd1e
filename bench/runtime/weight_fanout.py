"""Time until all receivers have a model, by the way that its packets take: to each one, along a chain, down a tree.

Run: python bench/runtime/weight_fanout.py [--device H100]

A simulation, not a measurement. Each GPU has two exits, NVLink within its node and its network card; an exit sends one
packet at a time, and a receiver passes a packet on once it has all of it. Rank 0 takes packets from its host over PCIe.
Bandwidths are those of `scalerl plan`. Latency, loading and contention inside a switch are left out.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scalerl_operator.capacity.devices import find_device
from scalerl_operator.capacity.trainer_speed import LINK_SHARE, PCIE_BANDWIDTH

MIB = 2**20
MODELS = {"8B": 16.4e9, "70B": 141.1e9}  # bytes in bf16
RECEIVERS = (16, 64, 256)  # GPUs; nodes have 8
PACKETS = (64 * MIB, 512 * MIB, 2048 * MIB)
GPUS_PER_NODE = 8


@dataclass(frozen=True)
class Links:
    """Bytes a second in one direction."""

    host: float
    """From the sender's host to its GPU."""
    node: float
    """From a GPU to another one of its node."""
    network: float
    """From a GPU to one of another node."""


@dataclass(frozen=True)
class Fanout:
    """Which receiver gets its packets from which: 0 is the sender, alone on its node; the others are 1, 2, ..."""

    name: str
    children: Mapping[int, Sequence[int]]


def node_of(gpu: int) -> int:
    """Return the node: the sender's is 0, receivers fill nodes in order."""
    return 0 if gpu == 0 else 1 + (gpu - 1) // GPUS_PER_NODE


def star(receivers: int) -> Fanout:
    """Return: the sender to every receiver."""
    return Fanout("to each receiver", {0: range(1, receivers + 1)})


def chain(receivers: int) -> Fanout:
    """Return: each receiver to the next one."""
    return Fanout("chain of receivers", {gpu: [gpu + 1] for gpu in range(receivers)})


def tree(receivers: int) -> Fanout:
    """Return a binary tree."""
    return Fanout(
        "binary tree", {g: [c for c in (2 * g + 1, 2 * g + 2) if c <= receivers] for g in range(receivers + 1)}
    )


def by_node(receivers: int, *, is_chain: bool) -> Fanout:
    """Return: the first GPU of a node gets packets over the network, and passes them along its node."""
    leaders = [0, *range(1, receivers + 1, GPUS_PER_NODE)]
    found: dict[int, list[int]] = {gpu: [] for gpu in range(receivers + 1)}
    for place, leader in enumerate(leaders):
        after = [place + 1] if is_chain else [2 * place + 1, 2 * place + 2]
        found[leader] = [leaders[each] for each in after if each < len(leaders)]
    for gpu in range(1, receivers):
        if node_of(gpu) == node_of(gpu + 1):
            found[gpu].append(gpu + 1)
    return Fanout("chain of nodes" if is_chain else "tree of nodes", found)


def seconds(fanout: Fanout, num_bytes: float, packet: float, links: Links) -> float:
    """Return the time at which the last receiver has the last packet."""
    sizes = [min(packet, num_bytes - start) for start in _starts(num_bytes, packet)]
    arrivals: dict[int, list[float]] = {0: _from_host(sizes, links.host)}
    waiting = [0]
    while waiting:
        gpu = waiting.pop()
        free = {"node": 0.0, "network": 0.0}
        children = fanout.children.get(gpu, ())
        for child in children:
            arrivals[child] = []
        for size, there in zip(sizes, arrivals[gpu], strict=True):
            for child in children:
                exit_ = "node" if node_of(child) == node_of(gpu) else "network"
                free[exit_] = max(there, free[exit_]) + size / getattr(links, exit_)
                arrivals[child].append(free[exit_])
        waiting.extend(children)
    return max(each[-1] for each in arrivals.values())


def _starts(num_bytes: float, packet: float) -> list[float]:
    return [number * packet for number in range(int(-(-num_bytes // packet)))]


def _from_host(sizes: Sequence[float], bandwidth: float) -> list[float]:
    found, now = [], 0.0
    for size in sizes:
        now += size / bandwidth
        found.append(now)
    return found


def ways(receivers: int) -> list[Fanout]:
    """Return the ways that are compared."""
    nodes = [by_node(receivers, is_chain=True), by_node(receivers, is_chain=False)]
    return [star(receivers), chain(receivers), tree(receivers), *nodes]


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--device", default="H100")
    options = parser.parse_args()
    device = find_device(options.device)
    links = Links(PCIE_BANDWIDTH, device.link_bandwidth * LINK_SHARE, device.network_bandwidth * LINK_SHARE)
    print("| model, receivers, packet | " + " | ".join(each.name for each in ways(8)) + " |")
    print("|---|" + "---|" * len(ways(8)))
    for name, num_bytes in MODELS.items():
        for receivers in RECEIVERS:
            for packet in PACKETS:
                found = [f"{seconds(each, num_bytes, packet, links):.2f}" for each in ways(receivers)]
                print(f"| {name}, {receivers}, {packet // MIB} MiB | {' | '.join(found)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
