"""`pull`: an SAE from the Hugging Face Hub into the store; what was pushed comes back with its record."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from tasks.errors import UserError
from tasks.jobs.kind import Catalog, Context, JobKind, Request, option
from tasks.kinds import import_sae
from tasks.parsing.redact import HUB_SECRETS


@dataclass(frozen=True)
class Params:
    """Which repository, which SAE in it."""

    repo: str = option(help="Hub repository (owner/name)", positional=True)
    path: str | None = option(None, help="Folder of the SAE in the repository; required if there are several")
    revision: str | None = option(None, help="A branch, tag or commit")


def default_name(params: Params) -> str:
    """The folder's name, else the repository's."""
    from tasks.text.dataset_ref import slug

    return slug(params.path.strip("/") if params.path else params.repo.replace("/", "--"))


def prepare(params: Params, known: Catalog) -> tuple[Params, list[Request]]:
    """Refuse what cannot be a repository."""
    from tasks.models.loading import is_hub_id

    if not is_hub_id(params.repo):
        raise UserError(
            f"{params.repo!r} cannot be a repository of the Hub.",
            "Write it as owner/name; for a folder: mistudio saes import FOLDER",
        )
    return params, []


KIND = JobKind(
    "pull",
    queue="datasets",
    params=Params,
    summary="Download an SAE from the Hugging Face Hub",
    module=__name__,
    secrets=HUB_SECRETS,
    produces="saes",
    default_name=default_name,
    prepare=prepare,
)


def run(params: Params, context: Context) -> dict[str, Any]:
    """As the import of the same Hub id."""
    values = dataclasses.asdict(params)
    return import_sae.take_from_hub(values.pop("repo"), context=context, **values)
