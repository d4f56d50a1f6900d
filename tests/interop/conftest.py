"""The table of what was compared, which `make interop` puts into benchmarks/results/interop.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

PEERS = ("sae-lens", "dictionary-learning", "eai-sparsify", "torch")

#: peer, what was compared, how far apart at most, and how far they may be.
_rows: list[tuple[str, str, float, float]] = []

Compare = Callable[..., None]


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, relative to the largest number."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-30))


@pytest.fixture
def compare() -> Compare:
    """Holds two tensors together to 1e-5 and puts the comparison into the table."""

    def hold(peer: str, what: str, ours: torch.Tensor, theirs: torch.Tensor, bound: float = 1e-5) -> None:
        found = difference(ours.detach().float(), theirs.detach().float())
        _rows.append((peer, what, found, bound))
        assert found <= bound, f"{peer}: {what}: {found:.2e}"

    return hold


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The same sums in the same order wherever this runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where the table goes."""
    parser.addoption("--result", metavar="FILE", help="Write what was compared to this file, if all of it held")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write the table; a failure leaves the last whole one."""
    if (target := session.config.getoption("--result")) and exitstatus == 0:
        Path(target).write_text(_table(), encoding="utf-8")


def _table() -> str:
    worst: dict[tuple[str, str], tuple[float, float, int]] = {}
    for peer, what, found, bound in _rows:
        before = worst.get((peer, what), (0.0, bound, 0))
        worst[peer, what] = (max(before[0], found), bound, before[2] + 1)
    lines = [
        "# Interoperation",
        "",
        "Written by `make interop`, which runs `tests/interop` with "
        + ", ".join(f"{n} {version(n)}" for n in PEERS)
        + ".",
        "Each row is the largest difference between a number of ours and the peer's, relative to the largest number of",
        "the peer's tensor, over all tensors compared.",
        "",
        "| peer | what | tensors | largest difference | allowed |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {p} | {w} | {n} | {d:.0e} | {b:.0e} |" for (p, w), (d, b, n) in worst.items()]
    return "\n".join(lines) + "\n"
