"""One SAE in training: everything that belongs to it, from its first step to its artifact."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tasks.errors import UserError
from tasks.jobs.kind import Context
from tasks.sae import precision
from tasks.sae.baselines import compare
from tasks.sae.coder import BF16, default_rate
from tasks.sae.formats.native import read_config, save_density
from tasks.sae.metrics import Measurement, Measures
from tasks.sae.training.checkpoint_list import damaged
from tasks.sae.training.schedule import TrainConfig
from tasks.sae.training.trainer import CALIBRATED, Trainer
from tasks.storage.store import write_json
from tasks.text.compatibility import check_bos_of_sae
from tasks.train_job.artifact import save
from tasks.train_job.evaluation import Evaluation
from tasks.train_job.init_from import initialize_from
from tasks.train_job.metrics_reporter import MetricsReporter
from tasks.train_job.params import GIVEN_UP, resume_point, steps_of
from tasks.train_job.vector_source import shape_of

if TYPE_CHECKING:
    import numpy as np
    import torch

    from tasks.train_job.batches import Seen
    from tasks.train_job.params import Common


log = logging.getLogger("mistudio.train")


class SaeTraining:
    """What is trained, on what it sees, with folders of its own."""

    def __init__(self, params: Common, context: Context, seen: Seen) -> None:
        self.params, self.context, self.seen = params, context, seen
        self.trainer = Trainer(_config(params, seen), seen.batch, context.device)
        if params.init_from is not None:
            folder = context.store.path("saes", params.init_from)
            metadata = read_config(folder).get("metadata", {})
            check_bos_of_sae(params.init_from, metadata, "this training", seen.bos, params.allow_no_bos)
            initialize_from(self.trainer, folder, params.init_from)
        self.evaluation = Evaluation(self.trainer, seen, params.evaluate)
        self.evaluation.on_rows = self._report_evaluation
        self.metrics = MetricsReporter(context, self.trainer)
        self.first = 0  # the step from which this attempt resumes
        self.failed = self._given_up_before()  # why it does not get to its end
        self._speed: dict[str, Any] | None = None  # of its steps, once they are over

    @contextmanager
    def resuming(self) -> Iterator[None]:
        """Inside, it resumes from the newest checkpoint, and its logs are open."""
        if self.failed is not None:
            yield
            return
        folder = self.context.workdir
        for path in damaged(folder):
            self.context.note(f"{path.name} is damaged and is passed over")
        self.first = self.trainer.resume(folder)
        if not self.first and (left := resume_point(folder)):
            self.context.note(f"starts from scratch: the checkpoint at {left} was made with other settings")
        if self.first:
            self.context.note(f"resumes from step {self.first}")
        self._settle_precision()
        self._log_what_is_trained()
        self._look_whether_it_is_over()
        with self.metrics.logging(self.params.log, dataclasses.asdict(self.params)):
            with self._failing_alone():
                self.trainer.begin(folder)
            yield

    @property
    def is_unfinished(self) -> bool:
        """Whether there is another step to make."""
        return self.failed is None and self.trainer.is_unfinished

    def advance(self) -> None:
        """Make a step, and measure on held-out rows when that is due; a checkpoint is kept of it with its score."""
        folder = self.context.workdir
        with self._failing_alone():
            self.trainer.advance(folder)
            if self.evaluation.is_due():
                self.trainer.check()
                evaluation = self.evaluation.write(folder)
                self.trainer.save(folder, evaluation["fvu"])
                self._log_checkpoint()
                self.metrics.report_evaluation(evaluation)
                self._look_whether_it_is_over()
        if not self.is_unfinished:
            self._speed = self.metrics.result()

    def save(self) -> None:
        """Write a checkpoint of what it has learned, unless it has failed."""
        if self.failed is None and self.trainer.step:
            with self._failing_alone():
                self.trainer.save(self.context.workdir)
                self._log_checkpoint()

    def _settle_precision(self) -> None:
        """Decide the precision of a training that begins; one that resumes keeps its own, if that gains anything here.

        Raises UserError for a precision that was asked for and gains nothing here.
        """
        trainer, device = self.trainer, self.context.device
        begun, product = trainer.precision, product_of(trainer)
        if self.first:
            found = precision.kept(begun, product, device)
            if found.precision != begun:
                self.context.note(f"continues in float32, not in {begun} as before: {found.reason}")
                trainer.earlier_precisions.append(begun)
        else:
            found = precision.decide(self.params.precision, product, device)
            if found.precision == BF16:
                self.context.note(f"chooses features in bfloat16: {found.reason}")
        trainer.precision = found.precision

    def _log_what_is_trained(self) -> None:
        config, coder = self.trainer.config, self.trainer.config.coder
        source = self.params.model or f"activations/{self.params.activations}"
        hooks = ", ".join(point.module for point in self.seen.points)
        log.info(
            "%s: %s SAE, %d -> %d, of %s at %s",
            self.context.name,
            coder.architecture,
            coder.d_in,
            coder.d_sae,
            source,
            hooks,
        )
        log.info(
            "%s: %d steps of %d vectors, lr %.3g, on %s in %s",
            self.context.name,
            config.steps,
            config.batch,
            config.lr,
            self.context.device,
            self.trainer.precision,
        )

    def _log_checkpoint(self) -> None:
        log.info("%s: checkpoint at step %d of %d", self.context.name, self.trainer.step, self.trainer.config.steps)

    @contextmanager
    def _failing_alone(self) -> Iterator[None]:
        """What fails one SAE, such as a loss that is no number, does not end the training of others in its job."""
        try:
            yield
        except UserError as problem:
            if self.seen.is_alone:
                raise
            self.failed = str(problem)
            failure = {"fingerprint": self.trainer.config.fingerprint(), "why": self.failed}
            write_json(self.context.workdir / GIVEN_UP, failure)
            self.context.note(f"is given up: {problem.sentence}")

    def _given_up_before(self) -> str | None:
        """Why an earlier attempt has given it up, or None: it would fail again."""
        path = self.context.workdir / GIVEN_UP
        failure = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return failure["why"] if failure.get("fingerprint") == self.trainer.config.fingerprint() else None

    def finish(self) -> dict[str, Any] | None:
        """Save the SAE; measure it and its baselines on held-out rows. None where it has failed."""
        if self.failed is None:
            with self._failing_alone():
                return self._finish()
        return None

    def _finish(self) -> dict[str, Any]:
        trainer, seen, steps = self.trainer, self.seen, self.trainer.step
        if trainer.is_over:
            trainer.take_best(self.context.workdir)
        trainer.calibrate(max(CALIBRATED, self.params.eval_tokens))
        save(self.params, self.context, trainer, seen)
        held_out = self._read(near := seen.reading.near_rows)
        found = self._measure(near, held_out)
        save_density(self.context.output, found.density)
        train_rows = seen.reading.sample(2 * int(seen.counts(near).sum()))
        return {
            **self.evaluation.final(found, self.context.workdir, self._report_rows),
            **compare(found, self._read(train_rows)[1], held_out[1]),
            **self._pace(),
            "steps": steps,
            "training_tokens": steps * trainer.config.batch,
            "lr": trainer.config.lr,
            "precision": trainer.precisions,
            "unsure_fraction": trainer.coder.unsure_fraction,
            "steps_in_last_attempt": steps - self.first,
            "d_in": trainer.config.coder.d_in,
            "d_sae": trainer.config.coder.d_sae,
            "hook": seen.points[0].module,
        }

    def _measure(self, near: np.ndarray, held_out: tuple[torch.Tensor, torch.Tensor]) -> Measures:
        """What is found on all held-out rows; the vectors of the `near` ones, the first of them, are there already."""
        rows, trainer = self.seen.reading.held_rows, self.trainer
        measurement = Measurement(trainer.coder, trainer.unit)
        measurement.add(*held_out, self.seen.counts(near))
        for counts, vectors in self.seen.pieces(rows[len(near) :]):
            measurement.add(*trainer.scaled(vectors), counts)
            self.context.progress("measuring", measurement.tokens, int(self.seen.counts(rows).sum()), "tokens")
        return measurement.result()

    def _report_evaluation(self, done: int, total: int) -> None:
        """Report an evaluation during training; to stop, it is finished first: it belongs to a checkpoint."""
        if not self.context.stopping():
            self.context.progress("evaluating", done, total, "rows")

    def _report_rows(self, done: int, total: int) -> None:
        self.context.progress("predicting", done, total, "rows")

    def _pace(self) -> dict[str, Any]:
        rates = dict(self._speed or self.metrics.result())
        if not self.seen.is_alone:
            rates["tokens_per_s_together"] = rates.pop("tokens_per_s")
        return rates

    def _read(self, rows: np.ndarray) -> Any:
        def on_progress(done: int, total: int) -> None:
            self.context.progress("measuring", done, total, "tokens")

        return self.trainer.scaled(self.seen.rows(rows, on_progress))

    def _look_whether_it_is_over(self) -> None:
        patience, trainer = self.params.patience, self.trainer
        if not patience or self.evaluation.since_best(self.context.workdir) < patience:
            return
        trainer.is_over = True
        if trainer.step < trainer.config.steps:
            times = f"{patience} measurement{'s' if patience > 1 else ''}"
            self.context.note(
                f"ends at step {trainer.step} of {trainer.config.steps}: the FVU was not better for {times}"
            )


def product_of(trainer: Trainer) -> precision.Product:
    """The product that a trainer's encoder makes of a batch, or of a part of it."""
    shape = trainer.config.coder
    return precision.Product(trainer.part, shape.d_in, shape.d_sae, getattr(trainer.coder.options, "k", None))


def _config(params: Common, seen: Seen) -> TrainConfig:
    """What is trained on what is seen."""
    coder, steps = shape_of(params, seen.d_model), steps_of(params)
    return TrainConfig(
        coder=coder,
        steps=steps,
        batch=params.batch,
        lr=params.lr or default_rate(coder.d_sae),
        warmup=params.warmup,
        decay=params.decay,
        sparsity_warmup=params.sparsity_warmup,
        clip=params.clip,
        accumulate=params.accumulate,
        resample=params.resample,
        dead_after=dead_after(steps, params),
        seed=params.seed,
    )


def dead_after(steps: int, params: Common) -> int:
    """Vectors without firing that make a feature dead: no more than pass from one resampling to the next."""
    between = [steps // (2 * params.resample) * params.batch] if params.resample else []
    return max(1, min(TrainConfig.dead_after, steps * params.batch // 8, *between))
