"""SAEs trained on a model whose weights TransformerLens had processed, folded so that they read the model as it is.

SAELens loads a model with `from_pretrained_no_processing(**model_from_pretrained_kwargs)`: nothing is processed unless
the SAE's metadata say so. Of the ways of processing, only `center_writing_weights` changes the residual stream and what
is added to it, and only of models with LayerNorm: their mean over dimensions is removed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.errors import UserError
from tasks.parsing.tensor_files import shown
from tasks.sae.importing.folding import fold_centering

if TYPE_CHECKING:
    from torch import Tensor

KWARGS = "model_from_pretrained_kwargs"
_CENTERED = "center_writing_weights"
#: Published before SAELens recorded it: its own directory of SAEs says it of them.
_CENTERED_SOURCES = (
    "jbloom/GPT2-Small-SAEs-Reformatted",
    "jbloom/GPT2-Small-Feature-Splitting-Experiment-Layer-8",
    "tommmcgrath/gpt2-small-mlp-out-saes",
)
#: Ways of processing that leave a model's function and what its blocks write as they are, but not what is between;
#: and one that only changes logits.
_REWRITTEN = ("fold_ln", "fold_value_biases", "refactor_factored_attn_matrices")
_ELSEWHERE = {"center_unembed"}
#: What has no influence on activations but rounding.
_HARMLESS = {
    *("device", "n_devices", "device_map", "dtype", "torch_dtype", "default_prepend_bos", "default_padding_side"),
    *("move_to_device", "trust_remote_code", "cache_dir", "local_files_only", "low_cpu_mem_usage", "n_ctx"),
    *("attn_implementation", "first_n_layers", "token"),
}
_REVISION = "revision"
_OTHER_MODEL = {"checkpoint_index", "checkpoint_value"}
_WRITTEN = {"hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out"}
#: What is behind a norm, which removes the mean anyway.
_NORMED = {"attn.hook_z", "mlp.hook_pre", "mlp.hook_post", "ln1.hook_normalized", "ln2.hook_normalized"}
#: Models of TransformerLens with LayerNorm, whose embeddings have no norm of their own, and with RMSNorm, by family
#: (`model_type`) and by name.
_LAYER_NORM = {"gpt2", "gpt_neo", "gptj", "gpt_neox", "opt", "phi", "stablelm"}
_RMS_NORM = {
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3_text",
    "llama",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen3",
    "olmo2",
    "phi3",
}
_LAYER_NORM_NAMES = re.compile(
    r"(distil)?gpt2\b.*|pythia-.*|gpt-neo(x)?-.*|gpt-j-.*|opt-(?!350m).*|phi-(1|1_5|2)|tiny-?stories-.*|stablelm-.*"
)
_RMS_NORM_NAMES = re.compile(r"(code)?gemma-.*|(meta-)?llama-.*|mistral-.*|mixtral-.*|qwen(2|3).*|olmo-2-.*|phi-3.*")


class Processed(NamedTuple):
    """Where an SAE is from: its source, the model's `model_type` if its folder is here, and whether it was named."""

    source: str
    family: str | None
    given: bool

    def fold(
        self, about: dict[str, Any], tensors: dict[str, Tensor], config: dict[str, Any]
    ) -> tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]:
        """Make it an SAE of the model as it is: its metadata then, what was ignored of them, and notes.

        Raises UserError for processing that cannot be folded exactly.
        """
        kwargs = dict(about.get(KWARGS) or {})
        if self.source.startswith(_CENTERED_SOURCES):
            kwargs.setdefault(_CENTERED, True)
        active = {name: value for name, value in kwargs.items() if value is not None and value is not False}
        if not active:
            return about, (), ()
        _refuse_unknown(active, self.given)
        _, _, site = (*str(about.get("hook_name")).split(".", 2), "", "")[:3]
        _refuse_rewritten(active, site)
        notes = _center(about, tensors, config, site, self.family) if active.get(_CENTERED) else ()
        unused = _HARMLESS | _OTHER_MODEL | ({_REVISION} if self.given else set())
        ignored = tuple(f"metadata.{KWARGS}.{name}" for name in sorted(active) if name in unused)
        if _REVISION in active and not self.given:
            about = {**about, "model_revision": active[_REVISION]}
        folded = sorted(name for name in active if name not in unused and name != _REVISION)
        return {**about, KWARGS: {}, **({"folded": folded} if folded else {})}, ignored, notes


def _refuse_unknown(active: dict[str, Any], given: bool) -> None:
    known = {_CENTERED, *_REWRITTEN, *_ELSEWHERE, *_HARMLESS, *_OTHER_MODEL, _REVISION}
    if unknown := sorted(set(active) - known):
        raise UserError(
            f"The SAE's model was loaded with {shown(', '.join(unknown))}, which is not known here ({KWARGS})."
        )
    if odd := sorted(name for name in set(active) & {_CENTERED, *_REWRITTEN, *_ELSEWHERE} if active[name] is not True):
        raise UserError(f"The SAE's {KWARGS} has {odd[0]} = {shown(active[odd[0]])}, expected true or false.")
    revision = active.get(_REVISION, "")
    other = [name for name in sorted(_OTHER_MODEL) if name in active]
    if not isinstance(revision, str):
        other.append(_REVISION)
    if other and not given:
        raise UserError(
            f"The SAE was trained on {other[0]} {shown(active[other[0]])} of its model ({KWARGS}).",
            "Name that model with --model",
        )


def _refuse_rewritten(active: dict[str, Any], site: str) -> None:
    """Weights that were folded into each other change what is between them, not what blocks write."""
    rewritten = [name for name in _REWRITTEN if name in active]
    if rewritten and site not in _WRITTEN and not (site == "attn.hook_z" and rewritten == ["fold_ln"]):
        raise UserError(
            f"The SAE reads {shown(site)} of a model with {' and '.join(rewritten)} ({KWARGS}), which may differ from "
            "that of the model as it is, and cannot be folded into its weights."
        )


def _center(
    about: dict[str, Any], tensors: dict[str, Tensor], config: dict[str, Any], site: str, family: str | None
) -> tuple[str, ...]:
    """Fold the centering of a model with LayerNorm into the encoder; TransformerLens leaves others as they are."""
    if (norm := norm_of(str(about.get("model_name")), family)) is None:
        raise UserError(
            f"The SAE was trained on centered activations ({_CENTERED}), and whether {shown(about.get('model_name'))} "
            "has LayerNorm, where that can be folded into its weights, is not known.",
            "Name a model that is here with --model",
        )
    if norm == "rms":
        return (f"{_CENTERED} changes nothing of a model with RMSNorm",)
    if site in _NORMED:
        return (f"{_CENTERED} changes nothing at {site}",)
    if site not in _WRITTEN or config.get("blocks", 1) > 1:
        raise UserError(
            f"The SAE reads {shown(site)} of a model with {_CENTERED}, which cannot be folded into its weights."
        )
    reads_all = str(config["architecture"]).endswith("transcoder")
    fold_centering(tensors, bool(config.get("apply_b_dec_to_input", True)) and not reads_all)
    return (
        f"{_CENTERED} was folded into its encoder: its codes are the same on the model as it is, "
        "its reconstructions are those of activations without their mean over dimensions",
    )


def norm_of(model: str, family: str | None) -> str | None:
    """Which norm a model has, `layer` or `rms`, by its family or else its name; None where that is not known."""
    name = model.lower().partition("@")[0].rpartition("/")[2]
    if family is not None:
        return "layer" if family in _LAYER_NORM else "rms" if family in _RMS_NORM else None
    if _LAYER_NORM_NAMES.fullmatch(name):
        return "layer"
    return "rms" if _RMS_NORM_NAMES.fullmatch(name) else None
