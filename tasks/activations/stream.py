"""Activations as batches: runs tokens through the model and makes a shuffled stream of its activations.

The forward pass ends at the last hook that is read, so later layers and the logits are never computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from tasks.activations import shuffle_buffer
from tasks.activations.compile_blocks import compile_blocks
from tasks.activations.hook_sites import Hook
from tasks.activations.hooks import HookPoint, catch, find
from tasks.activations.shuffle_buffer import FileBuffer, MemoryBuffer
from tasks.activations.token_mask import Mask, mask_for
from tasks.errors import UserError
from tasks.models.cpu_backend import attending
from tasks.models.loading import load_model, load_tokenizer
from tasks.models.model_commit import commit_record
from tasks.models.model_dtype import OWN, Wanted, name_of
from tasks.storage.store import Store
from tasks.text.compatibility import check_bos, check_ids, check_tokenizer
from tasks.text.tokenizers import rust_tokenizer
from tasks.text.tokens import open_tokens, read_info

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Tokens in one forward pass.
FORWARD_TOKENS = 4096
#: Rows that a model is compiled with: a number that is hardly ever also that of something else, which torch would take
#: for the same then, such as its heads.
_COMPILED_WITH = 3


def read(
    model: PreTrainedModel, tokens: np.ndarray, points: Sequence[HookPoint], pad: int | None = None
) -> list[torch.Tensor]:
    """What passes the points for (batch, context) token ids of any integer type: each (batch, context, d) float32.

    One forward pass, on the model's device, which ends with the last point. Attention does not see the places of the
    token `pad`. The hooks are gone when this returns or raises.
    """
    inputs = {"input_ids": as_ids(tokens)}
    if pad is not None and bool((seen := inputs["input_ids"] != pad).logical_not().any()):
        inputs["attention_mask"] = seen.long()
    with attending(model.device, tokens.shape[1]):
        return catch(model, points, inputs)


class Vectors(Protocol):
    """The vectors of numbered rows of tokens: read from a model, or from files."""

    points: tuple[HookPoint, ...]  # the hooks that they passed; their activations are concatenated in a vector
    mask: Mask  # what was left out
    shape: tuple[int, int]  # how many rows of how many tokens
    bos: str  # what of the rows begins with BOS: see tasks.text.tokens
    d_in: int  # numbers in a vector
    device: torch.device | str  # where the vectors are
    model_dtype: str | None  # torch's name of the dtype that the model computed them in; None where that is not known

    @property
    def counts(self) -> np.ndarray:
        """How many vectors each row has: (rows,) int32."""

    def read(self, numbers: np.ndarray) -> Iterator[torch.Tensor]:
        """The vectors of those rows, in order: pieces of (some, d_in) float32."""


class ModelVectors:
    """What passes points of a model, for the positions of token rows that count."""

    def __init__(
        self, model: PreTrainedModel, tokens: np.ndarray, points: Sequence[HookPoint], mask: Mask, bos: str = "none"
    ) -> None:
        """`tokens` is (rows, context) of any integer type, a memory map for instance."""
        self.model, self.tokens, self.points, self.mask, self.bos = model, tokens, tuple(points), mask, bos
        self.shape: tuple[int, int] = tokens.shape
        self.d_in = int(model.config.get_text_config().hidden_size) * len(self.points)
        self.device: torch.device | str = model.device
        self.model_dtype: str | None = name_of(model.dtype)

    @property
    def origin(self) -> dict[str, str]:
        """What a job's result says of the model: its dtype, and its commit on the Hub if it is from there."""
        return {**commit_record(self.model), "model_dtype": name_of(self.model.dtype)}

    @cached_property
    def counts(self) -> np.ndarray:
        """How many positions of each row count: (rows,) int32; all tokens are looked at once for that."""
        return self.mask.counts(self.tokens)

    def read(self, numbers: np.ndarray) -> Iterator[torch.Tensor]:
        """The vectors of those rows, in order: pieces of (some, d_in) float32, one for each forward pass."""
        stride = max(1, FORWARD_TOKENS // self.tokens.shape[1])
        for start in range(0, len(numbers), stride):
            rows = self.tokens[numbers[start : start + stride]]
            vectors = self.read_all(rows)
            yield vectors[torch.from_numpy(self.mask.kept(rows)).to(vectors.device)]

    def compile(self, workdir: Path, report: Callable[[str], None]) -> None:
        """Compile the model's blocks as far as the points allow, in a job's folder; `report` gets what became of it."""
        rows = self.tokens[:_COMPILED_WITH]
        report(compile_blocks(self.model, self.points, workdir / "compiled", lambda: self.read_all(rows)))

    def at(self, places: Sequence[int]) -> ModelVectors:
        """Those of some of the points, by their places among these."""
        return ModelVectors(self.model, self.tokens, [self.points[place] for place in places], self.mask, self.bos)

    def read_all(self, rows: np.ndarray) -> torch.Tensor:
        """The vectors of all positions of (some, context) token ids: (some, context, d_in) float32."""
        found = read(self.model, rows, self.points, self.mask.pad)
        return found[0] if len(found) == 1 else torch.cat(found, dim=-1)


def open_model(
    store: Store,
    model: str,
    tokens: str,
    hooks: Sequence[Hook],
    skip_bos: bool,
    device: str,
    allow_no_bos: bool = False,
    dtype: Wanted = OWN,
) -> ModelVectors:
    """The vectors of the store's `tokens` at hooks of a model, which is loaded; `model` is any reference to one.

    `dtype` is what `load_model` takes; the vectors are float32 in any case.
    Raises UserError for a model, tokens or a hook that are not there, and for tokens that do not fit the model.
    """
    folder = store.path("tokens", tokens)
    rows, info = open_tokens(folder), read_info(folder)
    loaded: Any = load_model(model, store, device, dtype)
    points = [find(loaded, hook) for hook in hooks]
    check_tokens(folder, model, loaded, store, allow_no_bos)
    return ModelVectors(loaded, rows, points, mask_for(info, skip_bos), info.bos)


def check_tokens(tokens: Path, model: str, loaded: Any, store: Store, allow_no_bos: bool) -> None:
    """Raise UserError for tokens, in that folder, that do not fit the model `model`, which is loaded."""
    check_ids(tokens, model, len(loaded.get_input_embeddings().weight))
    check_bos(tokens, model, loaded.config.get_text_config().model_type, allow_no_bos)
    try:
        tokenizer = rust_tokenizer(load_tokenizer(model, store))
    except UserError:  # a model folder may hold no tokenizer: only ids can be compared
        return
    check_tokenizer(tokens, model, tokenizer)


class ActivationStream:
    """Shuffled batches of vectors, as a pure function of the step.

    Rows are visited in a random order that changes each epoch. Their vectors fill a buffer of `chunk` batches,
    which is shuffled before it is served, so the vectors of a batch come from as many rows as the buffer holds. Since
    everything follows from the seed and the step, a resumed run needs no saved buffer: it fills the same one again.
    """

    def __init__(
        self,
        vectors: Vectors,
        rows: np.ndarray,
        batch: int,
        seed: int,
        on_read: Callable[[], None] = lambda: None,
        spill: Path | None = None,
    ) -> None:
        """`rows` are the numbers of the rows to use; each of their vectors is served once an epoch.

        `on_read` is called after each piece that is read, of which a refill takes many; it may raise to leave. In the
        folder `spill` vectors may wait when they are too large for memory. Raises UserError when no vector is left to
        serve.
        """
        self.vectors, self.rows, self.batch, self.seed, self.on_read = vectors, rows, batch, seed, on_read
        self.total = int(vectors.counts[rows].sum(dtype=np.int64))  # vectors in an epoch
        if not self.total:
            raise UserError("Every token is padding or left out: nothing can be learned from them.", "Use other tokens")
        batches, on_disk = shuffle_buffer.size_for(batch, vectors.d_in, spill is not None)
        self.chunk = max(1, min(batches, self.total // batch))  # not more than one pass over the data
        self.spill = spill if on_disk else None
        self._drawn: tuple[int, np.ndarray, np.ndarray] | None = None
        self._buffer: shuffle_buffer.Buffer | None = None
        self._shuffle = torch.empty(0, dtype=torch.int64)
        self._held = -1

    def __call__(self, step: int) -> torch.Tensor:
        """Batch number `step`, from 0: a fresh (batch, d_in) float32 tensor on the vectors' device."""
        chunk, place = divmod(step, self.chunk)
        if chunk != self._held:
            self._fill(chunk)
        assert self._buffer is not None
        return self._buffer.take(self._shuffle[place * self.batch : (place + 1) * self.batch])

    def _fill(self, chunk: int) -> None:
        """Read the chunk's vectors into the buffer and draw the order in which they are served."""
        size, d_in, device = self.chunk * self.batch, self.vectors.d_in, self.vectors.device
        if self._buffer is None:
            spill = self.spill
            self._buffer = FileBuffer(spill, d_in, device) if spill else MemoryBuffer(size, d_in, device)
        self._held = -1
        numbers, before = self._visits(chunk * size, size)
        start = -before  # where the piece that is read begins in the buffer: a row may have begun in the chunk before
        for piece in self.vectors.read(numbers):
            wanted = piece[max(0, -start) : size - start]
            self._buffer.put(max(0, start), wanted)
            start += len(piece)
            self.on_read()
        generator = torch.Generator().manual_seed(_mix(self.seed, 1, chunk))
        self._shuffle = torch.randperm(size, generator=generator)
        self._held = chunk

    def _visits(self, first: int, size: int) -> tuple[np.ndarray, int]:
        """The rows that hold vectors `first` to `first + size` of the endless stream, and how many come before those.

        The stream is one epoch after another; the vectors before belong to the first row, and were served already.
        """
        epoch, place = divmod(first, self.total)
        numbers, before = [], -1
        while size:
            order, ends = self._draw(epoch)
            taken = min(size, self.total - place)
            begin = int(np.searchsorted(ends, place, "right"))
            end = int(np.searchsorted(ends, place + taken, "left")) + 1
            if before < 0:
                before = place - int(ends[begin] - self.vectors.counts[order[begin]])
            numbers.append(order[begin:end])
            epoch, place, size = epoch + 1, 0, size - taken
        return np.concatenate(numbers), before

    def _draw(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows in the epoch's order, and where the vectors of each end: (rows,) int64 both. The last is kept."""
        if self._drawn is None or self._drawn[0] != epoch:
            order = self.rows[np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.rows))]
            self._drawn = (epoch, order, self.vectors.counts[order].cumsum(dtype=np.int64))
        return self._drawn[1:]


def split_rows(count: int, held_out: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers to train on and `held_out` others, in random order, together 0 … count - 1."""
    order = np.random.default_rng([seed, 1]).permutation(count)
    return order[held_out:], order[:held_out]


def as_ids(rows: np.ndarray) -> torch.Tensor:
    """(n, context) token ids of any integer type as an int64 tensor."""
    return torch.from_numpy(np.asarray(rows).astype(np.int64))


def _mix(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
