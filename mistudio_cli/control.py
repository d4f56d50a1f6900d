"""The client side of the supervisor: how a command finds it, starts it and asks it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from mistudio_cli import redis_server
from mistudio_cli.child import tail
from mistudio_cli.profile import WorkerSpec
from mistudio_cli.settings import Settings
from tasks.places import Places, make_private
from tasks.problem import Problem

START_PATIENCE_S = 30.0
_LOOK_EVERY_S = 0.02


class NotRunning(Exception):
    """No supervisor answers for this home."""


def ask(places: Places, operation: str, timeout_s: float = 10.0, **arguments: Any) -> dict[str, Any]:
    """The supervisor's reply; NotRunning when there is none, Problem when it refuses."""
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(timeout_s)
            link.connect(str(places.supervisor_socket))
            with link.makefile("rwb") as stream:
                stream.write(json.dumps({"op": operation, **arguments}).encode() + b"\n")
                stream.flush()
                reply = stream.readline()
    except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError, BrokenPipeError) as error:
        raise NotRunning from error
    if not reply:
        raise NotRunning
    return json.loads(reply)


def status(places: Places) -> dict[str, Any] | None:
    """The supervisor and its workers, or None when no supervisor runs."""
    try:
        return ask(places, "status")
    except NotRunning:
        return None


def broker_url_for(settings: Settings, *, supervise: bool = False) -> str:
    """The broker's URL. The home's own Redis is started if need be; with `supervise` somebody looks after it too."""
    if settings.broker_url:
        return settings.broker_url
    places = settings.places
    if supervise or not redis_server.answers(places):
        ensure_supervisor(settings)
    return redis_server.own_url(places)


def ensure_supervisor(settings: Settings) -> None:
    """Start the home's supervisor unless one answers, and wait until it and its Redis do."""
    places = settings.places
    if _is_up(places):
        return
    for folder in (places.run, places.logs):
        _make(folder, places)
    log_path = places.logs / "supervisor.log"
    with log_path.open("ab") as log:
        daemon = subprocess.Popen(
            [sys.executable, "-P", "-m", "mistudio_cli.supervisor"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=places.run,
            env={**os.environ, **_environment(settings)},
            start_new_session=True,
        )
    deadline = time.monotonic() + START_PATIENCE_S
    while not _is_up(places):
        if daemon.poll() is not None and not _another_holds(places):
            raise Problem(f"The supervisor did not start: {_last_words(places)}", f"See {log_path}")
        if time.monotonic() > deadline:
            raise Problem(f"The supervisor did not answer within {START_PATIENCE_S:g} s.", f"See {log_path}")
        time.sleep(_LOOK_EVERY_S)


def start(settings: Settings, profile: str, specs: Sequence[WorkerSpec]) -> dict[str, Any]:
    """Ask for these workers. Problem when others run already."""
    told = [{"name": spec.name, "queues": spec.queues, "slots": spec.slots} for spec in specs]
    reply = ask(settings.places, "start", profile=profile, specs=told)
    if "running" in reply:
        running = ", ".join(reply["running"])
        raise Problem(f"Other workers run already ({reply['profile']}: {running}).", "First: mistudio workers stop")
    if "error" in reply:
        raise Problem(f"The workers were not started: {reply['error']}.", "Try again in a moment")
    return reply


def _is_up(places: Places) -> bool:
    try:
        return bool(ask(places, "ping", timeout_s=5.0).get("redis"))
    except (NotRunning, TimeoutError):
        return False


def _another_holds(places: Places) -> bool:
    """Whether the daemon ended because another command's was faster."""
    try:
        ask(places, "ping", timeout_s=5.0)
    except (NotRunning, TimeoutError):
        return any("Another supervisor" in line for line in tail(places.logs / "supervisor.log", 1))
    return True


def _environment(settings: Settings) -> dict[str, str]:
    told = {
        "MISTUDIO_HOME": str(settings.places.home),
        "MISTUDIO_STORE": str(settings.places.store),
        "CELERY_BROKER_URL": settings.broker_url,
        "CELERY_RESULT_BACKEND": settings.result_backend,
    }
    return {name: value for name, value in told.items() if value}


def _make(folder: Any, places: Places) -> None:
    try:
        make_private(folder)
    except OSError as error:
        raise Problem(
            f"The home {places.home} cannot be used: {error}.", "Choose another with MISTUDIO_HOME"
        ) from error


def _last_words(places: Places) -> str:
    return " ".join(tail(places.logs / "supervisor.log", 1)) or "it said nothing"
