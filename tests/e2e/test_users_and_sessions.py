"""Two people on one machine, and one who comes from a login, a batch job and cron: each has one home, and only that."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from mistudio_cli.errors import Code
from tests.conftest import until
from tests.fixtures.processes import asked, kill

#: Ids that no user has.
ADA, GRACE = 64_801, 64_802


def identity(uid: int) -> dict[str, Any]:
    """What makes a subprocess this user's; only root can."""
    return {"user": uid, "group": uid, "extra_groups": []} if uid != os.geteuid() else {}


@dataclass(frozen=True)
class Person:
    """Somebody with a home directory, and with no more in the environment than is said."""

    uid: int
    folder: Path
    python: str

    def type(self, words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        bare = {"HOME": str(self.folder), "PATH": "/usr/bin:/bin", "TMPDIR": str(self.folder / "tmp")}
        return subprocess.run(
            [self.python, "-P", "-m", "mistudio_cli.main", *words.split()],
            env=bare | {"PYTHONPATH": str(self.folder / "packages")} | environment,
            cwd=self.folder,
            umask=0o022,
            **identity(self.uid),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def read(self, words: str, **environment: str) -> Any:
        done = self.type(f"{words} --json", **environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    @property
    def home(self) -> Path:
        return self.folder / ".local" / "share" / "mistudio"

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("HOME") == str(self.folder) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found


Arrive = Callable[..., Person]


def python_of(uid: int) -> str:
    """An interpreter of this version that this user may run: the one of these tests may be in somebody's home."""
    others = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/local/bin/{others}", f"/usr/bin/{others}"):
        try:
            subprocess.run([python, "-c", ""], check=True, **identity(uid))
        except (OSError, subprocess.CalledProcessError):
            continue
        return python
    pytest.skip(f"user {uid} may not run {sys.executable}, and there is no other {others}")


@pytest.fixture
def arrive() -> Iterator[Arrive]:
    """Makes people, and ends what they started."""
    people: list[Person] = []

    def new(uid: int, below: str = "") -> Person:
        top = Path(tempfile.mkdtemp(prefix="ms-"))
        top.chmod(0o755)
        person = Person(uid, top / below if below else top, python_of(uid))
        for path in (person.folder, person.folder / "tmp", person.folder / "packages"):
            path.mkdir(parents=True, exist_ok=True)
            os.chown(path, uid, -1)
        as_installed_here = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
        (person.folder / "packages" / "sitecustomize.py").write_text(as_installed_here)
        # Before Python 3.11.3 the client of Redis asks for this package.
        (person.folder / "packages" / "async_timeout.py").write_text("from asyncio import timeout\n")
        people.append(person)
        return person

    yield new
    for person in people:
        person.type("workers stop --all --now")
        until(lambda person=person: not kill(*person.processes()), "everything to end")
        shutil.rmtree(person.folder, ignore_errors=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two people")
def test_two_people_on_one_machine_see_nothing_of_each_other(arrive: Arrive) -> None:
    people = [arrive(ADA), arrive(GRACE)]
    for person in people:
        started = person.type("workers start minimal")
        assert started.returncode == 0, started.stderr
    jobs = [person.read("submit cleanup --wait") for person in people]
    for person, job in zip(people, jobs, strict=True):
        assert [row["id"] for row in person.read("jobs ls")["jobs"]] == [job["id"]]
        assert len(person.read("workers status")["workers"]) == 1
        owners = {asked(process, lambda each: each.uids().real) for process in person.processes()}
        assert owners - {None} == {person.uid}
        assert person.home.stat().st_mode & 0o777 == 0o700
    ada, grace = people
    peeking = grace.type("jobs ls", MISTUDIO_HOME=str(ada.home))
    assert peeking.returncode != 0
    assert peeking.stderr.count("\n") <= 2
    assert "ermission denied" in peeking.stderr
    stopping = grace.type("workers stop --all --now", MISTUDIO_HOME=str(ada.home))
    assert stopping.returncode != 0
    assert grace.type("workers stop --all").returncode == 0
    assert ada.read("submit cleanup --wait")["state"] == "succeeded"


def test_a_login_a_batch_job_and_cron_reach_the_same_fleet(arrive: Arrive) -> None:
    """A path too long for a socket, as on clusters; systemd's folder is there for the login alone."""
    ada = arrive(os.geteuid(), "/".join(["projects", "interpretability" * 3, "people", "ada" * 12]))
    runtime = ada.folder / "run"
    runtime.mkdir(mode=0o700)
    login = {"XDG_RUNTIME_DIR": str(runtime), "TERM": "xterm-256color", "LANG": "C.UTF-8"}
    batch = {"SLURM_JOB_ID": "4711", "SLURM_CPUS_PER_TASK": "1", "TMPDIR": str(ada.folder / "tmp"), "LANG": "C"}
    started = ada.type("workers start minimal", **batch)
    assert started.returncode == 0, started.stderr
    job = ada.read("submit cleanup --wait", **login)
    assert job["state"] == "succeeded"
    for circumstances in (login, batch, {}, {"HOME": str(ada.folder), "SHELL": "/bin/sh"}):
        assert [row["id"] for row in ada.read("jobs ls", **circumstances)["jobs"]] == [job["id"]]
        rows = ada.read("workers status", **circumstances)["workers"]
        assert [row["state"] for row in rows] == ["running"]
    stopped = ada.type("workers stop --all")
    assert stopped.returncode == Code.OK, stopped.stderr
    until(lambda: not ada.processes(), "everything to end")
