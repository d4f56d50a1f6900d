"""The features of a finished extraction, a page at a time, from the lines of its `features.jsonl`."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from tasks.parsing.documents import Malformed
from tasks.storage.artifact_lines import open_file, read_lines
from tasks.storage.store import Store

FAMILY, _FILE = "features", "features.jsonl"

#: Bytes of lines on one page, and of the file that are read for it.
_PAGE_BYTES, _READ_BYTES = 4 << 20, 16 << 20

#: Of an example that is shown: tokens on each side of its peak, and characters of a token.
_TOKENS_BESIDE, _TOKEN_CHARS = 40, 100
_TOP_TOKENS = 8


def page(store: Store, name: str, after: int, search: str, limit: int, examples: int) -> dict[str, Any]:
    """At most `limit` features from the position `after` on whose number, or a peak's token, is what is searched.

    FileNotFoundError where there are no features; UserError for an `after` that no page ended with.
    """
    wanted = _matcher(search)
    with open_file(store, FAMILY, name, _FILE) as file:
        found = read_lines(file, after, wanted, most=limit, most_bytes=_PAGE_BYTES, most_read=_READ_BYTES)
        size = file.seek(0, 2)
    records = [_read(line) for line in found.lines]
    return {
        "features": [_feature(record, examples) for record in records if record is not None],
        "next": found.next,
        "read_fraction": 1.0 if found.next is None else round(found.next / size, 4),
        "unreadable": found.skipped + records.count(None),
    }


def _matcher(search: str) -> Callable[[bytes], bool]:
    """Whether a line is of a feature that is searched; all are for an empty search."""
    words = search.strip() or search  # a search for a space is one
    if not words:
        return lambda line: bool(line.strip())
    folded = words.casefold()
    number = int(words) if re.fullmatch(r"[0-9]{1,9}", words) else None

    def is_wanted(line: bytes) -> bool:
        record = _read(line)
        if record is None:
            return False
        tokens = (_peak_token(example) for example in _examples(record))
        return record["id"] == number or any(folded in token.casefold() for token in tokens)

    return is_wanted


def _read(line: bytes) -> dict[str, Any] | None:
    """The record in a line; None for one that cannot be read."""
    try:
        record = json.loads(line)  # not by tasks.parsing.documents, which takes ten times as long: a search reads many
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("id"), int) else None


def _feature(record: dict[str, Any], examples: int) -> dict[str, Any]:
    found = _examples(record)
    pattern = record.get("pattern")
    return {
        "id": record["id"],
        "density": _number(record.get("density")),
        "contexts": _number(record.get("contexts")),
        "max_activation": _number(record.get("max_activation")),
        "pattern": _pattern(pattern) if isinstance(pattern, dict) else None,
        "top_tokens": [token for token, _ in Counter(map(_peak_token, found)).most_common(_TOP_TOKENS)],
        "examples": [_example(example) for example in found[:examples]],
        "more_examples": max(0, len(found) - examples),
    }


def _examples(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that are sound: as many activations as tokens, and a peak among them."""
    found = record.get("examples")
    return [example for example in found if _is_sound(example)] if isinstance(found, list) else []


def _is_sound(example: Any) -> bool:
    if not isinstance(example, dict):
        return False
    tokens, values, peak = (example.get(key) for key in ("tokens", "activations", "peak"))
    return (
        isinstance(tokens, list)
        and isinstance(values, list)
        and len(tokens) == len(values)
        and isinstance(peak, int)
        and 0 <= peak < len(tokens)
        and all(isinstance(token, str) for token in tokens)
        and all(isinstance(value, (int, float)) for value in values)
    )


def _peak_token(example: dict[str, Any]) -> str:
    return _cut(example["tokens"][example["peak"]])


def _example(example: dict[str, Any]) -> dict[str, Any]:
    peak, tokens = example["peak"], example["tokens"]
    first = max(0, peak - _TOKENS_BESIDE)
    shown = slice(first, peak + _TOKENS_BESIDE + 1)
    return {
        "tokens": [_cut(token) for token in tokens[shown]],
        "activations": [_number(value) for value in example["activations"][shown]],
        "peak": peak - first,
        "at_row_start": example.get("at_row_start") is True and not first,
    }


def _pattern(pattern: dict[str, Any]) -> dict[str, Any]:
    where, token = (pattern.get(key) for key in ("where", "token"))
    return {
        "where": where if isinstance(where, str) else None,
        "token": _cut(token) if isinstance(token, str) else None,
        "share": _number(pattern.get("share")),
    }


def _number(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) else None


def _cut(token: str) -> str:
    return token if len(token) <= _TOKEN_CHARS else f"{token[:_TOKEN_CHARS]}…"


def extractions(store: Store, sae: str) -> list[dict[str, Any]]:
    """The finished extractions of an SAE, the newest first: what a page must know to show one."""
    found = []
    for name in store.names(FAMILY):
        try:
            manifest = store.find_manifest(FAMILY, name) or {}
        except Malformed:
            continue
        params, result = (_table(manifest.get(key)) for key in ("params", "result"))
        if params.get("sae") == sae:
            found.append(_extraction(name, manifest, params, result))
    return sorted(found, key=lambda each: str(each["created_at"]), reverse=True)


def _extraction(name: str, manifest: dict[str, Any], params: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    numbers = {key: _number(result.get(key)) for key in ("features", "fired", "live", "tokens", "same_token_share")}
    created_at, job, hook = manifest.get("created_at"), manifest.get("job"), result.get("hook")
    return {
        "name": name,
        "created_at": created_at if isinstance(created_at, str) else None,
        "job": job if isinstance(job, str) else None,
        "hook": hook if isinstance(hook, str) else None,
        **numbers,
        "interpretable": _numbers_of(result.get("telling")),
    }


def _numbers_of(entries: Any) -> list[int]:
    """The features that the extraction named as the most interpretable."""
    rows: Sequence[Any] = entries if isinstance(entries, list) else ()
    return [row["feature"] for row in rows if isinstance(row, dict) and isinstance(row.get("feature"), int)]


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
