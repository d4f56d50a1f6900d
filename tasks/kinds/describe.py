"""`describe`: a quick look at an artifact: where it is from, how large it is, its first lines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.jobs.kind import Catalog, Context, JobKind, Request, option
from tasks.parsing.documents import read_json_object

_FIRST_LINES = 3
_LINE_CHARS = 200
_SHOWN = ("kind", "created_at", "params", "made_from", "result")


@dataclass(frozen=True)
class Params:
    """Which artifact."""

    artifact: str = option(
        help="The artifact as FAMILY/NAME, such as datasets/stdlib", is_artifact=True, positional=True
    )


def prepare(params: Params, known: Catalog) -> tuple[Params, list[Request]]:
    """Refuse what is neither there nor coming."""
    family, name = _split(params.artifact)
    if known.manifest(family, name) is None and not known.is_pending(family, name):
        raise UserError(f"{params.artifact} is not in the store.", "See what is made: mistudio jobs ls")
    return params, []


KIND = JobKind(
    "describe",
    queue="high_priority",
    params=Params,
    summary="Show an artifact: origin, size, first lines",
    module=__name__,
    in_slot=True,
    prepare=prepare,
)


def run(params: Params, context: Context) -> dict[str, Any]:
    """What the manifest says, sizes on disk in bytes, and a look inside by family. Needs no torch."""
    family, name = _split(params.artifact)
    manifest = context.store.manifest(family, name)
    folder = context.store.path(family, name)
    sizes = {file: entry["bytes"] for file, entry in manifest.get("files", {}).items()}
    return {
        "artifact": params.artifact,
        "path": str(folder),
        **{key: manifest.get(key) for key in _SHOWN},
        "bytes": sum(sizes.values()),
        "files": len(sizes),
        **_LOOKS.get(family, _look_at_nothing)(folder),
    }


def _split(artifact: str) -> tuple[str, str]:
    family, slash, name = artifact.partition("/")
    if not (family and slash and name):
        raise UserError(f"{artifact!r} names no artifact.", "Write FAMILY/NAME, such as datasets/stdlib")
    return family, name


def _look_at_dataset(folder: Path) -> dict[str, Any]:
    from tasks.text.corpus import count_rows, read_corpus

    first = next(read_corpus(folder))[:_FIRST_LINES]
    return {"rows": count_rows(folder), "first": [document.strip()[:_LINE_CHARS] for document in first]}


def _look_at_tokens(folder: Path) -> dict[str, Any]:
    from dataclasses import asdict

    from tasks.text.tokenizer_file import read_tokenizer
    from tasks.text.tokens import open_tokens, read_info

    summary = asdict(read_info(folder))
    tokenizer = folder / "tokenizer" / "tokenizer.json"
    if tokenizer.is_file():
        ids = open_tokens(folder)[0].tolist()
        summary["first"] = [
            read_tokenizer(tokenizer, "the tokens").decode(ids, skip_special_tokens=False)[:_LINE_CHARS]
        ]
    return summary


def _look_at_config(folder: Path) -> dict[str, Any]:
    for name in ("cfg.json", "config.json", "activations.json"):
        if (folder / name).is_file():
            return {"config": read_json_object(folder / name, strict=False)}
    return {}


def _look_at_features(folder: Path) -> dict[str, Any]:
    page = folder / "index.html"
    return {"page": str(page)} if page.is_file() else {}


def _look_at_nothing(_folder: Path) -> dict[str, Any]:
    return {}


_LOOKS = {
    "datasets": _look_at_dataset,
    "tokens": _look_at_tokens,
    "models": _look_at_config,
    "activations": _look_at_config,
    "saes": _look_at_config,
    "features": _look_at_features,
}
