"""Which features are interpretable at a glance: the rule for a pattern, and the order from most to least interpretable.

A feature is patterned when at least seven of its ten strongest contexts share the same peak token, or the same token
right before the peak. The rule is crude and cheap, and the same for every SAE, so shares can be compared.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tasks.features.feature_records import Example, Feature

PATTERN_SHARE = 0.7
#: Features that fire on one token in some hundreds are neither punctuation counters nor accidents.
_BEST_LOG_DENSITY, _LOG_DENSITY_SPREAD = -2.5, 1.0
_SHOWN_CONTEXTS = 3
_SHOWN_TOKENS = 8


@dataclass(frozen=True)
class Pattern:
    """What contexts share: the token at the peak (`where` is "at") or right before it ("before"), in which share."""

    where: str
    token: str
    share: float


def pattern_of(feature: Feature) -> Pattern | None:
    """The pattern of a live feature, or None; a shared peak token comes before a shared token before the peak."""
    if not feature.live or not feature.examples:
        return None
    for where, tokens in (
        ("at", [example.peak_token for example in feature.judged]),
        ("before", [example.before_peak for example in feature.judged]),
    ):
        token, count = Counter(tokens).most_common(1)[0]
        if token is not None and count >= PATTERN_SHARE * len(tokens):
            return Pattern(where, token, count / len(tokens))
    return None


class Census:
    """Counts over the features that fired: how many are live, and how many of those are patterned."""

    def __init__(self) -> None:
        self.fired = self.live = self.same_token = self.patterned = 0

    def add(self, feature: Feature) -> None:
        """Count one feature."""
        pattern = pattern_of(feature)
        self.fired += 1
        self.live += feature.live
        self.patterned += feature.live and pattern is not None
        self.same_token += feature.live and pattern is not None and pattern.where == "at"

    @property
    def patterned_share(self) -> float:
        """The share of live features with a pattern; 0.0 when none is live."""
        return self.patterned / max(1, self.live)

    @property
    def same_token_share(self) -> float:
        """The share of live features whose contexts share the peak token, the stricter half of the rule."""
        return self.same_token / max(1, self.live)


def patterned_share(features: Iterable[Feature]) -> float:
    """The share of live features with a pattern; 0.0 when none is live."""
    census = Census()
    for feature in features:
        census.add(feature)
    return census.patterned_share


def score(feature: Feature) -> float:
    """How interpretable a feature is, from 0 to 1: patterned, on a word, in varied contexts, neither rare nor dense."""
    pattern = pattern_of(feature)
    if pattern is None or not feature.live or feature.density <= 0:
        return 0.0
    far = (math.log10(feature.density) - _BEST_LOG_DENSITY) / _LOG_DENSITY_SPREAD
    varied = len({tuple(example.tokens) for example in feature.judged}) / len(feature.judged)
    letters = sum(char.isalpha() for char in pattern.token)
    word = min(1.0, 0.4 + 0.2 * letters) * (1.0 if pattern.where == "at" else 0.7)
    return pattern.share * word * varied * math.exp(-far * far)


def most_interpretable(features: Iterable[Feature], count: int = 5) -> list[Feature]:
    """The features of the highest score, no two with the same word; none without a score."""
    chosen: dict[str, Feature] = {}
    for feature in sorted(features, key=lambda feature: (-score(feature), feature.id)):
        pattern = pattern_of(feature)
        if len(chosen) == count or pattern is None or score(feature) == 0:
            break
        chosen.setdefault(pattern.token.strip().casefold(), feature)
    return list(chosen.values())


def summarise(feature: Feature) -> dict[str, Any]:
    """A feature small enough for a job's result: each context is a list of [token, activation]."""
    pattern = pattern_of(feature)
    return {
        "feature": feature.id,
        "token": pattern.token if pattern else None,
        "where": pattern.where if pattern else None,
        "density": feature.density,
        "max_activation": feature.max_activation,
        "contexts": [_shorten(example) for example in feature.examples[:_SHOWN_CONTEXTS]],
    }


def _shorten(example: Example) -> list[list[Any]]:
    first = max(0, example.peak - _SHOWN_TOKENS)
    pairs = list(zip(example.tokens, example.activations, strict=True))[first : example.peak + _SHOWN_TOKENS + 1]
    return [[token, float(f"{value:.4g}")] for token, value in pairs]
