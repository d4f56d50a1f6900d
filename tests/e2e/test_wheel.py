"""The wheel holds everything: it installs into a fresh environment and runs from there."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.e2e.conftest import Home

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The `mistudio` of a fresh environment. Its dependencies are this one's, to spare gigabytes; ours is not."""
    wheels = tmp_path / "wheels"
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(wheels), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    venv.create(tmp_path / "fresh", with_pip=True)
    python = tmp_path / "fresh" / "bin" / "python"
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([python, "-m", "pip", "install", "--no-deps", "--quiet", wheel], check=True, capture_output=True)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", where], check=True, capture_output=True, text=True).stdout.strip())
    # A .pth line adds the folder without running the .pth files in it: the editable install stays out.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent / "mistudio"


def test_the_wheel_runs_in_a_fresh_environment(installed: Path, home: Home) -> None:
    def type_it(*words: str) -> str:
        environment = {**home.environment, "PATH": f"{installed.parent}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(
            [installed, *words], env=environment, cwd="/", capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = "import tasks, mistudio_cli; print(tasks.__file__, mistudio_cli.__file__)"
    result = subprocess.run(
        [installed.parent / "python", "-P", "-c", where], capture_output=True, text=True, check=True
    )
    assert str(ROOT) + os.sep not in result.stdout.replace(str(installed.parent.parent), "")
    page = (
        "from mistudio_cli.page.files import file_named as f; "
        "print(all([f('index.html'), f('page.css'), f('uPlot.esm.js', 'vendor'), f('now.js', 'views')]))"
    )
    asked = [installed.parent / "python", "-P", "-c", page]
    assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout == "True\n"
    type_it("--version")
    type_it("workers", "start", "minimal")
    type_it("submit", "cleanup", "--wait")
    type_it("workers", "stop", "--all")
