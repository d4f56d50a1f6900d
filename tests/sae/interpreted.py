"""The kernels of `tasks.sae.ops.triton_kernels` in a process of their own: in Triton's interpreter, or compiled.

`python -m tests.sae.interpreted passes|long|steps` needs TRITON_INTERPRET=1, `compiled` must not have it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from tasks.sae.ops import active_pairs, backend, triton_kernels
from tasks.sae.ops.active_pairs import SomePairs, pairs_at
from tasks.sae.ops.block_sizes import SEGMENT, blocks_for
from tasks.sae.ops.triton_kernels import TritonPasses, _dot_pairs, _sum_partials, _sum_segments


@dataclass
class Slow:
    """The passes by their definition, pair by pair, in double precision."""

    def bags(
        self,
        ids: Tensor,
        starts: Tensor,
        weights: Tensor,
        matrix: Tensor,
        onto: Tensor | None,
        out: Tensor | None = None,
    ) -> Tensor:
        out = torch.zeros(len(starts), matrix.shape[1], dtype=torch.float64) if onto is None else onto.double()
        ends = [*starts.tolist()[1:], len(ids)]
        for bag, (start, end) in enumerate(zip(starts.tolist(), ends, strict=True)):
            for place in range(start, end):
                out[bag] += weights[place].double() * matrix[ids[place]].double()
        return out.float()

    def dots(self, owners: Tensor, starts: Tensor, ids: Tensor, vectors: Tensor, matrix: Tensor) -> Tensor:
        found = [vectors[owner].double() @ matrix[row].double() for owner, row in zip(owners, ids, strict=True)]
        return torch.stack(found).float() if found else vectors.new_empty(0)


class Counted(TritonPasses):
    """The kernels, and how often they were called."""

    calls = 0

    def bags(self, *arguments: Any) -> Tensor:
        Counted.calls += 1
        return super().bags(*arguments)

    def residual(self, *arguments: Any) -> tuple[Tensor, Tensor]:
        Counted.calls += 1
        return super().residual(*arguments)

    def dots(self, *arguments: Any) -> Tensor:
        Counted.calls += 1
        return super().dots(*arguments)


def problems() -> Iterator[tuple[str, SomePairs, Tensor]]:
    """Chosen pairs of vectors and features by a word for them, and where they were chosen."""
    by_hand = torch.zeros(5, 6, dtype=torch.bool)
    by_hand[1, [0, 3, 5]] = by_hand[3, 3] = True
    yield "empty first and last vectors, features without a pair", pairs_at(by_hand), by_hand
    nothing = torch.zeros(4, 6, dtype=torch.bool)
    yield "no pair at all", pairs_at(nothing), nothing
    everything = torch.ones(3, 5, dtype=torch.bool)
    yield "every pair", pairs_at(everything), everything
    one = torch.ones(1, 1, dtype=torch.bool)
    yield "one pair", pairs_at(one), one
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        shape = [int(n) for n in torch.randint(1, 40, (2,), generator=generator)]
        some = torch.rand(shape, generator=generator) < 0.15
        yield f"random {seed}", pairs_at(some), some


def passes() -> None:
    """The kernels' sums and inner products are those of the definition and, through pairs, of dense products."""
    for what, chosen, wanted in problems():
        for d in (1, 7, 48, 1030) if len(wanted) < 6 else (7, 48):
            check(chosen, wanted, d, f"{what}, {d} columns")


def long() -> None:
    """Bags of more pairs than a program walks are what the definition says, with rows of every width."""
    for d in (1, 48, 768, 1100, 2304, 4608):
        batch = SEGMENT + 6
        wanted = torch.rand(batch, 9, generator=torch.Generator().manual_seed(d)) < 0.1
        wanted[:, 4], wanted[:, 0] = True, False  # one feature in every row, one in none
        wanted[:SEGMENT, 7], wanted[SEGMENT:, 7] = True, False  # exactly one segment
        check(pairs_at(wanted), wanted, d, f"one feature in all {batch} rows, {d} columns")
        others(pairs_at(wanted), d)
    for rows in (SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT, SEGMENT**2, SEGMENT**2 + 1):
        one_bag(rows, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_kernels, "SEGMENT", 8)  # levels of segments that would take a million pairs
        for rows in (8**3, 8**3 + 1, 8**4 + 9):
            one_bag(rows, 3)


def one_bag(rows: int, d: int) -> None:
    """A bag of that many pairs between others, one of them empty: levels of segments begin and end at these sizes."""
    generator = torch.Generator().manual_seed(rows)
    counts = torch.tensor([5, 0, rows, 1])
    starts, ids = counts.cumsum(0) - counts, torch.randint(0, 50, (rows + 6,), generator=generator)
    weights, matrix = (torch.randn(shape, generator=generator) for shape in ((rows + 6,), (50, d)))
    wanted = backend.TorchPasses().bags(ids, starts, weights.double(), matrix.double(), None).float()
    found = TritonPasses().bags(ids, starts, weights, matrix, None)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3, msg=lambda m: f"{rows} rows: {m}")


def others(chosen: SomePairs, d: int) -> None:
    """Rows in bfloat16, ids in int32, residuals and pre-activations are what torch makes of them, in float32."""
    generator = torch.Generator().manual_seed(d)
    order, starts = chosen._by_feature
    values, bias, target = (
        torch.randn(shape, generator=generator) for shape in ((len(order),), (d,), (len(starts), d))
    )
    vectors, matrix = (torch.randn(rows, d, generator=generator).bfloat16() for rows in (len(chosen.starts), 9))
    to_rows = torch.randn(9, generator=generator)
    by_feature = (chosen.vectors[order].int(), starts.int(), values[order], vectors)
    products = (chosen.vectors.int(), chosen.starts.int(), chosen.features.int(), vectors, matrix, to_rows)
    fast, slow = TritonPasses(), backend.TorchPasses()
    for name, found, expected in (
        ("sums", fast.bags(*by_feature, None), slow.bags(*by_feature, None)),
        ("residuals", *(each.residual(*by_feature, bias, target, 0.25)[0] for each in (fast, slow))),
        ("squared errors", *(each.residual(*by_feature, bias, target, 0.25)[1] for each in (fast, slow))),
        ("pre-activations", fast.dots(*products), slow.dots(*products)),
    ):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-4, msg=lambda m, n=name: f"{d}: {n}: {m}")


def check(chosen: SomePairs, wanted: Tensor, d: int, what: str) -> None:
    batch, d_sae = wanted.shape
    generator = torch.Generator().manual_seed(d)
    values, matrix, vectors, onto = (
        torch.randn(shape, generator=generator)
        for shape in ((len(chosen.features),), (d_sae, d), (batch, d), (d_sae, d))
    )
    dense = torch.zeros(batch, d_sae).index_put((chosen.vectors, chosen.features), values)
    order, starts = chosen._by_feature
    fast, slow = TritonPasses(), Slow()
    by_vector = (chosen.features, chosen.starts, values, matrix)
    by_feature = (chosen.vectors[order], starts, values[order], vectors)
    products = (chosen.vectors, chosen.starts, chosen.features, vectors, matrix)
    for name, found, expected in (
        ("decode", fast.bags(*by_vector, None), slow.bags(*by_vector, None)),
        ("spread", fast.bags(*by_feature, None), slow.bags(*by_feature, None)),
        ("spread onto", fast.bags(*by_feature, onto.clone()), slow.bags(*by_feature, onto)),
        ("pull", fast.dots(*products), slow.dots(*products)),
        ("decode, densely", chosen.decode(values, matrix), dense @ matrix),
        ("residual, densely", *residuals(chosen, values, dense, matrix, vectors)),
        ("spread, densely", chosen.spread(values, vectors, None), dense.T @ vectors),
        ("spread onto, densely", chosen.spread(values, vectors, onto.clone()), onto + dense.T @ vectors),
        ("pull, densely", chosen.pull(vectors, matrix), chosen.of(vectors @ matrix.T)),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{what}: {n}: {m}")
    again = fast.bags(*by_feature, None)
    assert torch.equal(again, fast.bags(*by_feature, None)), f"{what}: not the same bytes twice"


def residuals(
    chosen: SomePairs, values: Tensor, dense: Tensor, matrix: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    """What the chosen pairs make of a reconstruction's error, with its squared norm, and what a dense product does."""
    error = dense @ matrix + matrix[0] - target
    scaled, squared = chosen.residual(values, matrix, matrix[0], target, 0.5)
    return torch.cat([scaled.flatten(), squared[None]]), torch.cat([0.5 * error.flatten(), error.square().sum()[None]])


def steps() -> None:
    """Every architecture's step, over its active pairs and through the kernels, has the gradients of autograd."""
    from tests.sae.test_architectures import CHOICES, DEAD, MANY_DEAD, NOBODY, SHAPES, check_step, small

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(active_pairs, "SPARSE_SHARE", 1.0)
        for choice in CHOICES:
            before = Counted.calls
            check_step(small(choice), 5, DEAD)
            check_step(small(choice, bias=-1.5), 5, NOBODY)
            check_step(small(choice, **SHAPES["skip transcoder"]), 5, MANY_DEAD)
            assert Counted.calls > before + 6, choice


def compiled() -> None:
    """Triton's compiler makes machine code of the kernels for cards of every generation since Turing."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    for capability in (75, 80, 87, 90, 100):
        for kernel, signature, constants, warps in signatures():
            types = {**signature, **dict.fromkeys(constants, "constexpr")}
            source = ASTSource(fn=kernel, signature=types, constexprs=constants)
            made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})
            assert made.asm["cubin"], (kernel, capability)


def signatures() -> Iterator[tuple[Any, dict[str, str], dict[str, Any], int]]:
    """Every kernel with types, constants and warps as it is called with: each mode, each dtype of ids and rows."""
    variants = (
        (0, "*i64", "*fp32", 2304),
        (1, "*i32", "*bf16", 768),
        (2, "*i64", "*fp32", 48),
        (0, "*i64", "*fp32", 1),
    )
    for mode, ids, rows, d in variants:
        tile, width = blocks_for(d), {"d": 1} if d == 1 else {}  # an argument of 1 is a constant to Triton
        out = dict.fromkeys(("partial", "out", "bias", "target", "squared"), "*fp32") | {"scale": "fp32"}
        sizes = dict.fromkeys(("bags", "pairs", "d"), "i32")
        constants = {"block": tile.columns, "rows": tile.rows, "segment": SEGMENT, "mode": mode, **width}
        bags = {"ids": ids, "starts": ids, "owners": "*i32", "weights": "*fp32", "matrix": rows}
        yield _sum_segments, bags | out | sizes, constants, tile.warps
        yield _sum_partials, {"starts": ids, "owners": "*i32"} | out | sizes | {"stride": "i32"}, constants, tile.warps
        products = {"owners": ids, "ids": ids, "vectors": rows, "matrix": rows, "bias": "*fp32", "out": "*fp32"}
        products |= {"pairs": "i32", "d": "i32"}
        yield _dot_pairs, products, {"block": tile.columns, "rows": tile.rows, "biased": mode == 2, **width}, tile.warps


if __name__ == "__main__":
    torch.set_num_threads(1)
    what = sys.argv[1]
    if what != "compiled":
        assert backend.try_kernels("cpu").reason.startswith("kernels in Triton run"), backend.try_kernels("cpu").reason
        active_pairs.choice = lambda device: backend.BackendChoice(Counted(), "interpreted")
    {"passes": passes, "long": long, "steps": steps, "compiled": compiled}[what]()
