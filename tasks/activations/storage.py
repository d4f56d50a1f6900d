"""Activations on disk: writes and reads the files of an activations artifact; no other module does.

`shard-00000.bin` and so on hold the vectors of the rows, one row after the other, `rows_per_shard` rows in each: raw
little-endian float32, or bfloat16, d_in numbers a vector, as `numpy.memmap` and `torch.from_file` read them.
`counts.bin` says how many vectors each row has (uint32), `mean.bin` is their mean (float32), `activations.json` says
what they are. Shards are read with plain reads: pages of a memory map would count as memory of the job.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.activations.hooks import HookPoint, point_named
from tasks.activations.stream import FORWARD_TOKENS
from tasks.activations.token_mask import Mask
from tasks.errors import UserError
from tasks.parsing.documents import read_json_object
from tasks.storage.store import write_json

DESCRIPTION, COUNTS, MEAN = "activations.json", "counts.bin", "mean.bin"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

#: Approximate bytes per shard: what is done again when a reading is interrupted.
SHARD_BYTES = 256 << 20

#: Of each number in a file of sums (float64).
_SUM_BYTES = 8


@dataclass(frozen=True)
class ActivationsInfo:
    """What `activations.json` says. `mean_norm` is the mean length of the vectors."""

    model: str
    tokens: str
    hook_name: str
    hook_module: str
    left_out: dict[str, Any]  # `first`, `ids` and `pad` of the mask
    dtype: str
    rows: int
    context: int
    vectors: int
    d_in: int
    rows_per_shard: int
    mean_norm: float
    bos: str = "none"  # what of the rows began with BOS: see tasks.text.tokens
    model_dtype: str | None = None  # that the model computed in


class ShardWriter:
    """Writes shard after shard into a folder that outlives the process, which may skip those that are there."""

    def __init__(self, folder: Path, counts: np.ndarray, context: int, d_in: int, dtype: str) -> None:
        """`counts` (rows,) says how many vectors each row will have."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.counts, self.d_in, self.dtype = folder, counts, d_in, DTYPES[dtype]
        self.rows_per_shard = max(1, SHARD_BYTES // (context * d_in * self.dtype.itemsize))
        self.shards = -(-len(counts) // self.rows_per_shard)

    def rows_of(self, shard: int) -> range:
        """The numbers of the rows in that shard."""
        begin = shard * self.rows_per_shard
        return range(begin, min(begin + self.rows_per_shard, len(self.counts)))

    def has(self, shard: int) -> bool:
        """Whether that shard is there, whole."""
        path = _shard(self.folder, shard)
        sizes = {path: self._bytes_of(shard), path.with_suffix(".sums"): (self.d_in + 1) * _SUM_BYTES}
        return all(file.is_file() and file.stat().st_size == size for file, size in sizes.items())

    def missing_bytes(self) -> int:
        """How many bytes are still to be written."""
        return sum(self._bytes_of(shard) for shard in range(self.shards) if not self.has(shard))

    def _bytes_of(self, shard: int) -> int:
        rows = self.rows_of(shard)
        return int(self.counts[rows.start : rows.stop].sum(dtype=np.int64)) * self.d_in * self.dtype.itemsize

    def write(self, shard: int, pieces: Iterable[torch.Tensor], after_piece: Callable[[int], None]) -> None:
        """Write the vectors of the shard's rows, pieces of (some, d_in) float32, and what they add up to.

        `after_piece` is called with how many vectors were written; it may raise to leave, and the shard is not there.
        Raises UserError for a vector that is no number.
        """
        draft, path, written = self.folder / "shard.part", _shard(self.folder, shard), 0
        sums = torch.zeros(self.d_in + 1, dtype=torch.float64)  # of the vectors, and of their lengths
        with draft.open("wb") as file:
            for piece in pieces:
                stored = piece.to(self.dtype)
                file.write(stored.cpu().contiguous().view(torch.uint8).numpy().data)
                values = stored.float()
                sums += torch.cat([values.sum(0, dtype=torch.float64), values.norm(dim=1).double().sum()[None]]).cpu()
                written += len(piece)
                after_piece(written)
            file.flush()
            os.fsync(file.fileno())
        if not bool(sums.isfinite().all()):
            raise UserError(
                "Some activations are no finite numbers: the model is broken, or too large for its precision."
            )
        noted = self.folder / "sums.part"
        noted.write_bytes(sums.numpy().tobytes())
        noted.replace(path.with_suffix(".sums"))
        draft.replace(path)

    def finish(self, output: Path, **facts: Any) -> ActivationsInfo:
        """Move the shards into `output` and describe them there; `facts` are the fields of the info not known here.

        They stay in the writer's folder too, under a second name, for another attempt if this one ends too early.
        """
        sums = np.zeros(self.d_in + 1)
        for shard in range(self.shards):
            path = _shard(self.folder, shard)
            sums += np.fromfile(path.with_suffix(".sums"))
            _put(path, output / path.name)
        vectors = int(self.counts.sum(dtype=np.int64))
        sums /= max(1, vectors)
        (output / COUNTS).write_bytes(self.counts.astype("<u4").tobytes())
        (output / MEAN).write_bytes(sums[:-1].astype("<f4").tobytes())
        shape: dict[str, Any] = {"rows": len(self.counts), "vectors": vectors, "d_in": self.d_in}
        shape |= {"rows_per_shard": self.rows_per_shard, "mean_norm": float(sums[-1])}
        info = ActivationsInfo(**facts, **shape)
        write_json(output / DESCRIPTION, asdict(info))
        return info


def read_info(folder: Path) -> ActivationsInfo:
    """What the activations in `folder` are. Raises UserError when they are not there whole."""
    try:
        description = read_json_object(folder / DESCRIPTION)
        return ActivationsInfo(
            **{key: description[key] for key in ActivationsInfo.__dataclass_fields__ if key in description}
        )
    except (OSError, ValueError, TypeError) as error:
        hint = "Make them: mistudio submit activations --help"
        raise UserError(f"There are no finished activations in {folder}.", hint) from error


class StoredVectors:
    """The vectors in an activations artifact, by rows; see `Vectors` in `stream`. Nothing stays open."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        """Raises UserError when the artifact is not there whole."""
        self.folder, self.info = folder, read_info(folder)
        self.device: torch.device | str = device
        self.points: tuple[HookPoint, ...] = (point_named(self.info.hook_name, self.info.hook_module),)
        left_out = self.info.left_out
        self.mask = Mask(left_out["first"], tuple(left_out["ids"]), left_out["pad"])
        self.bos, self.model_dtype = self.info.bos, self.info.model_dtype
        self.shape, self.d_in = (self.info.rows, self.info.context), self.info.d_in
        self.counts = np.fromfile(folder / COUNTS, dtype="<u4").astype(np.int32)
        self._starts = np.concatenate([[0], self.counts.cumsum(dtype=np.int64)])
        self._dtype = DTYPES[self.info.dtype]

    def read(self, numbers: np.ndarray) -> Iterator[torch.Tensor]:
        """The vectors of those rows, in order: pieces of (some, d_in) float32."""
        stride = max(1, FORWARD_TOKENS // self.info.context)
        for start in range(0, len(numbers), stride):
            chosen = numbers[start : start + stride]
            piece = torch.empty(int(self.counts[chosen].sum()), self.d_in, dtype=self._dtype)
            place = 0
            for number in chosen:
                end = place + int(self.counts[number])
                self._read_row(int(number), piece[place:end])
                place = end
            yield piece.to(self.device, torch.float32)

    def _read_row(self, number: int, into: torch.Tensor) -> None:
        """Fill `into`, (the row's vectors, d_in) of the stored type."""
        shard = number // self.info.rows_per_shard
        skipped = int(self._starts[number] - self._starts[shard * self.info.rows_per_shard])
        path, wanted = _shard(self.folder, shard), into.view(torch.uint8).flatten().numpy().data
        with path.open("rb", buffering=0) as file:
            file.seek(skipped * self.d_in * self._dtype.itemsize)
            while len(wanted):
                count = file.readinto(wanted)
                if not count:
                    raise UserError(f"{path} ends too early: the activations are incomplete.", "Make them again")
                wanted = wanted[count:]


def _put(path: Path, target: Path) -> None:
    try:
        target.hardlink_to(path)
    except OSError:  # a file system without second names
        path.replace(target)


def _shard(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05}.bin"
