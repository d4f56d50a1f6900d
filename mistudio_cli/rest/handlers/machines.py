"""Machines: the devices of this one, the hosts of the fleet, and the profiles of workers."""

from __future__ import annotations

import socket
from typing import Any

from mistudio_cli.monitor.hosts import fleet_in
from mistudio_cli.monitor.snapshot import Snapshot
from mistudio_cli.rest.route import Answer, Call
from mistudio_cli.views import host_json, json_shapes
from tasks.accelerators.card_processes import memory_of_others, processes_of
from tasks.accelerators.devices import Device


async def list_devices(call: Call) -> Answer:
    """`GET /api/v1/devices`; what could not be read is null with a reason in `errors`."""
    seen = await call.services.new_snapshot()
    keys = ("read_at", "devices", "devices_reason", "devices_limit", "errors")
    found = json_shapes.everything(seen)
    answer = {key: found[key] for key in keys}
    cards = seen.devices.devices if seen.devices is not None else ()
    try:  # a process may be stuck in the kernel, and so may who reads its command line
        details = await call.services.read_disk(lambda: [_on_card(card) for card in cards])
    except TimeoutError:
        details = [{"others_bytes": None} for _ in cards]
    devices = [{**device, **more} for device, more in zip(found["devices"] or (), details, strict=True)]
    return Answer({**answer, "devices": devices or None, "remote_devices": _remote(seen)})


def _on_card(card: Device) -> dict[str, Any]:
    """Each process on a device, and the memory in use there that no job holds."""
    processes = processes_of(card)
    rows = None if processes is None else [json_shapes.card_process(process) for process in processes]
    return {"processes": rows, "others_bytes": memory_of_others(card, processes)}


def _remote(seen: Snapshot) -> list[dict[str, Any]] | None:
    """The GPUs of other hosts, by their newest heartbeats."""
    if seen.hosts is None:
        return None
    return [
        {"host": row.name, "seen_age_s": row.seen_age_s and round(row.seen_age_s, 1), **gpu}
        for row in seen.hosts
        if row.name != socket.gethostname()
        for gpu in host_json.gpus_of(row, seen.leases) or ()
    ]


async def list_hosts(call: Call) -> Answer:
    """`GET /api/v1/hosts`, as `hosts ls --json`."""
    return Answer(host_json.hosts(fleet_in(await call.services.overview())))


async def list_profiles(call: Call) -> Answer:
    """`GET /api/v1/profiles`, as `profiles ls --json`."""
    return Answer(await call.services.read_disk(_profiles))


def _profiles() -> dict[str, Any]:
    from mistudio_cli.profile.rules import profile_files, read_profile
    from mistudio_cli.views import profile_json

    return profile_json.profiles([read_profile(file) for file in profile_files()])
