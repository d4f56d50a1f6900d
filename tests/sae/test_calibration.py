"""The saved form of a BatchTopK or Matryoshka SAE has k active features on the average, whenever it was saved."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tasks.activations.hook_sites import Hook
from tasks.activations.hooks import find
from tasks.activations.stream import ModelVectors, split_rows
from tasks.activations.token_mask import Mask
from tasks.jobs.kind import Stopped
from tasks.kinds import train
from tasks.sae import coder as coders
from tasks.sae.architectures import build
from tasks.sae.calibration import fit_threshold, sample_size
from tasks.sae.formats.native import load_sae, save_sae
from tasks.sae.training.schedule import TrainConfig
from tasks.sae.training.trainer import Trainer
from tests.fixtures.bench import Bench, Context, Planted, shaped, some_tokens, tiny_model
from tests.sae.test_metrics import Largest
from tests.train_job.test_train import prepared

BY_BATCH = ["batchtopk", "matryoshka"]
DEEPER = bool(os.environ.get("MISTUDIO_TEST_DEEPER"))


def l0_of(folder: Path, vectors: torch.Tensor) -> float:
    return float((load_sae(folder).encode(vectors) > 0).sum(1).float().mean())


@pytest.mark.parametrize("arch", BY_BATCH)
@pytest.mark.parametrize("steps", [30, 60, 120, 250, 500, *([1000] if DEEPER else [])])
def test_held_out_l0_is_k_after_any_number_of_steps(tmp_path: Path, arch: str, steps: int):
    """It was 12 to 30 in place of 32 when the threshold was a mean over old batches."""
    source = Planted(64, 16, active=6, batch=128)
    shape = shaped(arch, 16, 64, k=8, groups=3)
    trainer = Trainer(TrainConfig(shape, steps=steps, batch=128, lr=2e-3), source)
    trainer.run(tmp_path)
    save_sae(tmp_path, trainer.coder, trainer.scales, {})
    trained_on = torch.cat([source(step) for step in range(min(steps, 256))])
    assert l0_of(tmp_path, trained_on) == pytest.approx(8, rel=0.01)
    held_out = torch.cat([source(5_000 + step) for step in range(64)])
    assert l0_of(tmp_path, held_out) == pytest.approx(8, rel=0.05)


def test_the_threshold_is_the_exact_quantile_and_few_pre_activations_are_held(monkeypatch: pytest.MonkeyPatch):
    coder = build(shaped("batchtopk", 8, 64, k=4))
    x = torch.randn(4000, 8, generator=torch.Generator().manual_seed(0))
    ranked = coder.preactivations(x).flatten().sort(descending=True).values
    monkeypatch.setattr(coders, "SLICE_NUMBERS", 1 << 13)
    with Largest() as seen:
        found = fit_threshold(coder, x.split(300), len(x), k=4)
    assert seen.numbers <= 2 * (4 * 4000 + 1) + (1 << 13) < ranked.numel() / 5
    assert ranked[4 * 4000] < found < ranked[4 * 4000 - 1]
    coder.calibrate(x.split(300), len(x))
    assert int((coder.encode(x) > 0).sum()) == 4 * 4000


def test_where_fewer_than_k_pre_activations_are_positive_all_of_them_count():
    coder = build(shaped("batchtopk", 8, 16, k=15))
    coder.b_enc -= 1
    x = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    coder.calibrate([x], len(x))
    assert float(coder.threshold) == 0
    assert int((coder.encode(x) > 0).sum()) == int((coder.preactivations(x) > 0).sum()) < 15 * 200


def test_of_equal_pre_activations_at_the_edge_none_counts():
    coder = build(shaped("batchtopk", 4, 8, k=3))
    x = torch.randn(1, 4, generator=torch.Generator().manual_seed(0)).repeat(50, 1)
    coder.b_enc.fill_(1.0)
    coder.W_enc[:5] = coder.W_enc[:1]
    coder.calibrate([x], len(x))
    assert bool(torch.isfinite(coder.threshold))
    assert float((coder.encode(x) > 0).sum(1).float().mean()) <= 3


def test_a_sample_is_smaller_where_k_is_large():
    assert sample_size(32, 65_536) == 65_536
    assert sample_size(4096, 65_536) == 1024
    assert sample_size(1 << 30, 65_536) == 1


def vectors_of(rows: np.ndarray, tokens: np.ndarray) -> torch.Tensor:
    model = tiny_model()
    source = ModelVectors(model, tokens, [find(model, Hook("resid", 1))], Mask(first=True))
    return torch.cat(list(source.read(rows)))


def halted_after(bench: Bench, params: Any, step: int) -> Context:
    """A context whose training was stopped once, at a checkpoint after that step, and is to be resumed."""
    with pytest.raises(Stopped):
        train.run(params, bench.context("sae", stop=lambda done: done >= step * 256))
    return bench.context("sae", attempt=2)


@pytest.mark.parametrize("arch", BY_BATCH)
@pytest.mark.parametrize(
    "course",
    [
        {"evaluate": 0, "steps": 7},
        {"evaluate": 4, "steps": 40},
        {"evaluate": 60, "patience": 2, "steps": 60, "lr": 0.1},
        {"evaluate": 2, "steps": 40, "resample": 2},
        {"evaluate": 0, "steps": 20, "halt": 5},
        {"evaluate": 1, "steps": 20, "halt": 5},
        {"evaluate": 0, "steps": 7, "hook": "mlp-in", "target": "mlp"},
    ],
    ids=str,
)
def test_however_a_training_ends_its_saved_sae_has_k_active_features_on_what_it_was_trained_on(
    bench: Bench, arch: str, course: dict[str, Any]
):
    halt = course.get("halt")
    values = {name: value for name, value in {"lr": 0.01, **course}.items() if name != "halt"}
    params, _ = prepared(bench, arch=arch, groups=2 if arch == "matryoshka" else None, **values)
    context = halted_after(bench, params, halt) if halt else bench.context()
    result = train.run(params, context)
    if "patience" in course:
        assert result["steps"] > result["best_step"], "it took up an earlier checkpoint"
    model, tokens = tiny_model(), some_tokens(200)
    rows, _ = split_rows(200, 20, 0)
    point = find(model, Hook(params.hook, 1))
    vectors = torch.cat(list(ModelVectors(model, tokens, [point], Mask(first=True)).read(rows)))
    assert l0_of(context.output, vectors) == pytest.approx(4, rel=0.01)


@pytest.mark.parametrize("arch", BY_BATCH)
def test_a_sample_of_the_training_tokens_is_enough(bench: Bench, arch: str):
    bench.add_tokens("many", rows=6000)
    params, _ = prepared(bench, dataset="many", arch=arch, eval_tokens=16_000, steps=60, lr=0.01)
    context = bench.context()
    result = train.run(params, context)
    rows, _ = split_rows(6000, result["held_out_tokens"] // 15, 0)
    assert l0_of(context.output, vectors_of(rows, some_tokens(6000))) == pytest.approx(4, rel=0.01)
    assert result["l0"] == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("arch", ["topk", "jumprelu", "standard"])
def test_other_architectures_read_no_vectors_for_it(bench: Bench, arch: str):
    coder = build(shaped(arch, 8, 16, k=4))

    def never() -> Any:
        raise AssertionError
        yield

    before = {name: tensor.clone() for name, tensor in coder.state.items()}
    coder.calibrate(never(), 100)
    assert coder.calibration_size(100) == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in coder.state.items())


@pytest.mark.parametrize("arch", BY_BATCH)
def test_a_checkpoint_of_before_is_taken_up(tmp_path: Path, arch: str):
    """One whose threshold was averaged says over how many batches, which nothing asks for any more."""
    source = Planted(48, 16, 3, 64)
    trainer = Trainer(TrainConfig(shaped(arch, 16, 48, k=4), steps=20, batch=64), source)
    trainer.begin(tmp_path)
    for _ in range(10):
        trainer.advance(tmp_path)
    state = trainer.coder.state
    trainer.coder.load({**state, "batches": torch.tensor(10.0)})
    assert set(trainer.coder.state) == set(state)


@pytest.mark.parametrize("arch", BY_BATCH)
def test_all_numbers_of_a_result_are_those_of_the_saved_sae(bench: Bench, arch: str):
    """Recomputed from its files on the held-out rows: L0, MSE, FVU, densities and what it loses in the model."""
    params, _ = prepared(bench, arch=arch, lr=0.01, steps=60)
    context = bench.context()
    result = train.run(params, context)
    _, rows = split_rows(200, 20, 0)
    x, sae = vectors_of(rows, some_tokens(200)), load_sae(context.output)
    codes = sae.encode(x)
    made = sae.decode(codes)
    error = (made - x).square().sum(1)
    expected = {
        "mse": error.mean(),
        "fvu": error.sum() / (x - x.mean(0)).square().sum(),
        "l0": (codes > 0).sum(1).float().mean(),
        "l1": codes.sum(1).mean(),
        "cosine_similarity": torch.cosine_similarity(made, x).mean(),
        "l2_ratio": (made.norm(dim=1) / x.norm(dim=1)).mean(),
        "dead_fraction": (codes == 0).all(0).float().mean(),
    }
    for name, value in expected.items():
        assert result[name] == pytest.approx(float(value), rel=1e-4), name
    density = 10 ** load_file(context.output / "sparsity.safetensors")["sparsity"]
    torch.testing.assert_close(density, (codes > 0).float().mean(0) + 1e-10, rtol=1e-4, atol=1e-9)
    last = json.loads((context.output / "evaluations.jsonl").read_text().splitlines()[-1])
    for name in ("mse", "fvu", "l0", "l1", "dead_fraction", "ce_loss", "ce_loss_with_sae", "kl"):
        assert last[name] == pytest.approx(result[name], rel=1e-4), name
