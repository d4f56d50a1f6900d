"""Which of a machine's GPUs this process may use: what it inherited is narrowed, never replaced.

`CUDA_VISIBLE_DEVICES` is read as CUDA does: indices, or UUIDs that may be cut short, up to the first that means
nothing; one named twice means none. Indices count by PCI bus, as NVML does. `NVIDIA_VISIBLE_DEVICES` is for the
container runtime, whose indices are the host's; UUIDs in it hold here as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from tasks.accelerators.devices import NO_GPU, UNREADABLE, Device, Devices

_CUDA, _CONTAINER = "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"
_GPU, _MIG = "GPU-", "MIG-"


def limits_in(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of an environment that limit the devices in it."""
    return {name: environment[name] for name in (_CUDA, _CONTAINER) if name in environment}


def narrow(found: Devices, environment: Mapping[str, str]) -> Devices:
    """The devices that may be used, with what limits them."""
    variable, words = _limit(environment)
    if found.reason is not None or variable is None:
        return found
    if mig_instances(environment):  # which are all that was read
        return replace(found, limit=f"{_counted(len(found.devices), 'MIG instance')}, by {variable}")
    by_uuid = any(word.startswith(_GPU) for word in words)
    if by_uuid and any(device.uuid is None and device.problem is None for device in found.devices):
        return Devices(reason=f"{UNREADABLE}no UUIDs, and {variable} names GPUs by them")
    chosen = _chosen(found.devices, words)
    limit = f"{len(chosen)} of {_counted(len({device.index for device in found.devices}), 'GPU')}, by {variable}"
    return Devices(chosen, None if chosen else NO_GPU, limit)


def mig_instances(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The UUIDs of the MIG instances that this process is kept to; none where it is not kept to any."""
    _, words = _limit(environment)
    return words if words and words[0].startswith(_MIG) else ()


def _limit(environment: Mapping[str, str]) -> tuple[str | None, tuple[str, ...]]:
    """The variable that limits, and the words in it that mean a device."""
    if (value := environment.get(_CUDA)) is not None:
        return _CUDA, _words(value)
    value = environment.get(_CONTAINER, "")
    words = [word.strip() for word in value.split(",")]
    return (_CONTAINER, _words(value)) if all(word.startswith(_GPU) for word in words) else (None, ())


def _words(value: str) -> tuple[str, ...]:
    """The words up to the first that means nothing; none when one is there twice."""
    prefix = next((prefix for prefix in (_GPU, _MIG) if value.startswith(prefix)), None)
    meant: list[str] = []
    for word in value.split(","):
        found = re.match(r"\s*\+?(\d+)", word)
        if (prefix is None and found is None) or (prefix is not None and not word.startswith(prefix)):
            break
        meant.append(word.strip() if prefix is not None or found is None else str(int(found[1])))
    return tuple(meant) if len(set(meant)) == len(meant) else ()


def _chosen(devices: tuple[Device, ...], words: tuple[str, ...]) -> tuple[Device, ...]:
    chosen: list[Device] = []
    for word in words:
        named = [device for device in devices if _is_named(device, word)]
        if len({device.index for device in named}) != 1:
            break
        chosen.append(named[0])  # of a GPU's MIG instances CUDA takes the first
    return tuple(sorted(chosen, key=lambda device: device.index))


def _is_named(device: Device, word: str) -> bool:
    if word.startswith(_GPU):
        uuid = device.gpu_uuid or device.uuid
        return uuid is not None and uuid.startswith(word)
    return str(device.index) == word


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
