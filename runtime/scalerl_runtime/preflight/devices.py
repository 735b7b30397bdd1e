"""Reads NVIDIA devices through NVML. I/O."""

import importlib
from collections.abc import Callable
from typing import Any, TypeVar

from scalerl_runtime.preflight.readings import DeviceReading

T = TypeVar("T")

# Bits of nvmlClocksEventReasons that have their cause in the hardware or its cooling.
SLOWDOWNS = {0x8: "hardware slowdown", 0x20: "heat", 0x40: "hardware heat", 0x80: "power brake"}
RECOVERIES = {1: "reset", 2: "reboot", 3: "drain peers", 4: "drain and reset"}  # nvmlDeviceGpuRecoveryAction_t


def load_nvml() -> Any:
    """Return the module `pynvml` of nvidia-ml-py. Raises ImportError without it."""
    return importlib.import_module("pynvml")


def read_devices(nvml: Any) -> tuple[tuple[DeviceReading, ...], tuple[int, int] | None, str]:
    """Return the devices, the newest CUDA of the driver, and why NVML failed; empty if it did not.

    Args:
        nvml: the module `pynvml`, or an object with its functions.
    """
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return (), None, str(error)
    devices: list[DeviceReading] = []
    try:
        version = int(nvml.nvmlSystemGetCudaDriverVersion())
        for index in range(nvml.nvmlDeviceGetCount()):
            devices.append(_read_device(nvml, index))
    except nvml.NVMLError as error:
        return tuple(devices), None, f"device {len(devices)}: {error}"  # such as a device that fell off the bus
    finally:
        nvml.nvmlShutdown()
    return tuple(devices), (version // 1000, version % 1000 // 10), ""


def _read_device(nvml: Any, index: int) -> DeviceReading:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    name = nvml.nvmlDeviceGetName(handle)
    reasons = _optional(nvml, lambda: int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))) or 0
    processes = _optional(nvml, lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle)) or []
    pending, failed = _repairs(nvml, handle)
    return DeviceReading(
        index=index,
        name=name.decode() if isinstance(name, bytes) else name,
        total_bytes=int(memory.total),
        free_bytes=int(memory.free),
        processes=tuple(int(each.pid) for each in processes),
        uncorrected_errors=_optional(
            nvml,
            lambda: int(
                nvml.nvmlDeviceGetTotalEccErrors(
                    handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
                )
            ),
        ),
        pending_repair=pending,
        failed_repair=failed,
        recovery=RECOVERIES.get(_optional(nvml, lambda: _recovery(nvml, handle)) or 0, ""),
        slowdowns=tuple(word for bit, word in SLOWDOWNS.items() if reasons & bit),
    )


def _repairs(nvml: Any, handle: Any) -> tuple[bool | None, bool | None]:
    """Return (pending, failed) of remapped rows; older devices than A100 retire pages instead."""
    rows = _optional(nvml, lambda: nvml.nvmlDeviceGetRemappedRows(handle))
    if rows is not None:
        return bool(rows[2]), bool(rows[3])
    pages = _optional(nvml, lambda: int(nvml.nvmlDeviceGetRetiredPagesPendingStatus(handle)))
    return (None if pages is None else bool(pages)), None


def _recovery(nvml: Any, handle: Any) -> int:
    """Return the driver's recovery action: an Xid error of the past leaves no other trace in NVML."""
    (field,) = nvml.nvmlDeviceGetFieldValues(handle, [nvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION])
    return int(field.value.uiVal) if field.nvmlReturn == 0 else 0


def _optional(nvml: Any, call: Callable[[], T]) -> T | None:
    """Return what `call` reads; None where the device, driver or library has no such number."""
    try:
        return call()
    except (nvml.NVMLError, AttributeError):
        return None
