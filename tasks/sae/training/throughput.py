"""Training throughput: its speed, and its fraction of the machine's measured peak.

The share of the GEMM peak is: floating point operations of the dense products that the steps do, over the time the
steps took, over what one product of the encoder's shape reaches here when nothing else is done. So a dense architecture
near 1 does nothing but multiply, and one that works on active pairs alone has a small share because it hardly needs
to. Sparse passes count as time and not as operations; reading activations and writing checkpoints count as neither.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tasks.sae.training.timers import HostTimer, Timer

#: Steps between two counts of a step's operations, which change with how many features are active.
COUNT_EVERY = 64

#: Most numbers in the result of the measured product; a side is cut only beyond the other bound: a narrow product would
#: be bound by memory. It is repeated, and the fastest run counts.
_GEMM_NUMBERS, _GEMM_SIDE = 1 << 22, 1 << 11
_GEMM_LEAST, _GEMM_REPEATS, _GEMM_S = 3, 50, 0.2

_MATRIX_PRODUCTS = {getattr(torch.ops.aten, name) for name in ("mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_")}


@dataclass(frozen=True)
class Throughput:
    """How fast it went over some time; None where nothing was done, or the peak is not known.

    Nor is it where the share would be over 1: the machine was busy with something else while the peak was measured.
    """

    tokens_per_s: float | None
    gemm_share: float | None


@dataclass
class _Work:
    """What has been done until a moment; `worked_s` is the time of the steps alone."""

    at: float
    tokens: int = 0
    operations: int = 0
    worked_s: float = 0.0


class _Span(NamedTuple):
    """Work between two marks of the timer: it counts as time of steps, or, with sign -1, is taken off that."""

    sign: int
    began: Any
    ended: Any
    tokens: int
    operations: int


class Pace:
    """The speed of one attempt at a training. Waits for the device when the whole speed is asked for, never before."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter, *, timer: Timer | None = None) -> None:
        """`timer` measures the work of the device; without one it is done when `clock` says so."""
        self.peak: float | None = None
        self._clock, self._a_step = clock, 0
        self._timer: Timer = timer or HostTimer(clock)
        self._made = _Work(0.0)  # tokens and operations of the work that is being given to the device
        self._spans: deque[_Span] = deque()  # what the device was given, and is not known to have done
        self._now = _Work(clock())
        self._lap = self._first = self._now

    def begin(self, peak: float) -> None:
        """The steps begin now; `peak` is what `gemm_peak` measured."""
        self.peak, self._now = peak, _Work(self._clock())
        self._spans.clear()
        self._made = _Work(0.0)
        self._lap = self._first = _Work(self._now.at)

    @contextmanager
    def working(self) -> Iterator[None]:
        """What is done inside is the work of steps, or waits for it."""
        began = self._timer.mark()
        yield
        self._add(1, began)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """What is done inside of work is not: it waits for activations."""
        began = self._timer.mark()
        yield
        self._add(-1, began)

    @contextmanager
    def step(self, number: int, tokens: int) -> Iterator[None]:
        """The products of step `number` are made inside."""
        if number % COUNT_EVERY == 0 or not self._a_step:
            with _Products() as made:
                yield
            self._a_step = made.operations
        else:
            yield
        self._made.tokens += tokens
        self._made.operations += self._a_step

    def lap(self) -> Throughput:
        """The speed since the last lap, of what the device has done by now."""
        self._settle(wait=False)
        rates = self._since(self._lap)
        self._lap = dataclasses.replace(self._now)
        return rates

    def whole(self) -> Throughput:
        """The speed since the first step of this attempt; waits for the device."""
        self._settle(wait=True)
        return self._since(self._first)

    def _add(self, sign: int, began: Any) -> None:
        made, self._made = self._made, _Work(0.0)
        self._spans.append(_Span(sign, began, self._timer.mark(), made.tokens, made.operations))
        self._settle(wait=False)

    def _settle(self, wait: bool) -> None:
        """Add up the spans that the device has come to the end of, or all of them."""
        while self._spans:
            span = self._spans[0]
            seconds = self._timer.seconds(span.began, span.ended, wait)
            if seconds is None:
                return
            self._spans.popleft()
            self._now.worked_s += span.sign * seconds
            self._now.tokens += span.tokens
            self._now.operations += span.operations

    def _since(self, then: _Work) -> Throughput:
        now = self._now
        now.at = self._clock()
        tokens, passed, worked = now.tokens - then.tokens, now.at - then.at, now.worked_s - then.worked_s
        if not tokens or passed <= 0:
            return Throughput(None, None)
        rate = (now.operations - then.operations) / worked if worked > 0 else 0.0
        share = rate / self.peak if self.peak else 0.0
        return Throughput(tokens / passed, share if 0 < share <= 1 else None)


def gemm_peak(vectors: int, d_in: int, d_sae: int, device: str) -> float:
    """Floating point operations a second of one product of the encoder's shape: (vectors, d_in) by (d_in, d_sae).

    Of as much of it as is enough to be as fast as all of it. In float32, as the steps are, by the same library and as
    many threads: the fastest of a few in a fifth of a second, and never less than three. Waits for the device.
    """
    rows = min(vectors, max(_GEMM_SIDE, _GEMM_NUMBERS // d_sae))
    columns = min(d_sae, max(_GEMM_SIDE, _GEMM_NUMBERS // rows))
    a, b = torch.ones(rows, d_in, device=device), torch.ones(d_in, columns, device=device)
    out = torch.empty(rows, columns, device=device)
    best, began = math.inf, time.perf_counter()
    for repeat in range(_GEMM_REPEATS):
        wait_for(device)
        before = time.perf_counter()
        torch.mm(a, b, out=out)
        wait_for(device)
        best = min(best, time.perf_counter() - before)
        if repeat >= _GEMM_LEAST and time.perf_counter() - began > _GEMM_S:
            break
    return 2.0 * rows * d_in * columns / max(best, 1e-9)


class _Products(TorchDispatchMode):
    """Counts the floating point operations of matrix products, and changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let the operation be done; of a dense product, count a multiplication and an addition for each pair."""
        if func.overloadpacket in _MATRIX_PRODUCTS:
            left, right = args[-2:]
            if left.layout == torch.strided:
                self.operations += 2 * left.numel() * right.shape[-1]
        return func(*args, **(kwargs or {}))


def wait_for(device: str) -> None:
    """Wait until the device has finished its queued work; returns at once on a CPU, which queues nothing."""
    if device != "cpu":
        torch.cuda.synchronize(device)
