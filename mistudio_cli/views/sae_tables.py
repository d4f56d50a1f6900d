"""The SAEs of the store as the commands show them: read from manifests and `cfg.json`, as JSON and as rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from tasks.jobs.kind import flag_of, kinds
from tasks.parsing.documents import Malformed, read_json_object
from tasks.storage.store import Store

FAMILY = "saes"


def listed(store: Store, names: Sequence[str] | None = None) -> tuple[list[dict[str, Any]], list[Malformed]]:
    """`saes ls --json`: what a list says of each, null where its files do not; and what is wrong with damaged ones.

    Of all SAEs, or of those `names`.
    """
    lines, damaged = [], []
    for name in store.names(FAMILY) if names is None else names:
        try:
            lines.append(_line(store, name))
        except Malformed as malformed:
            damaged.append(malformed)
    return lines, damaged


def shown(store: Store, name: str) -> dict[str, Any]:
    """`saes show --json`: all that is known of one. UserError when the store has no such SAE."""
    manifest = store.manifest(FAMILY, name)
    files = {file: _table(entry).get("bytes") for file, entry in _table(manifest.get("files")).items()}
    return {
        **_line(store, name),
        "path": str(store.path(FAMILY, name)),
        "kind": manifest.get("kind"),
        "made_from": _table(manifest.get("made_from")),
        "params": _table(manifest.get("params")),
        "result": _table(manifest.get("result")),
        "files": files,
    }


def table(lines: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headers and rows of a list."""
    headers = ["NAME", "ARCH", "MODEL", "HOOK", "FEATURES", "L0", "EXPL.VAR.", "DEAD FRAC."]
    rows = [{**line, "trained_as": _kind(line), "hook": _hooks(line)} for line in lines]
    return headers, [[_cell(line, key) for key in _COLUMNS] for line in rows]


def facts(details: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headers and rows of what is known of one; its options and measures by their own names."""
    known = {**details, "hook": _hooks(details)}
    rows = [[key, _text(known[key])] for key in _FACTS if known[key] is not None]
    rows += [[f"made from {key}", str(value)] for key, value in details["made_from"].items()]
    kind = kinds().get(str(details["kind"]))  # None of one that another version has
    params = None if kind is None else kind.params
    rows += [[flag_of(key, params), _text(v)] for key, v in details["params"].items() if v is not None]
    measured = {key: value for key, value in details["result"].items() if key not in _SHAPE}
    errors = _table(details["result"].get("standard_errors"))
    rows += [
        [key, _with_error(value, errors.get(key))]
        for key, value in measured.items()
        if value is not None and not isinstance(value, (dict, list))
    ]
    rows += _densities(details["result"].get("density_histogram"))
    return ["WHAT", "VALUE"], rows + [[file, f"{size} bytes"] for file, size in details["files"].items()]


_COLUMNS = ("name", "trained_as", "model", "hook", "d_sae", "l0", "explained_variance", "dead_fraction")
_SHAPE = ("architecture", "trained_as", "model", "hook", "d_in", "d_out", "d_sae")
_FACTS = ("name", "path", *_SHAPE, "kind", "job", "created_at")


def _line(store: Store, name: str) -> dict[str, Any]:
    manifest, config = store.manifest(FAMILY, name), _config(store, name)
    about, result = config.get("metadata") or {}, _table(manifest.get("result"))
    return {
        "name": name,
        "architecture": _word(config.get("architecture")),
        "trained_as": _word(about.get("trained_as")),
        "model": _word(about.get("model_name")),
        "hook": _word(about.get("hook_name")),
        "d_in": config.get("d_in"),
        "d_sae": config.get("d_sae"),
        "l0": result.get("l0"),
        "explained_variance": result.get("explained_variance"),
        "dead_share": _dead_fraction(result),
        "created_at": _time(manifest.get("created_at")),
        "hooks": names
        if _is_texts(names := about.get("hook_names")) and names
        else _alone(_word(about.get("hook_name"))),
        "hook_out": _word(about.get("hook_name_out")),
        "d_out": config.get("d_out", config.get("d_in")),
        "dead_fraction": _dead_fraction(result),
        "fvu": result.get("fvu"),
        "bytes": _size(manifest),
        "job": _word(manifest.get("job")),
    }


def _size(manifest: dict[str, Any]) -> int | None:
    """Bytes of its files by the manifest; None where that does not say."""
    sizes: list[Any] = [_table(entry).get("bytes") for entry in _table(manifest.get("files")).values()]
    return sum(sizes) if sizes and _are_counts(sizes) else None


def configuration(store: Store, name: str) -> dict[str, Any]:
    """What `cfg.json` says in texts, numbers and lists of texts; nothing of one that is damaged."""
    return _config(store, name)


def _dead_fraction(result: dict[str, Any]) -> float | None:
    """By its name of today or, of an older SAE, by that of before."""
    return result.get("dead_fraction", result.get("dead_share"))


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _alone(hook: str | None) -> list[str] | None:
    return None if hook is None else [hook]


def _kind(line: dict[str, Any]) -> str | None:
    """What it was trained as, and that it is a transcoder or a crosscoder if it is one."""
    ending = re.search(r"(skip_)?transcoder$|crosscoder$", line["architecture"] or "")
    words = [line["trained_as"], ending and ending[0].replace("_", " ")]
    return " ".join(filter(None, words)) or None


def _hooks(line: dict[str, Any]) -> str | None:
    """What it reads and, of a transcoder, what it writes; the layers of a crosscoder in one word."""
    if line["hooks"] is None:
        return None
    words = [list(dict.fromkeys(words)) for words in zip(*(hook.split(".") for hook in line["hooks"]), strict=False)]
    read = ".".join(map(",".join, words))
    return read if line["hook_out"] is None else f"{read} -> {line['hook_out']}"


def _densities(value: Any) -> list[list[str]]:
    """How often features fire, one bar for each half decade, between the first and the last in which there are any."""
    value = _table(value)
    from mistudio_cli.views.sparklines import bars

    counts, edges, never = value.get("counts"), value.get("log10_edges"), value.get("never")
    if not (_are_counts(counts) and _are_edges(edges) and len(edges) == len(counts) + 1 and _are_counts([never])):
        return []  # of a damaged file
    held = [place for place, count in enumerate(counts) if count]
    if not held:
        return [["feature density", f"none of {never} ever fired"]]
    low, high = held[0], held[-1] + 1
    drawn = f"1e{edges[low]:g} {bars(counts[low:high])} 1e{edges[high]:g}"
    return [["feature density", f"{drawn}, {never} of {never + sum(counts)} never fired"]]


def _config(store: Store, name: str) -> dict[str, Any]:
    """What `cfg.json` says in texts, numbers and lists of texts; nothing of one that is damaged."""
    path = store.path(FAMILY, name) / "cfg.json"
    try:
        found = read_json_object(path, strict=False) if path.is_file() else {}
    except (OSError, Malformed):
        return {}
    about = found.get("metadata")
    return {**_plain(found), "metadata": _plain(about)}


def _plain(fields: Any) -> dict[str, Any]:
    return {
        key: value for key, value in _table(fields).items() if isinstance(value, (str, int, float)) or _is_texts(value)
    }


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(item) is int and 0 <= item < 2**53 for item in values)


def _are_edges(values: Any) -> bool:
    return isinstance(values, list) and all(type(item) in (int, float) and abs(item) < 1000 for item in values)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _time(value: Any) -> str | None:
    try:
        return f"{datetime.fromisoformat(value).astimezone(UTC):%Y-%m-%dT%H:%M:%S}.000Z"
    except (TypeError, ValueError, OverflowError):
        return None


def _cell(line: dict[str, Any], key: str) -> str:
    value = line[key]
    if value is None:
        return "-"
    share = key in ("explained_variance", "dead_fraction") and isinstance(value, (int, float))
    return f"{value:.3f}" if share else _text(value)


def _with_error(value: Any, error: Any) -> str:
    return _text(value) if not isinstance(error, (int, float)) else f"{_text(value)} ± {error:.2g}"


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
