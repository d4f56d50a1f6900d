"""Reads the accelerators of this machine, through NVML (`tasks.accelerators.nvml`) or a Jetson's files.

Every field of a device is read by itself and is None when it could not be read: a MIG parent has no utilisation, WSL2
no memory per process, Jetson Thor no memory at all (it is the machine's own), and a lost GPU must not hide the others.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

NO_DRIVER = "no NVIDIA driver"
NO_GPU = "no NVIDIA GPU"

#: The reasons that mean there is nothing to read; any other means that it could not be read.
ABSENT = (NO_DRIVER, NO_GPU)
UNREADABLE = "NVML cannot be read: "

#: How long a command waits for NVML. Without a persistent driver its first answer takes seconds.
PATIENCE_S = 5.0


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
    is_lost: bool = False  # whether that is because it fell off the bus
    unified: bool = False  # its memory is the machine's own
    in_instances: bool = False  # a GPU whose MIG instances could not be read: CUDA takes the first of them
    instance: int | None = None  # which MIG instance of the GPU `index` it is, where it is one
    gpu_uuid: str | None = None  # the UUID of that GPU
    throttle_reasons: tuple[str, ...] | None = None  # why its clocks are lower than they could be; idle is none

    @property
    def label(self) -> str:
        """Its index, as "0"; of a MIG instance with the instance's, as "0:1"."""
        return str(self.index) if self.instance is None else f"{self.index}:{self.instance}"

    @property
    def key(self) -> str:
        """What leases call it: its UUID is the same in every container, a device without one is its host's."""
        return self.uuid or f"{socket.gethostname()}:{self.index}"


@dataclass(frozen=True)
class Devices:
    """The accelerators of this machine, or the reason why there are none to read."""

    devices: tuple[Device, ...] = ()
    reason: str | None = None
    limit: str | None = None  # what keeps this process to fewer than there are, such as "1 of 2 GPUs, by …"


def read_devices(
    proc: Path = Path("/proc"),
    sys: Path = Path("/sys"),
    patience_s: float = PATIENCE_S,
    environment: Mapping[str, str] | None = None,
) -> Devices:
    """The accelerators that may be used in an environment, this process's by default, in the order of NVML (PCI bus).

    Never raises, and returns in time whatever the driver does: what fails is None or a reason.
    """
    from tasks.accelerators import nvml_process, visible_devices

    environment = os.environ if environment is None else environment
    found = nvml_process.read(patience_s, visible_devices.mig_instances(environment))
    if found.reason in ABSENT:
        return _read_jetson(proc, sys) or found
    return visible_devices.narrow(_with_unified_memory(found, proc), environment)


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
    """On a Jetson, report the machine's memory as the GPU's: NVML does not report it there."""
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
    bytes_by_name = {name: int(rest.split()[0]) * 1024 for name, rest in pairs if rest.split()}
    total, available = bytes_by_name.get("MemTotal"), bytes_by_name.get("MemAvailable")
    return total, total - available if total is not None and available is not None else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return None
