"""The preflight's rules by table: every reason names number and bound, and what is sound is not refused."""

from dataclasses import replace

import pytest

from scalerl_api.passthrough import PodTemplate
from scalerl_runtime.preflight.readings import (
    GIB,
    DeviceReading,
    Findings,
    GangLimits,
    PodLimits,
    PodReading,
    RankReading,
)
from scalerl_runtime.preflight.rules import (
    asks_rdma,
    is_all_on_sockets,
    judge_gang,
    judge_pod,
    parse_network,
    summarize_gang,
)

DEVICE = DeviceReading(0, "H100", 80 * GIB, 79 * GIB, (), 0, False, False, "", ())
POD = PodReading("gpu-7", 1, (DEVICE,), 16 * GIB, 100 * GIB, 200 * GIB, "", (13, 0), (13, 0))
LIMITS = PodLimits(shared_memory_bytes=2 * GIB, min_free_memory_share=0.9)

UNFIT = [
    ("a device fewer than asked", replace(POD, devices_asked=2), "1 devices are visible; need 2"),
    ("no driver", replace(POD, devices=(), device_fault="Driver Not Loaded"), "NVML does not work: Driver Not Loaded"),
    ("a device fell off the bus", replace(POD, device_fault="device 1: GPU is lost"), "GPU is lost; need 1 devices"),
    ("an older driver", replace(POD, driver_cuda=(12, 8)), "the driver runs CUDA 12.8; need 13.0"),
    ("a small /dev/shm", replace(POD, shared_memory_bytes=GIB // 16), "/dev/shm has 0.06 GiB; need 2.00 GiB"),
    *(
        (case, replace(POD, devices=(replace(DEVICE, **change),)), reason)
        for case, change, reason in [
            (
                "another process",
                {"free_bytes": 40 * GIB, "processes": (4711,)},
                "device 0 (H100): 40.0 of 80.0 GiB are free, processes 4711; need a share of 0.9",
            ),
            ("ECC errors", {"uncorrected_errors": 3}, "3 uncorrected ECC errors since the driver was loaded; need 0"),
            ("a row to be replaced", {"pending_repair": True}, "wait for a reset of the device"),
            ("a row that cannot be", {"pending_repair": True, "failed_repair": True}, "must be exchanged"),
            ("an Xid", {"recovery": "reset"}, "the driver asks for a recovery after an Xid error: reset"),
        ]
    ),
]


@pytest.mark.parametrize(("reading", "reason"), [row[1:] for row in UNFIT], ids=[row[0] for row in UNFIT])
def test_an_unfit_node_is_named_with_the_reason(reading: PodReading, reason: str) -> None:
    (found,) = judge_pod(reading, LIMITS).unfit
    assert found.node == "gpu-7"
    assert reason in found.reason


FIT = [
    ("all is well", POD, ()),
    ("more devices than asked", replace(POD, devices=(DEVICE, replace(DEVICE, index=1))), ()),
    ("a newer driver", replace(POD, driver_cuda=(14, 1)), ()),
    ("numbers that the device does not have", replace(POD, devices=(DeviceReading(0, "L4", 24 * GIB, 23 * GIB),)), ()),
    ("no device asked beside a busy one", replace(POD, devices_asked=0, devices=(replace(DEVICE, free_bytes=1),)), ()),
    (
        "an older driver of the same major version",
        replace(POD, runtime_cuda=(13, 2)),
        (
            "node gpu-7: the driver runs CUDA 13.0, torch is of 13.2: "
            "kernels that are compiled at run time may not load",
        ),
    ),
    ("a full disk", replace(POD, disk_free_bytes=GIB // 2), ("node gpu-7: 0.5 GiB of disk are free",)),
    ("little memory", replace(POD, memory_free_bytes=GIB // 4), ("node gpu-7: 0.2 GiB of host memory are free",)),
    (
        "a hot device",
        replace(POD, devices=(replace(DEVICE, slowdowns=("heat", "power brake")),)),
        ("node gpu-7: device 0: its clock is lowered (heat, power brake)",),
    ),
]


@pytest.mark.parametrize(("reading", "warnings"), [row[1:] for row in FIT], ids=[row[0] for row in FIT])
def test_what_can_train_is_not_refused(reading: PodReading, warnings: tuple[str, ...]) -> None:
    assert judge_pod(reading, LIMITS) == Findings((), warnings)


def rank(number: int, node: str, teraflops: float = 700.0, **more: object) -> RankReading:
    return RankReading(number, node, "H100", teraflops, **more)  # type: ignore[arg-type]


def gang(*teraflops: float) -> list[RankReading]:
    return [rank(number, f"gpu-{number}", rate) for number, rate in enumerate(teraflops)]


OPEN = GangLimits(max_slowdown=0.3, min_bandwidth=None, asks_rdma=False)


def test_the_device_slower_than_the_median_is_unfit() -> None:
    (found,) = judge_gang(gang(700.0, 480.0, 710.0, 690.0), OPEN).unfit  # the median is 695, the bound 486.5
    assert found.node == "gpu-1"
    assert "rank 1 (H100) computes 480 TFLOP/s; the median of 4 ranks is 695" in found.reason


@pytest.mark.parametrize("rates", [(700.0, 490.0, 710.0, 690.0), (700.0, 10.0), (3.0,), (5.0, 5.0, 5.0)])
def test_small_differences_and_small_gangs_are_fit(rates: tuple[float, ...]) -> None:
    assert judge_gang(gang(*rates), OPEN) == Findings()


def test_a_device_slower_than_all_others_names_its_node_once() -> None:
    ranks = [rank(0, "a"), rank(1, "a"), rank(2, "b", 100.0), rank(3, "b", 90.0), rank(4, "c")]
    (found,) = judge_gang(ranks, OPEN).unfit
    assert (found.node, found.reason.count("computes")) == ("b", 2)


def nodes(*bandwidths: float, whole: float) -> list[RankReading]:
    return [
        rank(2 * number + place, f"gpu-{number}", bandwidth=whole, node_bandwidth=bandwidth)
        for number, bandwidth in enumerate(bandwidths)
        for place in range(2)
    ]


def test_a_slow_network_is_measured_and_not_refused_without_a_bound() -> None:
    assert judge_gang(nodes(300.0, 290.0, 310.0, whole=1.2), OPEN) == Findings()
    slow = judge_gang(nodes(300.0, 90.0, 310.0, whole=1.2), OPEN)
    assert slow.unfit == ()
    assert slow.warnings == ("node gpu-1: an all-reduce within it reaches 90.00 GB/s; the median of nodes is 300.00",)


def test_below_the_bound_a_node_is_named_only_where_one_is_slow() -> None:
    bound = replace(OPEN, min_bandwidth=40.0)
    assert judge_gang(nodes(300.0, 290.0, 310.0, whole=41.0), bound) == Findings()
    unknown = judge_gang(nodes(300.0, 290.0, 310.0, whole=1.25), bound)
    assert unknown.unfit == ()
    assert unknown.fault == "an all-reduce over all 6 ranks reaches 1.25 GB/s; need 40"
    named = judge_gang(nodes(300.0, 90.0, 310.0, whole=1.25), bound)
    assert [each.node for each in named.unfit] == ["gpu-1"]
    assert (named.fault, named.warnings) == ("", ())


def test_sockets_on_some_nodes_are_those_nodes_fault_on_all_the_pods() -> None:
    asks = replace(OPEN, asks_rdma=True)
    some = [rank(0, "a", network="IB"), rank(1, "b", network="Socket"), rank(2, "c", network="IB")]
    assert [each.node for each in judge_gang(some, asks).unfit] == ["b"]
    assert not is_all_on_sockets(some, asks)
    every = [rank(0, "a", network="Socket"), rank(1, "b", network="Socket")]
    assert judge_gang(every, asks).unfit == ()
    assert is_all_on_sockets(every, asks)
    assert not is_all_on_sockets(every, OPEN)
    assert not is_all_on_sockets([rank(0, "a"), rank(1, "b")], asks)  # not known


@pytest.mark.parametrize(
    ("log", "network"),
    [
        ("gpu-1:7:9 [0] NCCL INFO Using network IB\n", "IB"),
        ("gpu-1:7:9 [0] NCCL INFO Using network Socket\ngpu-1:7:9 [0] NCCL INFO comm 0x1 rank 0\n", "Socket"),
        ("gpu-1:7:9 [0] NCCL INFO [Proxy] Using network AWS Libfabric\n", "AWS Libfabric"),
        ("gpu-1:7:9 [0] NCCL INFO NCCL_IB_DISABLE set by environment to 0\n", ""),
        ("", ""),
    ],
)
def test_nccls_network_is_read_from_its_log(log: str, network: str) -> None:
    assert parse_network(log) == network


@pytest.mark.parametrize(
    ("resource", "asks"),
    [
        ("rdma/hca_shared_devices_a", True),
        ("vpc.amazonaws.com/efa", True),
        ("nvidia.com/sriov-rdma-vf", True),
        ("networking.gke.io.networks/rdma-0", True),
        ("memory", False),
        ("hugepages-2Mi", False),
    ],
)
def test_resources_of_fast_networks(resource: str, asks: bool) -> None:
    containers = [{"name": "shipper"}, {"name": "runtime", "resources": {"limits": {resource: 1}}}]
    assert asks_rdma(PodTemplate.model_validate({"spec": {"containers": containers}})) is asks
    assert not asks_rdma(PodTemplate.model_validate({"spec": {"containers": containers[:1]}}))
    assert not asks_rdma(PodTemplate())


def test_little_lockable_memory_matters_to_rdma_only() -> None:
    little = replace(POD, lockable_bytes=8 * 2**20)
    assert judge_pod(little, LIMITS) == Findings()
    words = "node gpu-7: 8 MiB of memory may be locked; RDMA needs LimitMEMLOCK=infinity"
    assert judge_pod(little, replace(LIMITS, asks_rdma=True)) == Findings((), (words,))


def test_the_summary_has_the_worst_of_each() -> None:
    ranks = [*nodes(301.26, 299.0, whole=44.449), rank(4, "gpu-9", 650.0, bandwidth=44.5)]
    found = summarize_gang(ranks, Findings(warnings=("warm",)), 2.34567)
    assert (found.ranks, found.nodes, found.seconds, found.warnings) == (5, 3, 2.346, ["warm"])
    assert (found.teraflops, found.slowest_teraflops, found.slowest_node) == (700.0, 650.0, "gpu-9")
    assert (found.bandwidth, found.node_bandwidth, found.network) == (44.4, 299.0, "")
