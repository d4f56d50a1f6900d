"""A Hub on the loopback with what the documentation names: models, a dataset, Gemma Scope's SAEs, and room to push."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from tests.hub import server as hub_server
from tests.hub.models import Models, Repo, as_files
from tests.hub.repositories import Repos
from tests.hub.server import Hub, serve

DATASET = "NeelNanda/pile-10k"
WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
D_IN, D_SAE = 8, 24


class StandIn(Repos, Models):
    """One request to it."""

    def _serve(self) -> None:
        if f"datasets/{DATASET}" in self.path:
            self.path = self.path.replace(DATASET, "owner/name")
            return Hub._serve(self)
        return super()._serve()


@contextmanager
def serve_documented(folder: Path) -> Iterator[str]:
    """Its address."""
    text = " ".join(WORDS[n * n % 7] if n % 3 else WORDS[n % 8] for n in range(400))
    before = dict(hub_server.FILES)
    hub_server.FILES.update({"train.jsonl": "".join(json.dumps({"text": text}) + "\n" for _ in range(60)).encode()})
    state: dict[str, Any] = {"held": {}, "private": set(), "blobs": {}, "commits": [], "repos": _repositories(folder)}
    state["moved"] = {"gpt2": "openai-community/gpt2"}
    try:
        with serve(type("Fresh", (StandIn,), state)) as address:
            yield address
    finally:
        hub_server.FILES.clear()
        hub_server.FILES.update(before)


def save_model(folder: Path, layers: int, kind: str = "gpt_neox") -> None:
    """A tiny language model with its tokenizer, as `save_pretrained` writes both."""
    vocabulary = {word: number for number, word in enumerate(("<eos>", *WORDS))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", unk_token="<eos>").save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 32}
    tokens = {"vocab_size": len(vocabulary), "bos_token_id": 0, "eos_token_id": 0, "max_position_embeddings": 256}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **tokens)).save_pretrained(folder)


def _repositories(folder: Path) -> dict[str, Repo]:
    repos = {}
    for name, layers, kind in (("EleutherAI/pythia-70m", 6, "gpt_neox"), ("openai-community/gpt2", 11, "gpt2")):
        save_model(folder / name, layers, kind)
        repos[name] = Repo()
        repos[name].commit(as_files(folder / name))
    scope, second = Repo(), Repo()
    scope.commit({"layer_20/width_16k/average_l0_71/params.npz": _gemma_scope()})
    second.commit(_gemma_scope_2("resid_post/layer_9_width_16k_l0_medium", layer=9))
    return repos | {"google/gemma-scope-2b-pt-res": scope, "google/gemma-scope-2-4b-it": second}


def _weights(**names: tuple[int, ...]) -> dict[str, torch.Tensor]:
    drawn = torch.Generator().manual_seed(1)
    return {name: torch.rand(shape, generator=drawn) for name, shape in names.items()}


def _gemma_scope() -> bytes:
    made = _weights(W_enc=(D_IN, D_SAE), W_dec=(D_SAE, D_IN), b_enc=(D_SAE,), b_dec=(D_IN,), threshold=(D_SAE,))
    file = io.BytesIO()
    np.savez(file, **{name: tensor.numpy() for name, tensor in made.items()})
    return file.getvalue()


def _gemma_scope_2(folder: str, layer: int) -> dict[str, bytes]:
    made = _weights(w_enc=(D_IN, D_SAE), w_dec=(D_SAE, D_IN), b_enc=(D_SAE,), b_dec=(D_IN,), threshold=(D_SAE,))
    hook = f"model.layers.{layer}.output"
    says = {"hf_hook_point_in": hook, "hf_hook_point_out": hook, "width": D_SAE, "model_name": "google/gemma-3-4b-it"}
    says |= {"architecture": "jump_relu", "l0": 60, "affine_connection": False, "type": "sae"}
    return {f"{folder}/params.safetensors": save(made), f"{folder}/config.json": json.dumps(says).encode()}
