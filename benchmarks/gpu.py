"""One card, measured in at most nine minutes and without a network: `python -m benchmarks gpu` (docs/gpu.md).

First the tests that need a card (`pytest -m gpu`), then three tables: a training step beside one product of the
encoder's shape, the kernels beside torch's sparse passes, and memory beside `estimate`. Without a card it prints one
sentence, writes nothing and exits with code 2. `--device cpu --tiny` does the same on the CPU at small shapes, in
seconds, to see that the script works; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.peer_environment import ROOT
from benchmarks.tables import table
from benchmarks.turns import take_turns
from tasks.sae.architectures import topk
from tasks.sae.coder import CoderConfig
from tasks.sae.memory_estimate import TrainingShape, of_step
from tasks.sae.ops import backend
from tasks.sae.ops.active_pairs import SomePairs, from_rows
from tasks.sae.training import device_to_host
from tasks.sae.training.schedule import TrainConfig
from tasks.sae.training.throughput import wait_for
from tasks.sae.training.trainer import Trainer

RESULTS = ROOT / "benchmarks/results"
#: The exit code where there is no card: it cannot be done as asked, as in docs/exit-codes.md.
NO_CARD = 2


@dataclass(frozen=True)
class Plan:
    """What is measured, and how long that may take."""

    device: str = "cuda"
    d_in: int = 2304
    d_saes: tuple[int, ...] = (16384, 65536, 131072)
    batches: tuple[int, ...] = (4096, 16384)
    k: int = 64
    rounds: int = 7
    calls: int = 3  # of what is measured, between two waits for the device
    tests: tuple[str, ...] = ("-m", "gpu", "tests/sae")
    tests_s: float = 270.0  # the tests are ended after that
    all_s: float = 500.0  # nothing new is measured after that


TINY = Plan(d_in=32, d_saes=(64, 128), batches=(32,), k=4, rounds=2, calls=1, tests=("tests/sae/test_block_sizes.py",))


def main(argv: Sequence[str]) -> int:
    """Measure the card and write `gpu.md` and `gpu.json`; the exit code: 0, 1 where tests failed, 2 without a card."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description="Measure one card")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu only with --tiny")
    parser.add_argument("--tiny", action="store_true", help="small shapes, to see that the script works")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    wanted = parser.parse_args(argv)
    if wanted.device == "cpu" and not wanted.tiny:
        parser.error("--device cpu is for --tiny: the shapes of a card would take hours")
    if wanted.tiny and wanted.results == RESULTS:
        parser.error("--tiny needs --results DIR: its figures mean nothing, and would replace those of a card")
    if torch.device(wanted.device).type == "cuda" and not torch.cuda.is_available():
        sys.stderr.write("No CUDA device: nothing was measured. Run it on a machine with one, see docs/gpu.md.\n")
        return NO_CARD
    found = measure(replace(TINY if wanted.tiny else Plan(), device=wanted.device))
    wanted.results.mkdir(parents=True, exist_ok=True)
    (wanted.results / "gpu.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    (wanted.results / "gpu.md").write_text(as_text(found), encoding="utf-8")
    sys.stdout.write(as_text(found))
    return 0 if found["tests"]["exit code"] == 0 else 1


def measure(plan: Plan) -> dict[str, Any]:
    """All of a plan: what the machine is, the tests' outcome, and the rows of each table."""
    began = time.monotonic()
    tests = run_tests(plan)

    def in_time() -> bool:
        return time.monotonic() - began < plan.all_s

    found = {
        "machine": machine(plan.device),
        "tests": tests,
        "steps": list(_rows(plan, step_and_memory, in_time)),
        "passes": list(_rows(plan, passes, in_time)),
    }
    return {**found, "seconds": round(time.monotonic() - began)}


def machine(device: str) -> dict[str, str]:
    """The card's name and what it is driven by, and what of ours runs on it, and why."""
    type_ = torch.device(device).type
    facts = {"date": datetime.now(UTC).date().isoformat(), "device": "CPU: figures mean nothing"}
    if type_ == "cuda":
        card = torch.cuda.get_device_properties(device)
        facts["device"] = f"{card.name}, {card.total_memory / 2**30:.0f} GiB, sm_{card.major}{card.minor}"
    versions = {name: _version(name) for name in ("torch", "triton")}
    reasons = {"passes": backend.choice(type_).reason, "metrics": device_to_host.choice(device).reason}
    return {**facts, "python": platform.python_version(), **versions, "CUDA": str(torch.version.cuda), **reasons}


def run_tests(plan: Plan) -> dict[str, Any]:
    """How the tests ended that need a card."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plan.tests]
    began = time.monotonic()
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=plan.tests_s, check=False)
        code, lines = done.returncode, (done.stdout + done.stderr).splitlines()
    except subprocess.TimeoutExpired as late:
        printed = (late.stdout or b"").decode(errors="replace")  # bytes, whatever was asked for
        code, lines = 124, [*printed.splitlines(), f"not over after {plan.tests_s:.0f} s"]
    shown = [line for line in lines if line.startswith(("FAILED", "ERROR", "SKIPPED"))]
    last = next((line for line in reversed(lines) if line.strip()), "")
    return {"exit code": code, "last line": last, "shown": shown, "seconds": round(time.monotonic() - began)}


def _rows(
    plan: Plan, measured: Callable[[Plan, int, int], list[dict[str, Any]]], in_time: Callable[[], bool]
) -> Iterator[dict[str, Any]]:
    """The rows of each shape; one that says why where there is no time or no memory for it."""
    for d_sae in plan.d_saes:
        for batch in plan.batches:
            shape = {"d_in": plan.d_in, "d_sae": d_sae, "batch": batch, "k": plan.k}
            try:
                rows = measured(plan, d_sae, batch) if in_time() else [{"note": "not measured: the time was up"}]
            except torch.OutOfMemoryError:
                rows = [{"note": "out of memory"}]
            except RuntimeError as error:  # a kernel that fails costs its row, not the page
                rows = [{"note": f"failed: {str(error).splitlines()[0]}"}]
            yield from ({**shape, **row} for row in rows)
            if torch.device(plan.device).type == "cuda":
                torch.cuda.empty_cache()


def step_and_memory(plan: Plan, d_sae: int, batch: int) -> list[dict[str, Any]]:
    """A TopK step's time beside that of the encoder's product, and what it holds beside what `estimate` counts for it.

    The step is the trainer's, with Adam, clipping and its line of the metrics; the batch is on the card.
    """
    held = _Memory(plan.device)
    x = torch.randn(batch, plan.d_in, device=plan.device)
    config = TrainConfig(CoderConfig("topk", plan.d_in, d_sae, topk.Options(k=plan.k)), steps=1_000_000, batch=batch)
    trainer = Trainer(config, lambda step: x.clone(), plan.device)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        trainer.begin(Path(folder))
        held.restart()
        trainer.advance(Path(folder))
        trainer.advance(Path(folder))
        peak = held.peak()
        sides: dict[str, Callable[[], Any]] = {"step": lambda: trainer.advance(Path(folder))}
        for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
            sides[name] = _product(x.to(dtype), trainer.coder.W_enc.to(dtype).T)
        times = side_by_side(plan, sides)
        trainer._write_metrics(Path(folder))
    shape = TrainingShape(plan.k, d_sae, 0, batch, batch)
    return [
        {
            "step ms": _ms(times["step"]),
            "float32 GEMM ms": _ms(times["float32"]),
            "bf16 GEMM ms": _ms(times["bf16"]),
            "share of bf16 GEMM": round(times["bf16"] / times["step"], 3),
            "vectors/s": round(batch / times["step"]),
            "memory MB": "n/a" if peak is None else round(peak / 1e6),
            "estimate MB": round(of_step(shape, plan.d_in) / 1e6),
        }
    ]


def passes(plan: Plan, d_sae: int, batch: int) -> list[dict[str, Any]]:
    """Each sparse pass by what runs it here and by torch: pairs evenly among features, and one feature in all vectors.

    `difference` is the norm of what differs over the norm of torch's result.
    """
    generator = torch.Generator().manual_seed(0)
    even = torch.randint(1, d_sae, (batch, plan.k), generator=generator)
    with_one = even.clone()
    with_one[:, 0] = 0
    vectors, matrix = (torch.randn(rows, plan.d_in, device=plan.device) for rows in (batch, d_sae))
    rows = []
    for what, chosen in (("even", even), ("one feature in all", with_one)):
        pairs = from_rows(chosen.to(plan.device), d_sae)
        values = torch.randn(len(pairs.features), device=plan.device)
        ours = backend.choice(torch.device(plan.device).type).passes
        for name, call in _calls(pairs, values, vectors, matrix).items():
            by = {"ours": ours, "torch": backend.TorchPasses()}
            made = {side: call(run) for side, run in by.items()}
            apart = (made["ours"] - made["torch"]).norm() / made["torch"].norm().clamp_min(1e-30)
            times = side_by_side(plan, {side: _bound(call, run) for side, run in by.items()})
            rows.append(
                {
                    "pairs": what,
                    "pass": name,
                    "ours ms": _ms(times["ours"]),
                    "torch ms": _ms(times["torch"]),
                    "ratio": round(times["torch"] / times["ours"], 2),
                    "difference": f"{float(apart):.1e}",
                }
            )
    return rows


def _calls(
    pairs: SomePairs, values: torch.Tensor, vectors: torch.Tensor, matrix: torch.Tensor
) -> dict[str, Callable[[backend.Passes], torch.Tensor]]:
    order, starts = pairs._by_feature
    by_vector = (pairs.features, pairs.starts, values, matrix)
    by_feature = (pairs.vectors[order], starts, values[order], vectors)
    return {
        "decode": lambda run: run.bags(*by_vector, None),
        "residual": lambda run: run.residual(*by_vector, matrix[0], vectors, 0.5)[0],
        "weight gradient": lambda run: run.bags(*by_feature, None),
        "inner products": lambda run: run.dots(pairs.vectors, pairs.starts, pairs.features, vectors, matrix),
    }


def side_by_side(plan: Plan, sides: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """The median seconds of one call of each, which take turns after one round to warm up."""

    def several(call: Callable[[], Any]) -> None:
        for _ in range(plan.calls):
            call()
        wait_for(plan.device)

    wait_for(plan.device)
    steps = {name: partial(several, call) for name, call in sides.items()}
    return {name: median / plan.calls for name, median in take_turns(steps, 1, plan.rounds, time.perf_counter).items()}


class _Memory:
    """What torch has allocated on a card more than at the beginning; nothing is known of a CPU."""

    def __init__(self, device: str) -> None:
        self._device = device if torch.device(device).type == "cuda" else None
        if self._device:
            self._before = torch.cuda.memory_allocated(self._device)

    def restart(self) -> None:
        """Look for the peak from here on."""
        if self._device:
            torch.cuda.reset_peak_memory_stats(self._device)

    def peak(self) -> int | None:
        """Bytes at the worst moment since."""
        return torch.cuda.max_memory_allocated(self._device) - self._before if self._device else None


def _product(a: torch.Tensor, b: torch.Tensor) -> Callable[[], Any]:
    return lambda: a @ b


def _bound(call: Callable[[backend.Passes], torch.Tensor], run: backend.Passes) -> Callable[[], Any]:
    return lambda: call(run)


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 3)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def as_text(found: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    tests = found["tests"]
    lines = ["## gpu", "", *(f"- {name}: {value}" for name, value in found["machine"].items())]
    lines += [f"- tests: {tests['last line']} (exit code {tests['exit code']}, {tests['seconds']} s)"]
    lines += [f"  - {line}" for line in tests["shown"]]
    lines += [f"- all of it took {found['seconds']} s", ""]
    lines += ["### Steps", "", *table(found["steps"]), "", "### Sparse passes", "", *table(found["passes"])]
    return "\n".join(lines) + "\n"
