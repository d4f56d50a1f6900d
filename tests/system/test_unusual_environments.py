"""Unusual surroundings: a careless umask, no semaphores, paths that are no text, terminals of ASCII alone."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mistudio_cli.terminal import ascii as plain
from tasks.errors import UserError
from tasks.jobs.record import State
from tasks.paths import Places
from tasks.system.umask import narrow_umask
from tests.conftest import PATIENCE_S, compile_library
from tests.fixtures.stack import Stack

MISTUDIO = str(Path(sys.executable).parent / "mistudio")
NO_TEXT = os.fsdecode(b"/tmp/ms-\xff")


@pytest.fixture
def umask() -> Iterator[None]:
    """The umask is given back."""
    mask = os.umask(0o022)
    os.umask(mask)
    yield
    os.umask(mask)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("mask", "requested", "folders", "files"),
    [(0o000, "", 0o775, 0o664), (0o022, "", 0o755, 0o644), (0o077, "", 0o700, 0o600), (0o077, "000", 0o777, 0o666)],
)
def test_a_home_is_its_owners_alone_and_a_store_never_everybodys_unless_asked(
    stack: Stack, umask: None, mask: int, requested: str, folders: int, files: int
) -> None:
    os.umask(mask)
    stack.start_worker(MISTUDIO_UMASK=requested)
    os.umask(0o022)
    assert stack.ended(stack.submit("nap", ticks=1)).state is State.SUCCEEDED
    artifact = stack.store.path("saes", "nap-1")
    assert mode(stack.folder / "home") == 0o700
    assert {mode(path) for path in (stack.store.root, artifact.parent, artifact)} == {folders}
    assert {mode(path) for path in artifact.iterdir()} == {files}


def test_a_folder_that_becomes_a_home_stays_as_open_as_it_was(stack: Stack) -> None:
    """It may be a lab's: what is stored there for the owner alone has folders of its own."""
    home = stack.folder / "home"
    home.mkdir()
    home.chmod(0o1777)
    stack.start_worker()
    assert mode(home) == 0o1777
    assert mode(home / "run") == 0o700


def test_a_umask_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, umask: None) -> None:
    for result in ("rw", "9", "1000", "-1"):
        monkeypatch.setenv("MISTUDIO_UMASK", result)
        with pytest.raises(UserError, match=r"MISTUDIO_UMASK is .*octal number"):
            narrow_umask()


def test_a_worker_without_semaphores_says_so_in_a_sentence(stack: Stack, tmp_path: Path) -> None:
    library = compile_library(Path(__file__).parent / "no_semaphores.c", tmp_path / "no_semaphores.so")
    worker = [sys.executable, "-P", "-m", "tasks.worker", "--name", "w"]
    environment = stack.environment(LD_PRELOAD=str(library))
    done = subprocess.run(worker, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 2
    assert done.stderr.startswith("A worker needs semaphores, and none can be created in /dev/shm: Permission denied.")
    assert "Traceback" not in done.stderr


def test_a_worker_whose_home_cannot_be_used_says_so_in_a_sentence(stack: Stack) -> None:
    (stack.folder / "home").write_text("no folder")
    worker = [sys.executable, "-P", "-m", "tasks.worker", "--name", "w"]
    done = subprocess.run(worker, env=stack.environment(), capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, "Traceback" in done.stderr) == (os.EX_CANTCREAT, False)
    assert done.stderr.startswith("The worker's files cannot be created: ")


@pytest.mark.parametrize("words", [("queue", "ls"), ("workers", "start"), ("config", "show"), ("saes", "ls")])
@pytest.mark.parametrize("variable", ["MISTUDIO_HOME", "MISTUDIO_STORE"])
def test_a_path_that_is_no_text_is_refused_in_a_sentence(words: tuple[str, ...], variable: str, tmp_path: Path) -> None:
    environment = {**os.environ, "MISTUDIO_HOME": str(tmp_path / "home"), variable: NO_TEXT}
    done = subprocess.run([MISTUDIO, *words], env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode in (2, 4)
    assert "Traceback" not in done.stderr
    assert f"{variable} is not text." in done.stderr
    assert not Path(NO_TEXT).exists()


def test_a_folder_whose_path_is_no_text_is_no_home() -> None:
    with pytest.raises(UserError, match=r"The path '/tmp/ms-\\udcff' is not UTF-8, as MISTUDIO_STORE must be"):
        Places(Path("/tmp/home"), Path(NO_TEXT))


def test_where_only_ascii_can_be_written_nothing_else_is(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "MISTUDIO_HOME": str(tmp_path / "hömé"), "COLUMNS": "80"}
    for words in (("top", "--once"), ("queue", "ls"), ("config", "show"), ("submit", "train", "--help"), ("doctor",)):
        done = subprocess.run([MISTUDIO, *words], env=environment, capture_output=True, timeout=PATIENCE_S)
        assert b"Traceback" not in done.stderr
        assert done.returncode != 70
        (done.stdout + done.stderr).decode("ascii")


def test_what_is_no_ascii_is_written_as_json_would_have_it() -> None:
    signs = "a… ü 🙂 \udcff █"
    shown = "".join(sign if sign.isascii() else plain._shown(sign) for sign in signs)
    assert shown == r"a... \u00fc \ud83d\ude42 \udcff #"
    assert json.loads(f'"{plain._shown("🙂")}"') == "🙂"


def test_a_path_of_odd_but_real_text_is_as_good_as_any(tmp_path: Path) -> None:
    assert Places(tmp_path / "ü #1", tmp_path / "日本").redis.name == "redis"
