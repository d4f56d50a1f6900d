"""Artifacts of the store: the list, and the manifest of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mistudio_cli.rest.problem import Problem
from mistudio_cli.rest.route import Answer, Call, param
from tasks.errors import UserError
from tasks.jobs.record import FAMILIES


@dataclass(frozen=True)
class ArtifactList:
    """Which artifacts."""

    family: str | None = param(None, help="Only this family", choices=tuple(FAMILIES))


@dataclass(frozen=True)
class OneArtifact:
    """An artifact by its family and name."""

    family: str = param(help="The family", choices=tuple(FAMILIES), in_path=True)
    name: str = param(help="The name", in_path=True)


async def list_artifacts(call: Call) -> Answer:
    """`GET /api/v1/artifacts`."""
    families = [call.params.family] if call.params.family else list(FAMILIES)
    store = _store(call)
    rows = await call.services.read_disk(
        lambda: [{"family": family, "name": name} for family in families for name in store.names(family)]
    )
    return Answer({"artifacts": rows})


async def show_artifact(call: Call) -> Answer:
    """`GET /api/v1/artifacts/{family}/{name}`."""
    wanted: OneArtifact = call.params
    manifest = await call.services.read_disk(lambda: _manifest(call, wanted))
    return Answer({"family": wanted.family, "name": wanted.name, "manifest": manifest})


def _manifest(call: Call, wanted: OneArtifact) -> dict[str, Any]:
    from tasks.storage.store import is_name

    is_there = wanted.family in FAMILIES and is_name(wanted.name)
    try:
        found = _store(call).find_manifest(wanted.family, wanted.name) if is_there else None
    except UserError as error:
        raise Problem(503, str(error)) from error
    if found is None:
        raise Problem(404, f"The store has no {wanted.family[:40]}/{wanted.name[:100]}.")
    return found


def _store(call: Call) -> Any:
    from tasks.storage.store import Store

    return Store(call.services.places.store)
