"""Machines: the devices of this one, the hosts of the fleet, and the profiles of workers."""

from __future__ import annotations

from typing import Any

from mistudio_cli.monitor.hosts import fleet_in
from mistudio_cli.rest.route import Answer, Call
from mistudio_cli.views import host_json, json_shapes


async def list_devices(call: Call) -> Answer:
    """`GET /api/v1/devices`; what could not be read is null with a reason in `errors`."""
    seen = await call.services.snapshot()
    keys = ("read_at", "devices", "devices_reason", "devices_limit", "errors")
    found = json_shapes.everything(seen)
    return Answer({key: found[key] for key in keys})


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
