"""Which positions of a row count: the only place that says what is left out of training, measuring and extraction.

Padding never counts. The first position and the BOS token are where models park their attention: in many models the
residual stream there is tens to hundreds of times as long as elsewhere and always the same ("Massive Activations in
Large Language Models", Sun et al. 2024; "Efficient Streaming Language Models with Attention Sinks", Xiao et al. 2023).
Left in, they set the scale of the training and make up most of the variance that is said to be explained; so they are
left out unless asked for, as by Gemma Scope (Lieberum et al. 2024). Rows of packed text begin anywhere, so the first
position counts as such a place whatever token is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.text.tokens import TokensInfo

#: Tokens looked at once when those that count are counted.
_COUNTED_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Mask:
    """What is left out of a row: its first position when `first`, and every place of the tokens `ids`.

    `pad` is the one of them that attention must not see either.
    """

    first: bool = False
    ids: tuple[int, ...] = ()
    pad: int | None = None

    def kept(self, tokens: np.ndarray) -> np.ndarray:
        """Which positions of (n, context) token ids count: (n, context) bool."""
        kept = np.ones(tokens.shape, dtype=bool)
        kept[:, :1] = not self.first
        for token in self.ids:
            kept &= np.asarray(tokens) != token
        return kept

    def counts(self, tokens: np.ndarray) -> np.ndarray:
        """How many positions of each row count: (n,) int32. Memory is bounded, whatever the number of rows."""
        context = tokens.shape[1]
        counts = np.full(len(tokens), context - self.first, dtype=np.int32)
        stride = max(1, _COUNTED_AT_ONCE // context)
        for start in range(0, len(tokens) if self.ids else 0, stride):
            counts[start : start + stride] = self.kept(tokens[start : start + stride]).sum(axis=1)
        return counts

    def told(self) -> dict[str, Any]:
        """What an SAE's metadata say of it, in SAELens' words: tokens never trained on, and the slice of positions."""
        return {
            "exclude_special_tokens": list(self.ids) or False,
            "seqpos_slice": [1, None] if self.first else [None],
        }


def mask_for(info: TokensInfo, skip_bos: bool) -> Mask:
    """The mask for these tokens: padding is left out always, BOS and the first position when asked for."""
    bos = {token for token in (info.bos_id, *(info.bos_ids or ())) if skip_bos and token is not None}
    pad = {info.pad_id} if info.pad_id is not None else set()
    return Mask(skip_bos, tuple(sorted(bos | pad)), info.pad_id)


def mask_again(told: dict[str, Any], info: TokensInfo) -> Mask:
    """The mask that an SAE's metadata tell of, for these tokens: what it was never trained on is left out again.

    SAELens' `exclude_special_tokens` may also be true, for all of them.
    """
    excluded = told.get("exclude_special_tokens") or []
    if excluded is True:
        excluded = [info.eos_id, info.bos_id]
    ids = {int(token) for token in (*excluded, info.pad_id) if token is not None}
    return Mask(told.get("seqpos_slice") == [1, None], tuple(sorted(ids)), info.pad_id)
