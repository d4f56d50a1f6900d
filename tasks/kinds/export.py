"""`export`: an SAE of the store in a folder, in the form of another library."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.jobs.kind import Catalog, Context, JobKind, Request, option
from tasks.paths import replace_text
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
    from tasks.sae.formats.exporting import SAE_LENS, write_as
    from tasks.sae.formats.native import read_config

    context.store.manifest("saes", params.sae)
    folder = Path(params.folder)
    sae, note = context.store.path("saes", params.sae), context.workdir / "written"
    if not _is_written(folder, note):
        write_as(params.to, sae, folder, context.job_id, lambda draft: replace_text(note, _identity(draft)))
    if params.to != SAE_LENS:
        _note_what_is_lost(context, params.to.replace("-", "_"), read_config(sae).get("metadata", {}))
    return {"folder": str(folder), "form": params.to, "files": sorted(path.name for path in folder.iterdir())}


def _is_written(folder: Path, note: Path) -> bool:
    """Whether the folder is what an earlier attempt wrote, which was killed before it could record that."""
    try:
        return note.read_text(encoding="utf-8") == _identity(folder)
    except OSError:
        return False


def _identity(folder: Path) -> str:
    """What a folder keeps when it is renamed, and no other has: another one may get its number."""
    state = folder.stat()
    return f"{state.st_dev}:{state.st_ino}:{state.st_mtime_ns}"


def _note_what_is_lost(context: Context, library: str, about: dict[str, Any]) -> None:
    """Say what the other form has no place for, which an import cannot read from its files."""
    known = {"hook": about.get("hook_name"), "model": about.get("model_name")}
    lost = " and ".join(f"the {what} ({name})" for what, name in known.items() if name)
    if lost:
        context.note(f"{library}'s files do not say {lost}: an import needs --layer and --model")
