"""What CONTRIBUTING.md adds works as it stands there: a queue, a kind, an architecture, a profile."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PATIENCE_S

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"```(?:python|toml)\n# (\S+)\n(.*?)```", PAGE, re.DOTALL))
#: Compiled modules that another process is just writing: gone under that name before they are copied.
HALF_WRITTEN = shutil.ignore_patterns("*.pyc.*")
COMMAND = "import sys; from mistudio_cli.main import main; sys.exit(main(sys.argv[1:]))"
STEP = """
import torch
from tasks.sae.architectures import build
from tasks.sae.coder import CoderConfig, StepState

coder = build(CoderConfig("ridge", 16, 64), seed=1)
x = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
step_state = StepState(torch.zeros(0, dtype=torch.int64))
with torch.no_grad():
    losses = coder.step(x, x, step_state)
found = {name: parameter.grad for name, parameter in coder.parameters.items()}
for parameter in coder.parameters.values():
    parameter.grad = None
    parameter.requires_grad_()
loss = coder.slow_loss(x, x, step_state)
loss.backward()
assert torch.allclose(losses.loss, loss, rtol=1e-4), (losses.loss, loss)
for name, parameter in coder.parameters.items():
    assert torch.allclose(found[name], parameter.grad, rtol=1e-3, atol=1e-4), name
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source with what the page adds."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("mistudio_cli", "tasks"):
        shutil.copytree(ROOT / name, copy / name, ignore=HALF_WRITTEN)
    for path, text in BLOCKS.items():
        (copy / path).parent.mkdir(exist_ok=True)
        (copy / path).write_text(text, encoding="utf-8")
    return copy


def python(copy: Path, code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run code with the copy's packages, where the copy is the folder of configuration, too."""
    result = {"PYTHONPATH": str(copy), "MISTUDIO_CONFIG_DIR": str(copy), "MISTUDIO_HOME": str(copy / "home")}
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(
        command, cwd=copy, env={**os.environ, **result}, capture_output=True, text=True, timeout=PATIENCE_S
    )


def test_the_page_adds_one_of_each() -> None:
    assert sorted(BLOCKS) == ["profiles/laptop.toml", "tasks/kinds/word_count.py", "tasks/sae/architectures/ridge.py"]
    assert len(re.findall(r"^\+    Queue\(", PAGE, re.MULTILINE)) == 1


def test_the_kind_has_its_command_and_counts(copy: Path) -> None:
    result = python(copy, COMMAND, "submit", "word-count", "--help")
    assert result.returncode == 0, result.stderr
    assert "--shortest" in result.stdout
    run = "from tasks.kinds.word_count import Params, run; print(run(Params('a bb ccc dd', 2), None))"
    assert python(copy, run).stdout == "{'words': 3}\n"


def test_the_architecture_has_its_option_and_the_gradient_of_its_loss(copy: Path) -> None:
    assert "--l2" in python(copy, COMMAND, "submit", "train", "--help").stdout
    result = python(copy, STEP)
    assert result.returncode == 0, result.stderr


def test_the_profile_is_valid_and_means_one_worker(copy: Path) -> None:
    result = python(copy, COMMAND, "profiles", "validate", "laptop")
    assert result.returncode == 0, result.stdout + result.stderr
    shown = python(copy, COMMAND, "profiles", "show", "laptop", "--json")
    assert '"worker' in shown.stdout
