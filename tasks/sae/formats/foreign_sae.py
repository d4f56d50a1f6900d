"""An SAE of another library as it was found, and the hooks that a module's path means."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

#: SAELens' names of what loads a model: by TransformerLens, or by transformers alone. For the latter hooks are named by
#: their modules there; their names here stand beside those.
HOOKED, TRANSFORMERS = "HookedTransformer", "AutoModelForCausalLM"
OWN_NAME = "transformer_lens_hook_name"


class ForeignSae(NamedTuple):
    """An SAE as it was found: in SAELens' words what it is, its tensors, and what is to be reported of it.

    `ignored` names the fields of its files that nothing was done with; `notes` are sentences on what was converted.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def hook(layer: str | int, site: str, way: str = "") -> dict[str, Any]:
    """A hook in SAELens' words: of what is read, or by the way `_out` of what a transcoder writes."""
    return {f"hook_name{way}": f"blocks.{layer}.{site}", f"hook_layer{way}": int(layer)}


#: What a layer and its parts read and write, by the names of hooks.
SITES_OF_MODULES = {
    "": ("hook_resid_pre", "hook_resid_post"),
    "mlp": ("mlp.hook_in", "hook_mlp_out"),
    **dict.fromkeys(("attn", "attention", "self_attn", "self_attention"), ("attn.hook_in", "hook_attn_out")),
}
_MODULE = re.compile(r"(?:\w+\.)*((?:layers?|h|blocks)\.(\d{1,6})(?:\.([\w.]+))?)")


class Module(NamedTuple):
    """A module of a transformer's layer: its path from the list of layers on, the layer, what it reads and writes."""

    path: str
    layer: int
    read: str
    written: str


def module_at(path: str) -> Module | None:
    """The layer, MLP or attention at a module's path, `model.layers.6.mlp`; None for any other module."""
    named = _MODULE.fullmatch(path)
    if named is None or (part := named[3] or "") not in SITES_OF_MODULES:
        return None
    return Module(named[1], int(named[2]), *SITES_OF_MODULES[part])


def unknown_fields(fields: dict[str, Any], known: frozenset[str], within: str = "") -> tuple[str, ...]:
    """The names of fields that say something and are not known here, as they are reported."""
    silent: tuple[Any, ...] = (None, False, "", [], {})
    return tuple(f"{within}{name}" for name in sorted(set(fields) - known) if fields[name] not in silent)
