"""The systemd units: held to systemd itself, and to what a fleet with long jobs and GPUs needs of it."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy import generate
from tests.deploy.conftest import LADDER_S, text

UNITS = ("systemd/user/mistudio.service", "systemd/system/mistudio@.service")

#: Each of these takes the GPUs out of reach, or keeps torch from compiling a kernel.
CLOSES_GPUS = {"PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectClock", "MemoryDenyWriteExecute"}


class Unit(configparser.RawConfigParser):
    """A unit file, as strictly as its syntax allows; a directive given twice holds both, one a line."""

    def __init__(self, name: str) -> None:
        super().__init__(delimiters=("=",), comment_prefixes=("#", ";"), strict=False, dict_type=_Both)
        self.read_string(text(name))

    def optionxform(self, optionstr: str) -> str:
        return optionstr


class _Both(dict):
    """RawConfigParser hands a value over as a list of lines; two of them are one longer list."""

    def __setitem__(self, key: object, value: object) -> None:
        if isinstance(value, list) and isinstance(self.get(key), list):
            value = [*self[key], *value]
        super().__setitem__(key, value)


@pytest.fixture(params=UNITS)
def unit(request: pytest.FixtureRequest) -> Unit:
    return Unit(request.param)


def verify(*words: str, **environment: str) -> None:
    """Fail with what systemd finds wrong with a unit; it does not need to run here."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on this machine: the units are only held to the tests' own parser")
    done = subprocess.run(
        ["systemd-analyze", *words],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )
    assert (done.returncode, done.stderr) == (0, "")


def installed(folder: Path) -> Path:
    """Something to run in the place of `mistudio`, where a person installs it."""
    command = folder / ".local" / "bin" / "mistudio"
    command.parent.mkdir(parents=True)
    shutil.copy("/bin/true", command)
    return command


def test_systemd_takes_the_user_s_unit(tmp_path: Path) -> None:
    installed(tmp_path)
    (tmp_path / "run" / "systemd").mkdir(parents=True)
    path = tmp_path / "mistudio.service"
    path.write_text(text(UNITS[0]))
    verify("--user", "verify", str(path), HOME=str(tmp_path), XDG_RUNTIME_DIR=str(tmp_path / "run"))


def test_systemd_takes_the_system_s_unit_for_any_user(tmp_path: Path) -> None:
    """Its search path is compiled in, so the command is spelled out for this."""
    command = installed(tmp_path)
    (tmp_path / "mistudio@.service").write_text(text(UNITS[1]).replace("=mistudio ", f"={command} "))
    verify("--man=no", "verify", str(tmp_path / "mistudio@alice.service"))


def test_systemd_would_report_it(tmp_path: Path) -> None:
    command = installed(tmp_path)
    broken = text(UNITS[1]).replace("=mistudio ", f"={command} ").replace("KillMode=mixed", "KillMod=mixed")
    (tmp_path / "mistudio@.service").write_text(broken)
    if shutil.which("systemd-analyze") is not None:
        with pytest.raises(AssertionError, match="KillMod"):
            verify("--man=no", "verify", str(tmp_path / "mistudio@alice.service"))


def test_it_runs_the_whole_fleet_in_the_foreground(unit: Unit) -> None:
    command = unit["Service"]["ExecStart"].split(maxsplit=1)
    assert re.fullmatch(r"(%h/\.local/bin/)?mistudio", command[0])
    assert command[1] == f"workers start full --foreground --grace {generate.GRACE_S}"
    assert unit["Service"]["Type"] == "exec"


def test_what_holds_the_home_makes_way_for_it(unit: Unit) -> None:
    mistudio = unit["Service"]["ExecStart"].split()[0]
    assert unit["Service"]["ExecStartPre"].splitlines()[-1] == f"-{mistudio} workers stop --all"


def test_the_fleet_comes_back_after_a_death_and_after_a_reboot(unit: Unit) -> None:
    assert unit["Service"]["Restart"] == "always"
    assert unit["Install"]["WantedBy"] in ("default.target", "multi-user.target")


def test_nothing_is_killed_while_jobs_write_checkpoints(unit: Unit) -> None:
    assert unit["Service"]["KillMode"] == "mixed"
    assert int(unit["Service"]["TimeoutStopSec"]) >= LADDER_S + 10


def test_one_job_out_of_memory_does_not_stop_the_fleet(unit: Unit) -> None:
    assert unit["Service"]["OOMPolicy"] == "continue"


def test_gpus_stay_in_reach(unit: Unit) -> None:
    assert CLOSES_GPUS & set(unit["Service"]) == set()
    families = unit["Service"].get("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6")
    assert {"AF_UNIX", "AF_INET", "AF_INET6"} <= set(families.split())


def test_no_directive_names_somebody_s_home(unit: Unit) -> None:
    values = [value for section in unit.sections() for value in unit[section].values()]
    assert [value for value in values if re.search(r"(?<![%\w.])/(home|root|var|Users)\b", value)] == []


def test_the_system_s_unit_keeps_each_user_s_files_apart() -> None:
    service = Unit(UNITS[1])["Service"]
    assert service["User"] == "%i"
    assert service["StateDirectory"] == service["CacheDirectory"] == "mistudio/%i"
    assert service["StateDirectoryMode"] == service["CacheDirectoryMode"] == "0700"
    assert "MISTUDIO_HOME=%S/mistudio/%i" in service["Environment"].split()
    assert service["NoNewPrivileges"] == "yes"
    assert {"-+nvidia-smi -L", "-+nvidia-modprobe -u -c 0"} <= set(service["ExecStartPre"].splitlines())
