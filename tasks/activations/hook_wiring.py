"""The hooks that a coder reads and writes, for autoencoders, transcoders and crosscoders.

An autoencoder writes what it reads. A transcoder writes what passes another hook (Dunefsky et al. 2024,
arXiv:2406.11944). A crosscoder reads and writes several layers at once (Lindsey et al. 2024, "Sparse Crosscoders").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.activations.hook_sites import Hook

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class HookWiring:
    """The hooks whose vectors a coder reads, and those it writes; none where it writes what it reads."""

    reads: tuple[Hook, ...]
    writes: tuple[Hook, ...] = ()

    @property
    def hooks(self) -> tuple[Hook, ...]:
        """All hooks that must be caught, in the order in which their vectors are concatenated."""
        return (*self.reads, *self.writes)

    def split(self, vectors: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """What is read and what is to be written, of (n, hooks * width) vectors; the same tensor for an autoencoder."""
        if not self.writes:
            return vectors, vectors
        read, written = vectors.split([width * len(self.reads), width * len(self.writes)], dim=1)
        return read.contiguous(), written.contiguous()

    def source(self, stream: Callable[[int], Tensor], width: int) -> Callable[[int], tuple[Tensor, Tensor]]:
        """Batches for a trainer, from those of a stream whose vectors are (batch, hooks * width)."""
        return lambda step: self.split(stream(step), width)


def wiring_of(
    site: str, layers: tuple[int, ...], target: str | None = None, target_layer: int | None = None
) -> HookWiring:
    """The wiring of a coder that reads `site` after these layers; `target` makes it a transcoder."""
    writes = () if target is None else (Hook(target, layers[0] if target_layer is None else target_layer),)
    return HookWiring(tuple(Hook(site, layer) for layer in layers), writes)
