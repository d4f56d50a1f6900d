"""`import`: an SAE that others trained, as an artifact of the store."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.jobs.kind import Catalog, Context, JobKind, Request, option
from tasks.parsing.redact import HUB_SECRETS

_LONGEST_NOTE = 500


@dataclass(frozen=True)
class Params:
    """Where it is, and what its files do not say."""

    source: str = option(
        help="A folder or a Hub id: an SAE of SAELens, Gemma Scope (1, 2) or sparsify", positional=True
    )
    path: str | None = option(None, help="Folder of the SAE within the source; required if there are several")
    revision: str | None = option(None, help="A branch, tag or commit on the Hub")
    model: str | None = option(
        None, help="Model it was trained on, if its files do not say or are wrong", artifact="models"
    )
    layer: int | None = option(None, help="Layer whose output it reads, if its files do not say", minimum=0)


def default_name(params: Params) -> str:
    """A name from the source and the folder in it."""
    from tasks.text.dataset_ref import local_path, slug

    folder = local_path(params.source)
    base = folder.name if folder else params.source.replace("/", "--")
    return slug(f"{base}-{params.path}" if params.path else base)


def prepare(params: Params, known: Catalog) -> tuple[Params, list[Request]]:
    """Fix the path to where the user stood; refuse now what can be known to fail."""
    from tasks.models.loading import look_up
    from tasks.sae.importing.convert import describe
    from tasks.text.dataset_ref import is_hub_id, is_mistyped_path, local_path

    folder = local_path(params.source)
    if folder is not None:
        place = _place(folder, params.path)
        describe(place, str(place), _about(params))
        params = dataclasses.replace(params, source=str(folder))
    elif not is_hub_id(params.source) or is_mistyped_path(params.source):
        raise UserError(f"There is no folder {params.source!r}, and it is no Hub id like owner/name.", "Check the path")
    if params.model is not None:
        params = dataclasses.replace(params, model=look_up(params.model, known)[0])
    return params, []


KIND = JobKind(
    "import",
    queue="datasets",
    params=Params,
    summary="Import an SAE from SAELens, Gemma Scope or sparsify (folder or Hub)",
    module=__name__,
    secrets=HUB_SECRETS,
    produces="saes",
    default_name=default_name,
    prepare=prepare,
)


def _about(params: Params) -> dict[str, Any]:
    """What is given of the SAE, by the names of its metadata."""
    hook = None if params.layer is None else f"blocks.{params.layer}.hook_resid_post"
    return {"model_name": params.model, "hook_name": hook, "hook_layer": params.layer}


def run(params: Params, context: Context) -> dict[str, Any]:
    """Fetch it if need be, and write it in the store's form."""
    from tasks.sae.importing.convert import take
    from tasks.text.dataset_ref import local_path

    about = _about(params)
    folder = local_path(params.source)
    if folder is None and Path(params.source).is_absolute():
        raise UserError(
            f"{params.source} is gone, or not on this host.",
            "Put the files into a folder that all hosts mount, and submit it again",
        )
    if folder is None:
        return take_from_hub(params.source, params.path, params.revision, context, about)
    context.progress("converting", 0, 1, "SAEs")
    place = _place(folder, params.path)
    return _noted(context, take(place, context.output, str(place), about, _family(params.model, context.store)))


def _place(folder: Path, path: str | None) -> Path:
    """The SAE's folder within the source. UserError for a path that leads out of that."""
    place = folder / (path or "")
    if not place.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"--path {path} leads out of {folder}.", "Give the folder itself as the source")
    return place


def _noted(context: Context, found: dict[str, Any]) -> dict[str, Any]:
    """What was converted and what was ignored, in the job's history too."""
    for note in found["notes"]:
        context.note(note)
    if found["ignored"]:
        context.note(f"nothing was done with: {', '.join(found['ignored'])}"[:_LONGEST_NOTE])
    unknown = [flag for flag, key in (("--model", "model"), ("--layer", "hook")) if found.get(key) is None]
    if unknown:
        context.note(
            f"its files do not say what it was trained on: `extract` needs it imported with {' and '.join(unknown)}"
        )
    return found


def _family(model: str | None, store: Any) -> str | None:
    """The `model_type` of a model that is named and whose folder is here."""
    from tasks.models.loading import resolve
    from tasks.sae.formats.files import read_object, regular

    if model is None:
        return None
    path = regular(Path(resolve(model, store)), "config.json")
    found = read_object(path).get("model_type") if path is not None else None
    return found if isinstance(found, str) else None


def take_from_hub(
    repo: str, path: str | None, revision: str | None, context: Context, about: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Fetch an SAE into the job's work folder and convert it to the store's format; returns the report of `take`."""
    from tasks.sae.formats.sae_hub import fetch
    from tasks.sae.importing.convert import take

    context.progress("fetching", 0, None, "files")
    folder = context.workdir / "fetched"
    path, commit = fetch(repo, path, revision, folder, lambda done, of: context.progress("fetching", done, of, "files"))
    context.progress("converting", 0, 1, "SAEs")
    about = about or {}
    family = _family(about.get("model_name"), context.store)
    found = take(folder / path, context.output, f"{repo}/{path}".rstrip("/"), about, family)
    return {**_noted(context, found), "commit": commit}
