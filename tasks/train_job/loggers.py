"""Optional metrics loggers: TensorBoard and Weights & Biases.

Both are optional packages. Their data is written again from the files of lines whenever an attempt begins, so that even
an interrupted training has each step in it once. Only a W&B run that is online is continued instead.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tasks.errors import UserError
from tasks.lazy_import import np
from tasks.sae.density import LOG10_EDGES, Histogram

if TYPE_CHECKING:
    from tasks.jobs.kind import Context

#: The word for `--log`, which is also the package's name and that of its folder.
TENSORBOARD, WANDB = KNOWN = ("tensorboard", "wandb")

#: How an evaluation names its histogram, and on how many tokens the FVU and its like, and the model's losses, were
#: measured: that is the same each time, so nobody is to be shown its course.
DENSITIES = "density_histogram"
COUNTS = EVALUATED_TOKENS, PREDICTED_TOKENS = ("evaluated_tokens", "predicted_tokens")
#: On how many tokens a result was measured, and how it names the standard errors of its means.
HELD_OUT_TOKENS, ERRORS = "held_out_tokens", "standard_errors"
#: A step, and its metrics by name: numbers, and a histogram.
Row = tuple[int, dict[str, Any]]


class Log(Protocol):
    """A logger: receives rows in the order of their steps."""

    def write(self, rows: list[Row]) -> None:
        """Keep these rows, on disk or on their way."""

    def close(self) -> None:
        """There are no more rows in this attempt."""


def requested_loggers(names: str | None) -> list[str]:
    """The words in what `--log` was given. UserError for one that is not known, or whose package is not installed.

    And for commas alone.
    """
    words = list(dict.fromkeys(word.strip() for word in (names or "").split(",") if word.strip()))
    if names and not words:
        raise UserError(f"--log {names!r} names nothing.", f"It may name: {', '.join(KNOWN)}")
    for word in words:
        if word not in KNOWN:
            raise UserError(
                f"--log {word!r} is not one of: {', '.join(KNOWN)}.", "Several go with a comma between them"
            )
        if not _is_installed(word):
            raise UserError(f"--log {word} needs the package {word}.", "Install it: pip install 'mistudio[logging]'")
    return words


def open_logs(names: str | None, context: Context, about: dict[str, Any]) -> list[Log]:
    """The logs that were asked for, in the job's work folder; `about` are its parameters."""
    return [
        TensorBoard(context.workdir) if word == TENSORBOARD else WeightsAndBiases(context, about)
        for word in requested_loggers(names)
    ]


def let_go() -> None:
    """All logs are closed: end the process of W&B, if there is one, for only that has the last rows on disk."""
    if (wandb := sys.modules.get("wandb")) is not None:
        wandb.teardown()


def take_over(workdir: Path, output: Path) -> None:
    """Put what the logs have left on this machine into the artifact."""
    for folder in (workdir / TENSORBOARD, *workdir.glob(f"{WANDB}/offline-run-*")):
        if folder.is_dir():
            shutil.copytree(folder, output / folder.relative_to(workdir))


class TensorBoard:
    """Event files in the folder `tensorboard`, as `tensorboard --logdir` reads them."""

    def __init__(self, workdir: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(workdir / TENSORBOARD, ignore_errors=True)
        # One that is looking on forgets what it has read of the files that were there.
        self._writer: Any = SummaryWriter(str(workdir / TENSORBOARD), purge_step=0)

    def write(self, rows: list[Row]) -> None:
        """See `Log`."""
        for step, values in rows:
            for name, value in values.items():
                if isinstance(value, Histogram):
                    self._write_histogram(name, value, step)
                elif value is not None:
                    self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """See `Log`."""
        self._writer.close()

    def _write_histogram(self, name: str, histogram: Histogram, step: int) -> None:
        """With its own bins; TensorBoard's sums are of their middles."""
        middles = [(low + high) / 2 for low, high in itertools.pairwise(LOG10_EDGES)]
        sums = [sum(c * m**power for c, m in zip(histogram.counts, middles, strict=True)) for power in (0, 1, 2)]
        self._writer.add_histogram_raw(
            name, LOG10_EDGES[0], LOG10_EDGES[-1], *sums, LOG10_EDGES[1:], histogram.counts, global_step=step
        )


class WeightsAndBiases:
    """A run with the id of the job: offline, in the folder `wandb`, unless the worker's environment says otherwise.

    WANDB_API_KEY or WANDB_MODE do. `wandb sync` sends an offline one later. WANDB_PROJECT and WANDB_ENTITY hold; the
    project is else `mistudio`.
    """

    def __init__(self, context: Context, about: dict[str, Any]) -> None:
        import wandb

        mode: Any = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
        if mode == "offline":
            shutil.rmtree(context.workdir / WANDB, ignore_errors=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "mistudio",
            id=context.job_id,
            name=context.name,
            dir=context.workdir,
            mode=mode,
            resume="allow" if mode == "online" else None,
            reinit="create_new",  # or a second SAE of the job would write into the run of the first
            config=about,
            settings=wandb.Settings(console="off", silent=True, disable_git=True, x_disable_stats=True),
        )
        self._next = self._run.step  # more than 0 where an earlier attempt was online

    def write(self, rows: list[Row]) -> None:
        """See `Log`."""
        import wandb

        for step, values in rows:
            if step >= self._next:
                drawn = {
                    name: wandb.Histogram(np_histogram=(np.array(value.counts), np.array(LOG10_EDGES)))
                    for name, value in values.items()
                    if isinstance(value, Histogram)
                }
                self._run.log({**values, **drawn}, step=step)

    def close(self) -> None:
        """See `Log`."""
        self._run.finish()


def rows_of(lines: list[dict[str, Any]], paces: list[dict[str, Any]]) -> Iterator[Row]:
    """Lines of the metrics, each with the pace that was measured at its step, if any."""
    pace = {rates["step"]: {name: value for name, value in rates.items() if name != "step"} for rates in paces}
    for line in lines:
        yield line["step"], {**shown(line), **pace.get(line["step"], {})}


def held_out(lines: list[dict[str, Any]]) -> Iterator[Row]:
    """Lines of what was measured on held-out rows, under names that distinguish it from what was of the batch."""
    left_out = ("step", DENSITIES, ERRORS, *COUNTS)
    for line in lines:
        values = {f"held_out/{name}": value for name, value in line.items() if name not in left_out}
        found = Histogram.of(line[DENSITIES])
        yield line["step"], {**values, "held_out/never_fired": found.never, "held_out/log10_density": found}


def shown(line: dict[str, Any]) -> dict[str, Any]:
    """A line of the metrics as one looks at it, what matters most first."""
    first: dict[str, Any] = {name: line[name] for name in ("loss", "fvu", "l0", "dead_features") if name in line}
    return {**first, **{name: value for name, value in line.items() if name not in (*first, "step")}}


def _is_installed(package: str) -> bool:
    """Whether there is more of it than a folder of that name, as a run of W&B leaves one behind."""
    found = find_spec(package)
    return found is not None and found.origin is not None
