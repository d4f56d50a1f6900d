"""The largest numbers of a tensor, without waiting for its device: how many there are is known before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.lazy_import import torch

if TYPE_CHECKING:
    from torch import Tensor

#: Numbers among which the largest are found at once: what torch indexes with 32 bits, and its copies stay bounded.
_AT_ONCE = 1 << 28


def places_of_largest(values: Tensor, count: int) -> Tensor:
    """Where the `count` largest of (n,) `values` are, ascending: (count,) int64.

    NaN counts as largest. Of equal numbers at the edge any may be kept, the same ones each time on the same device.
    More than fit at once are first reduced part by part, which loses none of the largest.
    """
    found = torch.cat(
        [
            part.topk(min(count, len(part)), sorted=False).indices + number * _AT_ONCE
            for number, part in enumerate(values.split(_AT_ONCE))
        ]
    )
    if len(found) > count:
        found = found[values[found].topk(count, sorted=False).indices]
    return found.sort().values
