"""Devices: memory, speed and links of each, and a user's own table.

Every number is of one GPU. Memory is what `nvidia-smi` calls the total; the rest is the vendor's data sheet: bfloat16
without sparsity, and one direction of a link.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from scalerl_api import Fault, InvalidRun

MIB = 2**20
GIB = 2**30
DEVICES_PATH = "--devices"


@dataclass(frozen=True, kw_only=True)
class Device:
    """A kind of GPU."""

    name: str
    memory_bytes: int
    bf16_flops: float
    """Dense bfloat16 operations a second."""
    memory_bandwidth: float
    """Bytes a second."""
    link_bandwidth: float
    """Bytes a second to another GPU of the node, in one direction."""
    network_bandwidth: float
    """Bytes a second of a GPU's share of the network between nodes, in one direction."""
    gpus_per_node: int
    products: tuple[str, ...] = ()
    """The values of the label `nvidia.com/gpu.product`."""
    source: str = "the user's table"


A100_SHEET = "NVIDIA A100 Tensor Core GPU data sheet, 2021"
H100_SHEET = "NVIDIA H100 Tensor Core GPU data sheet, 2023"
BLACKWELL_SHEET = "NVIDIA Blackwell architecture data sheet, 2024"

DEVICES: Mapping[str, Device] = MappingProxyType(
    {
        each.name: each
        for each in (
            Device(
                name="A100-40GB",
                memory_bytes=40_960 * MIB,
                bf16_flops=312e12,
                memory_bandwidth=1.555e12,
                link_bandwidth=300e9,
                network_bandwidth=25e9,
                gpus_per_node=8,
                products=("NVIDIA-A100-SXM4-40GB",),
                source=A100_SHEET,
            ),
            Device(
                name="A100-80GB",
                memory_bytes=81_920 * MIB,
                bf16_flops=312e12,
                memory_bandwidth=2.039e12,
                link_bandwidth=300e9,
                network_bandwidth=25e9,
                gpus_per_node=8,
                products=("NVIDIA-A100-SXM4-80GB",),
                source=A100_SHEET,
            ),
            Device(
                name="H100",
                memory_bytes=81_559 * MIB,
                bf16_flops=989e12,
                memory_bandwidth=3.35e12,
                link_bandwidth=450e9,
                network_bandwidth=50e9,
                gpus_per_node=8,
                products=("NVIDIA-H100-80GB-HBM3",),
                source=H100_SHEET,
            ),
            Device(
                name="H200",
                memory_bytes=143_771 * MIB,
                bf16_flops=989e12,
                memory_bandwidth=4.8e12,
                link_bandwidth=450e9,
                network_bandwidth=50e9,
                gpus_per_node=8,
                products=("NVIDIA-H200",),
                source="NVIDIA H200 Tensor Core GPU data sheet, 2024",
            ),
            Device(
                name="B200",
                memory_bytes=183_359 * MIB,
                bf16_flops=2.25e15,
                memory_bandwidth=8.0e12,
                link_bandwidth=900e9,
                network_bandwidth=50e9,
                gpus_per_node=8,
                products=("NVIDIA-B200",),
                source=BLACKWELL_SHEET,
            ),
            Device(
                name="GB200",
                memory_bytes=189_471 * MIB,
                bf16_flops=2.5e15,
                memory_bandwidth=8.0e12,
                link_bandwidth=900e9,
                network_bandwidth=50e9,
                gpus_per_node=4,
                products=("NVIDIA-GB200",),
                source=BLACKWELL_SHEET,
            ),
            Device(
                name="L40S",
                memory_bytes=46_068 * MIB,
                bf16_flops=362e12,
                memory_bandwidth=864e9,
                link_bandwidth=32e9,
                network_bandwidth=25e9,
                gpus_per_node=8,
                products=("NVIDIA-L40S",),
                source="NVIDIA L40S data sheet, 2023; its link is PCIe 4.0 x16",
            ),
        )
    }
)
SHORT_NAMES = MappingProxyType({"A100": "A100-80GB"})
_NUMBERS = ("bf16Flops", "memoryBandwidth", "linkBandwidth", "networkBandwidth")


def find_device(name: str, own: Mapping[str, Device] | None = None) -> Device:
    """Return a device by its name, in any case; the user's own come first. Raises InvalidRun."""
    table = {**DEVICES, **(own or {})}
    by_name = {key.lower(): each for key, each in table.items()}
    found = by_name.get(SHORT_NAMES.get(name.upper(), name).lower())
    if found is None:
        raise InvalidRun([Fault("--device", name, f"one of {', '.join(sorted(table))}, or one of --devices FILE")])
    return found


def parse_devices(document: object) -> dict[str, Device]:
    """Return the devices of a user's table: name -> its numbers. Raises InvalidRun with every fault.

    A device: `memoryGiB`, `bf16Flops` (operations a second), `memoryBandwidth`, `linkBandwidth`, `networkBandwidth`
    (bytes a second), `gpusPerNode`; optional `products`, the values of the nodes' label `nvidia.com/gpu.product`.
    """
    if not isinstance(document, Mapping) or not document:
        kind = type(document).__name__
        raise InvalidRun([Fault(DEVICES_PATH, kind, "a mapping of names to devices, with at least one")])
    faults: list[Fault] = []
    found = {str(name): _parse_device(str(name), each, faults) for name, each in document.items()}
    if faults:
        raise InvalidRun(faults)
    return found


def _parse_device(name: str, values: object, faults: list[Fault]) -> Device:
    known = {"memoryGiB", "gpusPerNode", "products", *_NUMBERS}
    if not isinstance(values, Mapping):
        faults.append(Fault(f"{DEVICES_PATH}.{name}", repr(values), f"a mapping of {', '.join(sorted(known))}"))
        values = {}
    else:
        extra = [str(each) for each in values if each not in known]
        faults += [Fault(f"{DEVICES_PATH}.{name}.{each}", "unknown", f"one of {sorted(known)}") for each in extra]
        for each in ("memoryGiB", "gpusPerNode", *_NUMBERS):
            if not _is_positive(values.get(each)):
                found = repr(values.get(each)) if each in values else "missing"
                faults.append(Fault(f"{DEVICES_PATH}.{name}.{each}", found, "a number above 0"))
    numbers = {each: _number(values.get(each)) for each in ("memoryGiB", "gpusPerNode", *_NUMBERS)}
    products = values.get("products") or []
    if not isinstance(products, list) or not all(isinstance(each, str) for each in products):
        faults.append(Fault(f"{DEVICES_PATH}.{name}.products", repr(products), "a list of texts"))
        products = []
    return Device(
        name=name,
        memory_bytes=int(numbers["memoryGiB"] * GIB),
        bf16_flops=numbers["bf16Flops"],
        memory_bandwidth=numbers["memoryBandwidth"],
        link_bandwidth=numbers["linkBandwidth"],
        network_bandwidth=numbers["networkBandwidth"],
        gpus_per_node=int(numbers["gpusPerNode"]),
        products=tuple(products),
    )


def _number(value: object) -> float:
    """Return the number, 1 for what was refused."""
    return float(value) if isinstance(value, int | float) and _is_positive(value) else 1.0


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
