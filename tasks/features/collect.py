"""One pass of a model and an SAE over tokens, feeding the strongest examples of every feature."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from tasks.activations.stream import FORWARD_TOKENS, ModelVectors
from tasks.features.top_examples import TopExamples
from tasks.sae.precision import rounding

if TYPE_CHECKING:
    from tasks.sae.coder import Coder

#: The codes of one batch, (tokens, d_sae), hold at most this many numbers.
_CODES = 1 << 26


def choose_rows(rows: int, context: int, max_tokens: int | None) -> np.ndarray:
    """Numbers of the rows to read, evenly spread over all of them: int64, ascending."""
    wanted = rows if max_tokens is None else min(rows, max(1, max_tokens // context))
    return np.arange(wanted, dtype=np.int64) * rows // wanted


def rows_per_batch(context: int, d_sae: int) -> int:
    """How many rows go through the model at once."""
    return max(1, min(FORWARD_TOKENS, _CODES // d_sae) // context)


@torch.no_grad()
def collect(
    source: ModelVectors,
    coder: Coder,
    numbers: np.ndarray,
    top: TopExamples,
    first: int,
    after_batch: Callable[[int], None],
) -> None:
    """Feed `top` the codes of the source's rows `numbers[first:]`; where a position does not count, nothing fires.

    `after_batch` is called with how many of the chosen rows are done.
    """
    step = rows_per_batch(source.tokens.shape[1], coder.config.d_sae)
    for start in range(first, len(numbers), step):
        chosen = numbers[start : start + step]
        rows = source.tokens[chosen]
        vectors = source.read_all(rows)  # (batch, context, d_in)
        with rounding(coder.precision):
            codes = coder.codes(vectors.flatten(0, 1)).unflatten(0, rows.shape)  # (batch, context, d_sae)
        left_out = torch.from_numpy(~source.mask.kept(rows)).to(codes.device)
        top.update(codes.masked_fill_(left_out[:, :, None], 0), torch.from_numpy(chosen))
        after_batch(start + len(chosen))
