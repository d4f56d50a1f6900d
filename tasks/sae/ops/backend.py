"""Chooses what runs the sparse passes over pairs, torch or the project's own kernels, and records why.

On a CPU torch's `embedding_bag` is what is fastest, forward and backward. On CUDA there are kernels in Triton, if that
can be imported. They are compared with torch on small problems before their first use, so a compiler or a card on which
they do something else costs time, never a gradient.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, Protocol

from tasks.lazy_import import functional, torch
from tasks.settings import current

if TYPE_CHECKING:
    from torch import Tensor

#: How far apart numbers of the kernels and of torch may be: the same sums in another order.
_RELATIVE, _ABSOLUTE = 1e-4, 1e-4
#: Numbers that torch gathers at once where it has to copy rows.
_GATHERED = 1 << 24


class Passes(Protocol):
    """The products over pairs. Ids are int64 or int32; a bag is the pairs from its start up to the next one's.

    Rows of a `matrix`, and vectors, are float32 or bfloat16. Sums and everything that comes back are float32.
    """

    writes_in_place: bool  # whether sums are written to the memory that is given for them

    def bags(
        self,
        ids: Tensor,
        starts: Tensor,
        weights: Tensor,
        matrix: Tensor,
        onto: Tensor | None,
        out: Tensor | None = None,
    ) -> Tensor:
        """For each bag the sum of `matrix`'s (n, d) rows `ids`, times `weights`, both (pairs,): (bags, d).

        Added to `onto`, if any, and that is what comes back. Else it may be written into `out`, if that is given.
        """

    def residual(
        self, ids: Tensor, starts: Tensor, weights: Tensor, matrix: Tensor, bias: Tensor, target: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """The bags' sums plus `bias` (d,) less `target` (bags, d): times `scale`, (bags, d); its squares summed, ().

        The squares are of what it was before it was scaled.
        """

    def dots(
        self,
        owners: Tensor,
        starts: Tensor,
        ids: Tensor,
        vectors: Tensor,
        matrix: Tensor,
        bias: Tensor | None = None,
    ) -> Tensor:
        """For each pair the inner product of its row of `vectors` (bags, d) and of `matrix` (n, d): (pairs,).

        `owners` are the bags of the pairs, ascending, whose starts are `starts`. With a `bias` (n,) each pair's own is
        added, so that products with the encoder's rows are pre-activations.
        """


class TorchPasses:
    """By torch alone, on any device: the twin that the kernels are compared with.

    With `writes_in_place`, on CPUs with MKL, what has a place for its result is MKL's sparse product. Fresh memory for
    the gradient of the weights takes as long as the sums.
    """

    def __init__(self, *, writes_in_place: bool = False) -> None:
        self.writes_in_place = writes_in_place
        if writes_in_place:
            _silence_beta_warning()

    def bags(
        self,
        ids: Tensor,
        starts: Tensor,
        weights: Tensor,
        matrix: Tensor,
        onto: Tensor | None,
        out: Tensor | None = None,
    ) -> Tensor:
        """See `Passes`."""
        matrix = matrix.to(weights.dtype)
        room = out if onto is None else onto
        if room is not None and self.writes_in_place:
            bounds, shape = functional.pad(starts, (0, 1), value=len(ids)), (len(starts), len(matrix))
            bags = torch.sparse_csr_tensor(bounds, ids, weights, shape, check_invariants=False)
            return torch.addmm(room, bags, matrix, beta=0 if onto is None else 1, out=room)
        made = functional.embedding_bag(ids, matrix, starts, per_sample_weights=weights, mode="sum")
        return made if onto is None else onto.add_(made)

    def residual(
        self, ids: Tensor, starts: Tensor, weights: Tensor, matrix: Tensor, bias: Tensor, target: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """See `Passes`."""
        return residual_of(self.bags(ids, starts, weights, matrix, None), bias, target, scale)

    def dots(
        self,
        owners: Tensor,
        starts: Tensor,
        ids: Tensor,
        vectors: Tensor,
        matrix: Tensor,
        bias: Tensor | None = None,
    ) -> Tensor:
        """See `Passes`: on a CPU what autograd runs for the weights of an `embedding_bag`, without the forward pass.

        On others rows are copied, never more than `_GATHERED` numbers at once.
        """
        if vectors.device.type == "cpu":
            parts = (vectors.float(), matrix.float(), *(part.long() for part in (ids, starts, owners)))
            made = torch.ops.aten._embedding_bag_per_sample_weights_backward(*parts, 0)
        else:
            made = _gathered(owners, ids, vectors, matrix)
        return made if bias is None else made.add_(bias[ids])


@cache
def _silence_beta_warning() -> None:
    """Torch warns once in a process that its sparse tensors are in beta: here, where it is not passed on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nothing = torch.zeros(1, dtype=torch.int64)
        torch.sparse_csr_tensor(nothing, nothing[:0], nothing[:0], (0, 1), check_invariants=False)


def residual_of(decoded: Tensor, bias: Tensor, target: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """What `Passes.residual` says of sums that are made already, (rows, d), which are not changed."""
    error = (decoded + bias).sub_(target)
    squared = error.square().sum()
    return error.mul_(scale), squared


class BackendChoice(NamedTuple):
    """What runs the passes, and why."""

    passes: Passes
    reason: str


@cache
def choice(device: str) -> BackendChoice:
    """What runs the passes on devices of that type, `cpu` or `cuda`; decided once in a process."""
    if device != "cuda":
        passes = TorchPasses(writes_in_place=device == "cpu" and torch.backends.mkl.is_available())
        return BackendChoice(passes, f"torch runs the sparse passes: there are no kernels for {device}")
    if not current("triton"):
        return BackendChoice(TorchPasses(), "torch runs the sparse passes: the setting triton is false")
    return try_kernels(device)


def describe_fallback(device: str) -> str | None:
    """What a person should know of that choice: nothing where there is none."""
    return None if device == "cpu" else choice(device).reason


def try_kernels(device: str) -> BackendChoice:
    """The kernels, if they do on that device what torch does; else torch, and what was wrong with them."""
    twin = TorchPasses()
    try:
        from tasks.sae.ops.triton_kernels import TritonPasses

        wrong = _difference(TritonPasses(), twin, device)
    except ImportError as error:
        return BackendChoice(twin, f"torch runs the sparse passes: Triton cannot be imported ({error})")
    except Exception as error:  # noqa: BLE001 - whatever a compiler or a driver has to say
        return BackendChoice(
            twin, f"torch runs the sparse passes: the kernels failed ({type(error).__name__}: {error})"
        )
    if wrong:
        return BackendChoice(twin, f"torch runs the sparse passes: {wrong}")
    return BackendChoice(TritonPasses(), "kernels in Triton run the sparse passes, and agreed with torch")


@dataclass(frozen=True)
class _Trial:
    """A problem on which passes are compared: ids of pairs, in `counts` per bag, over rows of `d` numbers."""

    counts: tuple[int, ...]
    d: int
    ids: str = "int64"
    rows: str = "float32"

    def results(self, passes: Passes, device: str) -> dict[str, Tensor]:
        """What the passes make of it, by a word for each."""
        generator = torch.Generator().manual_seed(0)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(device)

        bags, pairs, dtype = len(self.counts), sum(self.counts), getattr(torch, self.ids)
        counts = torch.tensor(self.counts)
        starts = (counts.cumsum(0) - counts).to(device, dtype)
        owners = torch.arange(bags).repeat_interleave(counts).to(device, dtype)
        ids = torch.randint(0, 30, (pairs,), generator=generator).to(device, dtype)
        weights, bias, target, onto = drawn(pairs), drawn(self.d), drawn(bags, self.d), drawn(bags, self.d)
        matrix, vectors = (drawn(rows, self.d).to(getattr(torch, self.rows)) for rows in (40, bags))
        error, squared = passes.residual(ids, starts, weights, matrix, bias, target, 0.5)
        return {
            "sums of rows": passes.bags(ids, starts, weights, matrix, None),
            "sums into room": passes.bags(ids, starts, weights, matrix, None, torch.full_like(onto, math.nan)),
            "sums onto others": passes.bags(ids, starts, weights, matrix, onto),
            "residuals": error,
            "squared errors": squared,
            "inner products": passes.dots(owners, starts, ids, vectors, matrix),
            "pre-activations": passes.dots(owners, starts, ids, vectors, matrix, drawn(40)),
        }


#: Empty bags, rows that nobody names, columns that fill no block, bags of two and of three levels of segments.
_TRIALS = (
    _Trial((0, 3, 0, 0, 17, 0, 1), 1),
    _Trial((0, 3, 0, 0, 170, 0, 1), 48),
    _Trial((64, 65, 0, 128, 17, 0, 1), 1100),
    _Trial((0, 3, 0, 70, 1, 0, 170), 48, ids="int32", rows="bfloat16"),
    _Trial((1, 4200, 0, 3), 3),
)


def _difference(passes: Passes, twin: Passes, device: str) -> str | None:
    """What they disagree on, if anything: a sentence for `Choice.reason`."""
    for trial in _TRIALS:
        made, wanted = (trial.results(each, device) for each in (passes, twin))
        for what, expected in wanted.items():
            limit = _ABSOLUTE + _RELATIVE * float(expected.abs().max())
            apart = float((made[what] - expected).abs().max())
            if not apart <= limit:
                return f"the kernels' {what} are up to {apart:.1e} away from its own, with {trial.d} columns"
    return None


def _gathered(owners: Tensor, ids: Tensor, vectors: Tensor, matrix: Tensor) -> Tensor:
    """Inner products of copied rows, part by part: (pairs,)."""
    at_once = max(1, _GATHERED // matrix.shape[1])
    parts = zip(owners.split(at_once), ids.split(at_once), strict=True)
    return torch.cat([torch.linalg.vecdot(vectors[some].float(), matrix[others].float()) for some, others in parts])
