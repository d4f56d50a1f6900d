"""Reading starts nothing; what is removed of a running home is created again; a removed home leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mistudio_cli import settings
from mistudio_cli.errors import Code
from mistudio_cli.fleet import supervisor_client
from mistudio_cli.supervisor.lock_and_socket import holder
from tasks.errors import UserError
from tasks.jobs.record import State
from tasks.paths import Places
from tests.conftest import PATIENCE_S, PATIENT, deadline, remove_in_use, until
from tests.supervisor.conftest import MISTUDIO, Home, ending

READING = [
    ("queue", "ls"),
    ("queue", "peek", "training"),
    ("jobs", "ls"),
    ("jobs", "show", "last"),
    ("jobs", "explain", "last"),
    ("jobs", "export"),
    ("top", "--once"),
]

#: Holds the lock of a home as a supervisor does, but answers nothing.
UNRESPONSIVE = """
import sys, time
from pathlib import Path
from mistudio_cli.supervisor.lock_and_socket import Door
from tasks.paths import Places
door = Door(Places(Path(sys.argv[1]), Path(sys.argv[1])))
assert door.lock()
print("holds", flush=True)
time.sleep(60)
"""


def run(home: Home, *words: str, **variables: str | None) -> subprocess.CompletedProcess[str]:
    result = {**os.environ, "MISTUDIO_HOME": str(home.places.home), **variables}
    environment = {name: value for name, value in result.items() if value is not None}
    return subprocess.run([MISTUDIO, *words], env=environment, capture_output=True, text=True, timeout=PATIENCE_S)


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_reading_in_a_home_where_nothing_was_started_starts_nothing_and_says_so(
    home: Home, words: tuple[str, ...]
) -> None:
    result = run(home, *words)
    assert result.returncode == Code.UNREACHABLE
    assert f"Nothing has been started in {home.places.home} yet" in result.stderr.splitlines()[0]
    assert "mistudio workers start" in result.stderr
    assert not home.places.home.exists()
    assert home.processes() == []


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("queue pause", Code.USAGE),
        ("queue pause nope", Code.USAGE),
        ("queue pause training --all", Code.USAGE),
        ("queue resume nope", Code.USAGE),
        ("submit train --model nope --dataset nope --layer 1", Code.USAGE),
        ("submit nap --after nope", Code.NOT_FOUND),
        ("submit nap --dry-run", Code.OK),
        ("submit many {wrong}", Code.USAGE),
        ("submit many {right} --dry-run", Code.OK),
        ("submit pipeline {wrong}", Code.USAGE),
        ("saes import /nope", Code.USAGE),
        ("saes export foo out", Code.USAGE),
        ("jobs retry foo", Code.NOT_FOUND),
        ("jobs retry last", Code.NOT_FOUND),
        ("jobs retry --failed", Code.OK),
        ("fleet quota unset bob", Code.NOT_FOUND),
        ("workers start huge --strict", Code.USAGE),
        ("serve --port {port}", Code.USAGE),
    ],
)
def test_a_command_that_is_refused_starts_nothing_in_a_new_home(
    home: Home, words: str, code: Code, tmp_path: Path
) -> None:
    wrong, right, huge = tmp_path / "wrong.jsonl", tmp_path / "right.jsonl", tmp_path / "profiles" / "huge.toml"
    wrong.write_text('{"kind": "nope"}\n')
    right.write_text('{"kind": "nap"}\n')
    huge.parent.mkdir()
    huge.write_text('workers = "one"\nslots = 999\n')
    with socket.create_server(("127.0.0.1", 0)) as taken:
        typed = words.format(wrong=wrong, right=right, port=taken.getsockname()[1]).split()
        result = run(home, *typed, MISTUDIO_CONFIG_DIR=str(tmp_path))
    assert (result.returncode, "Traceback" in result.stderr) == (code, False), result.stderr
    assert not home.places.home.exists()
    assert home.processes() == []


def test_the_first_jobs_of_a_new_home_are_submitted(home: Home, tmp_path: Path) -> None:
    (tmp_path / "jobs.jsonl").write_text('{"kind": "nap", "name": "a"}\n{"kind": "nap", "name": "b"}\n')
    assert "2 of 2 lines were submitted." in run(home, "submit", "many", str(tmp_path / "jobs.jsonl")).stderr
    assert run(home, "submit", "nap", "--after", "a").returncode == Code.OK


def test_the_first_job_of_a_new_home_is_submitted(home: Home) -> None:
    job_id = run(home, "submit", "nap").stdout.split()[0]
    assert home.job(job_id).state is State.QUEUED


def test_reading_in_a_home_that_was_stopped_says_that_its_jobs_are_there(home: Home) -> None:
    supervisor_client.ensure_supervisor(home.settings)
    assert run(home, "queue", "ls").returncode == Code.OK
    supervisor_client.shutdown(home.places, 0.0, redis=True)
    until(lambda: not home.processes())
    result = run(home, "jobs", "ls")
    assert result.returncode == Code.UNREACHABLE
    assert result.stderr.startswith(f"The Redis of {home.places.home}, which has its jobs, does not run.\n")
    assert home.processes() == []


@pytest.mark.parametrize("what", ["supervisor.sock", "supervisor.lock", "*"])
def test_a_supervisor_whose_files_were_removed_is_reached_again_and_stays_the_only_one(home: Home, what: str) -> None:
    supervisor_client.ensure_supervisor(home.settings)
    first = home.supervisor
    for file in home.places.run.glob(what):
        if file.name != "redis.sock":
            file.unlink(missing_ok=True)
    until(lambda: holder(home.places) == first.pid, "it to take its lock again")
    until(lambda: supervisor_client._is_there(home.places), "it to listen again")
    supervisor_client.ensure_supervisor(home.settings)
    assert home.supervisor == first


def test_logs_that_were_removed_are_written_again(home: Home) -> None:
    assert run(home, "workers", "start", "--queues", "high_priority").returncode == Code.OK
    remove_in_use(home.places.logs)
    until(lambda: home.places.logs.exists(), "the folder to be there again")
    assert run(home, "workers", "restart").returncode == Code.OK
    assert "high-priority" in home.places.history.read_text()
    assert "tasks.worker" not in run(home, "workers", "logs", "worker-high-priority").stderr


def test_what_limits_the_workers_gpus_is_shown_in_every_shell(home: Home, driver: Path) -> None:
    fake = {"LD_LIBRARY_PATH": str(driver), "FAKE_GPUS": "2"}
    started = run(home, "workers", "start", "--queues", "training", **fake, CUDA_VISIBLE_DEVICES="1")
    assert started.returncode == Code.OK
    fake |= PATIENT
    for words in (("top", "--once"), ("doctor",)):
        assert "1 of 2 GPUs, by CUDA_VISIBLE_DEVICES" in run(home, *words, **fake).stdout
    assert "by CUDA_VISIBLE_DEVICES" in run(home, "top", "--once", "--json", **fake).stdout


def test_a_home_that_is_removed_leaves_no_process_behind(home: Home) -> None:
    assert run(home, "workers", "start", "--queues", "high_priority").returncode == Code.OK
    assert len(home.processes()) >= 3
    remove_in_use(home.places.home)
    until(lambda: not home.processes(), "everything to end by itself")
    assert not home.places.home.exists()


def test_a_supervisor_that_cannot_be_reached_is_named_in_time(home: Home) -> None:
    unresponsive = subprocess.Popen(
        [sys.executable, "-c", UNRESPONSIVE, str(home.places.home)], stdout=subprocess.PIPE, text=True
    )
    assert unresponsive.stdout is not None
    assert unresponsive.stdout.readline() == "holds\n"
    try:
        with (
            deadline(15, "it"),
            pytest.raises(UserError, match=f"runs with pid {unresponsive.pid}, but cannot be reached at"),
        ):
            supervisor_client.ensure_supervisor(home.settings)
    finally:
        unresponsive.kill()
        unresponsive.communicate()


# -- homes whose path is too long for a socket ----------------------------------------------------------------------


@pytest.fixture
def deep() -> Iterator[Home]:
    top = Path(tempfile.mkdtemp(prefix="ms-"))
    yield from ending(top / ("d" * 60) / ("e" * 60))
    shutil.rmtree(top, ignore_errors=True)


def test_a_deep_home_is_reached_from_every_session_whatever_its_environment(deep: Home, tmp_path: Path) -> None:
    assert run(deep, "workers", "start", "--queues", "high_priority", XDG_RUNTIME_DIR=str(tmp_path)).returncode == 0
    supervisor, began = deep.supervisor, time.monotonic()
    for environment in ({"XDG_RUNTIME_DIR": None}, {"XDG_RUNTIME_DIR": "/nowhere"}, {"TMPDIR": str(tmp_path)}):
        assert "running" in run(deep, "workers", "status", **environment).stdout
        assert run(deep, "queue", "ls", **environment).returncode == 0
    assert deep.supervisor == supervisor, "nobody has started another"
    assert time.monotonic() - began < PATIENCE_S
    assert list(tmp_path.iterdir()) == [], "nothing lies where the end of a session clears up"


def test_a_supervisor_whose_folder_of_sockets_was_removed_makes_it_again(deep: Home) -> None:
    supervisor_client.ensure_supervisor(deep.settings)
    first = deep.supervisor
    deep.places.supervisor_socket.unlink()
    until(lambda: supervisor_client._is_there(deep.places), "it to listen again")
    assert deep.supervisor == first


def test_sockets_of_an_earlier_version_are_found_where_that_had_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    places = Places(Path("/" + "d" * 120), tmp_path)
    assert places.supervisor_socket.parent.parent == Path("/tmp")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    earlier = tmp_path / places.supervisor_socket.parent.name
    earlier.mkdir(mode=0o700)
    (earlier / "supervisor.sock").touch()
    assert places.supervisor_socket == earlier / "supervisor.sock"


def test_a_folder_of_another_user_is_passed_by(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever guesses the name may have been there first."""
    home = tmp_path / ("d" * 60) / ("e" * 60)
    taken = Places(home, home).supervisor_socket.parent
    uid, stat = os.getuid(), Path.stat

    def owned_by_another(path: Path, **how: bool) -> os.stat_result:
        result = stat(path, **how)
        return os.stat_result([*result[:4], uid + 1, *result[5:10]]) if path == taken else result

    monkeypatch.setattr(Path, "stat", owned_by_another)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/tmp")
    Places(home, home).make_sockets_folder()
    given = Places(home, home).supervisor_socket.parent
    assert given != taken
    assert stat(given).st_mode & 0o777 == 0o700
    given.rmdir()
    taken.rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two people")
@pytest.mark.parametrize("trap", ["folder", "open", "link"])
def test_nothing_is_sent_to_a_socket_that_another_user_prepared(deep: Home, tmp_path: Path, trap: str) -> None:
    """What `workers start` sends has the whole environment: tokens and the password of Redis."""
    expected = deep.places.supervisor_socket.parent
    prepared = tmp_path / "prepared" if trap == "link" else expected
    prepared.mkdir(mode=0o777)
    prepared.chmod(0o700 if trap == "folder" else 0o777)
    if trap != "open":
        os.chown(prepared, 65534, -1)
    if trap == "link":
        expected.symlink_to(prepared)
        os.chown(expected, 65534, -1, follow_symlinks=False)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(prepared / "supervisor.sock"))
        listener.listen()
        listener.setblocking(False)
        try:
            assert supervisor_client.status(deep.places) is None
            assert run(deep, "workers", "start", "--queues", "high_priority").returncode == 0
            assert deep.places.supervisor_socket.parent not in (expected, prepared)
            assert "running" in run(deep, "workers", "status").stdout
            with pytest.raises(BlockingIOError):
                listener.accept()
        finally:
            expected.unlink() if trap == "link" else shutil.rmtree(expected)


def test_the_folder_of_the_sockets_goes_with_the_last_of_them(deep: Home) -> None:
    assert run(deep, "workers", "start", "--queues", "high_priority").returncode == 0
    folder = deep.places.supervisor_socket.parent
    assert folder.exists()
    assert run(deep, "workers", "stop", "--all").returncode == 0
    until(lambda: not folder.exists())


def test_settings_name_a_home_without_creating_it(tmp_path: Path) -> None:
    places = settings.load({"home": str(tmp_path / "nowhere")}).places
    assert holder(places) is None
    assert supervisor_client.status(places) is None
    assert not (tmp_path / "nowhere").exists()
