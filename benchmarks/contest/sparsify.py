"""sparsify's side: its `SparseCoder` and what its training loop does with one batch, which is bound to a model.

Its default optimizer is the one that it calls signum.
"""

from __future__ import annotations

import torch
from schedulefree import ScheduleFreeWrapper
from sparsify import SparseCoder, SparseCoderConfig
from sparsify.sign_sgd import SignSGD
from torch import Tensor

from benchmarks.contest import Task


def enter(task: Task, sample: Tensor) -> Sparsify | None:
    """A training with its defaults."""
    return Sparsify(task, sample) if task.architecture == "topk" else None


class Sparsify:
    """One coder and its optimizer."""

    penalty = 0.0

    def __init__(self, task: Task, sample: Tensor) -> None:
        torch.manual_seed(task.seed)
        self.sae = SparseCoder(task.d_in, SparseCoderConfig(num_latents=task.d_sae, k=task.k))
        self.sae.b_dec.data = sample.mean(0)
        rate = task.lr or 5e-3 / (task.d_sae / 2**14) ** 0.5
        self.optimizer = ScheduleFreeWrapper(SignSGD(self.sae.parameters(), lr=rate), momentum=0.95)
        self.optimizer.train()
        self.quiet = torch.zeros(task.d_sae, dtype=torch.long)

    @property
    def bias(self) -> Tensor:
        """See `Side`."""
        return self.sae.encoder.bias.data

    def step(self, x: Tensor) -> None:
        """See `Side`."""
        self.sae.set_decoder_norm_to_unit_norm()
        variance = (x - x.mean(0)).pow(2).sum()
        output = self.sae(x=x, y=x, total_variance=variance)
        fired = torch.zeros_like(self.quiet, dtype=torch.bool)
        fired[output.latent_indices.flatten()] = True
        float(output.fvu.detach())
        output.fvu.backward()
        self.sae.remove_gradient_parallel_to_decoder_directions()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.quiet += len(x)
        self.quiet[fired] = 0

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """See `Side`."""
        kept = self.sae.encode(x)
        return torch.zeros(len(x), self.sae.num_latents).scatter_(1, kept.top_indices, kept.top_acts)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """See `Side`."""
        return self.sae(x).sae_out

    def directions(self) -> Tensor:
        """See `Side`."""
        return self.sae.W_dec.detach()
