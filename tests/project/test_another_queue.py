"""A queue is one row: in a copy of the source with one more, all that derives from the table follows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project.test_contributing import HALF_WRITTEN

ROOT = Path(__file__).parent.parent.parent
COPIED = ("benchmarks", "deploy", "docs", "mistudio_cli", "profiles", "tasks", "tests", "README.md", "pyproject.toml")
#: The row that CONTRIBUTING.md adds.
(ROW,) = re.findall(r"^\+(    Queue\(.*\n)", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE)
#: Tests of what derives from the table, of those that start no process of the installed package.
TESTS = ("project/test_queues.py", "supervisor/test_profile.py", "cli/test_resources.py")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source with another queue before the last, and nothing else changed by hand."""
    copy = tmp_path_factory.mktemp("source")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=HALF_WRITTEN)
        else:
            shutil.copy(ROOT / name, copy / name)
    table = copy / "tasks" / "queues.py"
    before, mark, after = table.read_text(encoding="utf-8").rpartition('    Queue("low_priority"')
    table.write_text(before + ROW + mark + after, encoding="utf-8")
    return copy


def run(copy: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a module of the copy."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, "-m", *words], cwd=copy, env=environment, capture_output=True, text=True)


def test_documentation_and_deployment_follow_by_themselves(copy: Path) -> None:
    done = run(copy, "docs.generate")
    assert done.returncode == 0, done.stderr
    for name in (
        "README.md",
        "docs/profiles.md",
        "deploy/docker-compose.workers.yml",
        "deploy/kubernetes/workers.yaml",
    ):
        assert "evaluation" in (copy / name).read_text(encoding="utf-8"), name
        assert "evaluation" not in (ROOT / name).read_text(encoding="utf-8")


def test_the_tests_of_the_table_pass_with_it(copy: Path) -> None:
    done = run(copy, "pytest", "-p", "no:cacheprovider", *(f"tests/{name}" for name in TESTS))
    assert done.returncode == 0, done.stdout[-3000:]
