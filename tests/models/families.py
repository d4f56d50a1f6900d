"""Real transformers models of many families, small and with random weights that are large enough to distinguish."""

from __future__ import annotations

from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModel, AutoModelForCausalLM

VOCABULARY = 97

_SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
_OWN: dict[str, dict[str, Any]] = {
    "bert": {},
    "biogpt": {},
    "bloom": {},
    "distilbert": {"hidden_dim": 32},
    "falcon": {},
    "gemma2": _GROUPED,
    "gemma3_text": _GROUPED,
    "glm4": _GROUPED,
    "gpt2": {},
    "gpt_neox": {},
    "gpt_neox sequential": {"use_parallel_residual": False},
    "granite": {"num_key_value_heads": 2, "residual_multiplier": 0.5},
    "llama": {"num_key_value_heads": 2},
    "mamba": {},
    "minicpm3": {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 8},
    "mistral": {"num_key_value_heads": 2},
    "mixtral": {"num_key_value_heads": 2, "num_local_experts": 2},
    "mpt": {"d_model": 16, "n_heads": 2, "n_layers": 3},
    "openai-gpt": {},
    "olmo2": {"num_key_value_heads": 2},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "opt normed": {"ffn_dim": 32, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
    "phi": {"num_key_value_heads": 2},
    "qwen2": {"num_key_value_heads": 2},
    "roberta": {},
    "xglm": {"d_model": 16, "num_layers": 3, "attention_heads": 2, "ffn_dim": 32},
}


def model_of(family: str) -> Any:
    """A model of three blocks, 16 wide; the family's name may be followed by a word for a variant of it."""
    config = AutoConfig.for_model(family.split()[0], **(_SMALL | _OWN[family]))
    made_by = AutoModelForCausalLM if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING else AutoModel
    torch.manual_seed(0)
    model = made_by.from_config(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape), alpha=0.2)
    return model
