"""Residual streams: the only place a hook is put on a model, and where activations become training batches.

The residual stream after layer L is the output of block L, counted from 0: TransformerLens' `blocks.L.hook_resid_post`.
The forward pass ends at the hook, so later layers and the logits are never computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tasks.models import find_blocks
from tasks.problem import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Tokens in one forward pass, and what the shuffled buffer may hold.
FORWARD_TOKENS = 4096
BUFFER_BATCHES = 16
BUFFER_BYTES = 512 << 20


class _Reached(Exception):
    """The hooked block has answered; nothing after it is needed."""


def hook_name(layer: int) -> str:
    """TransformerLens' name of the residual stream after `layer`."""
    return f"blocks.{layer}.hook_resid_post"


def block_path(model: PreTrainedModel, layer: int) -> str:
    """The module path of block `layer`, such as `gpt_neox.layers.3`. Problem when the model has no such layer."""
    path, blocks = find_blocks(model)
    if not 0 <= layer < len(blocks):
        raise Problem(f"There is no layer {layer}: the model's layers are 0 to {len(blocks) - 1}.")
    return f"{path}.{layer}"


@torch.no_grad()
def read_residual(model: PreTrainedModel, tokens: torch.Tensor, layer: int) -> torch.Tensor:
    """The residual stream after block `layer`: (batch, context) int64 ids -> (batch, context, d_model) float32.

    Rows must be full: no padding, no mask. The tensor lies on the model's device. Raises Problem for a layer that
    the model does not have. The hook is gone when this returns or raises.
    """
    caught: list[torch.Tensor] = []

    def keep(_block: Any, _inputs: Any, output: Any) -> None:
        caught.append(output[0] if isinstance(output, tuple) else output)
        raise _Reached

    hook = model.get_submodule(block_path(model, layer)).register_forward_hook(keep)
    try:
        model.base_model(input_ids=tokens.to(model.device), use_cache=False)
    except _Reached:
        pass
    finally:
        hook.remove()
    return caught[0].float()


class ActivationStream:
    """Shuffled batches of a model's residual stream, as a pure function of the step.

    Rows are visited in a random order that is drawn anew each epoch. Their vectors fill a buffer of `chunk` batches,
    which is shuffled before it is served, so the vectors of a batch come from as many rows as the buffer holds. Since
    everything follows from the seed and the step, a resumed run needs no saved buffer: it fills the same one again.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokens: np.ndarray,
        rows: np.ndarray,
        layer: int,
        batch: int,
        seed: int,
        on_read: Callable[[], None] = lambda: None,
    ) -> None:
        """`tokens` is (n, context) of any integer type, a memory map for instance; `rows` are the numbers to use.

        `on_read` is called after each forward pass, of which a refill makes many; it may raise to leave.
        """
        self.model, self.tokens, self.rows, self.layer, self.batch, self.seed = model, tokens, rows, layer, batch, seed
        self.on_read = on_read
        self.context = int(tokens.shape[1])
        self.d_in = int(model.config.get_text_config().hidden_size)
        self.chunk = _chunk_batches(batch, self.d_in, len(rows) * self.context)
        self._buffer: torch.Tensor | None = None
        self._shuffle = torch.empty(0, dtype=torch.int64)
        self._held = -1

    def __call__(self, step: int) -> torch.Tensor:
        """Batch number `step`, from 0: a fresh (batch, d_in) float32 tensor on the model's device."""
        chunk, place = divmod(step, self.chunk)
        if chunk != self._held:
            self._fill(chunk)
        assert self._buffer is not None
        return self._buffer[self._shuffle[place * self.batch : (place + 1) * self.batch]]

    def _fill(self, chunk: int) -> None:
        """Read the chunk's vectors into the buffer and draw the order in which they are served."""
        size = self.chunk * self.batch
        if self._buffer is None:
            self._buffer = torch.empty(size, self.d_in, device=self.model.device)
        self._held = -1
        first = chunk * size  # the vector, of the endless stream of rows, with which the buffer begins
        visits = range(first // self.context, -(-(first + size) // self.context))
        start = visits[0] * self.context - first  # not above 0: a row may have begun in the chunk before
        for piece in read_rows(self.model, self.tokens, self._rows_of(visits), self.layer):
            wanted = piece[max(0, -start) : size - start]
            self._buffer[max(0, start) : max(0, start) + len(wanted)] = wanted
            start += len(piece)
            self.on_read()
        generator = torch.Generator().manual_seed(_mix(self.seed, 1, chunk))
        self._shuffle = torch.randperm(size, generator=generator).to(self._buffer.device)
        self._held = chunk

    def _rows_of(self, visits: range) -> np.ndarray:
        """Which rows the n-th visits of the stream see; each epoch has its own order."""
        count = len(self.rows)
        orders = {epoch: _order(self.seed, epoch, count) for epoch in {visit // count for visit in visits}}
        return self.rows[[orders[visit // count][visit % count] for visit in visits]]


def read_rows(model: PreTrainedModel, tokens: np.ndarray, rows: np.ndarray, layer: int) -> Iterator[torch.Tensor]:
    """The residual stream of those rows of `tokens`, in order: pieces of (some vectors, d_model) float32."""
    stride = max(1, FORWARD_TOKENS // tokens.shape[1])
    for start in range(0, len(rows), stride):
        yield read_residual(model, as_ids(tokens[rows[start : start + stride]]), layer).flatten(0, 1)


def split_rows(count: int, held_out: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers to train on and `held_out` others, in random order, together 0 … count - 1."""
    order = np.random.default_rng([seed, 1]).permutation(count)
    return order[held_out:], order[:held_out]


def as_ids(rows: np.ndarray) -> torch.Tensor:
    """(n, context) token ids of any integer type as an int64 tensor."""
    return torch.from_numpy(rows.astype(np.int64))


def _chunk_batches(batch: int, d_in: int, vectors: int) -> int:
    """How many batches the buffer holds: bounded in number, in bytes, and by one pass over the data."""
    return max(1, min(BUFFER_BATCHES, BUFFER_BYTES // (4 * d_in * batch), vectors // batch))


def _order(seed: int, epoch: int, rows: int) -> np.ndarray:
    return np.random.default_rng([seed, 0, epoch]).permutation(rows)


def _mix(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
