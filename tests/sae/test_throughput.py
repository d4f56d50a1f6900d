"""How fast a training is, and its share of what the machine could do: counted from its products, clock by clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.kinds import train
from tasks.sae.architectures import build, names
from tasks.sae.coder import StepLosses, StepState
from tasks.sae.training import trainer as trainers
from tasks.sae.training.schedule import TrainConfig
from tasks.sae.training.throughput import COUNT_EVERY, Pace, gemm_peak
from tasks.sae.training.timers import EventTimer
from tasks.sae.training.trainer import Trainer
from tests.fixtures.bench import Bench, Planted, shaped
from tests.fixtures.stack import Clock
from tests.train_job.test_train import prepared

#: Products of the encoder's shape in a step with dense codes, beside the outer product that corrects W_enc's gradient.
DENSE = {"gated": 7}


def operations(clock: Clock, pace: Pace, number: int, seconds: float, rows: int) -> None:
    with pace.working():
        with pace.reading():
            clock.now += 10
        with pace.step(number, rows):
            torch.mm(torch.ones(rows, 3), torch.ones(3, 5))
            torch.ones(rows) + 1
            clock.now += seconds


def test_the_share_is_operations_over_the_time_of_the_steps_over_the_peak() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.begin(peak=2 * 4 * 3 * 5)  # one step of four vectors a second
    operations(clock, pace, 0, 2.0, rows=4)
    clock.now += 8  # a checkpoint
    speed = pace.lap()
    assert (speed.gemm_share, speed.tokens_per_s) == (0.5, 4 / 20)
    operations(clock, pace, 1, 4.0, rows=4)
    assert pace.lap().gemm_share == 0.25
    assert pace.whole().gemm_share == pytest.approx(2 / 6)
    assert pace.lap().gemm_share is None, "nothing was done since"


def test_no_share_is_reported_of_a_peak_that_was_measured_while_the_machine_was_busy() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.begin(peak=2 * 4 * 3 * 5)
    operations(clock, pace, 0, 1.0, rows=4)
    assert pace.lap().gemm_share == 1
    operations(clock, pace, 1, 0.5, rows=4)
    speed = pace.lap()
    assert (speed.gemm_share, speed.tokens_per_s) == (None, 4 / 10.5)


def test_operations_are_counted_again_from_time_to_time() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.begin(peak=1000.0)
    shares = []
    for number, rows in ((1, 4), (2, 8), (COUNT_EVERY, 8)):
        operations(clock, pace, number, 1.0, rows)
        shares.append(pace.lap().gemm_share)
    assert shares == [0.12, 0.12, 0.24]


@pytest.mark.parametrize("architecture", names())
def test_the_products_of_a_step_are_those_of_its_formulas(architecture: str) -> None:
    batch, d_in, d_sae = 64, 16, 96
    coder = build(shaped(architecture, d_in, d_sae, k=2, l1=1.0, threshold=0.0))
    pace, clock = Pace(), Clock()
    pace.begin(1.0)
    x = torch.randn(batch, d_in, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), pace.step(0, batch):
        coder.step(x, x, StepState(torch.zeros(0, dtype=torch.int64)))
    products = pace._a_step / (2 * batch * d_in * d_sae)
    expected = 1 if hasattr(coder.options, "k") else DENSE.get(architecture, 5)
    assert products == pytest.approx(expected, abs=0.1)
    assert clock.now == 1000


def test_the_peak_is_that_of_this_machine() -> None:
    small, large = gemm_peak(8, 2, 2, "cpu"), gemm_peak(4096, 256, 1024, "cpu")
    assert 1e6 < small < large < 1e14


@pytest.mark.parametrize(
    ("vectors", "d_sae", "side", "columns"),
    [(4096, 4096, 2048, 2048), (4096, 1 << 17, 2048, 2048), (32, 1 << 15, 32, 1 << 15), (1 << 17, 512, 8192, 512)],
)
def test_the_peak_is_that_of_a_product_which_is_neither_large_nor_narrow(
    vectors: int, d_sae: int, side: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    monkeypatch.setattr(torch, "mm", lambda a, b, out: shapes.append((len(a), b.shape[1], out.shape)))
    gemm_peak(vectors, 8, d_sae, "cpu")
    assert set(shapes) == {(side, columns, (side, columns))}


def test_the_time_in_which_the_first_activations_are_read_counts(tmp_path: Path) -> None:
    clock, source = Clock(), Planted(32, 16, 3, 64)

    def read(step: int) -> torch.Tensor:
        clock.now += 5
        return source(step)

    trainer = Trainer(TrainConfig(shaped("topk", 16, 48, k=4), steps=4, batch=64), read)
    trainer.pace = Pace(clock)
    trainer.run(tmp_path)
    assert trainer.pace.whole().tokens_per_s == 4 * 64 / (4 * 5 + 4 * 5), "four batches to measure, four to learn from"


class Queue:
    """A device that works through what it is given while the host continues."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.busy_until = clock, 0.0

    def give(self, seconds: float) -> None:
        self.busy_until = max(self.busy_until, self.clock.now) + seconds

    def event(self) -> Event:
        return Event(self)


class Event:
    """As torch.cuda.Event: reached when the device has done all that it was given before."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def record(self) -> None:
        self.at = max(self._queue.busy_until, self._queue.clock.now)

    def query(self) -> bool:
        return self._queue.clock.now >= self.at

    def synchronize(self) -> None:
        self._queue.clock.now = max(self._queue.clock.now, self.at)

    def elapsed_time(self, end: Event) -> float:
        return 1000 * (end.at - self.at)


def test_what_a_device_still_does_for_one_sae_is_not_counted_for_the_next(tmp_path: Path) -> None:
    clock = Clock()
    queue = Queue(clock)

    def asynchronous(name: str, seconds: float) -> Trainer:
        trainer = Trainer(TrainConfig(shaped("topk", 16, 48, k=4), steps=10, batch=64), Planted(32, 16, 3, 64))
        trainer.pace, gradient = Pace(clock, timer=EventTimer(queue.event)), trainer._gradient

        def begun(*args: Any) -> StepLosses:
            queue.give(seconds)
            return gradient(*args)

        trainer._gradient = begun
        trainer.begin(tmp_path / name)
        return trainer

    began = clock.now
    long, short = asynchronous("long", 4.0), asynchronous("short", 1.0)
    for _ in range(10):
        for trainer in (long, short):
            trainer.advance(tmp_path)
    assert clock.now == began, "no step waited for the device"
    assert long.pace.lap().tokens_per_s is None, "nothing is done yet"
    clock.now += 22
    assert long.pace._now.tokens == 0
    assert long.pace.lap().tokens_per_s == pytest.approx(4 * 64 / (clock.now - began)), "steps that are done count"
    for trainer in (long, short):
        trainer.pace.whole()
    assert clock.now == began + 50, "the last word waits for the device"
    assert [trainer.pace._now.worked_s for trainer in (long, short)] == pytest.approx([40, 10])


def test_a_training_shows_its_pace_in_its_result_in_a_file_and_while_it_runs(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainers, "gemm_peak", lambda *shape: 1e11)
    context = bench.context()
    result = train.run(prepared(bench, arch="standard", k=None, l1=0.1)[0], context)
    assert result["tokens_per_s"] > 0
    assert result["gemm_share"] > 0
    assert result["gemm_peak_gflops"] == 100
    lines = [json.loads(line) for line in (context.output / "pace.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 30
    assert all(line["tokens_per_s"] > 0 and line["gemm_share"] > 0 for line in lines)
    at, outcome = context.measured[-1]
    assert at == 30
    assert list(outcome)[:4] == ["loss", "fvu", "l0", "dead_features"]
    assert {"mse", "mse_loss", "sparsity_loss", "aux_loss", "tokens_per_s", "gemm_share"} < set(outcome)


def test_metrics_are_reported_at_least_each_second_however_slow_the_steps_are(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.sae.training.trainer.FLUSH_AFTER_S", 0.0)
    context = bench.context()
    train.run(prepared(bench, steps=5)[0], context)
    assert [at for at, _ in context.measured] == [1, 2, 3, 4, 5]


def test_a_resumed_training_reports_the_pace_of_each_step_once(tmp_path: Path, bench: Bench) -> None:
    context = bench.context()
    (context.workdir / "pace.jsonl").write_text('{"step": 2}\n{"step": 999}\n{"st')
    train.run(prepared(bench, steps=5)[0], context)
    steps = [json.loads(line)["step"] for line in (context.output / "pace.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert steps[-1] == 5
