"""Hub ids that TransformerLens 3.9 loads as a `HookedTransformer`: `tests/interop` compares them with its own list."""

from __future__ import annotations

_NAMES = {
    "01-ai": "Yi-34B Yi-34B-Chat Yi-6B Yi-6B-Chat",
    "ai-forever": "mGPT",
    "allenai": (
        "OLMo-1B-hf OLMo-2-0425-1B OLMo-2-1124-7B OLMo-7B-hf OLMoE-1B-7B-0924 Olmo-3-1025-7B Olmo-3-1125-32B "
        "Olmo-3-32B-Think Olmo-3-7B-Instruct Olmo-3-7B-Think Olmo-3.1-32B-Instruct Olmo-3.1-32B-Think"
    ),
    "ArthurConmy": "redwood_attn_2l",
    "Baidicoot": "Othello-GPT-Transformer-Lens",
    "bigcode": "santacoder",
    "bigscience": "bloom-1b1 bloom-1b7 bloom-3b bloom-560m bloom-7b1",
    "codellama": "CodeLlama-7b-Instruct-hf CodeLlama-7b-Python-hf CodeLlama-7b-hf",
    "EleutherAI": (
        "gpt-j-6B gpt-neo-1.3B gpt-neo-125M gpt-neo-2.7B gpt-neox-20b pythia-1.3b pythia-1.3b-deduped "
        "pythia-1.3b-deduped-v0 pythia-1.3b-v0 pythia-1.4b pythia-1.4b-deduped pythia-1.4b-deduped-v0 "
        "pythia-1.4b-v0 pythia-125m pythia-125m-deduped pythia-125m-deduped-v0 pythia-125m-seed1 pythia-125m-seed2 "
        "pythia-125m-seed3 pythia-125m-v0 pythia-12b pythia-12b-deduped pythia-12b-deduped-v0 pythia-12b-v0 "
        "pythia-13b pythia-13b-deduped pythia-13b-deduped-v0 pythia-13b-v0 pythia-14m pythia-160m "
        "pythia-160m-deduped pythia-160m-deduped-v0 pythia-160m-seed1 pythia-160m-seed2 pythia-160m-seed3 "
        "pythia-160m-v0 pythia-19m pythia-19m-deduped pythia-19m-deduped-v0 pythia-19m-v0 pythia-1b "
        "pythia-1b-deduped pythia-1b-deduped-v0 pythia-1b-v0 pythia-2.7b pythia-2.7b-deduped pythia-2.7b-deduped-v0 "
        "pythia-2.7b-v0 pythia-2.8b pythia-2.8b-deduped pythia-2.8b-deduped-v0 pythia-2.8b-v0 pythia-31m "
        "pythia-350m pythia-350m-deduped pythia-350m-deduped-v0 pythia-350m-v0 pythia-410m pythia-410m-deduped "
        "pythia-410m-deduped-v0 pythia-410m-v0 pythia-6.7b pythia-6.7b-deduped pythia-6.7b-deduped-v0 "
        "pythia-6.7b-v0 pythia-6.9b pythia-6.9b-deduped pythia-6.9b-deduped-v0 pythia-6.9b-v0 pythia-70m "
        "pythia-70m-deduped pythia-70m-deduped-v0 pythia-70m-v0 pythia-800m pythia-800m-deduped "
        "pythia-800m-deduped-v0 pythia-800m-v0"
    ),
    "facebook": (
        "hubert-base-ls960 opt-1.3b opt-125m opt-13b opt-2.7b opt-30b opt-6.7b opt-66b wav2vec2-base wav2vec2-large"
    ),
    "google": (
        "gemma-2-27b gemma-2-27b-it gemma-2-2b gemma-2-2b-it gemma-2-9b gemma-2-9b-it gemma-2b gemma-2b-it "
        "gemma-3-12b-it gemma-3-12b-pt gemma-3-1b-it gemma-3-1b-pt gemma-3-270m gemma-3-270m-it gemma-3-27b-it "
        "gemma-3-27b-pt gemma-3-4b-it gemma-3-4b-pt gemma-7b gemma-7b-it medgemma-27b-it medgemma-27b-text-it "
        "medgemma-4b-it medgemma-4b-pt"
    ),
    "google-bert": "bert-base-cased bert-base-uncased bert-large-cased bert-large-uncased",
    "google-t5": "t5-base t5-large t5-small",
    "meta-llama": (
        "Llama-2-13b-chat-hf Llama-2-13b-hf Llama-2-70b-chat-hf Llama-2-7b-chat-hf Llama-2-7b-hf Llama-3.1-70B "
        "Llama-3.1-70B-Instruct Llama-3.1-8B Llama-3.1-8B-Instruct Llama-3.2-1B Llama-3.2-1B-Instruct Llama-3.2-3B "
        "Llama-3.2-3B-Instruct Llama-3.3-70B-Instruct Meta-Llama-3-70B Meta-Llama-3-70B-Instruct Meta-Llama-3-8B "
        "Meta-Llama-3-8B-Instruct"
    ),
    "microsoft": "Phi-3-mini-4k-instruct phi-1 phi-1_5 phi-2 phi-4",
    "mistralai": (
        "Mistral-7B-Instruct-v0.1 Mistral-7B-v0.1 Mistral-Nemo-Base-2407 Mistral-Small-24B-Base-2501 "
        "Mixtral-8x7B-Instruct-v0.1 Mixtral-8x7B-v0.1"
    ),
    "NeelNanda": (
        "Attn-Only-2L512W-Shortformer-6B-big-lr Attn_Only_1L512W_C4_Code Attn_Only_2L512W_C4_Code "
        "Attn_Only_3L512W_C4_Code Attn_Only_4L512W_C4_Code GELU_1L512W_C4_Code GELU_2L512W_C4_Code "
        "GELU_3L512W_C4_Code GELU_4L512W_C4_Code SoLU_10L1280W_C4_Code SoLU_10L_v22_old SoLU_12L1536W_C4_Code "
        "SoLU_12L_v23_old SoLU_1L512W_C4_Code SoLU_1L512W_Wiki_Finetune SoLU_1L_v9_old SoLU_2L512W_C4_Code "
        "SoLU_2L_v10_old SoLU_3L512W_C4_Code SoLU_4L512W_C4_Code SoLU_4L512W_Wiki_Finetune SoLU_4L_v11_old "
        "SoLU_6L768W_C4_Code SoLU_6L_v13_old SoLU_8L1024W_C4_Code SoLU_8L_v21_old"
    ),
    "openai": "gpt-oss-20b",
    "Qwen": (
        "QwQ-32B-Preview Qwen-14B Qwen-14B-Chat Qwen-1_8B Qwen-1_8B-Chat Qwen-7B Qwen-7B-Chat Qwen1.5-0.5B "
        "Qwen1.5-0.5B-Chat Qwen1.5-1.8B Qwen1.5-1.8B-Chat Qwen1.5-14B Qwen1.5-14B-Chat Qwen1.5-4B Qwen1.5-4B-Chat "
        "Qwen1.5-7B Qwen1.5-7B-Chat Qwen2-0.5B Qwen2-0.5B-Instruct Qwen2-1.5B Qwen2-1.5B-Instruct Qwen2-7B "
        "Qwen2-7B-Instruct Qwen2.5-0.5B Qwen2.5-0.5B-Instruct Qwen2.5-1.5B Qwen2.5-1.5B-Instruct Qwen2.5-14B "
        "Qwen2.5-14B-Instruct Qwen2.5-32B Qwen2.5-32B-Instruct Qwen2.5-3B Qwen2.5-3B-Instruct Qwen2.5-72B "
        "Qwen2.5-72B-Instruct Qwen2.5-7B Qwen2.5-7B-Instruct Qwen3-0.6B Qwen3-0.6B-Base Qwen3-1.7B Qwen3-14B "
        "Qwen3-4B Qwen3-8B"
    ),
    "roneneldan": (
        "TinyStories-1Layer-21M TinyStories-1M TinyStories-28M TinyStories-2Layers-33M TinyStories-33M "
        "TinyStories-3M TinyStories-8M TinyStories-Instruct-1M TinyStories-Instruct-28M "
        "TinyStories-Instruct-2Layers-33M TinyStories-Instruct-33M TinyStories-Instruct-3M TinyStories-Instruct-8M "
        "TinyStories-Instuct-1Layer-21M"
    ),
    "stabilityai": "stablelm-base-alpha-3b stablelm-base-alpha-7b stablelm-tuned-alpha-3b stablelm-tuned-alpha-7b",
    "stanford-crfm": (
        "alias-gpt2-small-x21 arwen-gpt2-medium-x21 battlestar-gpt2-small-x49 beren-gpt2-medium-x49 "
        "caprica-gpt2-small-x81 celebrimbor-gpt2-medium-x81 darkmatter-gpt2-small-x343 durin-gpt2-medium-x343 "
        "eowyn-gpt2-medium-x777 expanse-gpt2-small-x777"
    ),
    "swiss-ai": "Apertus-8B-2509 Apertus-8B-Instruct-2509",
}
#: The oldest ones have no owner.
OLDEST = frozenset(("distilgpt2", "gpt2", "gpt2-large", "gpt2-medium", "gpt2-xl"))
#: The others as `owner/name`.
HOOKED_MODELS = OLDEST | {f"{owner}/{name}" for owner, names in _NAMES.items() for name in names.split()}
