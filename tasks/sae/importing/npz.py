"""Reads the arrays of an npz file: the wanted names only, no pickle, and no more bytes than weights can take."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import UserError
from tasks.lazy_import import np, torch
from tasks.parsing.tensor_files import shown

if TYPE_CHECKING:
    from torch import Tensor

#: Weights hardly compress: a file that grows by more than this factor, beyond this many bytes, is no SAE.
_MOST_GROWTH, _HARMLESS = 20, 64 << 20


def load_npz(path: Path, names: tuple[str, ...]) -> dict[str, Tensor]:
    """The arrays of exactly these names, as float tensors. Raises UserError for any other file."""
    try:
        with zipfile.ZipFile(path) as archive:
            _refuse_names(path, [entry.filename for entry in archive.infolist()], names)
            _refuse_bomb(path, archive)
            return {name: _read(path, archive, name) for name in names}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, MemoryError) as error:
        raise _broken(path, error) from error
    except (OSError, ValueError, KeyError, TypeError, OverflowError, SyntaxError) as error:
        raise _broken(path, error) from error


def _refuse_names(path: Path, found: list[str], names: tuple[str, ...]) -> None:
    wanted = [f"{name}.npy" for name in names]
    if missing := [name for name in names if f"{name}.npy" not in found]:
        raise UserError(f"{path} has no {', '.join(missing)}.")
    if len(found) != len(wanted):
        extra = sorted(name for name, count in Counter(found).items() if name not in wanted or count > 1)
        raise UserError(f"{path} holds more than {', '.join(names)}: {shown(', '.join(extra))}.")


def _refuse_bomb(path: Path, archive: zipfile.ZipFile) -> None:
    size, grown = path.stat().st_size, sum(entry.file_size for entry in archive.infolist())
    if grown > max(_HARMLESS, _MOST_GROWTH * size):
        raise UserError(f"{path} has {size} bytes that grow to {grown}: weights do not compress so, it is not read.")


def _read(path: Path, archive: zipfile.ZipFile, name: str) -> Tensor:
    """One array. What its own header promises is compared with the archive's before anything is allocated."""
    entry = archive.getinfo(f"{name}.npy")
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, _, dtype = read(file)
        header = file.tell()
    if dtype.hasobject:
        raise UserError(f"{path}: {name} holds objects, which are not read: unpickling can run code.")
    if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
        raise UserError(f"{path}: array {name} has type {dtype}, expected float16, float32 or float64.")
    if header + math.prod(shape) * dtype.itemsize != entry.file_size:
        raise UserError(f"{path}: array {name} is not as long as its shape {shown(shape)} says.")
    with archive.open(entry) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
    return torch.from_numpy(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(shape))


def _broken(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} cannot be read as npz: {' '.join(str(error).split())[:200] or type(error).__name__}.")
