"""The daemon itself: one per home, started by any command, answering everybody, and killed without harm."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from mistudio_cli import settings
from mistudio_cli.fleet import supervisor_client
from mistudio_cli.redis import redis_server
from mistudio_cli.supervisor.event_loop import HOME_IS_TAKEN, REQUEST_BYTES
from tasks.errors import UserError
from tasks.system import process_identity
from tests.conftest import PATIENCE_S, RedisServer, until
from tests.supervisor.conftest import Home


def gone(process: psutil.Process) -> bool:
    return not process_identity.is_alive(process)


def test_the_first_command_brings_up_redis_and_somebody_who_looks_after_it(home: Home) -> None:
    assert supervisor_client.status(home.places) is None
    url = supervisor_client.broker_url_for(home.settings)
    assert url == redis_server.own_url(home.places)
    assert redis_server.answers(home.places)
    assert supervisor_client.status(home.places) == {
        "supervisor": {"pid": home.supervisor.pid, "state": "running"},
        "redis": {"wanted": True, "restarts": 0, "trouble": None},
        "profile": None,
        "workers": [],
        "restart": {"pending": [], "failures": {}},
        "gpu_limits": None,
    }
    assert stat.S_IMODE(home.places.supervisor_socket.stat().st_mode) == 0o600
    assert home.supervisor.terminal() is None


def test_there_is_only_one_and_the_second_says_so(home: Home) -> None:
    supervisor_client.ensure_supervisor(home.settings)
    first = home.supervisor
    second = subprocess.run(supervisor_client._argv(home.places), capture_output=True, text=True, timeout=PATIENCE_S)
    assert second.returncode == HOME_IS_TAKEN
    assert second.stderr == f"Another supervisor keeps {home.places.home} already.\n"
    supervisor_client.ensure_supervisor(home.settings)
    assert home.supervisor == first


def test_many_commands_at_once_start_one(home: Home) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: supervisor_client.broker_url_for(home.settings, supervise=True), range(4)))
    until(lambda: home.processes("mistudio_cli.supervisor") == [home.supervisor], "those that came too late to end")
    until(lambda: home.processes("redis-server") == [home.redis])


def test_redis_killed_it_comes_back_with_its_data(home: Home) -> None:
    supervisor_client.ensure_supervisor(home.settings)
    home.redis_says("SET", "kept", "yes")
    before = home.redis
    before.kill()
    until(lambda: gone(before) and redis_server.answers(home.places))
    assert home.redis_says("GET", "kept") == "yes"
    assert home.redis != before


def test_killed_itself_redis_lives_and_the_next_one_adopts_it(home: Home) -> None:
    supervisor_client.ensure_supervisor(home.settings)
    home.redis_says("SET", "kept", "yes")
    server, killed = home.redis, home.supervisor
    killed.kill()
    until(lambda: gone(killed))
    assert supervisor_client.broker_url_for(home.settings) == redis_server.own_url(home.places)
    assert supervisor_client.status(home.places) is None, "reading needs no supervisor"
    supervisor_client.broker_url_for(home.settings, supervise=True)
    assert home.redis == server
    server.kill()
    until(lambda: gone(server) and redis_server.answers(home.places))
    assert home.redis_says("GET", "kept") == "yes"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_leaves_redis(home: Home, signum: signal.Signals) -> None:
    supervisor_client.ensure_supervisor(home.settings)
    server, daemon = home.redis, home.supervisor
    daemon.send_signal(signum)
    until(lambda: gone(daemon))
    assert not home.places.supervisor_socket.exists()
    assert home.redis == server


def test_a_closed_terminal_is_not_the_end(home: Home) -> None:
    supervisor_client.ensure_supervisor(home.settings)
    home.supervisor.send_signal(signal.SIGHUP)
    assert supervisor_client.ask(home.places, "ping")["state"] == "running"


def test_a_client_that_says_nothing_holds_up_nobody(home: Home) -> None:
    supervisor_client.ensure_supervisor(home.settings)
    with socket.socket(socket.AF_UNIX) as mute, socket.socket(socket.AF_UNIX) as slow:
        for link in (mute, slow):
            link.connect(str(home.places.supervisor_socket))
        slow.sendall(b'{"op": "pi')
        assert supervisor_client.ask(home.places, "ping")["state"] == "running"
        slow.sendall(b'ng"}\n')
        slow.settimeout(PATIENCE_S)
        assert json.loads(slow.recv(4096))["pid"] == home.supervisor.pid


@pytest.mark.parametrize(
    "line", [b"nonsense\n", b"[]\n", b"7\n", b'{"op": "start"}\n', b'{"op": "stop", "names": 7}\n']
)
def test_nonsense_is_answered_as_such(home: Home, line: bytes) -> None:
    supervisor_client.ensure_supervisor(home.settings)
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(PATIENCE_S)
        link.connect(str(home.places.supervisor_socket))
        link.sendall(line)
        assert json.loads(link.recv(4096))["error"].startswith("the request cannot be answered: ")
    assert supervisor_client.ask(home.places, "ping")["state"] == "running"


def test_a_request_without_end_is_cut_off(home: Home) -> None:
    supervisor_client.ensure_supervisor(home.settings)
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(PATIENCE_S)
        link.connect(str(home.places.supervisor_socket))
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            link.sendall(b"x" * 10 * REQUEST_BYTES)
    assert supervisor_client.ask(home.places, "ping")["state"] == "running"


def test_with_a_broker_named_it_starts_no_redis(home: Home, session_redis: RedisServer) -> None:
    elsewhere = settings.load({"home": str(home.places.home), "broker_url": session_redis.url})
    assert supervisor_client.broker_url_for(elsewhere, supervise=True) == session_redis.url
    supervisor_client.ensure_supervisor(elsewhere)
    assert redis_server.running(home.places) is None
    supervisor_client.ensure_supervisor(home.settings)
    assert redis_server.answers(home.places)


def test_a_home_that_cannot_be_used_is_said_at_once(home: Home) -> None:
    home.places.home.write_text("a file is in the way")
    with pytest.raises(UserError) as raised:
        supervisor_client.broker_url_for(home.settings)
    assert raised.value.sentence.startswith(f"The home {home.places.home} cannot be used: ")
    assert raised.value.hint == "Choose another with MISTUDIO_HOME"


def test_a_supervisor_that_does_not_start_says_its_last_words(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        supervisor_client, "_argv", lambda *_: [sys.executable, "-c", "raise SystemExit('out of luck')"]
    )
    with pytest.raises(UserError) as raised:
        supervisor_client.broker_url_for(home.settings)
    assert raised.value.sentence == "The supervisor did not start: out of luck"


def test_it_is_small_and_imports_nothing_heavy(home: Home) -> None:
    script = (
        "import sys, mistudio_cli.supervisor.main; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    result = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert not {"celery", "kombu", "redis", "typer", "rich", "asyncio", "torch", "numpy"} & set(result.stdout.split())
    supervisor_client.ensure_supervisor(home.settings)
    assert home.supervisor.memory_full_info().pss < 30e6 if sys.platform == "linux" else True
    assert len(home.supervisor.threads()) == 1
    assert home.supervisor.ppid() != os.getpid()
