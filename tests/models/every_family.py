"""Every causal and encoder family of the installed transformers, built small, and our hooks held to its hidden states.

Configurations are shrunk by the names of their fields, so a family of a later transformers is in the sweep by itself.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
    PreTrainedConfig,
)

from tasks.activations.hook_sites import Hook
from tasks.activations.hooks import catch, find
from tasks.errors import UserError
from tasks.models.loading import describe_config, load_model

LAYERS, VOCABULARY = 4, 131
IDS = torch.randint(3, 40, (3, 7), generator=torch.Generator().manual_seed(1))

#: The small value of each field, by a part of the shape that it is.
_FIELDS = [
    (
        32,
        "attention_hidden_size backbone_hidden_size d_latents d_model dim emb_dim embedding_dim embedding_rank "
        "embedding_size entity_emb_size hidden_size hidden_size_global input_embedding_size intra_bottleneck_size "
        "lru_width mamba_d_ssm n_embd out_hidden_size output_embedding_size ple_embed_dim pooler_hidden_size "
        "pronunciation_embed_dim shape_embed_dim true_hidden_size vision_output_dim word_embed_proj_dim "
        "adapter_out_dim adapter_in_dim vector_quantization_hidden_dimension",
    ),
    (
        LAYERS,
        "decoder_layers depth encoder_layers max_window_layers n_layer n_layers num_blocks num_decoder_layers "
        "num_encoder_layers num_hidden_layers num_layers",
    ),
    (
        4,
        "attention_heads conf_num_attention_heads decoder_attention_heads encoder_attention_heads index_n_heads "
        "linear_num_heads linear_num_key_heads linear_num_value_heads mamba_n_heads mamba_num_heads n_head n_heads "
        "n_mamba_heads num_attention_heads num_decoder_attention_heads num_encoder_attention_heads num_heads "
        "num_key_value_heads num_kv_heads num_query_groups swa_num_attention_heads swa_num_key_value_heads "
        "conv_kernel hc_count hc_mult mamba_dt_rank moe_num_experts n_routed_experts num_centroids num_codebooks "
        "num_experts num_local_experts split_ngram_parts time_step_rank zero_expert_num",
    ),
    (
        8,
        "adapter_rank attention_head_size d_head d_kv d_rel dim_head gated_norm_rank hc_lowrank head_dim "
        "hidden_size_per_layer_input index_head_dim kv_channels laurel_rank linear_head_dim linear_key_head_dim "
        "linear_value_head_dim mamba_d_head mamba_head_dim mamba_headdim o_lora_rank qk_nope_head_dim "
        "qk_rope_head_dim query_pre_attn_scalar rotary_dim router_hidden_size swa_head_dim v_head_dim",
    ),
    (
        16,
        "attention_chunk_size attention_head_dim attention_window_size chunk_size context_length dim_model_base "
        "index_topk kv_lora_rank local_attention local_attn_chunk_length lsh_attn_chunk_length mamba_chunk_size "
        "mamba_d_state num_landmarks prompt_mid_dim q_lora_rank qk_head_dim rel_extent segment_means_seq_len "
        "sliding_window sliding_window_size ssm_state_size state_size window_size",
    ),
    (
        64,
        "centroid_intermediate_top_k d_ff d_inner decoder_ffn_dim dense_intermediate_size dff dim_ff encoder_ffn_dim "
        "expert_ffn_hidden_size feed_forward_size ffn_dim ffn_hidden_size hidden_dim intermediate_size "
        "intermediate_size_mlp max_position_embeddings max_seq_len max_source_positions max_target_positions mlp_dim "
        "model_max_length moe_intermediate_size moe_shared_expert_intermediate_size n_ctx n_positions "
        "num_position_embeddings original_max_position_embeddings shared_expert_intermediate_size "
        "shared_experts_intermediate_size shared_intermediate_size",
    ),
    (
        VOCABULARY,
        "audio_vocab_size decoder_vocab_size encoder_hash_byte_group_vocab entity_vocab_size ngram_vocab_size_base "
        "pronunciation_vocab_size shape_vocab_size unpadded_vocab_size vocab_offset vocab_size "
        "vocab_size_per_layer_input",
    ),
    (
        2,
        "expand first_k_dense_replace index_topk_blocks mamba_expand moe_k moe_topk n_group n_groups "
        "n_layers_per_attn_res_block num_dense_layers num_expert_group num_experts_per_tok num_experts_per_token "
        "o_groups topk_group",
    ),
    (1, "num_global_layers num_kv_shared_layers"),
    (0, "bos_token_id eos_token_id pad_token_id unk_token_id"),
]
_SMALL = {name: value for value, names in _FIELDS for name in names.split()}

_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_MIXED = ["linear_attention", "hybrid", "linear_attention", "hybrid"]
_LEFT_OUT = ...
#: What cannot be guessed from a field's name: sizes that must divide each other, and defaults that are no model.
_OWN: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_d_head": 16, "attn_layer_indices": [1]},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE},
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "n_group": 1, "topk_group": 1},
    "esm": {"vocab_size": VOCABULARY, "mask_token_id": 3, "pad_token_id": 1},
    "funnel": {"block_sizes": [1, 1, 2], "num_hidden_layers": _LEFT_OUT, "num_blocks": _LEFT_OUT},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "granitemoehybrid": {"mamba_d_head": 16, "layer_types": ["linear_attention", "full_attention"] * 2},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2, "expert_layer_offset": 1, "expert_layer_period": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"head_dim": 16},
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 4},
    "reformer": {"is_decoder": True, "axial_pos_shape": [8, 8], "axial_pos_embds_dim": [16, 16]},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": _MIXED, "attention_hidden_size": 64, "attention_head_dim": 16},
    "zamba2": {
        "layers_block_type": _MIXED,
        "hybrid_layer_ids": [1, 3],
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "mamba_headdim": 16,
    },
}


@dataclass(frozen=True)
class Verdict:
    """What came of a family: `equal`, `refused`, `not built`, or, which must not be, `wrong` or `exception`."""

    family: str
    outcome: str
    result: str = ""


class NoStore:
    """A store that has nothing."""

    def path(self, family: str, name: str) -> Path:
        return Path("/nowhere") / family / name


def families() -> dict[str, type[PreTrainedConfig]]:
    """All causal and encoder families, by what their config.json calls them."""
    mappings = (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING)
    return {config.model_type: config for mapping in mappings for config in mapping.keys()}  # noqa: SIM118 - lazy


def build(family: str) -> Any:
    """A model of the family with random weights that are large enough to distinguish."""
    config_class = families()[family]
    values = _shrunk(config_class().to_dict()) | _OWN.get(family, {})
    config = config_class(**{name: value for name, value in values.items() if value is not _LEFT_OUT})
    made_by = AutoModelForCausalLM if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING else AutoModel
    torch.manual_seed(0)
    model = made_by.from_config(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.add_(torch.randn(parameter.shape), alpha=0.1)
    return model


def judge(family: str, folder: Path) -> Verdict:
    """Build, save and load the family, and hold what passes each block to the model's own hidden states."""
    try:
        made = build(family)
        made.save_pretrained(folder)
    except Exception as error:
        return Verdict(family, "not built", f"{type(error).__name__}: {' '.join(str(error).split())}")
    try:
        result = describe_config(str(folder), NoStore())
        loaded = load_model(str(folder), NoStore())
        points = [find(loaded, Hook("resid", layer)) for layer in range(result["n_layers"] or LAYERS)]
        caught = catch(loaded, points, {"input_ids": IDS})
    except UserError as problem:
        return Verdict(family, "refused", str(problem).replace(str(folder), "FOLDER"))
    except Exception as error:
        return Verdict(family, "exception", f"{type(error).__name__}: {error}")
    wrong = _misdescribed(result, loaded) or _difference(loaded, caught, _hidden_states(made))
    return Verdict(family, "wrong" if wrong else "equal", wrong)


def _misdescribed(result: dict[str, Any], loaded: Any) -> str:
    """What the description of config.json says otherwise than the loaded model's own configuration."""
    config = loaded.config.get_text_config()
    own = {"n_layers": config.num_hidden_layers, "d_model": config.hidden_size, "vocab_size": config.vocab_size}
    return ", ".join(
        f"{key} is {result[key]}, not {value}" for key, value in own.items() if result[key] not in (None, value)
    )


def _hidden_states(model: Any) -> tuple[torch.Tensor, ...]:
    takes = inspect.signature(model.forward).parameters
    options = {"use_cache": False} if "use_cache" in takes else {}
    return model(input_ids=IDS, output_hidden_states=True, **options).hidden_states


def _difference(model: Any, caught: list[torch.Tensor], states: tuple[torch.Tensor, ...]) -> str:
    """In what the caught blocks differ from the hidden states; nothing where they agree.

    Those of most families begin with the embeddings, those of recurrent ones do not. The last one may have gone
    through a norm at the end of the model, or (Inkling 2) through a layer over the outputs of all blocks.
    """
    for first in (1, 0):
        between = list(zip(caught[:-1], states[first:], strict=False))
        if len(between) == len(caught) - 1 and all(_equal(ours, theirs) for ours, theirs in between):
            return "" if _is_last(model, caught[-1], states[-1]) else "the last block"
    return f"{[tuple(c.shape) for c in caught]} and {[tuple(s.shape) for s in states]}"


def _is_last(model: Any, ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    norms = [module for name, module in model.named_modules() if "norm" in f"{name} {type(module).__name__}".lower()]
    return (
        _equal(ours, theirs)
        or any(_equal(_applied(norm, ours), theirs) for norm in norms)
        or hasattr(model.base_model, "final_input")
    )


def _applied(norm: Any, vectors: torch.Tensor) -> torch.Tensor:
    try:
        return norm(vectors)
    except (RuntimeError, TypeError, ValueError):  # a norm of something else
        return torch.empty(0)


def _equal(ours: Any, theirs: Any) -> bool:
    return (
        isinstance(ours, torch.Tensor)
        and isinstance(theirs, torch.Tensor)
        and ours.shape == theirs.shape
        and torch.allclose(ours, theirs.float(), rtol=1e-4, atol=1e-4)
    )


def _shrunk(default: dict[str, Any]) -> dict[str, Any]:
    """The values of a default configuration that have a small one; lists with a member a layer are shortened."""
    names = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
    layers = next((default[name] for name in names if isinstance(default.get(name), int)), None)
    small: dict[str, Any] = {}
    for name, value in default.items():
        if isinstance(value, dict) and "model_type" in value:
            small[name] = {"model_type": value["model_type"], **_shrunk(value)}
        elif isinstance(value, list) and layers and len(value) == layers:
            small[name] = [_SMALL.get(name, one) for one in _varied(value)]
        elif name in _SMALL and (name.endswith("token_id") or type(value) is int):
            small[name] = _SMALL[name] if name.endswith("token_id") else min(value, _SMALL[name])
    return small


def _varied(values: list[Any]) -> list[Any]:
    """As many members as there are layers, of each sort at least one where that is possible."""
    sorts = [values[[str(v) for v in values].index(sort)] for sort in dict.fromkeys(map(str, values))][:LAYERS]
    return values[: LAYERS - len(sorts)] + sorts
