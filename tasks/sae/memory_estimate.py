"""Estimates what SAE training and extraction will hold in memory, from shapes alone.

What tensors weigh follows from their shapes. What Python with torch holds, how many copies are about at the worst
moment, and what the allocator keeps was measured (CPU build of torch); tests/jobs/test_estimate.py holds the sum to
within a fifth of real runs. What CUDA itself takes is a rule of thumb. No torch in here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks.jobs.kind import Catalog, Estimate
from tasks.models.model_dtype import AUTO
from tasks.models.size_estimate import CHECKPOINT, FLOAT, ModelShape, shape_of_model, shape_of_tokens, weights_in
from tasks.sae.training.schedule import EVAL_TOKENS

#: Python, torch and Celery, before anything of the job is loaded.
RUNNER = 350 << 20
#: What comes on top with a model: the classes of its family, and what attention and tokenizers load.
MODEL = 75 << 20
#: What torch's compiler and what it loads take, where a model's blocks are compiled.
COMPILER = 150 << 20
#: CUDA's context with the libraries' kernels and workspaces.
CUDA = 700_000_000

#: Held-out set of a training: at most this fraction of the rows, this many vectors, this many numbers in them.
HELD_OUT_SHARE, HELD_OUT_VECTORS, HELD_OUT_NUMBERS = 0.1, 32768, 1 << 25

#: As in tasks.activations.stream: tokens of one forward pass. As in tasks.activations.shuffle_buffer: the vectors that
#: wait to be shuffled. As in tasks.sae.coder: numbers in a slice of codes. As in tasks.sae.baselines: numbers held of
#: some vectors. As in tasks.features.collect: numbers in a batch's codes. As in tasks.activations.intervention: numbers
#: in the logits of a pass and in a slice of what is made of them. As in tasks.train_job.evaluation: vectors measured
#: on. As in tasks.sae.calibration: pre-activations that are kept. As in tasks.features.feature_records: examples of a
#: feature that judge it.
FORWARD_TOKENS = 4096
BUFFER_BATCHES, BUFFER_BYTES, BUFFER_FILE_BYTES, FEWEST_BATCHES = 16, 512 << 20, 16 << 30, 4
SLICE_NUMBERS, BASELINE_NUMBERS, CODES = 1 << 22, 1 << 24, 1 << 26
LOGITS, LOGITS_SLICE, EVALUATED, MOST_KEPT, JUDGED = 1 << 24, 1 << 22, 8192, 1 << 22, 10

#: Vectors as long as the residual stream that a token has at the worst moment of a forward pass: the model's own, and
#: for each hook what is caught, and what is left of the pass before.
_VECTORS_A_TOKEN, _VECTORS_A_HOOK = 9, 3
#: An SAE in training: its weights, their gradient, and Adam's two moments. A step has one more, what earlier parts of
#: the batch added up to or products of weights and gradient; saving has what is written, half of it twice.
_COPIES_IN_TRAINING, _COPIES_IN_SAVING = 4, 1.5
#: What is to be written, at the worst moment of a step on a part of a batch, and of the metrics of a whole one.
_COPIES_IN_PART, _COPIES_IN_GROUP, _COPIES_IN_FIGURES = 3, 3, 2
#: Numbers that an active feature of a vector takes where only those are worked on.
_NUMBERS_A_PAIR = 9
#: Slices of codes that steps over all pairs take of the heap; as in tasks.sae.ops.active_pairs: vectors in one. What
#: steps over many active pairs take is less.
_SLICES, PAIRS_SLICE = 12, 512
#: Logits at the worst moment of a prediction with a coder in its place, those of two passes, and slices of what is made
#: of them.
_COPIES_PREDICTED, _SLICES_PREDICTED = 2, 6
#: Slices of codes at the worst moment of a measurement on held-out vectors.
_CODES_MEASURED = 2
#: Held-out vectors at the worst moment of the comparison with PCA: three sets of them, and what is made of those. While
#: they are read, two sets are there twice.
_COPIES_IN_PCA, _COPIES_HELD, _COPIES_READ = 8, 3, 5
#: Its float64 matrix of all pairs of dimensions, or of vectors if those are fewer, and what finding directions takes.
_IN_EIGH = 8


@dataclass(frozen=True)
class TrainingShape:
    """What the size of a training depends on, besides its model and its tokens."""

    k: int | None  # active features, where that is set
    width: int | None
    expansion: int
    batch: int
    part: int  # how much of a batch goes through the coder at once
    reads: int = 1  # hooks that it reads
    writes: int = 0  # hooks that it writes, where it does not write what it reads
    skip: bool = False  # whether it has a way past the features
    evaluate: int = 0  # how often it is measured, and the model predicts with it in its place
    calibrates: bool = False  # whether a threshold is fitted to a sample of training vectors
    eval_tokens: int = EVAL_TOKENS  # held-out tokens of the final evaluation
    precision: str = "float32"  # as `--precision` has it
    groups: int = 1  # nested dictionaries, each of which reconstructs the target


@dataclass(frozen=True)
class _Trained:
    """An SAE in training on vectors of `d_model` numbers, and what of it is how large."""

    shape: TrainingShape
    d_model: int

    @property
    def d_in(self) -> int:
        return self.d_model * self.shape.reads

    @property
    def d_out(self) -> int:
        return self.d_model * (self.shape.writes or self.shape.reads)

    @property
    def d_sae(self) -> int:
        return self.shape.width or self.shape.expansion * self.d_model

    @property
    def parameters(self) -> int:
        past = self.d_in * self.d_out if self.shape.skip else 0
        return (self.d_in + self.d_out) * self.d_sae + self.d_sae + self.d_out + past

    @property
    def batch(self) -> int:
        """Numbers in what is read, and in what is to be written if that is something else."""
        return self.shape.batch * self.d_model * (self.shape.reads + self.shape.writes)


def of_training(
    known: Catalog,
    model: str,
    dataset: str,
    shapes: Sequence[TrainingShape],
    hooks: int,
    stored: dict[str, Any] | None = None,
    model_dtype: str = AUTO,
) -> Estimate:
    """Memory and disk of the training of SAEs in one job; nothing is known while their model's shape is not.

    `hooks` is how many are read or written by any of them, `model_dtype` a word of --model-dtype. `stored` is the
    result of the reading that stored what is trained on: no model is loaded then.
    """
    model_shape = ModelShape(stored["d_in"], parameters=0) if stored else shape_of_model(known, model)
    if model_shape is None:
        return Estimate()
    trained = [_Trained(shape, model_shape.d_model) for shape in shapes]
    rows = shape_of_tokens(known, dataset)
    seen = model_shape.d_model * hooks
    vectors = stored["vectors"] if stored else rows and math.prod(rows)
    held_out = min(_held_out(vectors, seen), shapes[0].eval_tokens)
    in_memory, in_file = _buffer(seen, shapes[0].batch, None if vectors is None else vectors - held_out)
    kept = _kept(shapes, held_out) * seen
    lasting = sum(_lasting(one) for one in trained) + in_memory + kept
    moments = [
        _forward(model_shape.d_model, rows, hooks),
        _COPIES_READ * held_out * seen - kept,
        *(moment(one) for one in trained for moment in (_stepping, _saving)),
        *(_measuring(one, held_out) for one in trained),
        *(_calibrating(one) for one in trained if one.shape.calibrates),
    ]
    if any(shape.evaluate for shape in shapes):
        predicted = min(shapes[0].eval_tokens, _share(vectors))
        moments.append(_predicting(model_shape.vocab or 0, rows[1] if rows else None, predicted))
    held = FLOAT * (lasting + max(moments))
    return Estimate(
        memory_bytes=RUNNER + (0 if stored else MODEL) + model_shape.bytes_on("cpu", model_dtype) + held,
        disk_bytes=FLOAT * (_on_disk(trained) + in_file),
        gpu_memory_bytes=CUDA + model_shape.bytes_on("cuda", model_dtype) + held,
    )


def _kept(shapes: Sequence[TrainingShape], held_out: int) -> int:
    """Vectors of all hooks that stay: those measured on now and then; of several SAEs all held out, and a batch."""
    evaluated = min(EVALUATED, held_out) if any(shape.evaluate for shape in shapes) else 0
    return evaluated if len(shapes) == 1 else _COPIES_HELD * held_out + shapes[0].batch


def _lasting(trained: _Trained) -> int:
    """Numbers that an SAE in training holds from its first step to its last.

    Besides itself its pre-activations and which of them count, and what the codes of active features take, or else of
    all in some slices: steps give that back, but not in one piece. Before a job runs, `auto` may come to the larger.
    """
    shape, d_sae = trained.shape, trained.d_sae
    exact, rounded = shape.part * d_sae, _rounded(trained)
    pre = {"bf16": rounded, "auto": max(exact, rounded)}.get(shape.precision, exact)
    pairs = shape.part * shape.k * _NUMBERS_A_PAIR if shape.k else _SLICES * min(PAIRS_SLICE, shape.part) * d_sae
    return _COPIES_IN_TRAINING * trained.parameters + pre + shape.part * d_sae // FLOAT + pairs


def _rounded(trained: _Trained) -> int:
    """Numbers that pre-activations take where features are chosen in bfloat16, two of which are as large as one.

    They, what is read and the encoder's weights are held in it; without a fixed number of active features there are
    pre-activations in float32, too, as long as many are active.
    """
    part, d_in, d_sae = trained.shape.part, trained.d_in, trained.d_sae
    exact = part * d_in + (0 if trained.shape.k else part * d_sae)
    return exact + (part * d_sae + part * d_in + d_in * d_sae) // 2


def _stepping(trained: _Trained) -> int:
    """Numbers at the worst moment of a step besides: a copy of the parameters, the batch, and what is made of it."""
    shape = trained.shape
    in_part = _COPIES_IN_PART + (_COPIES_IN_GROUP * shape.groups if shape.groups > 1 else 0)
    made = max(in_part * shape.part, _COPIES_IN_FIGURES * shape.batch) * trained.d_out
    return trained.parameters + trained.batch + made


def of_step(shape: TrainingShape, d_model: int) -> int:
    """Bytes that an SAE in training on vectors of `d_model` numbers holds at the worst moment of a step, its batch too.

    No model, no buffer of activations, and nothing that CUDA itself takes.
    """
    trained = _Trained(shape, d_model)
    return FLOAT * (_lasting(trained) + _stepping(trained))


def _saving(trained: _Trained) -> int:
    """Numbers in what is written of an SAE at the end."""
    return int(_COPIES_IN_SAVING * trained.parameters)


def _measuring(trained: _Trained, held_out: int) -> int:
    """Numbers at the worst moment of the comparison with other codes of the same size."""
    d, d_sae = trained.d_out, trained.d_sae
    pca = _COPIES_IN_PCA * held_out * d + _IN_EIGH * min(d, 2 * held_out) ** 2
    active = min(trained.shape.k or d, d - 1)
    coded = min(BASELINE_NUMBERS, held_out * numbers_coded(d, d_sae, active))
    random = (_COPIES_HELD * held_out + d_sae) * d + coded
    return max(pca, random) + _CODES_MEASURED * min(SLICE_NUMBERS, held_out * d_sae)


def _calibrating(trained: _Trained) -> int:
    """Numbers at the worst moment of the search for a threshold: the largest so far, with those of a slice, twice."""
    kept = min(MOST_KEPT, trained.shape.eval_tokens * (trained.shape.k or 1))
    return 2 * (2 * kept + SLICE_NUMBERS) + SLICE_NUMBERS


def _on_disk(trained: Sequence[_Trained]) -> int:
    """Numbers on disk at the worst moment: while one more checkpoint is written, or all SAEs are saved beside theirs.

    The newest checkpoint is kept, and the best one where more than the last is measured.
    """
    kept = sum(CHECKPOINT * (2 if one.shape.evaluate > 1 else 1) * one.parameters for one in trained)
    sizes = [one.parameters for one in trained]
    return kept + max(CHECKPOINT * max(sizes), sum(sizes))


def _forward(d_model: int, rows: tuple[int, int] | None, hooks: int = 1) -> int:
    """Numbers at the worst moment of a forward pass over tokens of that shape; a long row is not divided."""
    tokens = max(FORWARD_TOKENS, rows[1] if rows else 0)
    return tokens * (_VECTORS_A_TOKEN + _VECTORS_A_HOOK * hooks) * d_model


def _share(tokens: int | None) -> int:
    """Tokens that may be held out of that many; any number where that is not known."""
    return HELD_OUT_NUMBERS if tokens is None else int(tokens * HELD_OUT_SHARE)


def _predicting(vocab: int, context: int | None, tokens: int) -> int:
    """Numbers in what a model predicts, as it is and with a coder in its place, and in slices of what is made of it."""
    most = min(LOGITS, max(1, tokens) * vocab)
    logits = most if context is None else max(most // max(1, context * vocab), 1) * context * vocab
    return _COPIES_PREDICTED * logits + _SLICES_PREDICTED * min(LOGITS_SLICE, logits)


def numbers_coded(d_in: int, d_sae: int, active: int) -> int:
    """What each vector takes that random directions code: inner products, its directions twice, float64 matrices."""
    return d_sae + 2 * active * d_in + 8 * active * active


def of_extraction(
    known: Catalog,
    model: str,
    tokens: str | None,
    sae: Path,
    top: int,
    window: int,
    precision: str = "float32",
    model_dtype: str = AUTO,
) -> int | None:
    """Bytes of GPU memory of an extraction with the SAE in that folder; None when they cannot be known yet.

    Its `top` examples of a feature have `window` tokens on each side; the rows of long `tokens` are not divided.
    """
    model_shape, weights = shape_of_model(known, model), weights_in(sae)
    if model_shape is None or not weights:
        return None
    d_sae = weights // (2 * model_shape.d_model * FLOAT)
    rows = shape_of_tokens(known, tokens) if tokens else None
    codes = 2 * max(rows[1] * d_sae if rows else 0, min(FORWARD_TOKENS * d_sae, CODES))
    rounded = weights // (4 * FLOAT) if precision in ("auto", "bf16") else 0  # half as large as the encoder's
    held = FLOAT * (_forward(model_shape.d_model, rows) + codes + rounded + d_sae * max(top, JUDGED) * (2 * window + 4))
    return CUDA + weights + model_shape.bytes_on("cuda", model_dtype) + held


def of_reading(model: ModelShape, rows: tuple[int, int] | None, model_dtype: str = AUTO) -> Estimate:
    """Memory of a reading of a model's activations, or of GPU memory if it gets a GPU: the model and a forward pass."""
    held = FLOAT * _forward(model.d_model, rows)
    return Estimate(
        memory_bytes=RUNNER + MODEL + model.bytes_on("cpu", model_dtype) + held,
        gpu_memory_bytes=CUDA + model.bytes_on("cuda", model_dtype) + held,
    )


def with_compiler(held: Estimate) -> Estimate:
    """The estimate where the model's blocks are compiled first."""
    return held if held.memory_bytes is None else replace(held, memory_bytes=held.memory_bytes + COMPILER)


def _held_out(tokens: int | None, d_in: int) -> int:
    """Vectors that are kept to measure on; as many as there can be when the tokens are not there yet."""
    most = min(HELD_OUT_VECTORS, HELD_OUT_NUMBERS // d_in)
    return most if tokens is None else min(most, int(tokens * HELD_OUT_SHARE))


def _buffer(d_in: int, batch: int, vectors: int | None = None) -> tuple[int, int]:
    """Numbers in the buffer in memory, or else in the file; no more than those of all vectors, where that is known."""
    one, there = batch * d_in, BUFFER_BATCHES if vectors is None else max(1, vectors // batch)
    batches = max(1, min(BUFFER_BATCHES, BUFFER_BYTES // (FLOAT * one)))
    if batches >= FEWEST_BATCHES:
        return min(batches, there) * one, 0
    return 0, min(max(batches, min(BUFFER_BATCHES, BUFFER_FILE_BYTES // (FLOAT * one))), there) * one
