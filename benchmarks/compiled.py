"""Forward passes to a hook at half depth, plain and with compiled blocks (`--compile`), side by side in one process.

Random models of the shapes of pythia-70m and of Gemma 3 270M with a small vocabulary, in both dtypes. Each round runs
both on the same 4096 tokens; the figures are medians of five rounds. How far the compiled model's activations are from
those of the plain one in float32 stands beside how far the plain one's are.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.activations.hook_sites import Hook
from tasks.activations.hooks import find
from tasks.activations.stream import FORWARD_TOKENS, ModelVectors
from tasks.activations.token_mask import Mask
from tasks.models import bfloat16
from tasks.models.cpu_backend import chosen

ROUNDS, CONTEXT, VOCABULARY = 5, 128, 8000
SHAPES: dict[str, dict[str, Any]] = {
    "gpt_neox": {
        "hidden_size": 512,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "intermediate_size": 2048,
    },
    "gemma3_text": {
        "hidden_size": 640,
        "num_hidden_layers": 18,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "intermediate_size": 2048,
    },
}


def measure() -> list[dict[str, Any]]:
    """A row for each shape and dtype that this processor computes fast in."""
    dtypes = [torch.float32, *([torch.bfloat16] if bfloat16.has_units() else [])]
    with chosen():
        return [row for family, shape in SHAPES.items() for row in rows(family, shape, dtypes)]


def rows(family: str, shape: dict[str, Any], dtypes: list[torch.dtype], context: int = CONTEXT) -> list[dict[str, Any]]:
    """The same for one shape."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=VOCABULARY, **shape)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    tokens = np.random.default_rng(0).integers(VOCABULARY, size=(FORWARD_TOKENS // context, context))
    exact = _vectors(copy.deepcopy(model), tokens).read_all(tokens)
    return [_row(family, model, dtype, tokens, exact) for dtype in dtypes]


def _row(family: str, model: Any, dtype: torch.dtype, tokens: np.ndarray, exact: torch.Tensor) -> dict[str, Any]:
    plain, compiled = (_vectors(copy.deepcopy(model).to(dtype), tokens) for _ in range(2))
    with tempfile.TemporaryDirectory() as folder:
        said: list[str] = []
        began = time.perf_counter()
        compiled.compile(Path(folder), said.append)
        compiling = time.perf_counter() - began
        seconds: list[list[float]] = [[], []]
        apart = [0.0, 0.0]
        for _ in range(ROUNDS + 1):
            for side, vectors in enumerate((plain, compiled)):
                began = time.perf_counter()
                found = vectors.read_all(tokens)
                seconds[side].append(time.perf_counter() - began)
                apart[side] = float((found - exact).norm() / exact.norm())
    as_is, faster = (statistics.median(times[1:]) for times in seconds)
    return {
        "model": family,
        "dtype": str(dtype).removeprefix("torch."),
        "plain ms": round(1e3 * as_is),
        "compiled ms": round(1e3 * faster),
        "ratio": round(as_is / faster, 2),
        "error, plain": float(f"{apart[0]:.2g}"),
        "error, compiled": float(f"{apart[1]:.2g}"),
        "compiling s": round(compiling),
        "outcome": said[0].partition(", in ")[0],
    }


def _vectors(model: Any, tokens: np.ndarray) -> ModelVectors:
    half = model.config.num_hidden_layers // 2
    return ModelVectors(model, tokens, [find(model, Hook("resid", half))], Mask())
