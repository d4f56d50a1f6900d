"""Two thousand steps with features chosen in bfloat16 end where those in float32 end: within half a percent.

Of each architecture, on planted features, in the mean of three seeds: MISTUDIO_TEST_DEEPER=1, ten minutes.
"""

from __future__ import annotations

import os
from pathlib import Path
from statistics import mean

import pytest
import torch

from tasks.sae.architectures import names
from tasks.sae.coder import BF16, FLOAT32
from tasks.sae.metrics import Measures, measure
from tasks.sae.ops import preactivations
from tasks.sae.training.schedule import TrainConfig
from tasks.sae.training.trainer import Trainer
from tests.fixtures.bench import Planted, shaped

STEPS, BATCH, SEEDS = 2000, 128, (0, 1, 2)
WITHIN = 0.005

deeper = pytest.mark.skipif(
    not os.environ.get("MISTUDIO_TEST_DEEPER"), reason="takes ten minutes: MISTUDIO_TEST_DEEPER=1"
)


def outcome(folder: Path, architecture: str, seed: int, precision: str) -> tuple[Measures, Trainer]:
    """What is measured on held-out vectors after a training, and the training."""
    source = Planted(features=700, d_in=48, active=6, batch=BATCH, seed=seed)
    coder = shaped(architecture, 48, 512, k=8, threshold=0.1, groups=3)
    config = TrainConfig(coder, steps=STEPS, batch=BATCH, lr=2e-3, dead_after=50_000, seed=seed)
    trainer = Trainer(config, source)
    trainer.precision = precision
    trainer.run(folder)
    held_out = torch.cat([source(step) for step in range(9000, 9200)]) * trainer.scales.read[0]
    return measure(trainer.coder, held_out), trainer


@deeper
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("architecture", names())
def test_it_ends_within_half_a_percent_of_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str):
    monkeypatch.setattr(preactivations, "FEW", 1 / 8)  # an SAE as small as this has larger fractions active
    found: dict[str, list[Measures]] = {FLOAT32: [], BF16: []}
    for seed in SEEDS:
        for precision, measured in found.items():
            result, trainer = outcome(tmp_path / f"{seed}-{precision}", architecture, seed, precision)
            measured.append(result)
            print(
                f"{architecture} {seed} {precision}: {result.fvu:.5f} {result.l0:.4f} {result.dead_fraction:.4f}",
                end=" ",
            )
        rounded = trainer.coder.chosen / (STEPS * BATCH)
        print(f"chosen in bf16 {rounded:.3f}, unsure {trainer.coder.unsure_fraction}")
        assert rounded > 0.1
    for name, within in (("fvu", {"rel": WITHIN}), ("l0", {"rel": WITHIN}), ("dead_fraction", {"abs": WITHIN})):
        exact, rounded = (mean(getattr(result, name) for result in measured) for measured in found.values())
        assert rounded == pytest.approx(exact, **within), name
