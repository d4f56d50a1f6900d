"""Train a tiny causal language model from scratch: for demonstrations and tests, exact on resume.

The batch of a step depends on the seed and the step only, so a resumed training sees what an uninterrupted one sees.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.nn.functional import cross_entropy
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from tasks.models.cpu_backend import attending
from tasks.parsing.tensor_files import read_notes, save_tensors

CHECKPOINT = "checkpoint.safetensors"
_WARMUP = 50
_HEAD_WIDTH = 32
_LAST_LOSSES = 50


@dataclass(frozen=True)
class ToyConfig:
    """Shape and schedule; `batch` counts rows of `context` tokens."""

    layers: int
    width: int
    vocab: int
    context: int
    steps: int
    batch: int = 16
    lr: float = 3e-3
    seed: int = 0


def make_model(recipe: ToyConfig, eos_id: int) -> GPTNeoXForCausalLM:
    """A GPT-NeoX with fresh weights drawn from the recipe's seed; heads are 32 wide."""
    torch.manual_seed(recipe.seed)
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=recipe.vocab,
            hidden_size=recipe.width,
            num_hidden_layers=recipe.layers,
            num_attention_heads=max(1, recipe.width // _HEAD_WIDTH),
            intermediate_size=4 * recipe.width,
            max_position_embeddings=recipe.context,
            bos_token_id=eos_id,
            eos_token_id=eos_id,
            use_cache=False,
        )
    )


def draw(stream: torch.Tensor, recipe: ToyConfig, step: int) -> torch.Tensor:
    """The windows of one step: int64 (batch, context + 1), starting anywhere in the stream (tokens,)."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    starts = torch.randint(len(stream) - recipe.context, (recipe.batch, 1), generator=generator)
    return stream[starts + torch.arange(recipe.context + 1)].long()


def rate(recipe: ToyConfig, step: int) -> float:
    """The learning rate of a step: linear warm-up, then a cosine down to a tenth."""
    warm = min(1.0, (step + 1) / _WARMUP)
    return recipe.lr * warm * (0.55 + 0.45 * math.cos(math.pi * step / recipe.steps))


class ToyTraining:
    """A model, its AdamW, the step reached and the losses of the last steps in nats."""

    def __init__(self, model: GPTNeoXForCausalLM, recipe: ToyConfig, device: str) -> None:
        self.model: Any = model.train()
        self.model.to(device)
        self.recipe, self.device, self.step = recipe, device, 0
        self.losses: list[float] = []
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, betas=(0.9, 0.95), weight_decay=0.1)

    def run(self, stream: torch.Tensor, after_step: Callable[[], None]) -> None:
        """Train to the recipe's last step on a token stream (tokens,); `after_step` is called after each step."""
        while self.step < self.recipe.steps:
            self.optimizer.param_groups[0]["lr"] = rate(self.recipe, self.step)
            windows = draw(stream, self.recipe, self.step).to(self.device)
            with attending(self.device, windows.shape[1] - 1):
                logits = self.model(windows[:, :-1]).logits  # (batch, context, vocab)
            loss = cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.step += 1
            self.losses = [*self.losses, loss.item()][-_LAST_LOSSES:]
            after_step()

    def save(self, folder: Path) -> None:
        """Replace the checkpoint in `folder` whole: weights, both AdamW moments, step and losses, in one file."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            state = self.optimizer.state.get(parameter, {})
            tensors |= {f"{moment}.{name}": state[moment] for moment in ("exp_avg", "exp_avg_sq") if moment in state}
        draft = folder / f"{CHECKPOINT}.part"
        metadata = {"step": str(self.step), "losses": json.dumps(self.losses)}
        save_tensors(draft, tensors, metadata)
        os.replace(draft, folder / CHECKPOINT)

    def resume(self, folder: Path) -> bool:
        """Resume from the checkpoint in `folder`; False when there is none that can be read."""
        path = folder / CHECKPOINT
        if read_notes(path) is None:
            return False
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            self.step, self.losses = int(metadata["step"]), json.loads(metadata["losses"])
            self.model.load_state_dict({name: file.get_tensor(f"model.{name}") for name in self.model.state_dict()})
            for name, parameter in self.model.named_parameters():
                moments = {m: file.get_tensor(f"{m}.{name}").to(self.device) for m in ("exp_avg", "exp_avg_sq")}
                self.optimizer.state[parameter] = {"step": torch.tensor(float(self.step)), **moments}
        return True
