"""Losses and gradients are those with which SAELens trains the same architecture.

Two differences run through all of it and change nothing that is learned: SAELens multiplies codes in a penalty with
the lengths of decoder rows, which are 1 here, so that only the part of the gradient along a row differs, and a step
removes that part; and its BatchTopK threshold is a mean over batches that begins at 0, where ours is fitted.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sae_lens.registry import get_sae_training_class
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput

from tasks.sae.coder import Coder
from tasks.sae.ops.preactivations import Exact
from tests.interop.coders import (
    BATCH,
    D_IN,
    D_SAE,
    DEAD,
    across,
    coder_of,
    least_code,
    random,
    step,
    vectors_away_from_edges,
)
from tests.interop.conftest import Compare

PEER = "SAELens"


def theirs_of(name: str, coder: Coder, **options: Any) -> Any:
    """SAELens' trainable SAE of that architecture with the coder's weights."""
    kind, config = get_sae_training_class(name)
    sae = kind(config(d_in=D_IN, d_sae=D_SAE, **options))
    for parameter, tensor in coder.parameters.items():
        getattr(sae, parameter).data = (tensor.T if parameter == "W_enc" else tensor).clone()
    return sae


def train(sae: Any, x: torch.Tensor, dead: torch.Tensor | None = None, **coefficients: float) -> TrainStepOutput:
    """SAELens' training step, to where the gradients are."""
    mask = torch.zeros(D_SAE, dtype=torch.bool)
    if dead is not None:
        mask[dead] = True
    result = sae.training_forward_pass(TrainStepInput(x, coefficients, mask, 0, False))
    result.loss.backward()
    return result


def check_gradients(compare: Compare, what: str, coder: Coder, sae: Any, factor: float = 1.0) -> None:
    """Every parameter's gradient is the peer's, but for a factor and for what stretches unit rows."""
    for name, parameter in coder.parameters.items():
        ours, theirs = parameter.grad * factor, getattr(sae, name).grad
        theirs = theirs.T if name == "W_enc" else theirs
        if name == "W_dec" and coder.has_unit_decoder:
            ours, theirs = across(ours, coder.W_dec), across(theirs, coder.W_dec)
        compare(PEER, f"{what}: gradients", ours, theirs)


def check_losses(compare: Compare, what: str, *pairs: tuple[torch.Tensor, torch.Tensor]) -> None:
    for ours, theirs in pairs:
        compare(PEER, f"{what}: loss", ours, theirs)


@pytest.mark.parametrize("decoder", ["unit", "free"])
def test_standard(compare: Compare, decoder: str) -> None:
    coder, x = coder_of("standard", l1=0.3, decoder=decoder), random(BATCH, D_IN, seed=9)
    sae = theirs_of("standard", coder)
    result, their = step(coder, x, pressure=0.7), train(sae, x, l1=0.7 * 0.3)
    losses = their.losses
    check_losses(compare, "standard", (result.reconstruction, losses["mse_loss"]), (result.sparsity, losses["l1_loss"]))
    check_gradients(compare, "standard", coder, sae)


def test_gated(compare: Compare) -> None:
    """SAELens lets the auxiliary loss teach the decoder; the paper freezes it there (equation 8), and so do we.

    What that adds to SAELens' gradients is worked out and taken off.
    """
    coder, x = coder_of("gated", l1=0.3), random(BATCH, D_IN, seed=9)
    sae = theirs_of("gated", coder)
    result, their = step(coder, x), train(sae, x, l1=0.3)
    losses = their.losses
    check_losses(
        compare,
        "gated",
        (result.reconstruction, losses["mse_loss"]),
        (result.sparsity, losses["l1_loss"]),
        (result.auxiliary, losses["auxiliary_reconstruction_loss"]),
    )
    gate = ((x - coder.b_dec) @ coder.W_enc.T + coder.b_gate).relu()
    error = gate @ coder.W_dec + coder.b_dec - x
    sae.W_dec.grad -= 2 / BATCH * gate.T @ error
    sae.b_dec.grad -= 2 / BATCH * error.sum(0)
    check_gradients(compare, "gated", coder, sae)


PENALTIES = {
    "step": ({"penalty": "step"}, {"jumprelu_sparsity_loss_mode": "step"}),
    "tanh": ({"penalty": "tanh"}, {"jumprelu_sparsity_loss_mode": "tanh"}),
    "target-l0": (
        {"penalty": "target-l0", "target_l0": 5.0},
        {"jumprelu_sparsity_loss_mode": "quadratic", "target_l0": 5.0},
    ),
}


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("pre_act", [0.0, 0.2])
def test_jumprelu(compare: Compare, penalty: str, pre_act: float) -> None:
    ours, named = PENALTIES[penalty]
    coder = coder_of("jumprelu", l0=0.3, threshold=0.4, bandwidth=0.5, pre_act=pre_act, **ours)
    x = vectors_away_from_edges(coder, *(coder.threshold + away for away in (-0.25, 0.0, 0.25)), margin=1e-4)
    what = f"jumprelu {penalty}"
    sae = theirs_of("jumprelu", coder, jumprelu_bandwidth=0.5, pre_act_loss_coefficient=pre_act or None, **named)
    result, their = step(coder, x, dead=DEAD, pressure=0.7), train(sae, x, DEAD, l0=0.7 * 0.3)
    losses = their.losses
    check_losses(compare, what, (result.reconstruction, losses["mse_loss"]), (result.sparsity, losses["l0_loss"]))
    if pre_act:
        check_losses(compare, what, (result.auxiliary, losses["pre_act_loss"]))
    check_gradients(compare, what, coder, sae)


#: Ours, theirs, and how many reconstructions SAELens adds up where ours is their mean (matryoshka).
TOPK = {
    "topk": ("topk", {}, {}, 1),
    "batchtopk": ("batchtopk", {}, {}, 1),
    "matryoshka": ("matryoshka_batchtopk", {"groups": 3}, {"matryoshka_widths": [16, 32, 64]}, 3),
}


@pytest.mark.parametrize("architecture", TOPK)
@pytest.mark.parametrize("has_dead", [False, True], ids=["all alive", "five dead"])
def test_topk(compare: Compare, architecture: str, has_dead: bool) -> None:
    """SAELens' auxiliary loss is in the units of the error and weighs less while few are dead.

    Ours is relative to the variances of input and error, as the code published with the paper. So the one is the other
    by a factor that has no gradient. SAELens also lets negative codes explain, which do not occur here.
    """
    name, options, named, levels = TOPK[architecture]
    coder, x = coder_of(architecture, k=4, **options), random(BATCH, D_IN, seed=9)
    coder.b_enc[DEAD] += 8
    pre = coder.preactivations(x)
    assert (pre[:, DEAD] > 0).all()
    dead = DEAD if has_dead else DEAD[:0]
    result = step(coder, x, dead=dead)
    factor = levels * coder.options.aux * _variance(x) / _variance(_left_over(coder, x)) / (len(DEAD) / (D_IN // 2))
    sae = theirs_of(name, coder, k=4, aux_loss_coefficient=float(factor), rescale_acts_by_decoder_norm=False, **named)
    their = train(sae, x, dead)
    auxiliary = their.losses["auxiliary_reconstruction_loss"]
    check_losses(
        compare,
        architecture,
        (levels * result.loss, their.loss),
        (levels * result.reconstruction, their.loss - auxiliary),
    )
    if has_dead:
        assert result.auxiliary > 0
        check_losses(compare, architecture, (levels * result.auxiliary, auxiliary))
    check_gradients(compare, architecture, coder, sae, levels)
    if architecture != "topk":  # it moves by a hundredth from 0 to the smallest code; ours is fitted to pass that one
        theirs = sae.topk_threshold / sae.cfg.topk_threshold_lr
        compare(PEER, f"{architecture}: smallest code of a batch", least_code(coder, x), theirs)


def _left_over(coder: Coder, x: torch.Tensor) -> torch.Tensor:
    pairs, codes = coder.choose(Exact(coder.preactivations(x)))
    return x - pairs.decode(codes, coder.W_dec) - coder.b_dec


def _variance(vectors: torch.Tensor) -> torch.Tensor:
    return vectors.var(0, correction=0).sum()
