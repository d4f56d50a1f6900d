"""Losses and gradients are those with which sparsify trains TopK SAEs and transcoders, but for its unit.

It divides the squared error by the variance of the batch, a constant. Its auxiliary loss sends nothing to the encoder
(the backward pass of its fused encoder leaves pre-activations out), so it is not compared.
"""

from __future__ import annotations

import pytest
import torch
from sparsify import SparseCoder, SparseCoderConfig

from tasks.sae.metrics import total_variance
from tests.interop.coders import BATCH, D_IN, D_SAE, coder_of, random, step
from tests.interop.conftest import Compare

PEER = "sparsify"
NAMES = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec", "W_skip": "W_skip"}
SHAPES = {"topk": {}, "topk transcoder": {"d_out": D_IN}, "topk skip transcoder": {"d_out": D_IN, "skip": True}}


@pytest.mark.parametrize("shape", SHAPES)
def test_topk(compare: Compare, shape: str) -> None:
    own = SHAPES[shape]
    coder, x = coder_of("topk", own, k=4), random(BATCH, D_IN, seed=9)
    target = random(BATCH, D_IN, seed=10) if own else x
    config = SparseCoderConfig(num_latents=D_SAE, k=4, transcode=bool(own), skip_connection=own.get("skip", False))
    theirs = SparseCoder(D_IN, config)
    for name, parameter in theirs.named_parameters():
        parameter.data = getattr(coder, NAMES[name]).clone()
    result, their = step(coder, x, target), theirs(x, target)
    their.fvu.backward()
    unit = float(total_variance(target)) / BATCH
    compare(PEER, f"{shape}: loss", result.loss, their.fvu * unit)
    for name, parameter in theirs.named_parameters():
        compare(PEER, f"{shape}: gradients", getattr(coder, NAMES[name]).grad, parameter.grad * unit)
    assert torch.isfinite(their.fvu)
