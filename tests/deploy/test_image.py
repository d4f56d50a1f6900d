"""The image: what it is built from is there, pinned, and enough; what runs in it is nobody with rights."""

from __future__ import annotations

import fnmatch
import importlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.deploy.conftest import ROOT, compose, of_kind, pod, text
from tests.project.test_imports import HEAVY, QUEUES, TERMINAL, imported_by


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as pairs of an instruction and its words, continued lines joined."""
    lines = [line for line in text("Dockerfile").splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()]


def words_of(name: str) -> list[str]:
    return [words for instruction, words in instructions() if instruction == name]


def copied() -> list[str]:
    """What the build takes from the repository."""
    return [source for words in words_of("COPY") if "--from" not in words for source in words.split()[:-1]]


def is_sent(name: str) -> bool:
    """Whether .dockerignore lets the builder have it: the last line that matches decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        if line and not line.startswith("#") and fnmatch.fnmatch(name, pattern):
            sent = line.startswith("!")
    return sent


def test_the_builder_is_sent_what_is_copied_and_nothing_else() -> None:
    assert [source for source in copied() if not (ROOT / source).exists()] == []
    sent = {path.name for path in ROOT.iterdir() if is_sent(path.name)}
    assert sent == set(copied())
    assert not is_sent(".env")
    assert not is_sent(".git")
    assert not is_sent("__pycache__")


def test_what_is_copied_is_enough_for_the_wheel(tmp_path: Path) -> None:
    for source in copied():
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, tmp_path / source, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, tmp_path / source)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), "."]
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for needed in ("mistudio_cli/health.py", "mistudio_cli/profiles/full.toml", "tasks/ledger/lua/4_jobs.lua"):
        assert needed in names


def test_every_package_is_pinned() -> None:
    installs = re.findall(r"pip install [^;&]*", " ".join(words_of("RUN")))
    assert len(installs) == 3
    assert all("-c constraints.txt" in install for install in installs)


def test_torch_is_chosen_by_one_argument() -> None:
    (choice,) = [words for words in words_of("RUN") if "$TORCH" in words]
    script = re.sub(r"pip install", "echo install", choice)
    result = {
        torch: subprocess.run(["sh", "-c", script], env={"TORCH": torch}, capture_output=True, text=True)
        for torch in ("cpu", "cuda", "rocm")
    }
    assert result["cpu"].stdout.rstrip().endswith("/whl/cpu torch")
    assert result["cuda"].stdout == "install -c constraints.txt torch\n"
    assert (result["rocm"].returncode, result["rocm"].stderr) == (2, "TORCH is cpu or cuda, not rocm\n")
    assert words_of("ARG") == ["PYTHON=3.11", "TORCH=cpu"]


def test_nobody_with_rights_runs_in_it() -> None:
    assert words_of("USER") == ["1000:1000"]
    assert pod(of_kind("Deployment")["mistudio-api"])["securityContext"]["runAsUser"] == 1000


def test_signals_reach_the_supervisor() -> None:
    assert [json.loads(words) for words in words_of("ENTRYPOINT")] == [["tini", "--"]]
    assert all("entrypoint" not in service for service in compose("workers")["services"].values())


def test_its_health_check_is_a_small_module_of_ours() -> None:
    (check,) = words_of("HEALTHCHECK")
    command = json.loads(check[check.index("[") :])
    assert command[:3] == ["python", "-P", "-m"]
    assert callable(importlib.import_module(command[3]).main)
    assert imported_by(f"import {command[3]}") & (HEAVY | QUEUES | TERMINAL | {"starlette"}) == set()
    (worker,) = pod(of_kind("Deployment")["worker-training"])["containers"]
    assert worker["readinessProbe"]["exec"]["command"] == worker["livenessProbe"]["exec"]["command"] == command
