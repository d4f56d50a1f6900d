"""`python -P -m tasks.accelerators.nvml`: reads NVML in a process of its own, and answers each line of its input with
one of JSON.

A question is a list of MIG instances by their UUIDs; an empty one is for all devices. A driver that hangs may not even
let a process die: it must hang nobody but this one. `tasks.accelerators.nvml_process` asks it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from tasks.accelerators.devices import NO_DRIVER, NO_GPU, UNREADABLE, Device, Devices, GpuProcess

T = TypeVar("T")

_STDOUT = 1

#: NVML's clock event reasons by their bits, as nvidia-smi names them; an idle GPU (1) is not throttled.
_THROTTLE_REASONS = {
    2: "applications clocks setting",
    4: "SW power cap",
    8: "HW slowdown",
    16: "sync boost",
    32: "SW thermal slowdown",
    64: "HW thermal slowdown",
    128: "HW power brake slowdown",
    256: "display clock setting",
}


def main() -> int:
    """Answer until whoever asks is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command that asks
    answers = os.fdopen(os.dup(_STDOUT), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)  # what a driver prints is no answer
    nvml = _Nvml()
    for question in sys.stdin:
        answers.write(json.dumps(dataclasses.asdict(nvml.read(json.loads(question)))) + "\n")
        answers.flush()
    return 0


class _Nvml:
    """NVML, initialised once in a process; its handles are kept."""

    def __init__(self) -> None:
        self._handles: list[Any] | None = None

    def read(self, instances: Sequence[str]) -> Devices:
        import pynvml

        try:
            if self._handles is None:
                pynvml.nvmlInit()
                self._handles = [_handle(index) for index in range(pynvml.nvmlDeviceGetCount())]
        except pynvml.NVMLError as error:
            return Devices(reason=_why(error))
        if instances:
            return Devices(tuple(_read_instance(place, uuid) for place, uuid in enumerate(instances)))
        devices = tuple(found for index, handle in enumerate(self._handles) for found in _read_gpu(index, handle))
        if any(device.problem for device in devices):
            self._handles = None  # a lost or reset GPU may come back: ask for handles again next time
        return Devices(devices, None if devices else NO_GPU)


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


def _read_instance(place: int, uuid: str) -> Device:
    """Read a MIG instance by its UUID. What the driver does not report is unknown; CUDA finds the instance anyway."""
    import pynvml

    try:
        found = _read_device(place, pynvml.nvmlDeviceGetHandleByUUID(uuid))
    except (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError):
        found = Device(place)
    return dataclasses.replace(found, uuid=uuid, problem=None, in_instances=False)


def _read_gpu(index: int, handle: Any) -> list[Device]:
    """A GPU, or its MIG instances where it is cut into some: CUDA can use no more of it than one of these at a time.

    The GPU itself stays where its instances cannot be read, or are lost with it, or are none, which is its problem.
    """
    import pynvml

    gpu = _read_device(index, handle)
    if not gpu.in_instances or gpu.problem:
        return [gpu]
    try:
        instances = list(_instances_of(gpu, handle))
    except (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError) as error:
        is_lost = getattr(error, "value", None) == pynvml.NVML_ERROR_GPU_IS_LOST
        return [dataclasses.replace(gpu, problem=str(error) if is_lost else None, is_lost=is_lost)]
    if not instances:
        return [dataclasses.replace(gpu, problem="MIG is enabled, but it has no instances")]
    return instances if all(device.uuid for device in instances) else [gpu]


def _instances_of(gpu: Device, handle: Any) -> Iterator[Device]:
    """The MIG instances of a GPU; NVML reports load, temperature and power only for the whole GPU."""
    import pynvml

    for number in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            instance = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
        except pynvml.NVMLError as error:
            if error.value in (pynvml.NVML_ERROR_NOT_FOUND, pynvml.NVML_ERROR_INVALID_ARGUMENT):
                continue  # fewer were made than there may be
            raise
        found = _read_device(gpu.index, instance)
        yield dataclasses.replace(found, in_instances=False, instance=number, gpu_uuid=gpu.uuid)


def _read_device(index: int, handle: Any) -> Device:
    import pynvml

    if isinstance(handle, pynvml.NVMLError):
        return Device(index, problem=str(handle), is_lost=handle.value == pynvml.NVML_ERROR_GPU_IS_LOST)
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
        return Device(
            index, problem=failed[-1], is_lost=bool(lost)
        )  # the driver reports nothing about it, for example after an update
    rates, power, mig = (
        ask(pynvml.nvmlDeviceGetUtilizationRates),
        ask(pynvml.nvmlDeviceGetPowerUsage),
        ask(pynvml.nvmlDeviceGetMigMode),
    )
    reasons = ask(pynvml.nvmlDeviceGetCurrentClocksEventReasons, pynvml.nvmlDeviceGetCurrentClocksThrottleReasons)
    return Device(
        index,
        name=name,
        uuid=uuid,
        memory_total=memory.total if memory else None,
        memory_used=memory.used if memory else None,
        utilisation=float(rates.gpu) if rates else None,
        temperature=ask(lambda h: pynvml.nvmlDeviceGetTemperature(h, pynvml.NVML_TEMPERATURE_GPU)),
        power=power / 1000 if power is not None else None,  # NVML reports milliwatts
        processes=_processes(
            ask(pynvml.nvmlDeviceGetComputeRunningProcesses, pynvml.nvmlDeviceGetComputeRunningProcesses_v2),
            ask(pynvml.nvmlDeviceGetGraphicsRunningProcesses, pynvml.nvmlDeviceGetGraphicsRunningProcesses_v2),
        ),
        problem=lost[0] if lost else None,
        is_lost=bool(lost),
        in_instances=bool(mig and mig[0]),
        throttle_reasons=None
        if reasons is None
        else tuple(name for bit, name in _THROTTLE_REASONS.items() if reasons & bit),
    )


def _text(value: Any) -> str | None:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _processes(compute: list[Any] | None, graphics: list[Any] | None) -> tuple[GpuProcess, ...] | None:
    """Processes of both sorts, each pid once; None when neither list could be read."""
    if compute is None and graphics is None:
        return None
    by_pid = {
        process.pid: GpuProcess(process.pid, process.usedGpuMemory) for process in [*(graphics or []), *(compute or [])]
    }
    return tuple(by_pid[pid] for pid in sorted(by_pid))


if __name__ == "__main__":
    sys.exit(main())
