"""Has torch compile a model's transformer blocks; they stay as they are where that fails or changes what they do.

A block is compiled without the hooks on itself, which still see what it is given and hands on; one with a hook within
runs as it is, and those after the last hook never run. One graph serves all blocks that are alike, and rows of any
number and length. What the compiler makes is in a folder of the job; torch's caches, which are pickles, are off.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from tasks.models.blocks import find_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tasks.activations.hooks import HookPoint

#: How far compiled blocks may be from plain ones, as a share of what they hand on: sums in another order, and in 16
#: bits fewer roundings on the way.
_APART, _APART_IN_16_BITS = 1e-3, 0.2


def compile_blocks(
    model: PreTrainedModel, points: Sequence[HookPoint], folder: Path, read: Callable[[], torch.Tensor]
) -> str:
    """Compile the blocks up to the last of the points, with what is compiled in `folder`; what became of it, in words.

    `read` runs the model and returns what passes the points: once before, and once after, which compiles. Where the
    two differ by more than rounding, or the compiler fails, nothing is compiled.
    """
    blocks = _blocks_to_compile(model, points)
    if not blocks:
        return "no block is compiled: there is none before the hook"
    plain, began = read(), time.monotonic()
    try:
        with warnings.catch_warnings(action="ignore"):  # torch warns of its own deprecated parts
            _set_up_compiler(folder)
            for block in blocks:
                block.forward = torch.compile(block.forward, dynamic=True)
            apart = float((read() - plain).norm() / plain.norm())
    except Exception as error:  # noqa: BLE001 - whatever a compiler has to say
        _leave_plain(blocks)
        return f"the model is not compiled: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    if not apart <= (_APART if model.dtype == torch.float32 else _APART_IN_16_BITS):
        _leave_plain(blocks)
        return f"the model is not compiled: what passes its hook would be {apart:.1e} away from what it is"
    _leave_plain_what_fails_later()
    return f"{len(blocks)} blocks of the model are compiled, in {time.monotonic() - began:.0f} s"


def _set_up_compiler(folder: Path) -> None:
    """Have it write into the folder, load no cache, leave no processes behind a killed job, and raise its errors.

    Of itself it writes where all users of the machine may, which torch has put into the environment as it was
    imported, and compiles with headers that it finds there.
    """
    from torch._dynamo import config as tracing
    from torch._inductor import config

    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    config.force_disable_caches = True
    config.cpp_cache_precompile_headers = False
    config.compile_threads = 1
    tracing.suppress_errors = False


def _blocks_to_compile(model: PreTrainedModel, points: Sequence[HookPoint]) -> list[nn.Module]:
    """The blocks that run before or at the last of the points and have none within."""
    path, blocks = find_blocks(model)
    names = [f"{path}.{number}" for number in range(len(blocks))]
    hooked = [[point.module.startswith(f"{name}.") for point in points] for name in names]
    last = max(place for place, name in enumerate(names) if any(hooked[place]) or name in {p.module for p in points})
    return [block for place, block in enumerate(blocks) if place <= last and not any(hooked[place])]


def _leave_plain_what_fails_later() -> None:
    """Have torch run plainly what it cannot compile from now on, such as for the first rows with padding."""
    from torch._dynamo import config

    config.suppress_errors = True


def _leave_plain(blocks: Sequence[nn.Module]) -> None:
    """Take away what was set beside their class's own method."""
    for block in blocks:
        vars(block).pop("forward", None)
