"""The script that measures a card does all that it does on a CPU at small shapes, and without a card it says so."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import __main__ as bench
from benchmarks import gpu

SMALL = replace(gpu.TINY, device="cpu", d_saes=(64,), rounds=1, tests=("--version",))


@pytest.fixture
def no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_card")
def test_without_a_card_it_is_one_sentence_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert bench.main(["gpu", "--results", str(tmp_path / "results")]) == gpu.NO_CARD == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "No CUDA device: nothing was measured. Run it on a machine with one, see docs/gpu.md.\n"
    assert not (tmp_path / "results").exists()


def test_a_small_run_on_the_cpu_writes_both_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gpu, "TINY", replace(gpu.TINY, tests=("--version",)))
    assert bench.main(["gpu", "--device", "cpu", "--tiny", "--results", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert [(row["d_sae"], row["batch"]) for row in found["steps"]] == [(64, 32), (128, 32)]
    assert all(row["step ms"] > 0 and row["bf16 GEMM ms"] > 0 for row in found["steps"])
    assert [row["pass"] for row in found["passes"][:4]] == ["decode", "residual", "weight gradient", "inner products"]
    assert {row["pairs"] for row in found["passes"]} == {"even", "one feature in all"}
    assert {row["difference"] for row in found["passes"]} == {"0.0e+00"}, "torch on both sides"
    text = (tmp_path / "gpu.md").read_text()
    for word in ("CPU: figures mean nothing", "share of bf16 GEMM", "estimate MB", "weight gradient", "pytest "):
        assert word in text


def test_it_needs_neither_redis_nor_transformers():
    code = (
        "import sys, runpy; sys.argv = ['benchmarks', 'gpu', '--help']\n"
        "try: runpy.run_module('benchmarks', run_name='__main__')\n"
        "except SystemExit as ended: assert ended.code == 0\n"
        "print({'celery', 'redis', 'transformers', 'datasets', 'typer', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=gpu.ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["set()"], done.stdout + done.stderr


def test_a_name_that_is_no_measurement_is_refused():
    with pytest.raises(SystemExit, match=r"no measurement 'gpus': commands, .*, gpu"):
        bench.main(["gpus"])


def test_the_full_plan_has_the_shapes_of_a_real_training_and_ends_in_nine_minutes():
    plan = gpu.Plan()
    assert (plan.d_in, plan.k, plan.device) == (2304, 64, "cuda")
    assert plan.d_saes == (16384, 65536, 131072)
    assert plan.batches == (4096, 16384)
    assert plan.tests_s < plan.all_s < 9 * 60


def test_what_there_is_no_time_or_no_memory_for_is_said_in_its_row(monkeypatch: pytest.MonkeyPatch):
    found = gpu.measure(replace(SMALL, all_s=0.0))
    notes = [row["note"] for row in (*found["steps"], *found["passes"])]
    assert notes == ["not measured: the time was up"] * 2

    def too_large(*_: Any) -> list[dict[str, Any]]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gpu, "step_and_memory", too_large)
    assert gpu.measure(SMALL)["steps"] == [{"d_in": 32, "d_sae": 64, "batch": 32, "k": 4, "note": "out of memory"}]


def test_tests_that_fail_or_do_not_end_are_named(tmp_path: Path):
    bad = tmp_path / "test_bad.py"
    bad.write_text("import time\ndef test_bad():\n    assert False\ndef test_endless():\n    time.sleep(60)\n")
    failed = gpu.run_tests(replace(SMALL, tests=(str(bad), "-k", "bad and not endless", "-c", "/dev/null")))
    assert failed["exit code"] == 1
    assert any("test_bad" in line for line in failed["shown"])
    late = gpu.run_tests(replace(SMALL, tests=(str(bad), "-k", "endless", "-c", "/dev/null"), tests_s=3.0))
    assert (late["exit code"], late["last line"]) == (124, "not over after 3 s")


def test_a_run_with_failed_tests_exits_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    failed = {"exit code": 1, "last line": "1 failed", "shown": ["FAILED x"], "seconds": 1}
    monkeypatch.setattr(gpu, "run_tests", lambda plan: failed)
    assert gpu.main(["--device", "cpu", "--tiny", "--results", str(tmp_path)]) == 1
    assert "  - FAILED x" in (tmp_path / "gpu.md").read_text()
