"""The folder of the home's own Redis, when its disk is full and when somebody removes it: nothing accepted is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mistudio_cli.errors import Code
from mistudio_cli.redis import redis_server
from tasks.redis_client.redis_connection import Unreachable
from tests.conftest import until
from tests.supervisor.conftest import MISTUDIO, Home, Keep, ending, keeping


@pytest.fixture
def small_disk(short_tmp: Path) -> Iterator[Path]:
    """A disk of 16 MiB; to mount one takes root."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(short_tmp)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield short_tmp
    subprocess.run(["umount", "--lazy", str(short_tmp)], check=True)


@pytest.fixture
def on_small_disk(small_disk: Path) -> Iterator[Home]:
    yield from ending(small_disk / "home")


def typed(home: Home, words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MISTUDIO_HOME": str(home.places.home)}
    return subprocess.run([MISTUDIO, *words.split()], env=environment, capture_output=True, text=True, timeout=100)


def fill(folder: Path) -> Path:
    filling = folder / "filling"
    with filling.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
    return filling


def refuses_writes(home: Home) -> bool:
    """Whether Redis takes no more; the last page of its file may have room for some."""
    try:
        home.redis_says("APPEND", "padding", "x" * 16)
    except Unreachable:
        return True
    return False


def test_on_a_full_disk_a_command_says_so_and_what_was_accepted_is_there_afterwards(
    on_small_disk: Home, small_disk: Path
) -> None:
    before = typed(on_small_disk, "submit cleanup --json")
    assert before.returncode == 0, before.stderr
    filling = fill(small_disk)
    until(lambda: refuses_writes(on_small_disk))
    for _ in range(2):
        refused = typed(on_small_disk, "submit cleanup")
        assert refused.returncode == Code.UNREACHABLE, refused
        assert refused.stderr.splitlines() == [
            f"Redis cannot be reached: the disk of {on_small_disk.places.redis} is full.",
            "  See: mistudio doctor",
        ]
    checked = typed(on_small_disk, "doctor")
    assert checked.returncode == Code.FAILED
    assert "No space left on device" in checked.stdout
    assert "home: Make room" in checked.stderr
    filling.unlink()
    until(lambda: typed(on_small_disk, "submit cleanup --json").returncode == 0, "the next start of Redis")
    assert typed(on_small_disk, "jobs ls --json").stdout.count('"state": "queued"') == 2


def test_a_removed_folder_is_created_again_with_all_that_redis_holds(home: Home, keep: Keep) -> None:
    keeper = keep()
    home.redis_says("SET", "accepted", "before")
    shutil.rmtree(home.places.redis)
    until(lambda: keeper.tick() or home.places.redis.exists(), "the folder to be there again")
    home.redis_says("SET", "accepted-too", "after")
    until(lambda: not _rewrites(home), "the file to be written")
    home.redis.kill()
    until(lambda: not keeper.answers())
    keeper.tick()
    until(lambda: keeper.tick() is None and keeper.answers(), "Redis to answer again")
    assert home.redis_says("MGET", "accepted", "accepted-too") == ["before", "after"]
    assert home.places.redis.stat().st_mode & 0o777 == 0o700


def test_a_home_that_is_removed_whole_is_not_created_again(strange_home: Home) -> None:
    """The sockets of a deep home lie elsewhere, so its Redis answers all the same."""
    keepers = keeping(strange_home)
    keeper = next(keepers)()
    shutil.rmtree(strange_home.places.home)
    keeper.tick()
    assert not strange_home.places.home.exists()
    server = keeper.let_go()
    redis_server.stop(strange_home.places, server=server)
    next(keepers, None)


def test_what_a_redis_refuses_is_its_trouble_and_said_once(
    home: Home, keep: Keep, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = keep()
    home.redis_says("ACL", "SETUSER", "default", "-config")
    shutil.rmtree(home.places.redis)
    for _ in range(3):
        keeper.tick()
    assert keeper.trouble is not None
    assert keeper.trouble.startswith(f"{home.places.redis} was removed, and Redis cannot write elsewhere: ")
    assert caplog.text.count("cannot write elsewhere") == 1


def _rewrites(home: Home) -> bool:
    persistence = home.redis_says("INFO", "persistence")
    return "aof_rewrite_in_progress:1" in persistence or "aof_rewrite_scheduled:1" in persistence
