"""`download`: a corpus from a local file or folder, or from the Hugging Face Hub."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import UserError
from tasks.jobs.kind import Catalog, Context, JobKind, Request, flag_of, option
from tasks.parsing.redact import HUB_SECRETS

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.text.files.skipped_counts import SkippedCounts

#: Folders that hold copies of others' code, or tests: little to learn from, or a split of their own.
_SKIP = "site-packages,dist-packages,node_modules,__pycache__,test,tests,idle_test"


@dataclass(frozen=True)
class Params:
    """What to download, and which part of it."""

    source: str = option(
        help="A file or folder (txt, md, py, json, jsonl, csv, parquet, arrow) or a Hub id", positional=True
    )
    column: str = option("text", help="Text column; default: text, or the only text column")
    split: str | None = option(None, help="Split to read; default: train, or all of a folder that has no splits")
    config: str | None = option(None, help="Configuration of a Hub dataset")
    revision: str | None = option(None, help="Branch, tag or commit of a Hub dataset")
    pattern: str | None = option(None, help="Glob on file names in a folder, like '*.py'; default: known extensions")
    skip: str = option(_SKIP, help="Folder names to skip, comma-separated; hidden folders are always skipped")
    limit: int | None = option(None, help="Maximum number of documents", minimum=1)
    limit_bytes: int | None = option(None, help="Maximum bytes of text (approximate)", minimum=1)


def default_name(params: Params) -> str:
    """A name from the source, and from what else differs from the defaults."""
    from tasks.text.dataset_ref import dataset_name

    changed = {
        spec.name: getattr(params, spec.name)
        for spec in dataclasses.fields(Params)
        if spec.name != "source" and getattr(params, spec.name) != spec.default
    }
    return dataset_name(params.source, **changed)


def prepare(params: Params, known: Catalog) -> tuple[Params, list[Request]]:
    """Fix the path to where the user stood, and refuse now what can be known to fail."""
    from tasks.text.dataset_ref import is_hub_id, is_mistyped_path, local_path
    from tasks.text.files.corpus_files import check_source

    path = local_path(params.source)
    if path is not None:
        _refuse_flags(params, () if path.is_dir() else ("split", "pattern", "skip"), "a single file")
        _refuse_flags(params, ("config", "revision"), "local files")
        check_source(path, params.column, params.pattern, _skipped(params), params.split)
        return dataclasses.replace(params, source=str(path)), []
    if not is_hub_id(params.source) or is_mistyped_path(params.source):
        raise UserError(
            f"There is no file or folder {params.source!r}, and it is no Hub id like owner/name.", "Check the path"
        )
    _refuse_flags(params, ("pattern", "skip"), "a dataset of the Hub")
    return params, []


def _refuse_flags(params: Params, names: tuple[str, ...], source: str) -> None:
    """Raise UserError for options that mean nothing for such a source."""
    for spec in dataclasses.fields(Params):
        if spec.name in names and getattr(params, spec.name) != spec.default:
            flag = flag_of(spec.name, Params)
            raise UserError(f"{flag} does not apply to {source}.", f"Leave {flag} out")


KIND = JobKind(
    "download",
    queue="datasets",
    params=Params,
    summary="Load a text corpus from files or the Hugging Face Hub",
    module=__name__,
    secrets=HUB_SECRETS,
    produces="datasets",
    default_name=default_name,
    prepare=prepare,
)


def run(params: Params, context: Context) -> dict[str, Any]:
    """Write the corpus as parquet files; the result says what was left out."""
    from tasks.text.corpus import CorpusWriter
    from tasks.text.files.skipped_counts import SkippedCounts

    counts, writer, state = SkippedCounts(), CorpusWriter(context.output), _state(params)
    context.progress("reading", 0, params.limit, "rows")
    for documents in _documents(params, counts):
        kept = _within(documents, params, writer)
        writer.write(kept)
        context.progress("reading", writer.rows, params.limit, "rows")
        if len(kept) < len(documents):
            break
    writer.close()
    if writer.rows == 0:
        left_out = f" ({'; '.join(counts.left_out)})" if counts.left_out else ""
        raise UserError(f"No document was found in {params.source}{left_out}.", "Give another source or column")
    return {"rows": writer.rows, "bytes": writer.bytes, **dataclasses.asdict(counts), "source_state": state}


def _documents(params: Params, counts: SkippedCounts) -> Iterator[pa.Array]:
    from tasks.text.dataset_hub import HubData, read_hub
    from tasks.text.dataset_ref import local_path
    from tasks.text.files.readers import read_local

    path = local_path(params.source)
    if path is not None:
        return read_local(path, params.column, params.pattern, _skipped(params), counts, params.split)
    if Path(params.source).is_absolute():
        raise UserError(
            f"{params.source} is gone, or not on this host.",
            "Put the files into a folder that all hosts mount, and submit it again",
        )
    wanted = HubData(params.source, params.config, params.split or "train", params.revision)
    return read_hub(wanted, params.column, counts)


def _within(documents: pa.Array, params: Params, writer: Any) -> pa.Array:
    """As many of the documents as the limits still allow; at least one is written in all."""
    import pyarrow.compute as pc

    count = len(documents)
    if params.limit is not None:
        count = min(count, params.limit - writer.rows)
    if params.limit_bytes is not None:
        ends = pc.cumulative_sum(pc.cast(pc.binary_length(documents), "int64"))
        room = params.limit_bytes - writer.bytes
        fitting = pc.sum(pc.cast(pc.less_equal(ends, room), "int64")).as_py() or 0
        count = min(count, max(fitting, int(writer.rows == 0)))
    return documents[:count]


def _skipped(params: Params) -> tuple[str, ...]:
    from tasks.text.files.splits import skipped_folders

    return skipped_folders(params.skip, params.split)


def _state(params: Params) -> str | None:
    """The state of a local source; None for the Hub."""
    from tasks.text.dataset_ref import local_path
    from tasks.text.source_state import source_state

    path = local_path(params.source)
    return None if path is None else source_state(path, params.pattern, _skipped(params))
