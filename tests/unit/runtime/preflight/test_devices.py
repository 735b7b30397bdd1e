"""Reading devices through NVML: a fake with the functions of nvidia-ml-py, checked against the copy that vLLM ships."""

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from scalerl_runtime.preflight.devices import SLOWDOWNS, read_devices
from scalerl_runtime.preflight.readings import DeviceReading


class NVMLError(Exception):
    """As the library's."""


class FakeNvml:
    """Two devices; `changes` replaces functions."""

    NVMLError = NVMLError
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
    NVML_VOLATILE_ECC = 0
    NVML_FI_DEV_GET_GPU_RECOVERY_ACTION = 230

    def __init__(self, **changes: Callable[..., Any]):
        self.is_open = False
        for name, change in changes.items():
            setattr(self, name, change)

    def nvmlInit(self) -> None:
        self.is_open = True

    def nvmlShutdown(self) -> None:
        self.is_open = False

    def nvmlSystemGetCudaDriverVersion(self) -> int:
        return 13020

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return 100 + index

    def nvmlDeviceGetName(self, handle: int) -> str:
        return f"H{handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(total=handle * 1000, free=handle * 900, used=handle * 100)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:
        return [SimpleNamespace(pid=handle + 7, usedGpuMemory=None)]

    def nvmlDeviceGetTotalEccErrors(self, handle: int, kind: int, counter: int) -> int:
        assert (kind, counter) == (1, 0)
        return handle - 100

    def nvmlDeviceGetRemappedRows(self, handle: int) -> list[int]:
        return [5, 6, handle - 100, 0]

    def nvmlDeviceGetRetiredPagesPendingStatus(self, handle: int) -> int:  # noqa: ARG002 # the library's interface
        return 1

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: int) -> int:
        return 0x1 | 0x4 | (0x40 if handle == 101 else 0)  # idle and a power cap are usual

    def nvmlDeviceGetFieldValues(self, handle: int, fields: list[int]) -> list[Any]:
        assert fields == [230]
        return [SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(uiVal=handle - 100))]


def not_supported(*_arguments: object) -> Any:
    raise NVMLError("Not Supported")


def test_every_number_of_a_device_is_read() -> None:
    nvml = FakeNvml()
    devices, driver, fault = read_devices(nvml)
    assert (driver, fault, nvml.is_open) == ((13, 2), "", False)
    assert devices == (
        DeviceReading(0, "H100", 100_000, 90_000, (107,), 0, False, False, "", ()),
        DeviceReading(1, "H101", 101_000, 90_900, (108,), 1, True, False, "reset", ("hardware heat",)),
    )


def test_what_a_device_does_not_report_is_not_known() -> None:
    names = ("ComputeRunningProcesses", "TotalEccErrors", "RemappedRows", "RetiredPagesPendingStatus", "FieldValues")
    changes = {f"nvmlDeviceGet{name}": not_supported for name in (*names, "CurrentClocksThrottleReasons")}
    devices, _, fault = read_devices(FakeNvml(**changes))
    assert fault == ""
    assert devices[0] == DeviceReading(0, "H100", 100_000, 90_000)


def test_an_older_device_retires_pages() -> None:
    devices, _, _ = read_devices(FakeNvml(nvmlDeviceGetRemappedRows=not_supported))
    assert (devices[0].pending_repair, devices[0].failed_repair) == (True, None)


def test_without_a_driver_the_librarys_words_are_the_fault() -> None:
    def fail() -> None:
        raise NVMLError("Driver Not Loaded")

    assert read_devices(FakeNvml(nvmlInit=fail)) == ((), None, "Driver Not Loaded")


def test_a_device_that_is_lost_is_named_and_the_library_closed() -> None:
    def lost(index: int) -> int:
        if index == 1:
            raise NVMLError("GPU is lost")
        return 100

    nvml = FakeNvml(nvmlDeviceGetHandleByIndex=lost)
    devices, _, fault = read_devices(nvml)
    assert ([each.index for each in devices], fault, nvml.is_open) == ([0], "device 1: GPU is lost", False)


def test_the_fake_has_the_librarys_interface() -> None:
    library = pytest.importorskip("vllm.third_party.pynvml")
    for name, member in vars(FakeNvml).items():
        if name.startswith("nvml"):
            count = len(inspect.signature(member).parameters) - 1  # without `self`
            inspect.signature(getattr(library, name)).bind(*range(count))  # raises TypeError for another interface
        elif name.startswith("NVML_"):
            assert getattr(library, name) == member, name
    assert {
        library.nvmlClocksThrottleReasonHwSlowdown,
        library.nvmlClocksThrottleReasonHwThermalSlowdown,
        library.nvmlClocksThrottleReasonHwPowerBrakeSlowdown,
        library.nvmlClocksThrottleReasonSwThermalSlowdown,
    } == set(SLOWDOWNS)
    assert issubclass(library.NVMLError, Exception)
