"""Reads the accelerators of this machine: the only place that talks to NVML or to a Jetson's files.

Every field of a device is read by itself and is None when it could not be read: a MIG parent has no utilisation, WSL2
no memory per process, Jetson Thor no memory at all (it is the machine's own), and a lost GPU must not hide the others.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

NO_DRIVER = "no NVIDIA driver"
NO_GPU = "no NVIDIA GPU"

#: The reasons that mean there is nothing to read; any other means that it could not be read.
ABSENT = (NO_DRIVER, NO_GPU)
UNREADABLE = "NVML cannot be read: "

T = TypeVar("T")


@dataclass(frozen=True)
class GpuProcess:
    """A process that holds memory on a device. In a container the pid is the host's."""

    pid: int
    memory: int | None  # bytes


@dataclass(frozen=True)
class Device:
    """One accelerator, as it said of itself just now; None is "could not be read"."""

    index: int
    name: str | None = None
    uuid: str | None = None
    memory_total: int | None = None  # bytes
    memory_used: int | None = None  # bytes
    utilisation: float | None = None  # percent of the last moment in which a kernel ran
    temperature: float | None = None  # degrees Celsius
    power: float | None = None  # watts
    processes: tuple[GpuProcess, ...] | None = None
    problem: str | None = None  # why nothing of it could be read
    unified: bool = False  # its memory is the machine's own
    in_instances: bool = False  # a MIG parent: its memory is its instances', and CUDA takes the first of them

    @property
    def key(self) -> str:
        """What leases call it: its UUID is the same in every container, a device without one is its host's."""
        return self.uuid or f"{socket.gethostname()}:{self.index}"


@dataclass(frozen=True)
class Devices:
    """The accelerators of this machine, or the reason why there are none to read."""

    devices: tuple[Device, ...] = ()
    reason: str | None = None


def read_devices(proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> Devices:
    """All accelerators, in the order of NVML (by PCI bus). Never raises: what fails is None or a reason."""
    found = _NVML.read()
    if found.reason in ABSENT:
        return _read_jetson(proc, sys) or found
    return _with_unified_memory(found, proc)


class _Nvml:
    """NVML, initialised once in a process; its handles are kept."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handles: list[Any] | None = None

    def read(self) -> Devices:
        import pynvml

        with self._lock:
            try:
                if self._handles is None:
                    pynvml.nvmlInit()
                    self._handles = [_handle(index) for index in range(pynvml.nvmlDeviceGetCount())]
            except pynvml.NVMLError as error:
                return Devices(reason=_why(error))
            devices = tuple(_read_device(index, handle) for index, handle in enumerate(self._handles))
            if any(device.problem for device in devices):
                self._handles = None  # a lost or reset GPU may come back: ask for handles again next time
        return Devices(devices, None if devices else NO_GPU)


_NVML = _Nvml()


def _why(error: Exception) -> str:
    import pynvml

    absent = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    return NO_DRIVER if getattr(error, "value", None) in absent else f"{UNREADABLE}{error}"


def _handle(index: int) -> Any:
    """NVML's handle of a device, or the error in its place."""
    import pynvml

    try:
        return pynvml.nvmlDeviceGetHandleByIndex(index)
    except pynvml.NVMLError as error:
        return error


def _read_device(index: int, handle: Any) -> Device:
    import pynvml

    if isinstance(handle, pynvml.NVMLError):
        return Device(index, problem=str(handle))
    failed: list[str] = []
    lost: list[str] = []

    def ask(*ways: Callable[[Any], T]) -> T | None:
        """The first answer; each way is for older drivers than the one before."""
        for way in ways:
            try:
                return way(handle)
            except (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError) as error:
                failed.append(str(error))
                if getattr(error, "value", None) == pynvml.NVML_ERROR_GPU_IS_LOST:
                    lost.append(str(error))
        return None

    # Version 2 does not count the driver's own reserve as used memory; version 1 did.
    memory = ask(lambda h: pynvml.nvmlDeviceGetMemoryInfo(h, pynvml.nvmlMemory_v2), pynvml.nvmlDeviceGetMemoryInfo)
    name, uuid = _text(ask(pynvml.nvmlDeviceGetName)), _text(ask(pynvml.nvmlDeviceGetUUID))
    if memory is None and name is None and uuid is None:
        return Device(index, problem=failed[-1])  # a driver that tells nothing of it, such as after an update
    rates, power, mig = (
        ask(pynvml.nvmlDeviceGetUtilizationRates),
        ask(pynvml.nvmlDeviceGetPowerUsage),
        ask(pynvml.nvmlDeviceGetMigMode),
    )
    return Device(
        index,
        name=name,
        uuid=uuid,
        memory_total=memory.total if memory else None,
        memory_used=memory.used if memory else None,
        utilisation=float(rates.gpu) if rates else None,
        temperature=ask(lambda h: pynvml.nvmlDeviceGetTemperature(h, pynvml.NVML_TEMPERATURE_GPU)),
        power=power / 1000 if power is not None else None,  # NVML tells milliwatts
        processes=_processes(
            ask(pynvml.nvmlDeviceGetComputeRunningProcesses, pynvml.nvmlDeviceGetComputeRunningProcesses_v2),
            ask(pynvml.nvmlDeviceGetGraphicsRunningProcesses, pynvml.nvmlDeviceGetGraphicsRunningProcesses_v2),
        ),
        problem=lost[0] if lost else None,
        in_instances=bool(mig and mig[0]),
    )


def _text(value: Any) -> str | None:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _processes(compute: list[Any] | None, graphics: list[Any] | None) -> tuple[GpuProcess, ...] | None:
    """Processes of both sorts, each pid once; None when neither list could be read."""
    if compute is None and graphics is None:
        return None
    by_pid = {told.pid: GpuProcess(told.pid, told.usedGpuMemory) for told in [*(graphics or []), *(compute or [])]}
    return tuple(by_pid[pid] for pid in sorted(by_pid))


def _read_jetson(proc: Path, sys: Path) -> Devices | None:
    """The GPU of a Jetson without NVML: its load in thousandths from devfreq, its memory is the machine's own."""
    for node in sorted(sys.glob("class/devfreq/*")):
        of_name = _read(node / "device" / "of_node" / "name") or ""
        load = _read(node / "device" / "load")
        if load is None or "gpu" not in f"{node.name} {of_name}".lower():
            continue
        total, used = _machine_memory(proc)
        share = float(load) / 10 if load.isdigit() else None
        name = _machine_name(proc)
        card = Device(0, name, memory_total=total, memory_used=used, utilisation=share, unified=True)
        return Devices((card,))
    return None


def _with_unified_memory(found: Devices, proc: Path) -> Devices:
    """On a Jetson with NVML the GPU's memory, which NVML does not tell there, is the machine's."""
    if "jetson" not in (_machine_name(proc) or "").lower():
        return found
    total, used = _machine_memory(proc)

    def shared(card: Device) -> Device:
        return replace(card, memory_total=total, memory_used=used, unified=True)

    return replace(found, devices=tuple(shared(card) if card.memory_total is None else card for card in found.devices))


def _machine_name(proc: Path) -> str | None:
    return _read(proc / "device-tree" / "model")


def _machine_memory(proc: Path) -> tuple[int | None, int | None]:
    """Total and used memory in bytes."""
    pairs = (line.split(":", 1) for line in (_read(proc / "meminfo") or "").splitlines() if ":" in line)
    told = {name: int(rest.split()[0]) * 1024 for name, rest in pairs if rest.split()}
    total, available = told.get("MemTotal"), told.get("MemAvailable")
    return total, total - available if total is not None and available is not None else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return None
