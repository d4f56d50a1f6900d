"""Resampling of dead features: reinitializes their weights.

A dead feature takes the direction of a vector that is reconstructed badly, chosen with a chance by its squared error
(Bricken et al. 2023, "Towards Monosemanticity", appendix "Neuron Resampling"): the decoder's row becomes that
direction, the encoder's the same at a fifth of the length that live ones have, everything else what it was at the
start, and Adam forgets what it knew of it.
"""

from __future__ import annotations

import torch

from tasks.sae.architectures import build
from tasks.sae.coder import Coder

#: Length of a new encoder row, relative to the mean of the live ones.
ENCODER_SHARE = 0.2


def resample(
    coder: Coder, optimizer: torch.optim.Optimizer, dead: torch.Tensor, x: torch.Tensor, target: torch.Tensor, seed: int
) -> bool:
    """Give the `dead` features, int64 indices, new directions from a scaled batch; nothing where there are none.

    There are no more of them than vectors. `x` is (batch, d_in), `target` (batch, d_out). The draw follows from `seed`.
    False where the loss of the batch is no number, by which nothing can be drawn.
    """
    if not len(dead):
        return True
    loss = (coder(x) - target).square().sum(1)
    generator = torch.Generator().manual_seed(seed)
    chances = loss.square().cpu().clamp_min(1e-12)
    if not bool(chances.isfinite().all()):
        return False
    chosen = torch.multinomial(chances, len(dead), generator=generator).to(x.device)
    fresh = build(coder.config, seed).to(str(x.device)).parameters
    alive = torch.ones(coder.config.d_sae, dtype=torch.bool, device=x.device).index_fill_(0, dead, value=False)
    length = coder.W_enc[alive].norm(dim=1).mean().nan_to_num(1.0) * ENCODER_SHARE
    read = x[chosen] if coder.is_transcoder else x[chosen] - coder.b_dec
    new = {"W_enc": _unit(read) * length, "W_dec": _unit(target[chosen] - coder.b_dec)}
    for name, parameter in coder.parameters.items():
        if name in ("b_dec", "W_skip"):
            continue
        parameter[dead] = new.get(name, fresh[name][dead])
        for moment in ("exp_avg", "exp_avg_sq"):
            if moment in optimizer.state[parameter]:
                optimizer.state[parameter][moment][dead] = 0
    return True


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return vectors / vectors.norm(dim=1, keepdim=True).clamp_min(1e-8)
