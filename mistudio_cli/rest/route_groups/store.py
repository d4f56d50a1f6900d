"""Routes of the store: artifacts, SAEs and their features."""

from __future__ import annotations

from typing import Any

from mistudio_cli.rest import results
from mistudio_cli.rest.handlers import artifacts, saes
from mistudio_cli.rest.route import API, Route
from mistudio_cli.rest.route_groups import sae_results

_ID, _AT = "01kg9t2v8ch7mq", "2026-01-31T12:00:00.000Z"
_SAE: dict[str, Any] = {
    "name": "gpt2-6-topk",
    "architecture": "topk",
    "trained_as": "topk",
    "model": "gpt2",
    "hook": "blocks.6.hook_resid_post",
    "d_in": 768,
    "d_sae": 24576,
    "l0": 31.9,
    "explained_variance": 0.87,
    "dead_share": 0.01,
    "created_at": _AT,
    "hooks": ["blocks.6.hook_resid_post"],
    "hook_out": None,
    "d_out": 768,
    "dead_fraction": 0.01,
    "fvu": 0.13,
    "bytes": 151093248,
    "job": _ID,
}
_EXTRACTION: dict[str, Any] = {
    "name": "gpt2-6-topk",
    "created_at": _AT,
    "job": "01kg9t2v8ch7mr",
    "hook": "transformer.h.6",
    "features": 24576,
    "fired": 24100,
    "live": 23890,
    "tokens": 1000000,
    "same_token_share": 0.41,
    "interpretable": [17],
}
_FEATURE: dict[str, Any] = {
    "id": 17,
    "density": 0.0012,
    "contexts": 812,
    "max_activation": 7.25,
    "pattern": {"where": "at", "token": " river", "share": 0.9},
    "top_tokens": [" river"],
    "examples": [{"tokens": [" the", " river"], "activations": [0.0, 7.25], "peak": 1, "at_row_start": False}],
    "more_examples": 9,
}


STORE: tuple[Route, ...] = (
    Route(
        "GET",
        f"{API}/artifacts",
        "The artifacts of the store",
        artifacts.list_artifacts,
        results.Artifacts,
        {"artifacts": [{"family": "saes", "name": "gpt2-6-topk"}]},
        params=artifacts.ArtifactList,
        lists=True,
    ),
    Route(
        "GET",
        f"{API}/artifacts/{{family}}/{{name}}",
        "The manifest of an artifact",
        artifacts.show_artifact,
        results.Manifest,
        {"family": "saes", "name": "gpt2-6-topk", "manifest": {"kind": "train"}},
        params=artifacts.OneArtifact,
    ),
    Route(
        "GET",
        f"{API}/saes",
        "List the SAEs of the store by name",
        saes.list_saes,
        sae_results.SaePage,
        {"saes": [_SAE], "next": None, "errors": []},
        params=saes.SaeList,
        lists=True,
    ),
    Route(
        "GET",
        f"{API}/saes/{{name}}",
        "Show an SAE in full: manifest, configuration, evaluation, extractions",
        saes.show_sae,
        sae_results.SaeInFull,
        {
            **_SAE,
            "path": "/srv/store/saes/gpt2-6-topk",
            "kind": "train",
            "made_from": {"model": "models/gpt2", "dataset": "tokens/pile"},
            "params": {"layer": 6, "k": 32},
            "result": {"l0": 31.9},
            "files": {"cfg.json": 712},
            "config": {"architecture": "topk"},
            "extractions": [_EXTRACTION],
        },
        params=saes.OneSae,
    ),
    Route(
        "GET",
        f"{API}/saes/{{name}}/features",
        "List the features that an extraction found, with their strongest examples",
        saes.list_features,
        sae_results.Features,
        {
            "sae": "gpt2-6-topk",
            "extraction": _EXTRACTION,
            "features": [_FEATURE],
            "next": 48213,
            "read_fraction": 0.25,
            "unreadable": 0,
        },
        params=saes.FeaturePage,
    ),
)
