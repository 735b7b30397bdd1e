"""Devices are found by name; a user's own table is checked with every fault."""

import pytest

from scalerl_api import InvalidRun
from scalerl_operator.capacity.devices import DEVICES, find_device, parse_devices

OWN = {
    "memoryGiB": 24,
    "bf16Flops": 1e14,
    "memoryBandwidth": 1e12,
    "linkBandwidth": 1e10,
    "networkBandwidth": 1e10,
    "gpusPerNode": 2,
}


def test_names_are_found_in_any_case_and_the_users_come_first() -> None:
    assert find_device("h100") is DEVICES["H100"]
    assert find_device("A100") is DEVICES["A100-80GB"]
    own = parse_devices({"H100": OWN})
    assert find_device("H100", own).memory_bytes == 24 * 2**30


@pytest.mark.parametrize("name", DEVICES)
def test_every_device_has_a_source_and_sane_numbers(name: str) -> None:
    device = DEVICES[name]
    assert device.source
    assert device.products
    assert 20e9 < device.memory_bytes < 300e9
    assert 1e14 < device.bf16_flops < 1e16
    assert device.network_bandwidth <= device.link_bandwidth < device.memory_bandwidth


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(InvalidRun, match="--device: V100, one of A100-40GB, A100-80GB, B200"):
        find_device("V100")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "--devices: list, a mapping of names"),
        ({"mine": 4}, "--devices.mine: 4, a mapping of"),
        ({"mine": {**OWN, "memoryGiB": "24"}}, "--devices.mine.memoryGiB: '24', a number above 0"),
        ({"mine": {**OWN, "memoryGiB": 0}}, "--devices.mine.memoryGiB: 0, a number above 0"),
        ({"mine": {**OWN, "colour": "red"}}, "--devices.mine.colour: unknown"),
        ({"mine": {key: value for key, value in OWN.items() if key != "gpusPerNode"}}, "gpusPerNode: missing"),
        ({"mine": {**OWN, "products": "one"}}, "--devices.mine.products: 'one', a list of texts"),
    ],
)
def test_a_faulty_table_is_refused_by_field(document: object, message: str) -> None:
    with pytest.raises(InvalidRun) as error:
        parse_devices(document)
    assert message in str(error.value)
