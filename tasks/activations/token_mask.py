"""The token mask: which positions of a row are left out of training, evaluation and extraction.

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

from tasks.errors import UserError
from tasks.parsing.position_slices import EVERYWHERE, Positions, positions_of
from tasks.text.tokens import TokensInfo

#: Tokens looked at once when those that count are counted.
_COUNTED_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Mask:
    """What is left out of a row: its first position when `first`, and every place of the tokens `ids`.

    `pad` is the one of them that attention must not see either. `positions` are the arguments of the slice of positions
    that count, for an SAE that was trained on those alone; it stands in the place of `first`.
    """

    first: bool = False
    ids: tuple[int, ...] = ()
    pad: int | None = None
    positions: Positions = EVERYWHERE

    def __post_init__(self) -> None:
        """One way to say which positions count."""
        if self.first and self.positions != EVERYWHERE:
            raise ValueError("a mask has either `first` or `positions`")

    @property
    def seqpos_slice(self) -> Positions:
        """The positions that count, in SAELens' words."""
        return (1, None) if self.first else self.positions

    def kept(self, tokens: np.ndarray) -> np.ndarray:
        """Which positions of (n, context) token ids count: (n, context) bool."""
        kept = np.zeros(tokens.shape, dtype=bool)
        kept[:, slice(*self.seqpos_slice)] = True
        for token in self.ids:
            kept &= np.asarray(tokens) != token
        return kept

    def counts(self, tokens: np.ndarray) -> np.ndarray:
        """How many positions of each row count: (n,) int32. Memory is bounded, whatever the number of rows."""
        context = tokens.shape[1]
        counts = np.full(len(tokens), len(range(context)[slice(*self.seqpos_slice)]), dtype=np.int32)
        stride = max(1, _COUNTED_AT_ONCE // context)
        for start in range(0, len(tokens) if self.ids else 0, stride):
            counts[start : start + stride] = self.kept(tokens[start : start + stride]).sum(axis=1)
        return counts

    def to_dict(self) -> dict[str, Any]:
        """What an SAE's metadata say of it, in SAELens' words: tokens never trained on, and the slice of positions."""
        return {"exclude_special_tokens": list(self.ids) or False, "seqpos_slice": list(self.seqpos_slice)}


def mask_for(info: TokensInfo, skip_bos: bool) -> Mask:
    """The mask for these tokens: padding is left out always, BOS and the first position when asked for."""
    bos = {token for token in (info.bos_id, *(info.bos_ids or ())) if skip_bos and token is not None}
    pad = {info.pad_id} if info.pad_id is not None else set()
    return Mask(skip_bos, tuple(sorted(bos | pad)), info.pad_id)


def mask_again(metadata: dict[str, Any], info: TokensInfo) -> Mask:
    """The mask recorded in an SAE's metadata, for these tokens: what it was never trained on is left out again.

    SAELens' `exclude_special_tokens` may also be true, for all of them. Raises UserError for a slice of positions that
    leaves nothing of rows as long as these.
    """
    excluded = metadata.get("exclude_special_tokens") or []
    if excluded is True:
        excluded = [info.eos_id, info.bos_id]
    ids = tuple(sorted({int(token) for token in (*excluded, info.pad_id) if token is not None}))
    positions = positions_of(metadata.get("seqpos_slice"))
    if not len(range(info.context)[slice(*positions)]):
        raise UserError(
            f"The SAE was trained on positions {list(positions)} alone, and rows of {info.context} tokens have none.",
            "Use longer rows: mistudio submit tokenize --dataset DATASET --model MODEL --context-length N",
        )
    if positions == (1, None):
        return Mask(True, ids, info.pad_id)
    return Mask(False, ids, info.pad_id, positions)
