"""Archives of NumPy that are none, lie, or grow."""

from __future__ import annotations

import os
import random
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.sae.test_importing import D_SAE

#: What a pickle that was loaded would make.
SPRUNG = Path(tempfile.gettempdir()) / f"sprung-{os.getpid()}"


class _Trap:
    def __reduce__(self) -> Any:
        return (os.mkdir, (str(SPRUNG),))


Arrays = dict[str, Any]


def _with_objects(path: Path, held: Arrays) -> None:
    np.savez(path, **{**held, "W_enc": np.array([_Trap()], dtype=object)})


def _bomb(path: Path, held: Arrays) -> None:
    np.savez_compressed(path, **{**held, "W_enc": np.zeros((96 << 20) // 4, dtype=np.float32)})


def _twice(path: Path, held: Arrays) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("W_enc.npy", archive.read("W_enc.npy"))


def _alone(path: Path, held: Arrays) -> None:
    with path.open("wb") as file:
        np.save(file, held["W_enc"])


def _patched(change: Callable[[bytearray], None]) -> Callable[[Path, Arrays], None]:
    def patch(path: Path, held: Arrays) -> None:
        data = bytearray(path.read_bytes())
        change(data)
        path.write_bytes(data)

    return patch


def _with_method(data: bytearray) -> None:
    data[data.rindex(b"PK\x01\x02") + 10] = 99


def _encrypted(data: bytearray) -> None:
    data[data.rindex(b"PK\x01\x02") + 8] |= 1


def _with_shape(data: bytearray) -> None:
    data[:] = data.replace(b"(8, 24)", b"(9, 24)")


def _flipped(data: bytearray) -> None:
    data[data.index(b"NUMPY") + 200] ^= 255


def _saved(turn: Callable[[Any], Any]) -> Callable[[Path, Arrays], None]:
    return lambda path, held: np.savez(path, **{name: turn(array) for name, array in held.items()})


_NPZ: tuple[Callable[[Path, Arrays], None], ...] = (
    *(_with_objects, _bomb, _twice, _alone),
    *(_patched(change) for change in (_with_method, _encrypted, _with_shape, _flipped)),
    _saved(np.asfortranarray),
    _saved(lambda array: array.astype(array.dtype.newbyteorder(">"))),
    lambda path, held: np.savez_compressed(path, **held),
    lambda path, held: np.savez(path, **{**held, "b_enc": np.zeros(D_SAE, dtype=[("a", "<f4")])}),
)


def break_npz(path: Path, draw: random.Random) -> None:
    """Replace the archive by one that is none, lies, or grows."""
    with np.load(path) as file:
        held = {name: file[name] for name in file.files}
    draw.choice(_NPZ)(path, held)
