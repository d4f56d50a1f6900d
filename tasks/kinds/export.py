"""`export`: an SAE of the store in a folder, in the form of another library."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.jobs.kind import Catalog, Context, JobKind, Request, option
from tasks.sae.formats.exporting import FORMS


@dataclass(frozen=True)
class Params:
    """Which SAE, as what, where to."""

    sae: str = option(help="Name of the SAE in the store", artifact="saes", positional=True)
    folder: str = option(help="New folder to write", positional=True)
    to: str = option("sae-lens", help="Target library", choices=FORMS, several=False)


def default_name(params: Params) -> str:
    """The SAE's name."""
    return params.sae


def prepare(params: Params, known: Catalog) -> tuple[Params, list[Request]]:
    """Fix the path to where the user stood; refuse an SAE that is neither there nor coming, or that the form has no
    words for, and a folder that is there."""
    from tasks.sae.formats.exporting import refuse_taken, refuse_wordless
    from tasks.sae.formats.native import read_shape

    if known.manifest("saes", params.sae) is not None:
        refuse_wordless(params.to, read_shape(known.path("saes", params.sae)))
    elif not known.is_pending("saes", params.sae):
        raise UserError(f"There is no saes/{params.sae} in the store.", "See what there is: mistudio saes ls")
    folder = Path(params.folder).expanduser().absolute()
    refuse_taken(folder)
    return dataclasses.replace(params, folder=str(folder)), []


KIND = JobKind(
    "export",
    queue="processing",
    params=Params,
    summary="Write an SAE into a folder for SAELens, dictionary_learning or sparsify",
    module=__name__,
    default_name=default_name,
    prepare=prepare,
)


def run(params: Params, context: Context) -> dict[str, Any]:
    """Write the folder, whole or not at all."""
    from tasks.sae.formats.exporting import write_as

    context.store.manifest("saes", params.sae)
    folder = Path(params.folder)
    write_as(params.to, context.store.path("saes", params.sae), folder, context.job_id)
    return {"folder": str(folder), "form": params.to, "files": sorted(path.name for path in folder.iterdir())}
