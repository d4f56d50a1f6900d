"""What a card does is what the CPU does: for whoever has one, `pytest -m gpu`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tasks.sae.architectures import names
from tasks.sae.coder import Coder, StepState
from tasks.sae.ops.active_pairs import pairs_at
from tasks.sae.ops.backend import TorchPasses, choice
from tasks.sae.training import device_to_host
from tasks.sae.training import trainer as trainers
from tasks.sae.training.schedule import TrainConfig
from tasks.sae.training.trainer import Trainer
from tests.fixtures.bench import Planted, shaped
from tests.sae.test_architectures import CHOICES, DEAD, MANY_DEAD, NOBODY, SHAPES, random, small

CARD = "cuda"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]
#: Sums of float32 in another order, of which a loss takes thousands.
RELATIVE, ABSOLUTE = 1e-3, 1e-4


def test_the_kernels_are_used_if_triton_is_there() -> None:
    pytest.importorskip("triton")
    assert choice("cuda").reason == "kernels in Triton run the sparse passes, and agreed with torch"


@pytest.mark.parametrize("d", [1, 100, 768, 2304])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.2])
def test_the_passes_over_pairs_are_dense_products(d: int, share: float) -> None:
    wanted = torch.rand(700, 1500, generator=torch.Generator().manual_seed(0)) < share
    wanted[5], wanted[:, 3], wanted[:, 9] = True, True, False  # one vector and one feature with many, one with none
    chosen = pairs_at(wanted.to(CARD))
    values, matrix, vectors = (random(*shape).to(CARD) for shape in ((len(chosen.features), 1), (1500, d), (700, d)))
    dense = torch.zeros(700, 1500, device=CARD).index_put((chosen.vectors, chosen.features), values[:, 0])
    onto = torch.ones(1500, d, device=CARD)
    for found, expected in (
        (chosen.decode(values[:, 0], matrix), dense @ matrix),
        (chosen.pull(vectors, matrix), chosen.of(vectors @ matrix.T)),
        (chosen.spread(values[:, 0], vectors, None), dense.T @ vectors),
        (chosen.spread(values[:, 0], vectors, onto.clone()), onto + dense.T @ vectors),
    ):
        torch.testing.assert_close(found, expected, rtol=RELATIVE, atol=1e-3)
    again = chosen.spread(values[:, 0], vectors, None)
    assert torch.equal(again, chosen.spread(values[:, 0], vectors, None)), "the same pairs give the same bytes"
    error, squared = chosen.residual(values[:, 0], matrix, matrix[0], vectors, 0.5)
    expected = dense @ matrix + matrix[0] - vectors
    torch.testing.assert_close(error, 0.5 * expected, rtol=RELATIVE, atol=1e-3)
    torch.testing.assert_close(squared, expected.square().sum(), rtol=RELATIVE, atol=1e-3)
    twin = TorchPasses().dots(chosen.vectors, chosen.starts, chosen.features, vectors, matrix)
    torch.testing.assert_close(chosen.pull(vectors, matrix), twin, rtol=RELATIVE, atol=1e-3)


@pytest.mark.parametrize("d", [48, 768, 2304])
def test_rows_in_bfloat16_are_summed_in_float32(d: int) -> None:
    chosen = pairs_at((torch.rand(700, 1500, generator=torch.Generator().manual_seed(0)) < 0.05).to(CARD))
    values, matrix = random(len(chosen.features), 1).to(CARD)[:, 0], random(1500, d).to(CARD).bfloat16()
    found = choice(CARD).passes.bags(chosen.features.int(), chosen.starts.int(), values, matrix, None)
    assert found.dtype == torch.float32
    expected = choice(CARD).passes.bags(chosen.features, chosen.starts, values, matrix.float(), None)
    torch.testing.assert_close(found, expected, rtol=RELATIVE, atol=ABSOLUTE)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("name", names())
def test_twenty_steps_wait_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(trainers, "DEAD_EVERY", 1000)  # a look for dead features waits, and is the only thing that may
    monkeypatch.setattr(trainers, "FLUSH_EVERY", 4)
    planted = Planted(32, 16, 3, 256)
    batches = [planted(step).to(CARD) for step in range(24)]
    config = TrainConfig(shaped(name, 16, 64, k=4, l1=0.1, l0=0.01), steps=2000, batch=256, lr=3e-3)
    trainer = Trainer(config, lambda step: batches[step].clone(), CARD)
    trainer.begin(tmp_path)
    for _ in range(4):
        trainer.advance(tmp_path)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            trainer.advance(tmp_path)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    trainer._write_metrics(tmp_path)
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 25))


def test_metrics_are_copied_to_pinned_memory() -> None:
    assert device_to_host.choice(CARD).send is device_to_host.PinnedTransfer, device_to_host.choice(CARD).reason


@pytest.mark.parametrize("name", ["chosen", "torch"])
def test_inner_products_copy_no_row_for_every_pair(name: str) -> None:
    passes = choice(CARD).passes if name == "chosen" else TorchPasses()
    chosen = pairs_at(torch.rand(8192, 1024, device=CARD) < 1 / 16)
    vectors, matrix = torch.randn(8192, 768, device=CARD), torch.randn(1024, 768, device=CARD)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    passes.dots(chosen.vectors, chosen.starts, chosen.features, vectors, matrix)
    assert torch.cuda.max_memory_allocated() - before < len(chosen.features) * 768 * 4 / 2


def gradients(coder: Coder, device: str, batch: int, dead: torch.Tensor) -> dict[str, torch.Tensor]:
    """The loss and every gradient of one step there, on the CPU."""
    coder.to(device)
    x = random(batch, coder.config.d_in).to(device)
    target = random(batch, coder.config.d_out, seed=4).to(device) if coder.is_transcoder else x
    result = coder.step(x, target, StepState(dead.to(device), pressure=0.7))
    found = {name: parameter.grad.cpu() for name, parameter in coder.parameters.items()}
    return {**found, "loss": result.loss.cpu(), "l0": result.l0.cpu(), "fired": result.fired.cpu().float()}


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dead", [NOBODY, DEAD, MANY_DEAD], ids=["all alive", "five dead", "many dead"])
def test_a_step_on_a_card_is_the_cpus(choice: str, shape: str, dead: torch.Tensor) -> None:
    on_the_cpu, there = (gradients(small(choice, **SHAPES[shape]), device, 600, dead) for device in ("cpu", CARD))
    for name, expected in on_the_cpu.items():
        torch.testing.assert_close(
            there[name], expected, rtol=RELATIVE, atol=ABSOLUTE, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("name", names())
def test_a_training_on_a_card_goes_as_on_the_cpu_and_resumes_there(tmp_path: Path, name: str) -> None:
    lines, source = {}, Planted(32, 16, 3, 256)
    config = TrainConfig(shaped(name, 16, 64, k=4, l1=0.1, l0=0.01), steps=200, batch=256, lr=3e-3, dead_after=2560)
    for device in ("cpu", CARD):
        Trainer(config, source, device).run(tmp_path / device)
        result = (tmp_path / device / "metrics.jsonl").read_text().splitlines()
        lines[device] = [json.loads(line) for line in result]
    for expected, found in list(zip(lines["cpu"], lines[CARD], strict=True))[:5]:
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-2)
    last, there = lines["cpu"][-1], lines[CARD][-1]
    assert there["fvu"] == pytest.approx(last["fvu"], rel=0.1, abs=0.01)
    assert there["l0"] == pytest.approx(last["l0"], rel=0.1)

    parts = Trainer(config, source, CARD)
    parts.run(tmp_path / "parts", lambda: setattr(parts, "is_over", parts.step == 120))
    parts.save(tmp_path / "parts")
    resumed = Trainer(config, source, CARD)
    assert resumed.resume(tmp_path / "parts") == 120
    resumed.run(tmp_path / "parts")
    again = [json.loads(line) for line in (tmp_path / "parts/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in again] == list(range(1, 201))
    assert again[-1]["fvu"] == pytest.approx(there["fvu"], rel=0.1, abs=0.01), "sums of counts differ from run to run"
