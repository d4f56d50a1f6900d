"""The model card of an SAE, and the record that is published with it.

The record, `mistudio.json`, is its manifest and what it was made from, without paths of the machine that made it. An
SAE that was itself fetched keeps the record it came with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.sae.formats.files import read_object, regular
from tasks.sae.formats.foreign_sae import OWN_NAME

RECORD = "mistudio.json"

_KEPT = ("name", "kind", "created_at", "params", "made_from", "result", "versions")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
#: Architectures that SAELens has no class for.
_NOT_IN_SAELENS = re.compile(r"(gated|topk)_(skip_)?transcoder|\w+_crosscoder")
_DEEPEST = 8
_WHERE = {"local": "a folder on the machine that trained it", "store": "the store of the machine that trained it"}


def record(store: Any, name: str) -> dict[str, Any]:
    """What is known of saes/`name` and of all that it was made from. UserError when it is not in the store."""
    manifest = store.manifest("saes", name)
    if (path := regular(store.path("saes", name), RECORD)) is not None:
        return read_object(path)
    return without_paths({**_of(manifest), "lineage": _lineage(store, manifest, {})})


def _lineage(store: Any, manifest: Mapping[str, Any], seen: dict[str, Any]) -> dict[str, Any]:
    """By "family/name", what each artifact was made of, all the way down; what is not in the store is left out."""
    for artifact in manifest.get("made_from", {}).values():
        family, _, name = artifact.partition("/")
        if artifact in seen or len(seen) > _DEEPEST or "/" in name:
            continue
        if (made := store.find_manifest(family, name)) is not None:
            seen[artifact] = _of(made)
            _lineage(store, made, seen)
    return seen


def _of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {key: manifest[key] for key in _KEPT if key in manifest}


def without_paths(value: Any) -> Any:
    """The same with the last part of each absolute path alone: where it lay on a machine is nobody's business."""
    if isinstance(value, dict):
        return {key: without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_paths(inner) for inner in value]
    if isinstance(value, str):
        family, slash, rest = value.partition("/")
        if value.startswith("/"):
            return Path(value).name
        return f"{family}/{Path(rest).name}" if slash and rest.startswith("/") else value
    return value


def card(
    manifest: Mapping[str, Any], config: Mapping[str, Any], repo: str, path: str, others: Sequence[str] = ()
) -> str:
    """The model card: `manifest` is the record, `config` the SAE's `cfg.json`, `path` its folder in the repository.

    `others` are folders of the repository with other SAEs.
    """
    about = config.get("metadata", {})
    parts = [
        _front_matter(manifest, about),
        f"# {manifest.get('name', path)}",
        f"A sparse autoencoder on `{_hook(about)}` of `{about.get('model_name')}`, made with mistudio.",
        _table(("", ""), _facts(config, about)),
        "## How good it is",
        _metrics(manifest.get("result", {})),
        "## How to load it",
        _loading(config, repo, path),
        "## How it was made",
        _table(
            ("option", "value"), [(f"`{k}`", f"`{v}`") for k, v in manifest.get("params", {}).items() if v is not None]
        ),
        _made_from(manifest),
    ]
    if others:
        parts += ["## Others in this repository", "\n".join(f"- [`{other or '.'}`](./{other})" for other in others)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(manifest: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    lines = ["---", "library_name: saelens", "tags:", "- sparse-autoencoder", "- mistudio"]
    if _HUB_ID.fullmatch(model := str(about.get("model_name"))):
        lines.append(f"base_model: {model}")
    sources = [made["params"].get("source", "") for made in manifest.get("lineage", {}).values() if "params" in made]
    if named := sorted({source for source in sources if _HUB_ID.fullmatch(str(source))}):
        lines += ["datasets:", *(f"- {source}" for source in named)]
    return "\n".join([*lines, "---"])


def _facts(config: Mapping[str, Any], about: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = {
        "model": about.get("model_name"),
        "revision": about.get("model_revision"),
        "model's dtype": about.get("model_dtype"),
        "where the model is": _WHERE.get(str(about.get("model_source"))),
        "hook": _hook(about),
        "hook in transformers": about.get("hf_hook_name"),
        "architecture": config.get("architecture"),
        "trained as": about.get("trained_as"),
        "reads, has, writes": f"{config['d_in']}, {config['d_sae']} features, {config.get('d_out', config['d_in'])}",
        "tokens trained on": about.get("training_tokens"),
        "context": about.get("context_size"),
        "positions": _positions(about.get("seqpos_slice")),
        "rows begin with": {True: "BOS", False: "text"}.get(about.get("prepend_bos", "")),
        "dataset": about.get("dataset_path"),
        "imported from": about.get("imported_from"),
    }
    return [(name, f"`{Path(v).name if str(v).startswith('/') else v}`") for name, v in facts.items() if v is not None]


def _hook(about: Mapping[str, Any]) -> Any:
    """TransformerLens' name of the hook, also where SAELens needs the module's."""
    return about.get(OWN_NAME) or about.get("hook_name")


def _positions(slice_: Any) -> str | None:
    """Which positions of a row it was trained on; None for all."""
    if slice_ in (None, [], [None]):
        return None
    return "all but the first of each row" if slice_ == [1, None] else f"those of the slice {slice_}"


def _metrics(result: Mapping[str, Any]) -> str:
    if "explained_variance" not in result:
        return "Nothing was measured here."
    rows = [("this SAE", f"{result['explained_variance']:.4f}", f"{result['l0']:.1f}")]
    active = f"{max(1, round(result['l0']))}"
    for name, key in (
        ("PCA", "pca_explained_variance"),
        ("random directions, best coefficients", "random_explained_variance"),
    ):
        if result.get(key) is not None:
            rows.append((name, f"{result[key]:.4f}", active))
    dead = result.get("dead_fraction", result.get("dead_share"))
    more = f"{dead:.2%} of the features were never active on {result['held_out_tokens']} held-out tokens."
    table = _table(("on held-out tokens", "explained variance", "active features"), rows)
    return "\n\n".join(part for part in (table, more, _measured(result)) if part)


#: What the card has of the other measures, by their names in docs/metrics.md.
_MEASURES = (
    *("mse", "fvu", "l1", "cosine_similarity", "l2_ratio", "ce_loss", "ce_loss_with_sae"),
    *("ce_loss_with_zero_ablation", "ce_loss_recovered", "ce_loss_recovered_mean", "kl"),
)


def _measured(result: Mapping[str, Any]) -> str:
    """The measures by name; nothing of an SAE that was trained before they had these names."""
    errors = result.get("standard_errors")
    if errors is None:
        return ""
    rows = [
        (f"`{name}`", f"{result[name]:.4g}", "" if errors.get(name) is None else f"{errors[name]:.2g}")
        for name in _MEASURES
        if result.get(name) is not None
    ]
    return _table(("measure", "value", "standard error"), rows)


def _loading(config: Mapping[str, Any], repo: str, path: str) -> str:
    pull = f"```\nmistudio saes pull {repo} --path {path}\n```"
    if _NOT_IN_SAELENS.fullmatch(str(config.get("architecture"))):
        return f"SAELens has no class for a {config['architecture']}.\n\n{pull}"
    code = f'```python\nfrom sae_lens import SAE\n\nsae = SAE.from_pretrained("{repo}", "{path}")\n```'
    return f"It takes activations as they are.\n\n{code}\n\n{pull}"


def _made_from(manifest: Mapping[str, Any]) -> str:
    rows = [
        (f"`{artifact}`", made.get("kind", ""), ", ".join(f"{k} `{v}`" for k, v in made.get("params", {}).items() if v))
        for artifact, made in manifest.get("lineage", {}).items()
    ]
    return _table(("made from", "by", "with"), rows) if rows else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
