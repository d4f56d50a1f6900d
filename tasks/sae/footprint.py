"""What the training of an SAE and an extraction with one will hold, by shapes alone: the only place that adds it up.

What tensors weigh follows from their shapes. What Python with torch holds, how many copies are about at the worst
moment, and what the allocator keeps was measured (CPU build of torch); tests/core/test_estimate.py holds the sum to
within a fifth of real runs. What CUDA itself takes is a rule of thumb. No torch in here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.estimate import CHECKPOINTS, FLOAT, ModelShape, shape_of_model, shape_of_tokens, weights_in
from tasks.job import Estimate, Known

#: Python, torch and Celery, before anything of the job is loaded.
RUNNER = 350 << 20
#: What comes on top with a model: the classes of its family, and what attention and tokenizers load.
MODEL = 75 << 20
#: CUDA's context with the libraries' kernels and workspaces.
CUDA = 700_000_000

#: What a training keeps to measure on: at most that share of the rows, so many vectors, so many numbers in them.
HELD_OUT_SHARE, HELD_OUT_VECTORS, HELD_OUT_NUMBERS = 0.1, 32768, 1 << 25

#: As in tasks.activations: tokens of one forward pass. As in tasks.buffers: the vectors that wait to be shuffled. As in
#: tasks.sae.coder: numbers in a slice of codes. As in tasks.sae.baselines: numbers held of some vectors. As in
#: tasks.features.collect: numbers in a batch's codes. As in tasks.splice and tasks.training.evaluation: numbers in the
#: logits of a pass and in a slice of what is made of them, and tokens that the model predicts.
FORWARD_TOKENS = 4096
BUFFER_BATCHES, BUFFER_BYTES, BUFFER_FILE_BYTES, FEWEST_BATCHES = 16, 512 << 20, 16 << 30, 4
SLICE_NUMBERS, BASELINE_NUMBERS, CODES = 1 << 22, 1 << 24, 1 << 26
LOGITS, LOGITS_SLICE, PREDICTED = 1 << 24, 1 << 22, 2048

#: Vectors as long as the residual stream that a token has at the worst moment of a forward pass.
_VECTORS_A_TOKEN = 12
#: An SAE in training: its weights, their gradient, the gradient to come, and Adam's two moments.
_COPIES_IN_TRAINING = 5
#: Slices of codes at the worst moment of a step over all pairs; as in tasks.sae.pairs: vectors in one.
_SLICES, PAIRS_SLICE = 4, 512
#: Logits at the worst moment of a prediction with a coder in its place, and slices of what is made of them: two passes'
#: and, as the allocator has it, what one before them left.
_COPIES_PREDICTED, _SLICES_PREDICTED = 3, 6
#: Slices of codes at the worst moment of a measurement on held-out vectors.
_CODES_MEASURED = 2
#: Held-out vectors at the worst moment of the comparison with PCA: three sets of them, and what is made of those.
_COPIES_IN_PCA, _COPIES_HELD = 8, 3
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
    evaluate: int = 0  # how often the model predicts with it in its place


def of_training(
    known: Known,
    model: str,
    dataset: str,
    shapes: Sequence[TrainingShape],
    hooks: int,
    stored: dict[str, Any] | None = None,
) -> Estimate:
    """Memory and disk of the training of SAEs in one job; nothing is known while their model's shape is not.

    `hooks` is how many are read or written by any of them. `stored` is the result of the reading that stored what is
    trained on: no model is loaded then.
    """
    told = ModelShape(stored["d_in"], parameters=0) if stored else shape_of_model(known, model)
    if told is None:
        return Estimate()
    seen = told.d_model * hooks
    rows = shape_of_tokens(known, dataset)
    held_out = _held_out(stored["vectors"] if stored else rows and math.prod(rows), seen)
    parameters = sum(_parameters(shape, told.d_model) for shape in shapes)
    in_memory, in_file = _buffer(seen, shapes[0].batch)
    kept = _COPIES_HELD * held_out * seen if len(shapes) > 1 else 0
    lasting = told.parameters + _COPIES_IN_TRAINING * parameters + in_memory + kept
    lasting += sum(_codes(shape, _d_sae(shape, told.d_model)) for shape in shapes)
    reading = FORWARD_TOKENS * _VECTORS_A_TOKEN * told.d_model * max(shape.reads for shape in shapes)
    measuring = max(_measuring(shape, told.d_model, held_out) for shape in shapes)
    predicting = _predicting(told.vocab or 0, rows[1] if rows else None) if any(s.evaluate for s in shapes) else 0
    held = FLOAT * (lasting + max(reading, measuring, predicting))
    return Estimate(
        memory_bytes=RUNNER + (0 if stored else MODEL) + held,
        disk_bytes=FLOAT * ((1 + CHECKPOINTS) * parameters + in_file),
        gpu_memory_bytes=CUDA + held,
    )


def _d_sae(shape: TrainingShape, d_model: int) -> int:
    return shape.width or shape.expansion * d_model


def _parameters(shape: TrainingShape, d_model: int) -> int:
    d_sae, d_in = _d_sae(shape, d_model), d_model * shape.reads
    d_out = d_model * shape.writes or d_in
    return (d_in + d_out) * d_sae + d_sae + d_out


def _measuring(shape: TrainingShape, d_model: int, held_out: int) -> int:
    """Numbers at the worst moment of the comparison with other codes of the same size."""
    d_in, d_sae = d_model * shape.reads, _d_sae(shape, d_model)
    pca = _COPIES_IN_PCA * held_out * d_in + _IN_EIGH * min(d_in, 2 * held_out) ** 2
    active = min(shape.k or d_in, d_in - 1)
    coded = min(BASELINE_NUMBERS, held_out * numbers_coded(d_in, d_sae, active))
    random = (_COPIES_HELD * held_out + d_sae) * d_in + coded
    return max(pca, random) + _CODES_MEASURED * min(SLICE_NUMBERS, held_out * d_sae)


def _predicting(vocab: int, context: int | None) -> int:
    """Numbers in what a model predicts, as it is and with a coder in its place, and in slices of what is made of it."""
    most = min(LOGITS, PREDICTED * vocab)
    logits = most if context is None else max(most // max(1, context * vocab), 1) * context * vocab
    return _COPIES_PREDICTED * logits + _SLICES_PREDICTED * min(LOGITS_SLICE, logits)


def numbers_coded(d_in: int, d_sae: int, active: int) -> int:
    """What each vector takes that random directions code: inner products, its directions twice, float64 matrices."""
    return d_sae + 2 * active * d_in + 8 * active * active


def of_extraction(known: Known, model: str, sae: Path, top: int, window: int) -> int | None:
    """Bytes of GPU memory of an extraction with the SAE in that folder; None when they cannot be known yet."""
    told, weights = shape_of_model(known, model), weights_in(sae)
    if told is None or not weights:
        return None
    d_sae = weights // (2 * told.d_model * FLOAT)
    forward = FORWARD_TOKENS * _VECTORS_A_TOKEN * told.d_model
    codes = 2 * min(FORWARD_TOKENS * d_sae, CODES)
    return CUDA + weights + FLOAT * (told.parameters + forward + codes + d_sae * top * (2 * window + 4))


def of_reading(model: ModelShape) -> Estimate:
    """Memory of a reading of a model's activations, or of GPU memory if it gets a GPU: the model and a forward pass."""
    held = FLOAT * (model.parameters + FORWARD_TOKENS * _VECTORS_A_TOKEN * model.d_model)
    return Estimate(memory_bytes=RUNNER + MODEL + held, gpu_memory_bytes=CUDA + held)


def _held_out(tokens: int | None, d_in: int) -> int:
    """Vectors that are kept to measure on; as many as there can be when the tokens are not there yet."""
    most = min(HELD_OUT_VECTORS, HELD_OUT_NUMBERS // d_in)
    return most if tokens is None else min(most, int(tokens * HELD_OUT_SHARE))


def _buffer(d_in: int, batch: int) -> tuple[int, int]:
    """Numbers in the buffer in memory, or else in the file."""
    one = batch * d_in
    batches = max(1, min(BUFFER_BATCHES, BUFFER_BYTES // (FLOAT * one)))
    if batches >= FEWEST_BATCHES:
        return batches * one, 0
    return 0, max(batches, min(BUFFER_BATCHES, BUFFER_FILE_BYTES // (FLOAT * one))) * one


def _codes(shape: TrainingShape, d_sae: int) -> int:
    """Pre-activations of the part of a batch that is worked on, which of them count, and some slices of codes."""
    dense = 0 if shape.k else _SLICES * min(PAIRS_SLICE, shape.part)
    return (shape.part + shape.part // FLOAT + dense) * d_sae
