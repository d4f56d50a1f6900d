"""SAEs that were really trained, on vectors like a residual stream: a large mean, one massive dimension, any scale."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.sae.architectures import coder_class
from tasks.sae.coder import CoderConfig
from tasks.sae.training.schedule import TrainConfig
from tasks.sae.training.trainer import Trainer
from tests.interop.coders import random

D_IN, D_SAE, BATCH = 48, 192, 256
#: Our architectures with the options of each; a short training at these leaves some tens of features active.
OPTIONS: dict[str, dict[str, Any]] = {
    "standard": {"l1": 1.0},
    "standard free": {"l1": 1.0, "decoder": "free"},
    "gated": {"l1": 1.0},
    "jumprelu": {"l0": 0.3},
    "p_anneal": {"l1": 1.0},
    "topk": {"k": 8},
    "batchtopk": {"k": 8},
    "matryoshka": {"k": 8, "groups": 3},
}
SHAPES: dict[str, dict[str, Any]] = {
    "autoencoder": {},
    "transcoder": {"d_out": 40},
    "skip transcoder": {"d_out": 40, "skip": True},
    "square transcoder": {"d_out": D_IN},
    "square skip transcoder": {"d_out": D_IN, "skip": True},
}


def activations(step: int) -> Tensor:
    """(BATCH, D_IN) vectors of a mean length of about 150, most of it a mean and one dimension they all share."""
    directions = random(96, D_IN, seed=1)
    drawn = torch.Generator().manual_seed(1000 + step)
    codes = (torch.rand(BATCH, 96, generator=drawn) < 0.05) * (1 + torch.rand(BATCH, 96, generator=drawn))
    vectors = 4 * codes @ directions + 8 * random(D_IN, seed=2)
    vectors[:, 7] += 120
    return vectors + 0.1 * torch.randn(BATCH, D_IN, generator=drawn)


def outputs(x: Tensor, d_out: int) -> Tensor:
    """(n, d_out): what a module might make of x."""
    return (x @ random(D_IN, d_out, seed=3) / 7).tanh() * 30 + 5


@cache
def trained(choice: str, shape: str = "autoencoder") -> Trainer:
    """A short training of that architecture; its options are those of `OPTIONS`."""
    architecture, own = choice.split()[0], SHAPES[shape]
    options = coder_class(architecture).Options(**OPTIONS[choice])
    config = TrainConfig(CoderConfig(architecture, D_IN, D_SAE, options, **own), steps=120, batch=BATCH, lr=2e-3)

    def source(step: int) -> Tensor | tuple[Tensor, Tensor]:
        x = activations(step)
        return (x, outputs(x, own["d_out"])) if own else x

    trainer = Trainer(config, source)
    with tempfile.TemporaryDirectory() as folder:
        trainer.run(Path(folder))
    return trainer


def encoded_by(trainer: Trainer, raw: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (n, D_SAE) and reconstructions (n, d_out) of activations as they are, by the coder as it was trained."""
    return trainer.coder.encode(raw * trainer.scales.read[0]), trainer.reconstruct(raw)
