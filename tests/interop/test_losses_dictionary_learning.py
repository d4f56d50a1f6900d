"""Losses and gradients are those with which dictionary_learning trains the same architecture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.gdm import GatedSAETrainer
from dictionary_learning.trainers.jumprelu import JumpReluTrainer
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
from dictionary_learning.trainers.p_anneal import PAnnealTrainer
from dictionary_learning.trainers.standard import StandardTrainer, StandardTrainerAprilUpdate
from dictionary_learning.trainers.top_k import TopKTrainer

from tasks.sae.coder import Coder
from tests.interop.coders import (
    BATCH,
    D_IN,
    D_SAE,
    DEAD,
    NOBODY,
    across,
    coder_of,
    least_code,
    random,
    step,
    vectors_away_from_edges,
)
from tests.interop.conftest import Compare

PEER = "dictionary_learning"
COMMON = {
    "steps": 100,
    "activation_dim": D_IN,
    "dict_size": D_SAE,
    "layer": 0,
    "lm_name": "none",
    "device": "cpu",
    "warmup_steps": 0,
}
UNSCALED = {"sparsity_warmup_steps": None}
#: Our names of parameters by theirs, in each class of theirs; matrices of a `Linear` have outputs in rows.
BY_LINEAR = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec.T", "bias": "b_dec"}
BY_TOPK = {**BY_LINEAR, "b_dec": "b_dec"}
BY_GATED = {
    "encoder.weight": "W_enc",
    "gate_bias": "b_gate",
    "mag_bias": "b_mag",
    "r_mag": "r_mag",
    "decoder.weight": "W_dec.T",
    "decoder_bias": "b_dec",
}
BY_MATRIX = {"W_enc": "W_enc.T", "b_enc": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec", "threshold": "threshold"}


def take_weights(trainer: Any, coder: Coder, names: dict[str, str]) -> Any:
    """The trainer with the coder's weights."""
    for theirs, parameter in trainer.ae.named_parameters():
        name, _, turned = names[theirs].partition(".")
        tensor = getattr(coder, name)
        parameter.data = (tensor.T if turned else tensor).clone()
    return trainer


def check(
    compare: Compare,
    what: str,
    coder: Coder,
    trainer: Any,
    names: dict[str, str],
    loss: torch.Tensor,
    factor: float = 1,
) -> None:
    """Every parameter's gradient is the peer's, but for a factor and for what stretches unit rows."""
    loss.backward()
    for theirs, parameter in trainer.ae.named_parameters():
        name, _, turned = names[theirs].partition(".")
        ours, their = getattr(coder, name).grad * factor, parameter.grad.T if turned else parameter.grad
        if name == "W_dec" and coder.has_unit_decoder:
            ours, their = across(ours, coder.W_dec), across(their, coder.W_dec)
        compare(PEER, f"{what}: gradients", ours, their)


@pytest.mark.parametrize(("decoder", "kind"), [("unit", StandardTrainer), ("free", StandardTrainerAprilUpdate)])
def test_standard(compare: Compare, decoder: str, kind: type) -> None:
    coder, x = coder_of("standard", l1=0.3, decoder=decoder), random(BATCH, D_IN, seed=9)
    trainer = take_weights(kind(**COMMON, **UNSCALED, l1_penalty=0.3), coder, BY_LINEAR)
    result, loss = step(coder, x), trainer.loss(x, step=0)
    compare(PEER, "standard: loss", result.loss, loss)
    check(compare, "standard", coder, trainer, BY_LINEAR, loss)


def test_gated(compare: Compare) -> None:
    coder, x = coder_of("gated", l1=0.3), random(BATCH, D_IN, seed=9)
    trainer = take_weights(GatedSAETrainer(**COMMON, **UNSCALED, l1_penalty=0.3), coder, BY_GATED)
    result, loss = step(coder, x), trainer.loss(x, step=0)
    compare(PEER, "gated: loss", result.loss, loss)
    check(compare, "gated", coder, trainer, BY_GATED, loss)


def test_jumprelu(compare: Compare) -> None:
    """Its encoder reads x itself, as that of our transcoders.

    It compares the batch's mean L0 with the target where the paper (appendix F) compares each vector's, and its
    straight-through step sees codes, not pre-activations, so a threshold does not learn from what is just below it.
    On one vector with nothing just below a threshold both are the same but for the weight: (l0 / t - 1)^2.
    """
    target, width = 5.0, 0.1
    options = {"l0": 0.3, "threshold": 0.4, "bandwidth": width, "penalty": "target-l0", "target_l0": target}
    coder = coder_of("jumprelu", {"d_out": D_IN}, **options)
    coder.threshold.clamp_(min=0.3)
    x = _vector_with_nothing_just_below(coder, width)
    trainer = JumpReluTrainer(
        **COMMON, **UNSCALED, bandwidth=width, target_l0=target, sparsity_penalty=0.3 * 2 * target
    )
    take_weights(trainer, coder, BY_MATRIX)
    result, loss = step(coder, x), trainer.loss(x, step=0)
    compare(PEER, "jumprelu: loss", result.loss, loss)
    check(compare, "jumprelu", coder, trainer, BY_MATRIX, loss)


def _vector_with_nothing_just_below(coder: Coder, width: float) -> torch.Tensor:
    vectors = random(5000, D_IN, seed=9)
    away = coder.preactivations(vectors) - coder.threshold
    below = ((away <= 0) & (away > -width / 2)).any(1)
    above = ((away > 0) & (away < width / 2)).sum(1)
    chosen = (~below & (above > 1)).nonzero().flatten()[0]
    return vectors[chosen][None]


TOPK = {"topk": (TopKTrainer, {}, BY_TOPK, 1), "batchtopk": (BatchTopKTrainer, {}, BY_TOPK, 1)}
TOPK["matryoshka"] = (MatryoshkaBatchTopKTrainer, {"group_fractions": [0.25, 0.25, 0.5]}, BY_MATRIX, 3)


@pytest.mark.parametrize("architecture", TOPK)
@pytest.mark.parametrize("has_dead", [False, True], ids=["all alive", "five dead"])
def test_topk(compare: Compare, architecture: str, has_dead: bool) -> None:
    """Its auxiliary loss is relative to the variance of the error, ours also to that of the input: a constant.

    Its matryoshka loss is the mean of the levels' errors, divided by their number once more.
    """
    kind, options, names, levels = TOPK[architecture]
    coder = coder_of(architecture, k=4, **({"groups": 3} if levels > 1 else {}))
    x = random(BATCH, D_IN, seed=9)
    coder.b_enc[DEAD] -= 3
    dead = DEAD if has_dead else NOBODY
    trainer = kind(**COMMON, k=4, threshold_start_step=-1, **options)
    take_weights(trainer, coder, names)
    trainer.auxk_alpha = coder.options.aux * float(x.var(0, correction=0).sum()) / levels
    trainer.num_tokens_since_fired[dead] = trainer.dead_feature_threshold
    result, loss = step(coder, x, dead=dead), trainer.loss(x, step=0)
    assert not result.fired[DEAD].any()
    assert (result.auxiliary > 0) == has_dead
    compare(PEER, f"{architecture}: loss", result.loss, levels * loss)
    check(compare, architecture, coder, trainer, names, loss, 1 / levels)
    if architecture != "topk":
        compare(PEER, f"{architecture}: smallest code of a batch", least_code(coder, x), trainer.ae.threshold)


def test_p_anneal(compare: Compare) -> None:
    """In the midst of the annealing; codes below our floor of 1e-3, where the slope of f^p is cut, do not occur."""
    coder = coder_of("p_anneal", l1=0.3, p_end=0.2, anneal_from=0.0)
    x = vectors_away_from_edges(coder, torch.zeros(D_SAE), margin=1.1e-3)
    trainer = take_weights(_annealer(), coder, BY_LINEAR)
    result = step(coder, x, progress=0.5)
    assert 0.2 < float(coder.power) < 1
    trainer.p, trainer.sparsity_coeff = float(coder.power), 0.3 * float(coder.weight)
    loss = trainer.loss(x, step=0)
    compare(PEER, "p_anneal: loss", result.loss, loss)
    check(compare, "p_anneal", coder, trainer, BY_LINEAR, loss)


def test_p_anneal_changes_its_weight_as_it_falls(compare: Compare) -> None:
    """Theirs takes the mean over the last batches, ours the batch at hand: the same where the mean is over one."""
    coder = coder_of("p_anneal", l1=0.3, p_end=0.2, anneal_from=0.0)
    x = vectors_away_from_edges(coder, torch.zeros(D_SAE), margin=1.1e-3)
    trainer = take_weights(_annealer(sparsity_queue_length=1), coder, BY_LINEAR)
    trainer.p_step_count, trainer.next_p = 1, trainer.p_values[1].item()
    trainer.sparsity_coeff = 1.0
    trainer.loss(x, step=int(trainer.sparsity_update_steps[1]))
    step(coder, x, progress=0.1)
    compare(
        PEER,
        "p_anneal: power and weight",
        torch.stack([coder.power, coder.weight]),
        torch.tensor([trainer.p, trainer.sparsity_coeff]),
    )


def _annealer(**options: Any) -> PAnnealTrainer:
    falling = {"p_start": 1.0, "p_end": 0.2, "n_sparsity_updates": 11, "anneal_start": 20}
    return PAnnealTrainer(**COMMON, **UNSCALED, sparsity_function="Lp^p", **falling, **options)
