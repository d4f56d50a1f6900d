"""The route of the kinds of job."""

from __future__ import annotations

from typing import Any

from mistudio_cli.rest.handlers import kinds
from mistudio_cli.rest.route import API, Route
from mistudio_cli.rest.route_groups import kind_results

_LAYER: dict[str, Any] = {
    "name": "layer",
    "flag": "--layer",
    "type": "integer",
    "nullable": True,
    "required": False,
    "main": True,
    "default": None,
    "choices": None,
    "minimum": 0,
    "maximum": None,
    "artifact": None,
    "help": "Layer index, from 0",
}
_PRIORITY = {
    **_LAYER,
    "name": "priority",
    "flag": "--priority",
    "main": False,
    "maximum": 10,
    "help": "0 (low) to 10 (high)",
}
_TRAIN = {"name": "train", "queue": "training", "summary": "Train a sparse autoencoder", "produces": "saes"}

JOB_KINDS: tuple[Route, ...] = (
    Route(
        "GET",
        f"{API}/kinds",
        "The kinds of job that can be submitted, with their parameters",
        kinds.list_kinds,
        kind_results.Kinds,
        {"kinds": [{**_TRAIN, "params": [_LAYER]}], "options": [_PRIORITY]},
        lists=True,
    ),
)
