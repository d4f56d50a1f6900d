"""The shuffle buffer, in memory or in a file, and the choice between them.

A buffer in memory mixes well as long as it holds several batches. Those of a very wide model are too large for that, so
they go to a file without a name in the job's folder, which is gone with the process however that ends.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from pathlib import Path
from typing import NamedTuple, Protocol

import torch

#: Batches that a buffer holds, and the bytes it may take in memory and in a file.
BATCHES, MEMORY_BYTES, FILE_BYTES = 16, 512 << 20, 16 << 30
#: With fewer batches than these in memory, vectors of the same few rows would stand in each batch.
FEWEST_BATCHES = 4


class Size(NamedTuple):
    """How many batches a buffer holds, and whether it is a file."""

    batches: int
    on_disk: bool


def size_for(batch: int, d_in: int, may_use_disk: bool) -> Size:
    """The size of a buffer for batches of `batch` float32 vectors of `d_in` numbers."""
    one = 4 * d_in * batch
    in_memory = max(1, min(BATCHES, MEMORY_BYTES // one))
    if in_memory >= FEWEST_BATCHES or not may_use_disk:
        return Size(in_memory, on_disk=False)
    return Size(max(in_memory, min(BATCHES, FILE_BYTES // one)), on_disk=True)


class Buffer(Protocol):
    """Places for float32 vectors, which are filled in any order and taken in any other."""

    def put(self, place: int, vectors: torch.Tensor) -> None:
        """Write (n, d_in) vectors into the n places that begin with `place`."""

    def take(self, places: torch.Tensor) -> torch.Tensor:
        """The vectors in those places (n,) int64: a fresh (n, d_in) tensor on the buffer's device."""


class MemoryBuffer:
    """A buffer on a device."""

    def __init__(self, places: int, d_in: int, device: torch.device | str) -> None:
        self._vectors = torch.empty(places, d_in, device=device)

    def put(self, place: int, vectors: torch.Tensor) -> None:
        """As Buffer says."""
        self._vectors[place : place + len(vectors)] = vectors

    def take(self, places: torch.Tensor) -> torch.Tensor:
        """As Buffer says."""
        return self._vectors[places.to(self._vectors.device, non_blocking=True)]


class FileBuffer:
    """A buffer in a file without a name; what is taken comes to a device."""

    def __init__(self, folder: Path, d_in: int, device: torch.device | str) -> None:
        self._file, path = tempfile.mkstemp(dir=folder)
        os.unlink(path)
        weakref.finalize(self, os.close, self._file)
        self._d_in, self._stride, self._device = d_in, 4 * d_in, device

    def put(self, place: int, vectors: torch.Tensor) -> None:
        """As Buffer says; OSError when the disk is full."""
        rest, at = vectors.cpu().contiguous().view(torch.uint8).flatten().numpy().data, place * self._stride
        while len(rest):
            written = os.pwrite(self._file, rest, at)
            rest, at = rest[written:], at + written

    def take(self, places: torch.Tensor) -> torch.Tensor:
        """As Buffer says."""
        taken = torch.empty(len(places), self._d_in)
        rows = taken.view(torch.uint8).numpy()
        for row, place in sorted(enumerate(places.tolist()), key=lambda pair: pair[1]):  # forward through the file
            read = os.preadv(self._file, [rows[row].data], place * self._stride)
            assert read == self._stride, "every place was filled before"
        return taken.to(self._device)
