"""What runs the sparse passes over pairs, torch or kernels of our own: the only place that decides, and keeps why.

On a CPU torch's `embedding_bag` is what is fastest, forward and backward. On CUDA there are kernels in Triton, if that
can be imported. They are held to torch on a small problem before their first use, so a compiler or a card on which they
do something else costs time, never a gradient.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple, Protocol

from tasks.late import functional, torch
from tasks.settings import current

if TYPE_CHECKING:
    from torch import Tensor

#: The environment's word against kernels of our own: 0.
#: How far apart numbers of the kernels and of torch may be: the same sums in another order.
_RELATIVE, _ABSOLUTE = 1e-4, 1e-4
#: Numbers that torch gathers at once where it has to copy rows.
_GATHERED = 1 << 24


class Passes(Protocol):
    """The products over pairs. All ids are int64; a bag is the pairs from its start up to the next one's."""

    def bags(self, ids: Tensor, starts: Tensor, weights: Tensor, matrix: Tensor, onto: Tensor | None) -> Tensor:
        """For each bag the sum of `matrix`'s (n, d) rows `ids`, times `weights`, both (pairs,): (bags, d).

        Added to `onto`, if any, and that is what comes back.
        """

    def dots(self, owners: Tensor, starts: Tensor, ids: Tensor, vectors: Tensor, matrix: Tensor) -> Tensor:
        """For each pair the inner product of its row of `vectors` (bags, d) and of `matrix` (n, d): (pairs,).

        `owners` are the bags of the pairs, ascending, whose starts are `starts`.
        """


class TorchPasses:
    """By torch alone, on any device: the twin that the kernels are held to."""

    def bags(self, ids: Tensor, starts: Tensor, weights: Tensor, matrix: Tensor, onto: Tensor | None) -> Tensor:
        """See `Passes`."""
        made = functional.embedding_bag(ids, matrix, starts, per_sample_weights=weights, mode="sum")
        return made if onto is None else onto.add_(made)

    def dots(self, owners: Tensor, starts: Tensor, ids: Tensor, vectors: Tensor, matrix: Tensor) -> Tensor:
        """See `Passes`: on a CPU what autograd runs for the weights of an `embedding_bag`, without the forward pass.

        On others rows are copied, never more than `_GATHERED` numbers at once.
        """
        if vectors.device.type == "cpu":
            return torch.ops.aten._embedding_bag_per_sample_weights_backward(vectors, matrix, ids, starts, owners, 0)
        return _gathered(owners, ids, vectors, matrix)


class Choice(NamedTuple):
    """What runs the passes, and why."""

    passes: Passes
    reason: str


@cache
def choice(device: str) -> Choice:
    """What runs the passes on devices of that type, `cpu` or `cuda`; decided once in a process."""
    if device != "cuda":
        return Choice(TorchPasses(), f"torch runs the sparse passes: there are no kernels for {device}")
    if not current("triton"):
        return Choice(TorchPasses(), "torch runs the sparse passes: the setting triton is false")
    return try_kernels(device)


def to_tell(device: str) -> str | None:
    """What a person should know of that choice: nothing where there is none."""
    return None if device == "cpu" else choice(device).reason


def try_kernels(device: str) -> Choice:
    """The kernels, if they do on that device what torch does; else torch, and what was wrong with them."""
    twin = TorchPasses()
    try:
        from tasks.sae.triton_kernels import TritonPasses

        wrong = _difference(TritonPasses(), twin, device)
    except ImportError as error:
        return Choice(twin, f"torch runs the sparse passes: Triton cannot be imported ({error})")
    except Exception as error:  # noqa: BLE001 - whatever a compiler or a driver has to say
        return Choice(twin, f"torch runs the sparse passes: the kernels failed ({type(error).__name__}: {error})")
    if wrong:
        return Choice(twin, f"torch runs the sparse passes: {wrong}")
    return Choice(TritonPasses(), "kernels in Triton run the sparse passes, and agreed with torch")


def _difference(passes: Passes, twin: Passes, device: str) -> str | None:
    """What they disagree on, of a problem with empty bags, rows that nobody names, and columns that fill no block."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    counts = torch.tensor([0, 3, 0, 0, 17, 0, 1])
    starts, owners = (counts.cumsum(0) - counts).to(device), torch.arange(7).repeat_interleave(counts).to(device)
    ids = torch.randint(0, 30, (21,), generator=generator).to(device)
    for d in (1, 48, 1100):
        weights, matrix, vectors, onto = drawn(21), drawn(40, d), drawn(7, d), drawn(7, d)
        pairs = {
            "sums of rows": [each.bags(ids, starts, weights, matrix, None) for each in (passes, twin)],
            "sums onto others": [each.bags(ids, starts, weights, matrix, onto.clone()) for each in (passes, twin)],
            "inner products": [each.dots(owners, starts, ids, vectors, matrix) for each in (passes, twin)],
        }
        for what, (found, expected) in pairs.items():
            if not torch.allclose(found, expected, rtol=_RELATIVE, atol=_ABSOLUTE):
                apart = float((found - expected).abs().max())
                return f"the kernels' {what} are up to {apart:.1e} away from its own, with {d} columns"
    return None


def _gathered(owners: Tensor, ids: Tensor, vectors: Tensor, matrix: Tensor) -> Tensor:
    """Inner products of copied rows, part by part: (pairs,)."""
    at_once = max(1, _GATHERED // matrix.shape[1])
    parts = zip(owners.split(at_once), ids.split(at_once), strict=True)
    return torch.cat([torch.linalg.vecdot(vectors[some], matrix[others]) for some, others in parts])
