"""Real ranks over gloo: bandwidths of the gang and of nodes, and ranks that never join."""

import multiprocessing
import socket
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from scalerl_api.wire import ENV_NODE
from scalerl_runtime.preflight.rank import NCCL_LOG, Rendezvous, logged_network, measure_rank
from scalerl_runtime.preflight.readings import PreflightFailed, RankReading


def measure(place: Rendezvous, node: str, results: Connection) -> None:
    import os

    import torch

    torch.set_num_threads(1)
    os.environ[ENV_NODE] = node
    try:
        results.send(measure_rank(place, "cpu"))
    except PreflightFailed as error:
        results.send(str(error))


def run_ranks(nodes: list[str], *, world_size: int, seconds: float) -> list[RankReading | str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    started = []
    for rank, node in enumerate(nodes):
        ours, theirs = context.Pipe(duplex=False)
        place = Rendezvous("127.0.0.1", port, rank, world_size, seconds)
        process = context.Process(target=measure, args=(place, node, theirs))
        process.start()
        theirs.close()
        started.append((process, ours))
    found = [ours.recv() for _, ours in started]
    for process, _ in started:
        process.join()
    return found


@pytest.mark.timeout(300)
def test_the_gang_and_each_node_are_measured() -> None:
    found = run_ranks(["a", "b", "a"], world_size=3, seconds=120.0)
    readings = [each for each in found if isinstance(each, RankReading)]
    assert [(each.rank, each.node, each.device) for each in readings] == [
        (0, "a", "CPU"),
        (1, "b", "CPU"),
        (2, "a", "CPU"),
    ]
    assert all(each.teraflops > 0.0 and each.bandwidth is not None and each.bandwidth > 0.0 for each in readings)
    assert [each.node_bandwidth is not None for each in readings] == [True, False, True]
    assert {each.network for each in readings} == {""}


@pytest.mark.timeout(300)
def test_ranks_that_never_join_are_named_at_the_deadline() -> None:
    (found,) = run_ranks(["a"], world_size=3, seconds=1.0)
    assert found == "ranks that did not join the preflight within 1 s: 1, 2"


def test_a_rank_alone_meets_no_other() -> None:
    reading = measure_rank(Rendezvous("no.such.host", 1, 0, 1, 1.0), "cpu")
    assert (reading.rank, reading.bandwidth, reading.node_bandwidth) == (0, None, None)


def test_nccls_log_is_read_and_the_variables_are_taken_back() -> None:
    variables = {"OTHER": "1"}
    with logged_network(variables) as read:
        assert read() == ""
        Path(variables["NCCL_DEBUG_FILE"]).write_text("n:1:1 [0] NCCL INFO Using network IB\n")
        assert read() == "IB"
        assert set(variables) == {"OTHER", *NCCL_LOG}
    assert variables == {"OTHER": "1"}


def test_a_user_who_reads_nccls_log_keeps_it() -> None:
    variables = {"NCCL_DEBUG": "WARN"}
    with logged_network(variables) as read:
        assert (read(), variables) == ("", {"NCCL_DEBUG": "WARN"})
