"""The kernels do what torch does, and wherever they do not, or cannot, torch takes over and the reason is recorded."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tasks.kinds import train
from tasks.sae.ops import backend
from tasks.sae.ops.backend import TorchPasses, try_kernels
from tests.fixtures.bench import Bench
from tests.train_job.test_train import prepared

NEEDS_TRITON = pytest.mark.skipif(
    find_spec("triton") is None, reason="triton is not installed: pip install 'mistudio[triton]'"
)


def in_a_process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    around = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *arguments],
        env=around | environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@NEEDS_TRITON
@pytest.mark.parametrize("what", ["passes", "long", "steps"])
def test_the_kernels_do_in_tritons_interpreter_what_their_slow_twins_do(what: str):
    done = in_a_process("-m", "tests.sae.interpreted", what, TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr


@NEEDS_TRITON
def test_the_kernels_are_compiled_for_cards_that_are_not_here(tmp_path: Path):
    done = in_a_process("-m", "tests.sae.interpreted", "compiled", TRITON_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_sums_that_are_written_in_place_are_those_of_fresh_memory():
    """By torch's two ways on a CPU, of which the first is there with MKL."""
    assert backend._difference(TorchPasses(writes_in_place=True), TorchPasses(), "cpu") is None
    assert backend.choice("cpu").passes.writes_in_place == torch.backends.mkl.is_available()


def broken(**methods: Any) -> Any:
    """A module of kernels that are torch's, but for these."""
    return SimpleNamespace(TritonPasses=type("Broken", (TorchPasses,), methods))


def as_kernels(monkeypatch: pytest.MonkeyPatch, module: Any) -> backend.BackendChoice:
    monkeypatch.setitem(sys.modules, "tasks.sae.ops.triton_kernels", module)
    return try_kernels("cpu")


def test_kernels_that_agree_are_taken(monkeypatch: pytest.MonkeyPatch):
    found = as_kernels(monkeypatch, broken())
    assert type(found.passes).__name__ == "Broken"
    assert found.reason == "kernels in Triton run the sparse passes, and agreed with torch"


def test_without_triton_torch_is_used(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "tasks.sae.ops.triton_kernels", raising=False)
    found = try_kernels("cpu")
    assert isinstance(found.passes, TorchPasses)
    assert found.reason.startswith("torch runs the sparse passes: Triton cannot be imported (")


def test_kernels_that_raise_are_not_used(monkeypatch: pytest.MonkeyPatch):
    def fails(*_: Any) -> Tensor:
        raise RuntimeError("ptxas fell over")

    found = as_kernels(monkeypatch, broken(dots=fails))
    assert isinstance(found.passes, TorchPasses)
    assert found.reason == "torch runs the sparse passes: the kernels failed (RuntimeError: ptxas fell over)"


def without_the_last_column(self: Any, *arguments: Any) -> Tensor:
    made = TorchPasses.bags(self, *arguments)
    return made if made.shape[1] == 1 else made.index_fill(1, torch.tensor([made.shape[1] - 1]), 0.0)


def not_onto(self: Any, ids: Tensor, starts: Tensor, weights: Tensor, matrix: Tensor, *_: Any) -> Tensor:
    return TorchPasses.bags(self, ids, starts, weights, matrix, None)


def onto_what_was_there(self: Any, *arguments: Any) -> Tensor:
    *arguments, onto, out = (*arguments, None)[:6]
    return TorchPasses.bags(self, *arguments, out if onto is None else onto)


def no_numbers(self: Any, *arguments: Any) -> Tensor:
    return TorchPasses.dots(self, *arguments) / 0


@pytest.mark.parametrize(
    ("methods", "sentence"),
    [
        ({"bags": without_the_last_column}, "the kernels' sums of rows are up to .* with 48 columns"),
        ({"bags": not_onto}, "the kernels' sums onto others are up to .* with 1 columns"),
        ({"bags": onto_what_was_there}, "the kernels' sums into room are up to .* with 1 columns"),
        ({"dots": no_numbers}, "the kernels' inner products are up to inf away"),
    ],
)
def test_kernels_that_disagree_are_not_used(monkeypatch: pytest.MonkeyPatch, methods: dict, sentence: str):
    found = as_kernels(monkeypatch, broken(**methods))
    assert isinstance(found.passes, TorchPasses)
    assert re.search(sentence, found.reason), found.reason


def test_the_environment_can_forbid_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MISTUDIO_TRITON", "0")
    found = backend.choice.__wrapped__("cuda")
    assert isinstance(found.passes, TorchPasses)
    assert found.reason == "torch runs the sparse passes: the setting triton is false"


def test_a_step_on_a_cpu_does_not_look_for_them():
    code = (
        "import sys, torch; from tasks.sae.architectures import build;"
        "from tasks.sae.coder import CoderConfig, StepState;"
        "x = torch.randn(9, 8); nobody = torch.zeros(0, dtype=torch.int64);"
        "build(CoderConfig('topk', 8, 64)).step(x, x, StepState(nobody));"
        "sys.exit(any(name.partition('.')[0] == 'triton' or 'triton_kernels' in name for name in sys.modules))"
    )
    assert in_a_process("-c", code).returncode == 0


@pytest.mark.parametrize("at_once", [1, 100, 1 << 24], ids=lambda n: f"{n} numbers")
def test_where_torch_copies_rows_it_copies_few_at_once(monkeypatch: pytest.MonkeyPatch, at_once: int):
    monkeypatch.setattr(backend, "_GATHERED", at_once)
    generator = torch.Generator().manual_seed(0)
    vectors, matrix = torch.randn(6, 40, generator=generator), torch.randn(11, 40, generator=generator)
    for count in (0, 1, 23):
        owners = torch.randint(0, 6, (count,), generator=generator).sort().values
        ids = torch.randint(0, 11, (count,), generator=generator)
        found = backend._gathered(owners, ids, vectors, matrix)
        torch.testing.assert_close(found, (vectors @ matrix.T)[owners, ids])


def test_a_training_on_a_device_shows_what_runs_its_passes(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    params, _ = prepared(bench, steps=3)
    on_the_cpu = bench.context()
    train.run(params, on_the_cpu)
    assert not on_the_cpu.noted
    monkeypatch.setattr(backend, "describe_fallback", {"cpu": "as if it were another device"}.get)
    context = bench.context(attempt=2)
    train.run(params, context)
    assert context.noted == ["as if it were another device", "resumes from step 3"]
    monkeypatch.undo()
    assert backend.describe_fallback("cpu") is None
    assert "sparse passes" in (backend.describe_fallback("cuda") or "")
