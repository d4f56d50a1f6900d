"""Features as records a person can read: examples with their tokens, and the line of `features.jsonl`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tasks.features.top_examples import TopExamples

#: The text of each of some token ids that follow one another: see tasks.features.token_texts.
TokenTexts = Callable[[list[int]], list[str]]

#: A feature that fired in fewer contexts has too few examples to be judged; as many of its strongest ones judge it.
LIVE_CONTEXTS = 10


@dataclass(frozen=True)
class Example:
    """One context: its tokens, the feature's activation on each, and which of them is the peak."""

    position: int  # row * context + column of the peak in the tokens artifact
    tokens: list[str]
    activations: list[float]
    peak: int
    at_row_start: bool = False  # whether the row begins with the first of these tokens
    before_peak: str | None = None  # the token before the peak, shown or not; None at the beginning of a row

    @property
    def peak_token(self) -> str:
        """The token on which the feature fired most."""
        return self.tokens[self.peak]


@dataclass(frozen=True)
class Feature:
    """One feature: the share of tokens it fires on, the number of contexts it fired in, its strongest examples."""

    id: int
    density: float
    contexts: int
    max_activation: float
    examples: list[Example]

    @property
    def live(self) -> bool:
        """Whether it fired in enough contexts to be judged."""
        return self.contexts >= LIVE_CONTEXTS

    @property
    def judged(self) -> list[Example]:
        """The examples that it is judged by, however many more are kept."""
        return self.examples[:LIVE_CONTEXTS]


def read_features(
    top: TopExamples,
    rows: np.ndarray,
    tokens_seen: int,
    token_texts: TokenTexts,
    only: Collection[int] | None = None,
) -> Iterator[Feature]:
    """The features that fired (of `only` these), by id; `rows` is the (rows, context) array `top` was fed from."""
    values, positions, around = top.values.cpu().numpy(), top.positions.cpu().numpy(), top.around.cpu().numpy()
    fired, contexts, window = top.fired.cpu().numpy(), top.contexts.cpu().numpy(), len(top.offsets) // 2
    for feature in np.flatnonzero(positions[:, 0] >= 0):
        if only is not None and int(feature) not in only:
            continue
        found = positions[feature] >= 0
        examples = [
            _example(int(position), acts, rows, window, token_texts)
            for position, acts in zip(positions[feature][found], around[feature][found], strict=True)
        ]
        density, strongest = int(fired[feature]) / tokens_seen, float(values[feature, 0])
        yield Feature(int(feature), density, int(contexts[feature]), strongest, examples)


def _example(position: int, acts: np.ndarray, rows: np.ndarray, window: int, token_texts: TokenTexts) -> Example:
    """The tokens from `window` before the peak to `window` after it, as far as the row reaches."""
    context = rows.shape[1]
    row, column = divmod(position, context)
    first, end = max(0, column - window), min(context, column + window + 1)
    begin = max(0, min(first, column - 1) - 1)  # one before says how a token begins
    texts = token_texts(rows[row, begin:end].tolist())
    tokens, before_peak = texts[first - begin :], texts[column - begin - 1] if column else None
    shift = first - (column - window)
    values = [float(f"{value:.6g}") for value in acts[shift : shift + len(tokens)]]
    return Example(position, tokens, values, column - first, first == 0, before_peak)
