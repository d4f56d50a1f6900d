"""The SAEs of the store as the commands tell of them: read from manifests and `cfg.json`, as JSON and as rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from tasks.store import Store

FAMILY = "saes"


def listed(store: Store) -> list[dict[str, Any]]:
    """`saes ls --json`, each of them: what a list tells. What an SAE's files do not say is null."""
    return [_line(store, name) for name in store.names(FAMILY)]


def shown(store: Store, name: str) -> dict[str, Any]:
    """`saes show --json`: all that is known of one. Problem when the store has no such SAE."""
    manifest = store.manifest(FAMILY, name)
    files = {file: told.get("bytes") for file, told in manifest.get("files", {}).items()}
    return {
        **_line(store, name),
        "path": str(store.path(FAMILY, name)),
        "kind": manifest.get("kind"),
        "job": manifest.get("job"),
        "made_from": manifest.get("made_from", {}),
        "params": manifest.get("params", {}),
        "result": manifest.get("result", {}),
        "files": files,
    }


def table(lines: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headers and rows of a list."""
    headers = ["name", "trained as", "model", "hook", "features", "active", "explained", "dead"]
    return headers, [[_cell(line, key) for key in _COLUMNS] for line in lines]


def facts(told: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headers and rows of what is known of one; its options and measures by their own names."""
    rows = [[key, _text(told[key])] for key in _FACTS if told[key] is not None]
    rows += [[f"made from {key}", str(value)] for key, value in told["made_from"].items()]
    rows += [[f"--{key.replace('_', '-')}", _text(v)] for key, v in told["params"].items() if v is not None]
    rows += [[key, _text(v)] for key, v in told["result"].items() if v is not None and not isinstance(v, (dict, list))]
    rows += _densities(told["result"].get("density_histogram"))
    return ["what", "value"], rows + [[file, f"{size} bytes"] for file, size in told["files"].items()]


_COLUMNS = ("name", "trained_as", "model", "hook", "d_sae", "l0", "explained_variance", "dead_share")
_FACTS = ("name", "path", "architecture", "trained_as", "model", "hook", "d_in", "d_sae", "kind", "job", "created_at")


def _line(store: Store, name: str) -> dict[str, Any]:
    manifest, config = store.manifest(FAMILY, name), _config(store, name)
    about, result = config.get("metadata") or {}, manifest.get("result") or {}
    return {
        "name": name,
        "architecture": config.get("architecture"),
        "trained_as": about.get("trained_as"),
        "model": about.get("model_name"),
        "hook": about.get("hook_name"),
        "d_in": config.get("d_in"),
        "d_sae": config.get("d_sae"),
        "l0": result.get("l0"),
        "explained_variance": result.get("explained_variance"),
        "dead_share": result.get("dead_share"),
        "created_at": _time(manifest.get("created_at")),
    }


def _densities(told: dict[str, Any] | None) -> list[list[str]]:
    """How often features fire, one bar for each half decade, between the first and the last in which there are any."""
    if told is None:
        return []
    from mistudio_cli.sparks import bars

    counts, edges = told["counts"], told["log10_edges"]
    held = [place for place, count in enumerate(counts) if count]
    if not held:
        return [["feature density", f"none of {told['never']} ever fired"]]
    low, high = held[0], held[-1] + 1
    drawn = f"1e{edges[low]:g} {bars(counts[low:high])} 1e{edges[high]:g}"
    return [["feature density", f"{drawn}, {told['never']} of {told['never'] + sum(counts)} never fired"]]


def _config(store: Store, name: str) -> dict[str, Any]:
    try:
        return json.loads((store.path(FAMILY, name) / "cfg.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def _time(told: str | None) -> str | None:
    return told and f"{datetime.fromisoformat(told).astimezone(UTC):%Y-%m-%dT%H:%M:%S}.000Z"


def _cell(line: dict[str, Any], key: str) -> str:
    value = line[key]
    if value is None:
        return "-"
    return f"{value:.3f}" if key in ("explained_variance", "dead_share") else _text(value)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
