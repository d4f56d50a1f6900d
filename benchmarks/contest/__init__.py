"""Ours and the three peers behind one interface: who competes in what.

Each side is its library's own trainer with its own optimizer, losses and starts. What all are given alike is in
`Task`. A library is imported when one of its sides is made, so this runs in the environment of the peers.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

SIDES = ("ours", "saelens", "dictionary_learning", "sparsify")

#: Architectures whose sparsity is the outcome of a penalty's weight.
PENALISED = ("standard", "gated", "jumprelu", "p_anneal")


@dataclass(frozen=True)
class Task:
    """What is to be trained. The rate rises, and the penalty with it, in the first 5 % of the steps; the rate falls
    in the last 20 %: where a library has such schedules, its own are set so."""

    architecture: str
    d_in: int
    d_sae: int
    k: int
    steps: int
    lr: float | None = None  # None: the library's own
    seed: int = 0
    aims: bool = False  # k features are to be active also where a penalty decides: JumpReLU's kind that names a number

    @property
    def warmup(self) -> int:
        """Steps in which the rate and the penalty rise."""
        return max(1, self.steps // 20)

    @property
    def decay(self) -> int:
        """Steps at the end in which the rate falls."""
        return max(1, self.steps // 5)

    @property
    def widths(self) -> list[int]:
        """Where nested dictionaries end."""
        return [self.d_sae >> n for n in (4, 3, 2, 1, 0)]


class Side(Protocol):
    """One library's SAE in training. All take (n, d_in) vectors as they come and scale them as the library does."""

    penalty: float  # weight of what makes codes sparse; 0 where nothing does
    bias: Tensor  # (d_sae,): what is added to pre-activations, to be changed in place

    def step(self, x: Tensor) -> None:
        """Train on a batch."""

    def codes(self, x: Tensor) -> Tensor:
        """(n, d_sae), as they are in use."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """(n, d_in), in the units of `x`."""

    def directions(self) -> Tensor:
        """The decoder's rows: (d_sae, d_in)."""


def enter(side: str, task: Task, sample: Tensor) -> Side | None:
    """That library's SAE for the task, or None where it has no such architecture.

    `sample` (n, d_in) is what a library may look at before it begins.
    """
    return importlib.import_module(f"{__name__}.{side}").enter(task, sample)


def scale_to(length: float, sample: Tensor) -> float:
    """What brings vectors to that mean length."""
    return length / float(sample.norm(dim=1).mean())
