"""The training loop of an SAE: each step, its optimizer and its evaluations; only it changes an SAE's parameters.

Nothing in it is random but the start: weights follow from the seed, batches from the step. So a checkpoint holds the
coder's state, Adam's moments, the dead-feature counts and the step, and a resumed training equals an uninterrupted one
bit for bit on a CPU with the same number of threads.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tasks.errors import UserError
from tasks.sae.architectures import build
from tasks.sae.coder import FLOAT32, StepLosses, StepState
from tasks.sae.formats.native import Scales, spread
from tasks.sae.metrics import total_variance
from tasks.sae.ops.backend import choice
from tasks.sae.ops.norm import norm
from tasks.sae.precision import rounding
from tasks.sae.training import checkpoint, device_to_host
from tasks.sae.training.device_to_host import Transfer
from tasks.sae.training.resample import resample
from tasks.sae.training.schedule import TrainConfig
from tasks.sae.training.throughput import Pace, gemm_peak
from tasks.sae.training.timers import EventTimer

#: Batch number `step` (from 0): what is read, fresh (batch, d_in) float32, and what is to be written, (batch, d_out),
#: unless that is the same.
Source = Callable[[int], torch.Tensor | tuple[torch.Tensor, torch.Tensor]]

#: Batches from which the scale and the first decoder bias are measured.
MEASURED_BATCHES = 8
#: Steps between two looks for dead features: finding them waits for the device.
DEAD_EVERY = 16
#: Steps, and seconds, between two writes of the metrics, and the most lines they may have.
FLUSH_EVERY, FLUSH_AFTER_S, METRIC_LINES = 100, 1.0, 10_000
#: A line of the metrics, besides its step, all of them of the training batch: see docs/metrics.md.
METRICS = ("loss", "mse_loss", "sparsity_loss", "aux_loss", "l0", "mse", "fvu", "dead_features")
#: Vectors that a sample for the calibration has, if nothing else is said.
CALIBRATED = 16_384


class Trainer:
    """One training, from its first or a later step."""

    def __init__(self, config: TrainConfig, source: Source, device: str = "cpu") -> None:
        self.config, self.source, self.device = config, source, device
        self.coder = build(config.coder, config.seed).to(device)
        self.optimizer = torch.optim.Adam(self.coder.parameters.values(), lr=config.lr, fused=True)
        self.quiet = torch.zeros(config.coder.d_sae, dtype=torch.int64, device=device)  # vectors since it fired
        self.dead = torch.zeros(0, dtype=torch.int64, device=device)
        self.step = 0
        self.is_over = False  # set to end before the last step
        self.start: Callable[[Trainer], None] = lambda trainer: None  # may change the coder before the first step
        self._scales: Scales | None = None
        self._log_every = -(-config.steps // METRIC_LINES)
        self._unwritten: list[tuple[int, torch.Tensor]] = []
        self._written_at = time.monotonic()
        on_a_card = torch.device(device).type == "cuda"
        self.earlier_precisions: list[str] = []  # of steps of earlier attempts, where another had to be taken
        self.pace = Pace(timer=EventTimer() if on_a_card else None)
        self.send: Callable[[torch.Tensor], Transfer] = device_to_host.choice(device).send
        self._sent: deque[tuple[tuple[int, ...], Transfer]] = deque()  # lines of the metrics that were not read yet
        self._spread: tuple[Scales, torch.Tensor, torch.Tensor] | None = None
        #: A sample of training vectors, unscaled, of about the wanted number: how many there are, and pieces of them.
        self.sample: Callable[[int], tuple[int, Iterable[torch.Tensor]]] = self._first_batches
        #: Called with the lines that were added to the metrics.
        self.on_metrics: Callable[[list[dict[str, Any]]], None] = lambda lines: None

    @torch.no_grad()
    def run(self, folder: Path, after_step: Callable[[], None] | None = None) -> None:
        """Train from where it is to the last step, writing metrics into `folder`.

        `after_step` may call `save` and may raise to leave. The coder is calibrated at the end. Raises UserError when
        the loss is no longer a number.
        """
        self.begin(folder)
        while self.is_unfinished:
            self.advance(folder)
            if after_step:
                after_step()
        self._write_metrics(folder)
        self.calibrate()

    @torch.no_grad()
    def begin(self, folder: Path) -> None:
        """Prepare to resume from the current step, with metrics in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.pace.begin(gemm_peak(self.part, self.config.coder.d_in, self.config.coder.d_sae, self.device))
        if self._scales is None:
            self._measure()
        self._factors()

    @property
    def is_unfinished(self) -> bool:
        """Whether there is another step to make."""
        return self.step < self.config.steps and not self.is_over

    @torch.no_grad()
    def advance(self, folder: Path) -> None:
        """Make one step; now and then write metrics into `folder`. Raises UserError as `run` does."""
        with self.pace.working():
            self._train()
        if len(self._unwritten) >= FLUSH_EVERY or time.monotonic() - self._written_at >= FLUSH_AFTER_S:
            self._send_metrics()
        self._write_arrived(folder, wait=False)

    @property
    def precision(self) -> str:
        """In what its features are chosen: see `tasks.sae.precision`. Set before the first step of an attempt."""
        return self.coder.precision

    @precision.setter
    def precision(self, precision: str) -> None:
        self.coder.precision = precision

    @property
    def precisions(self) -> str:
        """The precisions that its steps were made in, in order: one, or as in "bf16, then float32"."""
        return ", then ".join([*self.earlier_precisions, self.precision])

    @property
    def part(self) -> int:
        """How many vectors go through the coder at once."""
        return -(-self.config.batch // self.config.accumulate)

    @property
    def scales(self) -> Scales:
        """What activations are multiplied with, so that their mean length is sqrt(d); known once it trains."""
        assert self._scales is not None
        return self._scales

    def scaled(self, batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """What is read and what is to be written, scaled in place; the same tensor for an autoencoder."""
        x, target = batch
        read, written = self._factors()
        x.mul_(read)
        if target is not x:
            target.mul_(written)
        return x, target

    def _factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The scales as vectors on the device, (d_in,) and (d_out,): sent there once, not at each step."""
        if self._spread is None or self._spread[0] is not self.scales:
            read, written = spread(self.scales.read, self.coder.W_enc[0]), spread(self.scales.written, self.coder.b_dec)
            self._spread = (self.scales, read, written)
        return self._spread[1:]

    def reconstruct(self, x: torch.Tensor) -> torch.Tensor:
        """What the coder makes of (n, d_in) activations as they are: (n, d_out), in the units of its target."""
        read, written = self._factors()
        return self.coder(x * read) / written

    @torch.no_grad()
    def calibrate(self, wanted: int = CALIBRATED) -> None:
        """Fit what the saved form has besides the parameters to a sample of training vectors.

        It follows from the weights and the sample alone, so a resumed training has the same.
        """
        if size := self.coder.calibration_size(wanted):
            count, pieces = self.sample(size)
            read, _ = self._factors()
            self.coder.calibrate((x * read for x in pieces if len(x)), count)

    def _first_batches(self, wanted: int) -> tuple[int, Iterable[torch.Tensor]]:
        """The sample of a trainer that knows nothing but its batches: the first ones."""
        steps = range(max(1, min(self.config.steps, wanted // self.config.batch)))
        return len(steps) * self.config.batch, (self._batch(step)[0] for step in steps)

    @property
    def unit(self) -> float:
        """What scaled vectors are multiplied with for the model's own units; 1 for a crosscoder, which has several."""
        return 1.0 if self.config.coder.blocks > 1 else 1 / self.scales.written[0]

    def _batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        given = self.source(step)
        read, written = given if isinstance(given, tuple) else (given, given)
        x = read.to(self.device)
        return x, x if written is read else written.to(self.device)

    def _measure(self) -> None:
        """Scale to a mean length of sqrt(d) (Anthropic, April 2024); start the decoder bias at the mean.

        Means are taken of each batch before the next is read: several large ones would be more than a step holds.
        """
        coder = self.config.coder
        steps = range(min(MEASURED_BATCHES, self.config.steps))
        means = [_means(*self._batch(step), coder.blocks) for step in steps]
        read, written, mean = (torch.stack(of_batches).mean(0) for of_batches in zip(*means, strict=True))
        self._scales = Scales(_scale(read, coder.d_in), _scale(written, coder.d_out or coder.d_in))
        self.coder.b_dec.copy_(mean * spread(self.scales.written, mean))
        self.start(self)

    def _train(self) -> None:
        config = self.config
        resamples = config.resamples_at(self.step)
        if resamples or self.step % DEAD_EVERY == 0:
            self.dead = (self.quiet >= config.dead_after).nonzero().flatten()
        with self.pace.reading():
            batch = self._batch(self.step)
        x, target = self.scaled(batch)
        if resamples:
            drawn, self.dead = self.dead[: len(x)], self.dead[len(x) :]
            self.coder.calibrate([x], len(x))  # what is reconstructed badly is seen with the codes of this batch
            if not resample(self.coder, self.optimizer, drawn, x, target, config.seed + self.step):
                raise self._diverged()
            self.quiet[drawn] = 0
        step_state = StepState(self.dead, config.pressure(self.step), self.step / config.steps)
        with self.pace.step(self.step, len(x)), rounding(self.precision):
            losses = self._gradient(x, target, step_state)
        self.coder.constrain_gradient()
        if config.clip:
            self._clip()
        self.optimizer.param_groups[0]["lr"] = config.rate(self.step)
        self.optimizer.step()
        self.coder.constrain()
        self.quiet.add_(len(x)).masked_fill_(losses.fired, 0)
        self.step += 1
        if self.step % self._log_every == 0 or self.step == config.steps:
            self._unwritten.append((self.step, self._row(losses, target)))

    def _clip(self) -> None:
        """Have the optimizer divide the gradient by what makes it no longer than it may be; it reads it anyway.

        By this attribute Adam takes the scale of `torch.amp.GradScaler`.
        """
        gradients = [parameter.grad for parameter in self.coder.parameters.values() if parameter.grad is not None]
        length = torch.stack([norm(gradient) for gradient in gradients]).norm()
        self.optimizer.grad_scale = (length / self.config.clip).clamp_min_(1.0)  # type: ignore[attr-defined]

    def _gradient(self, x: torch.Tensor, target: torch.Tensor, step_state: StepState) -> StepLosses:
        """Write the gradient of the batch, in `accumulate` parts; the losses are averaged over its vectors."""
        parts = self.config.accumulate
        writes_in_place = choice(x.device.type).passes.writes_in_place
        losses: list[StepLosses] = []
        shares: list[float] = []
        sums: dict[str, torch.Tensor] = {}
        for part, wanted in zip(x.chunk(parts), target.chunk(parts), strict=True):
            if parts > 1 or not writes_in_place:  # a gradient that is not written to is not held beside the next
                self.optimizer.zero_grad()
            losses.append(self.coder.step(part, part if target is x else wanted, step_state))
            if parts == 1:
                return losses[0]
            shares.append(share := len(part) / len(x))
            for name, parameter in self.coder.parameters.items():
                assert parameter.grad is not None
                gradient = parameter.grad.mul_(share)
                sums[name] = sums[name].add_(gradient) if name in sums else gradient
        for name, parameter in self.coder.parameters.items():
            parameter.grad = sums[name]
        *means, fired = zip(*losses, strict=True)
        averages = (sum(share * mean for share, mean in zip(shares, each, strict=True)) for each in means)
        return StepLosses._make([*averages, torch.stack(fired).any(0)])

    def _row(self, losses: StepLosses, target: torch.Tensor) -> torch.Tensor:
        dead = (self.quiet >= self.config.dead_after).sum()
        fvu = losses.error * len(target) / total_variance(target)
        return torch.stack([*losses[:5], losses.error * self.unit**2, fvu, dead])

    def _write_metrics(self, folder: Path) -> None:
        """Append all lines of the metrics until now; waits for the device."""
        self._send_metrics()
        self._write_arrived(folder, wait=True)

    def _send_metrics(self) -> None:
        """Send the rows that are there to the host, all at once."""
        self._written_at = time.monotonic()
        if self._unwritten:
            steps, rows = zip(*self._unwritten, strict=True)
            self._unwritten = []
            with self.pace.working():
                self._sent.append((steps, self.send(torch.stack(rows))))

    def _write_arrived(self, folder: Path, wait: bool) -> None:
        """Append the lines that have arrived at the host, in their order, or all that were sent."""
        while self._sent and (wait or self._sent[0][1].has_arrived()):
            steps, transfer = self._sent.popleft()
            self._append(folder, steps, transfer.values())

    def _append(self, folder: Path, steps: tuple[int, ...], values: list[list[float]]) -> None:
        lines = [
            {"step": step, **dict(zip(METRICS, row, strict=True))} for step, row in zip(steps, values, strict=True)
        ]
        checkpoint.append(folder, checkpoint.METRICS, lines)
        self.on_metrics(lines)
        if not all(math.isfinite(row[0]) for row in values):
            raise self._diverged()

    def check(self) -> None:
        """Raise UserError if a weight is NaN or infinite: that may happen between two lines of the metrics."""
        if not all(math.isfinite(float(parameter.sum())) for parameter in self.coder.parameters.values()):
            raise self._diverged()

    def _diverged(self) -> UserError:
        return UserError(
            f"The loss was no longer a number by step {self.step}.", "Submit again with a lower --learning-rate"
        )

    def save(self, folder: Path, score: float | None = None) -> None:
        """Write a checkpoint of the state after the last step; nothing before there is any.

        `score` is how well it did on held-out vectors, less is better: see tasks.sae.training.checkpoint.
        """
        if self._scales is None:
            return
        self._write_metrics(folder)
        self.check()
        state: dict[str, Any] = {
            "fingerprint": self.config.fingerprint(),
            "scales": asdict(self.scales),
            "precision": self.precision,
            "earlier_precisions": self.earlier_precisions,
        }
        checkpoint.save(folder, self.step, self.state_tensors(), state, score)

    def state_tensors(self) -> dict[str, torch.Tensor]:
        """Everything that training changes, by name."""
        tensors = {"quiet": self.quiet, "dead": self.dead, **self.coder.state}
        for name, parameter in self.coder.parameters.items():
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"adam.{key}.{name}"] = value
        return tensors

    def resume(self, folder: Path) -> int:
        """Take up the newest checkpoint of this configuration in `folder`, if any; the step reached, 0 for none.

        The files of lines there are cut back to that step.
        """
        found = checkpoint.newest(folder, self.config.fingerprint())
        if found is not None:
            self._take_up(*found)
        checkpoint.cut(folder, self.step)
        return self.step

    def _take_up(self, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        self.precision = state.get("precision", FLOAT32)  # one of before there was a choice has none
        self.earlier_precisions = [*state.get("earlier_precisions", ())]
        self.step, self._scales = state["step"], Scales(*(tuple(state["scales"][side]) for side in ("read", "written")))
        self.quiet, self.dead = tensors["quiet"].to(self.device), tensors["dead"].to(self.device)
        self.coder.load(tensors)
        for name, parameter in self.coder.parameters.items():
            self.optimizer.state[parameter] = {
                key.split(".")[1]: value.to(self.device) for key, value in tensors.items() if _is_adam_of(key, name)
            }

    def take_best(self, folder: Path) -> None:
        """Have the coder that did best on held-out vectors, and be at its step; as it is where none was measured."""
        path = checkpoint.best(folder, self.config.fingerprint())
        if path is not None:
            tensors, state = checkpoint.load(path)
            self.step = state["step"]
            self.coder.load(tensors)


def _means(read: torch.Tensor, written: torch.Tensor, blocks: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of (n, blocks * d) vectors, in float64: the mean lengths of what is read and written, and the mean of the latter.

    Lengths are those of each block: (blocks,).
    """
    lengths = [vectors.unflatten(1, (blocks, -1)).norm(dim=2).mean(0).double() for vectors in (read, written)]
    return lengths[0], lengths[1], written.mean(0).double()


def _scale(lengths: torch.Tensor, d: int) -> tuple[float, ...]:
    """What brings blocks of these mean lengths, of vectors of `d` numbers in all, to a mean length of sqrt(d_block)."""
    values = lengths.tolist()
    for length in values:
        if not 0 < length < math.inf:
            raise UserError(f"The activations have a mean length of {length}: nothing can be learned from them.")
    return tuple(math.sqrt(d / len(values)) / length for length in values)


def _is_adam_of(key: str, name: str) -> bool:
    return key.startswith("adam.") and key.split(".", 2)[2] == name
