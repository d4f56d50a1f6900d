"""The kernels of `tasks.sae.triton_kernels` in a process of their own: in Triton's interpreter, or compiled.

`python -m tests.sae.interpreted passes|steps` wants TRITON_INTERPRET=1 in its environment, `compiled` must not have it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tasks.sae import kernels, pairs
from tasks.sae.pairs import SomePairs, pairs_at
from tasks.sae.triton_kernels import TritonPasses, _dot_pairs, _sum_bags


@dataclass
class Slow:
    """The passes by their definition, pair by pair, in double precision."""

    def bags(self, ids: Tensor, starts: Tensor, weights: Tensor, matrix: Tensor, onto: Tensor | None) -> Tensor:
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
    """The kernels, and how often they were asked."""

    calls = 0

    def bags(self, ids: Tensor, starts: Tensor, weights: Tensor, matrix: Tensor, onto: Tensor | None) -> Tensor:
        Counted.calls += 1
        return super().bags(ids, starts, weights, matrix, onto)

    def dots(self, owners: Tensor, starts: Tensor, ids: Tensor, vectors: Tensor, matrix: Tensor) -> Tensor:
        Counted.calls += 1
        return super().dots(owners, starts, ids, vectors, matrix)


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
        ("spread, densely", chosen.spread(values, vectors, None), dense.T @ vectors),
        ("spread onto, densely", chosen.spread(values, vectors, onto.clone()), onto + dense.T @ vectors),
        ("pull, densely", chosen.pull(vectors, matrix), chosen.of(vectors @ matrix.T)),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{what}: {n}: {m}")
    again = fast.bags(*by_feature, None)
    assert torch.equal(again, fast.bags(*by_feature, None)), f"{what}: not the same bytes twice"


def steps() -> None:
    """Every architecture's step, over its active pairs and through the kernels, has the gradients of autograd."""
    from tests.sae.test_architectures import CHOICES, DEAD, MANY_DEAD, NOBODY, SHAPES, check_step, small

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "SPARSE_SHARE", 1.0)
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

    ids, numbers = "*i64", "*fp32"
    sums = {"ids": ids, "starts": ids, "weights": numbers, "matrix": numbers, "out": numbers}
    sums |= {"bags": "i32", "pairs": "i32", "d": "i32"}
    products = {"owners": ids, "ids": ids, "vectors": numbers, "matrix": numbers, "out": numbers, "d": "i32"}
    for capability in (75, 80, 87, 90, 100):
        for kernel, signature, constants in (
            (_sum_bags, sums, {"block": 1024, "add": True}),
            (_sum_bags, sums, {"block": 64, "add": False}),
            (_dot_pairs, products, {"block": 1024}),
        ):
            told = {**signature, **dict.fromkeys(constants, "constexpr")}
            made = triton.compile(
                ASTSource(fn=kernel, signature=told, constexprs=constants), target=GPUTarget("cuda", capability, 32)
            )
            assert made.asm["cubin"], (kernel, capability)


if __name__ == "__main__":
    torch.set_num_threads(1)
    what = sys.argv[1]
    if what != "compiled":
        assert kernels.try_kernels("cpu").reason.startswith("kernels in Triton run"), kernels.try_kernels("cpu").reason
        pairs.choice = lambda device: kernels.Choice(Counted(), "interpreted")
    {"passes": passes, "steps": steps, "compiled": compiled}[what]()
