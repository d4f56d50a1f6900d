"""The shapes of answers on SAEs and their features; see `results`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SaeJson:
    """An SAE in a list; null is what its files do not say."""

    name: str
    architecture: str | None
    trained_as: str | None
    model: str | None
    hook: str | None
    d_in: int | None
    d_sae: int | None
    l0: float | None
    explained_variance: float | None
    dead_share: float | None
    created_at: str | None
    hooks: list[str] | None
    hook_out: str | None
    d_out: int | None
    dead_fraction: float | None
    fvu: float | None
    bytes: int | None
    job: str | None


@dataclass(frozen=True)
class SaePage:
    """SAEs by name; `next` continues the list, `errors` names those whose manifest is damaged."""

    saes: list[SaeJson]
    next: str | None
    errors: list[dict[str, Any]]


@dataclass(frozen=True)
class Extraction:
    """A finished extraction of an SAE's features; `interpretable` are the features that look most so."""

    name: str
    created_at: str | None
    job: str | None
    hook: str | None
    features: float | None
    fired: float | None
    live: float | None
    tokens: float | None
    same_token_share: float | None
    interpretable: list[int]


@dataclass(frozen=True)
class SaeInFull(SaeJson):
    """An SAE with its manifest, its configuration and the extractions of its features, newest first."""

    path: str
    kind: str | None
    made_from: dict[str, Any]
    params: dict[str, Any]
    result: dict[str, Any]
    files: dict[str, int | None]
    config: dict[str, Any]
    extractions: list[Extraction]


@dataclass(frozen=True)
class Example:
    """A context of a feature: tokens, the activation on each, and the place of the peak among them."""

    tokens: list[str]
    activations: list[float | None]
    peak: int
    at_row_start: bool


@dataclass(frozen=True)
class FeatureJson:
    """A feature: the share of tokens it fires on, tokens of its peaks (most frequent first), its strongest examples."""

    id: int
    density: float | None
    contexts: float | None
    max_activation: float | None
    pattern: dict[str, Any] | None
    top_tokens: list[str]
    examples: list[Example]
    more_examples: int


@dataclass(frozen=True)
class Features:
    """Features by number. `next` continues the list, which has been read up to `read_fraction`.

    A page of a rare word may have few or none and yet a `next`. `unreadable` lines were left out.
    """

    sae: str
    extraction: Extraction
    features: list[FeatureJson]
    next: int | None
    read_fraction: float
    unreadable: int
