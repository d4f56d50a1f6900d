"""`push`: an SAE of the store to the Hugging Face Hub, with a model card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tasks.errors import UserError
from tasks.jobs.kind import Catalog, Context, JobKind, Request, option
from tasks.parsing.redact import HUB_SECRETS


@dataclass(frozen=True)
class Params:
    """Which SAE, and where to."""

    sae: str = option(help="Name of the SAE in the store", artifact="saes", positional=True)
    repo: str = option(help="Hub repository (owner/name); created if it does not exist", positional=True)
    path: str | None = option(None, help="Folder in the repository; default: the SAE's name")
    private: bool = option(False, help="Create a new repository as private")


def default_name(params: Params) -> str:
    """The SAE's name."""
    return params.sae


def prepare(params: Params, known: Catalog) -> tuple[Params, list[Request]]:
    """Refuse an SAE that is neither there nor coming, and what cannot be a repository."""
    from tasks.models.loading import is_hub_id

    if known.manifest("saes", params.sae) is None and not known.is_pending("saes", params.sae):
        raise UserError(f"There is no saes/{params.sae} in the store.", "See what there is: mistudio saes ls")
    if not is_hub_id(params.repo):
        raise UserError(f"{params.repo!r} cannot be a repository of the Hub.", "Write it as owner/name")
    return params, []


KIND = JobKind(
    "push",
    queue="datasets",
    params=Params,
    summary="Upload an SAE to the Hugging Face Hub, with a model card",
    module=__name__,
    secrets=HUB_SECRETS,
    default_name=default_name,
    prepare=prepare,
)


def run(params: Params, context: Context) -> dict[str, Any]:
    """One commit with the SAE's folder, its record and the cards; the result says where it is."""
    import json
    from pathlib import Path

    from tasks.sae.formats import sae_hub
    from tasks.sae.formats.exporting import for_sae_lens
    from tasks.sae.formats.model_card import RECORD, card, record, without_paths
    from tasks.sae.formats.native import CONFIG, DENSITY, WEIGHTS, load_sae, read_config

    context.progress("pushing", 0, None, "files")
    saved, folder = record(context.store, params.sae), context.store.path("saes", params.sae)
    load_sae(folder)  # or it says what is wrong with it
    path = (params.path or params.sae).strip("/")
    config = read_config(folder)
    config = without_paths({**config, "metadata": for_sae_lens(config.get("metadata", {}))})
    text = card(saved, config, params.repo, path, sae_hub.others_in(params.repo, path))
    files: dict[str, Path | bytes] = {
        f"{path}/{name}": folder / name for name in (WEIGHTS, DENSITY, "metrics.jsonl") if (folder / name).is_file()
    }
    files |= {f"{path}/{name}": json.dumps(v, indent=2).encode() for name, v in ((CONFIG, config), (RECORD, saved))}
    files |= {place: text.encode() for place in (f"{path}/README.md", "README.md")}
    where = sae_hub.push(params.repo, files, params.private, f"Add {path}")
    return {"repo": params.repo, "path": path, "commit": where, "files": sorted(files)}
