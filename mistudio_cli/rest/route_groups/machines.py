"""Routes of the machines: devices, hosts, history and profiles."""

from __future__ import annotations

from typing import Any

from mistudio_cli.rest import results
from mistudio_cli.rest.handlers import history, machines
from mistudio_cli.rest.route import API, Route

_AT = "2026-01-31T12:00:00.000Z"
_HISTORY: dict[str, Any] = {
    "read_at": _AT,
    "part": "queues",
    "span": "15m",
    "start": _AT,
    "step_s": 5,
    "count": 180,
    "queues": [{"name": "training", "pending": [2, None], "running": [1, None], "paused": [False, None]}],
    "devices": None,
    "left_out": 0,
}

MACHINES: tuple[Route, ...] = (
    Route(
        "GET",
        f"{API}/devices",
        "The accelerators of this machine and of other hosts, the jobs that lease them, and the processes on them",
        machines.list_devices,
        results.Devices,
        {
            "read_at": _AT,
            "devices": None,
            "devices_reason": "no NVIDIA driver",
            "devices_limit": None,
            "errors": [],
            "remote_devices": [
                {
                    "host": "lab",
                    "index": 0,
                    "processes": [
                        {
                            "pid": 4720,
                            "memory_bytes": 6000000000,
                            "user": "alice",
                            "command": "python train.py",
                            "job": None,
                        }
                    ],
                    "more_processes": 0,
                    "others_bytes": 6000000000,
                    "jobs": [],
                }
            ],
        },
        lists=True,
    ),
    Route(
        "GET",
        f"{API}/hosts",
        "The hosts of the fleet, as `hosts ls --json`",
        machines.list_hosts,
        results.Hosts,
        {"read_at": _AT, "hosts": [{"name": "lab", "state": "running", "workers": 6}]},
        lists=True,
    ),
    Route(
        "GET",
        f"{API}/history",
        "What queues or GPUs were like over a span; null where nobody wrote. "
        "Over 24h a value is a minute's largest (queues) or mean (GPUs)",
        history.get_history,
        results.History,
        _HISTORY,
        params=history.Span,
        lists=True,
    ),
    Route(
        "GET",
        f"{API}/profiles",
        "The profiles of workers, as `profiles ls --json`",
        machines.list_profiles,
        results.Profiles,
        {"profiles": [{"name": "full", "origin": "built-in", "workers": 6}]},
        lists=True,
    ),
)
