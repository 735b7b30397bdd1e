"""The simulation behind note 085: times by hand, where every link takes one second for a packet."""

import pytest
from weight_fanout import Fanout, Links, by_node, chain, node_of, seconds, star, tree, ways

EQUAL = Links(host=1.0, node=1.0, network=1.0)


@pytest.mark.parametrize(
    ("fanout", "packets", "expected"),
    [
        (star(1), 3, 1 + 3),  # the first comes from the host, then one a second
        (star(4), 3, 1 + 4 * 3),
        (chain(4), 3, 1 + 3 + 3),  # three links more
        (chain(4), 1, 1 + 4),
        (tree(2), 3, 1 + 2 * 3),
        (Fanout("by hand", {0: [1], 1: [2, 3]}), 2, 1 + 1 + 2 * 2),
    ],
)
def test_seconds_by_hand(fanout: Fanout, packets: int, expected: float) -> None:
    assert seconds(fanout, packets, 1.0, EQUAL) == pytest.approx(expected)


def test_a_node_has_an_exit_of_its_own() -> None:
    """Two nodes of 8: a leader sends over the network while it passes the same packet on inside."""
    fanout = by_node(16, is_chain=True)
    assert fanout.children[1] == [9, 2]
    links = Links(host=1e9, node=1.0, network=1.0)
    assert seconds(fanout, 1.0, 1.0, links) == pytest.approx(1 + 1 + 7)  # two links between nodes, seven inside


def test_the_slowest_link_bounds_a_chain() -> None:
    assert seconds(chain(1), 100.0, 1.0, Links(host=10.0, node=1.0, network=1e9)) == pytest.approx(10.0)
    assert seconds(chain(2), 100.0, 1.0, Links(host=1e9, node=4.0, network=1e9)) == pytest.approx(25.0)


@pytest.mark.parametrize("receivers", [1, 7, 8, 9, 16, 64])
def test_every_receiver_gets_packets_from_one_other(receivers: int) -> None:
    for fanout in ways(receivers):
        got = sorted(child for children in fanout.children.values() for child in children)
        assert got == list(range(1, receivers + 1)), fanout.name
    assert node_of(receivers) == 1 + (receivers - 1) // 8
