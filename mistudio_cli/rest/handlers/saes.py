"""SAEs of the store: the list, one in full, and the features that an extraction found in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from mistudio_cli.rest.problem import Problem
from mistudio_cli.rest.route import Answer, Call, param
from mistudio_cli.terminal.output import speakable
from mistudio_cli.views import feature_json, sae_tables
from tasks.errors import UserError
from tasks.storage.store import Store, is_name

T = TypeVar("T")

#: An unsigned number of 15 digits at most: a position in a file.
_POSITION = 10**15


@dataclass(frozen=True)
class SaeList:
    """Which page of the list."""

    limit: int = param(100, help="Maximum number of SAEs", minimum=1, maximum=500)
    after: str | None = param(None, help="The `next` of the page before")


@dataclass(frozen=True)
class OneSae:
    """An SAE by its name."""

    name: str = param(help="The SAE's name", in_path=True)


@dataclass(frozen=True)
class FeaturePage:
    """Which features of an SAE."""

    name: str = param(help="The SAE's name", in_path=True)
    extraction: str | None = param(None, help="Name of the features in the store; default: the newest of this SAE")
    search: str = param("", help="Only features of this number, or with this text in the token of a peak")
    after: int = param(0, help="The `next` of the page before", minimum=0, maximum=_POSITION)
    limit: int = param(20, help="Maximum number of features", minimum=1, maximum=100)
    examples: int = param(5, help="Maximum number of examples of each", minimum=1, maximum=20)


async def list_saes(call: Call) -> Answer:
    """`GET /api/v1/saes`, by name."""
    wanted: SaeList = call.params
    return Answer(await _read(call, lambda store: _page_of(store, wanted)))


async def show_sae(call: Call) -> Answer:
    """`GET /api/v1/saes/{name}`, as `saes show --json`, with its configuration and its extractions."""
    name = call.params.name
    return Answer(await _read(call, lambda store: _in_full(store, name)))


async def list_features(call: Call) -> Answer:
    """`GET /api/v1/saes/{name}/features`, by number."""
    wanted: FeaturePage = call.params
    return Answer(await _read(call, lambda store: _features(store, wanted)))


async def _read(call: Call, work: Callable[[Store], T]) -> T:
    """What that reads of the store, numbers that JSON does not have as null. Problem 503 when the disk is silent."""
    store = Store(call.services.places.store)
    try:
        return speakable(await call.services.read_disk(lambda: work(store)))
    except TimeoutError:
        raise Problem(503, "The disk of the store does not answer.", {"retry-after": "1"}) from None


def _page_of(store: Store, wanted: SaeList) -> dict[str, Any]:
    names = [name for name in store.names(sae_tables.FAMILY) if name > (wanted.after or "")]
    shown = names[: wanted.limit]
    saes, damaged = sae_tables.listed(store, shown)
    return {
        "saes": saes,
        "next": shown[-1] if len(names) > len(shown) else None,
        "errors": [{"part": sae_tables.FAMILY, "message": str(error)} for error in damaged],
    }


def _in_full(store: Store, name: str) -> dict[str, Any]:
    _check(store, sae_tables.FAMILY, name)
    return {
        **sae_tables.shown(store, name),
        "config": sae_tables.configuration(store, name),
        "extractions": feature_json.extractions(store, name),
    }


def _features(store: Store, wanted: FeaturePage) -> dict[str, Any]:
    _check(store, sae_tables.FAMILY, wanted.name)
    found = {each["name"]: each for each in feature_json.extractions(store, wanted.name)}
    if not found:
        command = f"mistudio submit extract --sae {wanted.name}"
        raise Problem(404, f"No extraction of {wanted.name} has finished. Run: {command}")
    name = wanted.extraction or next(iter(found))
    if name not in found:
        raise Problem(404, f"{wanted.name} has no extraction {name[:100]!r}; it has: {', '.join(found)[:500]}")
    try:
        page = feature_json.page(store, name, wanted.after, wanted.search, wanted.limit, wanted.examples)
    except FileNotFoundError:
        raise Problem(404, f"features/{name} has no list of features.") from None
    except UserError as error:
        raise Problem(400, str(error)) from error
    return {"sae": wanted.name, "extraction": found[name], **page}


def _check(store: Store, family: str, name: str) -> None:
    """Problem 404 for an artifact that the store does not have, 503 for one whose manifest is damaged."""
    try:
        is_there = is_name(name) and store.find_manifest(family, name) is not None
    except UserError as error:
        raise Problem(503, str(error)) from error
    if not is_there:
        raise Problem(404, f"The store has no {family}/{name[:100]}.")
