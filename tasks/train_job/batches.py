"""Batches for the SAEs of a job: one forward pass serves several, each by the hooks it asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tasks.activations.hook_sites import Hook
from tasks.activations.stream import FORWARD_TOKENS, ActivationStream, Vectors, split_rows
from tasks.errors import UserError
from tasks.sae.memory_estimate import HELD_OUT_NUMBERS, HELD_OUT_SHARE, HELD_OUT_VECTORS
from tasks.sae.training.schedule import EVAL_TOKENS

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.activations.hook_wiring import HookWiring

#: Vectors to measure on, at least: of a single one there is no variance.
_FEWEST = 2
#: Training vectors whose mean takes the place of all in mean ablation.
MEAN_VECTORS = 8192
#: Receives how many of all vectors have been read.
OnProgress = Callable[[int, int], None]


class Reading:
    """Vectors of `hooks`, side by side: shuffled batches of rows to train on, and rows that are held out from that."""

    def __init__(
        self,
        vectors: Vectors,
        hooks: Sequence[Hook],
        batch: int,
        seed: int,
        on_read: Callable[[], None],
        spill: Path,
        eval_tokens: int = EVAL_TOKENS,
    ) -> None:
        """`vectors` are of these hooks, in this order; the rest is as in tasks.activations.stream.ActivationStream.

        `eval_tokens` is how many tokens are held out, a tenth of all at most.
        """
        self.vectors, self.hooks = vectors, tuple(hooks)
        self.width = vectors.d_in // len(self.hooks)
        self.train_rows, self.held_rows = split_rows(vectors.shape[0], _held_out(vectors, eval_tokens), seed)
        self.held_rows = self.held_rows[vectors.counts[self.held_rows] > 0]
        if int(vectors.counts[self.held_rows].sum()) < _FEWEST:
            raise UserError("There are too few tokens to hold some out and measure on them.", "Use more text")
        self._stream = ActivationStream(vectors, self.train_rows, batch, seed, on_read, spill)
        self._batch: tuple[int, Tensor] | None = None
        self._kept: dict[bytes, Tensor] = {}
        self.readers = 0

    @property
    def near_rows(self) -> np.ndarray:
        """Those of the held-out rows whose vectors may all be in memory at once."""
        most = min(HELD_OUT_VECTORS, HELD_OUT_NUMBERS // self.vectors.d_in)
        return self.first_held_rows(most)

    def first_held_rows(self, most: int) -> np.ndarray:
        """As many held-out rows as have `most` vectors where none is masked, and enough to measure on."""
        ends = self.vectors.counts[self.held_rows].cumsum(dtype=np.int64)
        fewest = int(np.searchsorted(ends, _FEWEST, "left")) + 1
        return self.held_rows[: max(fewest, most // self.vectors.shape[1])]

    def pieces(self, numbers: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor]]:
        """The vectors of those rows, of some after the others: how many each row has, and (n, hooks * width)."""
        stride = max(1, FORWARD_TOKENS // self.vectors.shape[1])
        for start in range(0, len(numbers), stride):
            some = numbers[start : start + stride]
            yield self.vectors.counts[some], torch.cat(list(self.vectors.read(some)))

    def sample(self, wanted: int) -> np.ndarray:
        """Training rows with about the wanted number of vectors, always the same and at least one that has any."""
        ends = self.vectors.counts[self.train_rows].cumsum(dtype=np.int64)
        last = int(np.searchsorted(ends, max(1, wanted), "left"))
        return self.train_rows[: last + 1]

    @cached_property
    def mean(self) -> Tensor:
        """The mean of a sample of training vectors: (hooks * width,) float32."""
        numbers = self.sample(MEAN_VECTORS)
        sums = torch.stack([piece.sum(0, dtype=torch.float64) for _, piece in self.pieces(numbers)])
        return (sums.sum(0) / int(self.vectors.counts[numbers].sum())).float()

    def see(self, wired: HookWiring) -> Seen:
        """The part of it that one more SAE, with these hooks, reads."""
        self.readers += 1
        return Seen(self, wired, [self.hooks.index(hook) for hook in wired.hooks])

    def fresh_batch(self, step: int) -> Tensor:
        """Batch number `step` of all hooks: (batch, hooks * width), for one who may change it."""
        return self._stream(step)

    def batch(self, step: int) -> Tensor:
        """The same for one after the other, none of whom may change it."""
        if self._batch is None or self._batch[0] != step:
            self._batch = None
            self._batch = (step, self._stream(step))
        return self._batch[1]

    def fresh_rows(self, numbers: np.ndarray, on_progress: OnProgress) -> Tensor:
        """The vectors of those rows, (vectors, hooks * width), for one who may change them."""
        return torch.cat(list(self._pieces(numbers, on_progress)))

    def rows(self, numbers: np.ndarray, on_progress: OnProgress) -> Tensor:
        """The same for many, none of whom may change them: read once and kept. There are few such rows."""
        key = numbers.tobytes()
        if key not in self._kept:
            self._kept[key] = self.fresh_rows(numbers, on_progress)
        return self._kept[key]

    def _pieces(self, numbers: np.ndarray, on_progress: OnProgress) -> Iterator[Tensor]:
        done, total = 0, int(self.vectors.counts[numbers].sum())
        for piece in self.vectors.read(numbers):
            done += len(piece)
            on_progress(done, total)
            yield piece


class Seen:
    """What one SAE reads and is to write, of all that is read: fresh pairs of (n, d_in) and (n, d_out) tensors."""

    def __init__(self, reading: Reading, wired: HookWiring, places: list[int]) -> None:
        """`places` are those of its hooks among all."""
        self.reading, self.wired, self._places = reading, wired, places
        self.d_model = reading.width
        whole = reading.vectors
        self.points = tuple(whole.points[place] for place in places)
        self.mask, self.shape, self.bos = whole.mask, whole.shape, whole.bos

    @property
    def is_alone(self) -> bool:
        """Whether nobody else reads."""
        return self.reading.readers == 1

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Batch number `step` of its training."""
        if self.is_alone:
            return self.wired.split(self.reading.fresh_batch(step), self.d_model)
        return self._own(self.reading.batch(step))

    def rows(self, numbers: np.ndarray, on_progress: OnProgress = lambda done, total: None) -> tuple[Tensor, Tensor]:
        """Those rows."""
        if self.is_alone:
            return self.wired.split(self.reading.fresh_rows(numbers, on_progress), self.d_model)
        return self.rows_again(numbers, on_progress)

    def rows_again(
        self, numbers: np.ndarray, on_progress: OnProgress = lambda done, total: None
    ) -> tuple[Tensor, Tensor]:
        """Those rows, of which it will ask for the same again."""
        return self._own(self.reading.rows(numbers, on_progress))

    def counts(self, numbers: np.ndarray) -> np.ndarray:
        """How many vectors each of those rows has."""
        return self.reading.vectors.counts[numbers]

    def pieces(self, numbers: np.ndarray) -> Iterator[tuple[np.ndarray, tuple[Tensor, Tensor]]]:
        """Those rows, some after the others, with how many vectors each has: little of them is in memory at once."""
        for counts, vectors in self.reading.pieces(numbers):
            yield counts, self._own(vectors)

    def sample(self, wanted: int) -> tuple[int, Iterator[Tensor]]:
        """About the wanted number of training vectors, always the same: how many, and pieces of (n, d_in)."""
        numbers = self.reading.sample(wanted)
        return int(self.counts(numbers).sum()), (x for _, (x, _) in self.pieces(numbers))

    def mean_written(self) -> Tensor:
        """The mean of what it is to write: (d_out,) float32."""
        return self._own(self.reading.mean[None])[1][0]

    def _own(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        own = vectors.unflatten(1, (-1, self.d_model))[:, self._places].flatten(1)
        return self.wired.split(own, self.d_model)

    @property
    def source(self) -> Any:
        """What tasks.activations.intervention runs: a model's vectors at its hooks; or stored ones, which are of one
        hook.
        """
        whole: Any = self.reading.vectors
        return whole.at(self._places) if len(whole.points) > len(self.points) else whole


def _held_out(vectors: Vectors, tokens: int) -> int:
    """How many rows are kept from training: as many as have that many tokens, a tenth of all at most."""
    rows, context = vectors.shape
    if rows < 2:
        raise UserError("There is only one row of tokens: too little to train and to measure on.", "Use more text")
    return max(1, min(int(rows * HELD_OUT_SHARE), -(-tokens // context)))
