"""The files of a features artifact that people and programs read: `features.jsonl` and `index.html`."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.features.feature_records import Feature, TokenTexts, read_features
from tasks.features.page import MOST_FEATURES, write_page
from tasks.features.patterns import Census, most_interpretable, pattern_of, score, summarise

if TYPE_CHECKING:
    import numpy as np

    from tasks.features.top_examples import TopExamples

_CANDIDATES = 100


@dataclass(frozen=True)
class Report:
    """What a report is made of; features are read from `top` one at a time, so memory stays flat."""

    top: TopExamples
    rows: np.ndarray  # the (rows, context) token ids that `top` refers to
    token_texts: TokenTexts
    examples: int  # of a feature, in the files
    after_feature: Callable[[int], None]  # called with how many features have been written

    def write(
        self, folder: Path, title: str, made_of: list[tuple[str, str]], tokens_seen: int
    ) -> tuple[Census, list[dict[str, Any]]]:
        """Write both files; the counts, and the most interpretable features in a form small enough for a job's
        result.
        """
        census, scores = self._write_lines(folder / "features.jsonl", tokens_seen)
        facts = [*made_of, ("tokens read", f"{tokens_seen:,}"), ("features", f"{len(self.top.fired):,}")]
        facts += [("live", f"{census.live:,}"), ("patterned", f"{census.patterned_share:.0%} of live")]
        if census.fired > MOST_FEATURES:
            facts.append(("shown here", f"the {MOST_FEATURES:,} most interpretable"))
        shown = self._features(tokens_seen, _best(scores, MOST_FEATURES))
        write_page(folder / "index.html", title, facts, shown, self.examples)
        interpretable = most_interpretable(self._features(tokens_seen, _best(scores, _CANDIDATES)))
        return census, [summarise(feature) for feature in interpretable]

    def _write_lines(self, path: Path, tokens_seen: int) -> tuple[Census, dict[int, float]]:
        """One line of JSON for each feature that fired; the counts, and each one's score."""
        census, scores = Census(), {}
        with path.open("w", encoding="utf-8") as lines:
            for feature in self._features(tokens_seen):
                census.add(feature)
                scores[feature.id] = score(feature)
                pattern, written = pattern_of(feature), replace(feature, examples=feature.examples[: self.examples])
                record = {**asdict(written), "pattern": asdict(pattern) if pattern else None}
                lines.write(json.dumps(record, ensure_ascii=False) + "\n")
                self.after_feature(census.fired)
        return census, scores

    def _features(self, tokens_seen: int, only: Collection[int] | None = None) -> Iterator[Feature]:
        return read_features(self.top, self.rows, tokens_seen, self.token_texts, only)


def _best(scores: dict[int, float], count: int) -> set[int]:
    """The features of the highest scores; the lower number among equals."""
    return set(heapq.nlargest(count, scores, key=lambda feature: (scores[feature], -feature)))
