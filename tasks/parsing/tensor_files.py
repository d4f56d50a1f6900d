"""Files of tensors (safetensors, npz): written with the permissions that the umask says, checked before they are read.

What a file's header promises is compared with the file before anything is allocated, and every error of the libraries
becomes one UserError that names the file.
"""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.errors import UserError
from tasks.parsing.documents import unique
from tasks.parsing.safe_text import shown as shown

if TYPE_CHECKING:
    from torch import Tensor

#: Bytes of each of safetensors' types of real numbers.
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
#: The longest header that is read: that of an SAE takes some hundred bytes.
_LONGEST_HEADER = 4 << 20
#: No tensor has more dimensions, nor a larger number in its shape or place: what a header says is multiplied.
MOST_DIMENSIONS, LARGEST_NUMBER = 16, 1 << 50


class Stored(NamedTuple):
    """A tensor as a file's header describes it: the type by safetensors' name, and the shape."""

    dtype: str
    shape: tuple[int, ...]


def save_tensors(path: Path, tensors: Mapping[str, Tensor], notes: dict[str, str] | None = None) -> None:
    """Write tensors and texts to a safetensors file that is as readable for others as any new file.

    The library creates its files for the owner alone, whatever the umask.
    """
    from safetensors.torch import save_file

    path.unlink(missing_ok=True)
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path, notes)
    path.chmod(mode)


def load_tensors(path: Path, accepted: Collection[str] = FLOATS) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises UserError for a file that is broken or holds types not `accepted`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for name, stored in describe(path).items():
        if stored.dtype not in accepted:
            raise UserError(f"{path}: tensor {shown(name)} has type {stored.dtype}, expected {' or '.join(accepted)}.")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        raise _broken(path, error) from error


def read_notes(path: Path) -> dict[str, str] | None:
    """The texts that a safetensors file carries beside its tensors; None for no such file and for a damaged one.

    Raises OSError for one that cannot be read now.
    """
    try:
        describe(path)
        with path.open("rb") as file:
            return json.loads(file.read(int.from_bytes(file.read(8), "little"))).get("__metadata__", {})
    except FileNotFoundError:
        return None
    except UserError as problem:
        raise_if_unreadable(problem)
        return None


def raise_if_unreadable(problem: UserError) -> None:
    """Raise the OSError behind a UserError of `describe`, unless the file is missing: it may be whole."""
    if isinstance(problem.__cause__, OSError) and not isinstance(problem.__cause__, FileNotFoundError):
        raise problem.__cause__


def describe(path: Path) -> dict[str, Stored]:
    """Types and shapes of the tensors in a safetensors file, from its header alone; it costs no torch.

    Raises UserError unless the file is as long as its header says and each tensor as long as its type and shape say.
    """
    try:
        with path.open("rb") as file:
            size, length = path.stat().st_size, int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= length <= min(size - 8, _LONGEST_HEADER):
                raise _broken(path, "its first bytes are no header's length, or it is cut short")
            header = json.loads(file.read(length), object_pairs_hook=unique)
        found = {name: _stored(entry) for name, entry in header.items() if name != "__metadata__"}
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except RecursionError as error:
        raise _broken(path, "its header is nested too deeply") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise _broken(path, error) from error
    if 8 + length + max(ends, default=0) != size:
        raise _broken(path, f"it has {size} bytes, its header says {8 + length + max(ends, default=0)}")
    return found


def _stored(entry: Any) -> Stored:
    dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if len(shape) > MOST_DIMENSIONS or not isinstance(dtype, str):
        raise ValueError("a tensor's type or shape is wrong in its header")
    if not all(type(n) is int and 0 <= n <= LARGEST_NUMBER for n in (*shape, begin, end)):
        raise ValueError("a tensor's type, shape or place is wrong in its header")
    if dtype in FLOATS and math.prod(shape) * FLOATS[dtype] != end - begin:
        raise ValueError(f"a tensor of {dtype} and shape {shown(tuple(shape))} has {end - begin} bytes")
    return Stored(dtype, tuple(shape))


def _broken(path: Path, reason: object) -> UserError:
    text = reason.strerror if isinstance(reason, OSError) and reason.strerror else reason
    return UserError(f"{path} cannot be read as safetensors: {' '.join(str(text).split())[:200]}.")
