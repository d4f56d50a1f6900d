"""About how much GPU memory a job will hold: the only place that adds it up, before anything is loaded.

What the tensors weigh follows from their shapes; what CUDA itself and a forward pass take is a rule of thumb. None
where the model is not on this machine yet: a guess would keep jobs waiting for nothing.
"""

from __future__ import annotations

from pathlib import Path

from tasks.job import Known
from tasks.models import describe_config, is_hub_id, resolve

#: CUDA's context with the libraries' kernels and workspaces.
CONTEXT = 700_000_000

FLOAT = 4

#: As in tasks.activations, which imports torch: tokens of one forward pass, and the buffer of vectors.
FORWARD_TOKENS, BUFFER_BATCHES, BUFFER_BYTES = 4096, 16, 512 << 20

#: Vectors as long as the residual stream that one token has at most at once, while it passes a block.
_VECTORS_A_TOKEN = 24

#: A matrix of an SAE in training is there with its gradient and Adam's two moments.
_COPIES_IN_TRAINING = 4

#: What a training is measured on in the end: vectors, and the numbers in them at most.
_MEASURED_VECTORS, _MEASURED_NUMBERS = 3 * 32768, 3 << 25

#: Codes of one batch of an extraction hold at most so many numbers; the encoder has them twice.
_CODES = 1 << 26


def of_training(model: str, known: Known, width: int | None, expansion: int, batch: int) -> int | None:
    """Bytes of a training of an SAE on that model; None when they cannot be known yet."""
    found = _of_model(model, known)
    if found is None:
        return None
    d_in, held = found
    d_sae = width or expansion * d_in
    coder = (_COPIES_IN_TRAINING * (2 * d_in + 1) + 3) * d_sae * FLOAT  # with biases, and since when features are dead
    codes = 2 * batch * d_sae * FLOAT
    buffer = max(1, min(BUFFER_BATCHES, BUFFER_BYTES // (FLOAT * d_in * batch))) * FLOAT * d_in * batch
    measured = min(_MEASURED_VECTORS * d_in, _MEASURED_NUMBERS) * FLOAT
    return CONTEXT + held + coder + codes + buffer + measured


def of_extraction(model: str, known: Known, sae: Path, top: int, window: int) -> int | None:
    """Bytes of an extraction with the SAE in that folder; None when they cannot be known yet."""
    found = _of_model(model, known)
    if found is None or not (weights := _weights(sae)):
        return None
    d_in, held = found
    d_sae = weights // (2 * d_in * FLOAT)
    codes = 2 * min(FORWARD_TOKENS * d_sae, _CODES) * FLOAT
    return CONTEXT + held + weights + codes + d_sae * top * FLOAT * (2 * window + 4)


def _of_model(model: str, known: Known) -> tuple[int, int] | None:
    """The width of its residual stream, and the bytes that it and one forward pass hold."""
    if is_hub_id(resolved := resolve(model, known)):
        return None
    d_in = (describe_config(model, known) or {}).get("d_model")
    weights = _weights(Path(resolved))
    if not d_in or not weights:
        return None
    return int(d_in), weights + FORWARD_TOKENS * _VECTORS_A_TOKEN * int(d_in) * FLOAT


def _weights(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
