"""Whole trainings: tokens a second from a model's forward pass to the SAE's step, ours next to SAELens' runner.

The model is a random GPT-NeoX of pythia-70m's shape with a vocabulary of 32 000, 51.7 million parameters, read after
layer 3 of 6; both sides train a TopK SAE with the same batches, in float32, and stop the model at the hook. Clocks
start when their buffers have been filled once. A second row is of our model in bfloat16, where SAELens keeps float32. A
third is of four SAEs in one job, next to four jobs one after the other. The last has no model: our trainer on
activations from a file, with progress, metrics and a checkpoint, next to the bare steps.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peer_environment import answer, run_there
from tasks.activations.hook_wiring import wiring_of
from tasks.activations.hooks import find
from tasks.activations.stream import ModelVectors
from tasks.activations.token_mask import Mask
from tasks.models.cpu_backend import chosen
from tasks.sae.architectures import coder_class
from tasks.sae.coder import CoderConfig, StepState
from tasks.sae.training.schedule import TrainConfig
from tasks.sae.training.trainer import Trainer
from tasks.train_job.batches import Reading

#: SAEs in one job.
SEVERAL = 4


@dataclass(frozen=True)
class Job:
    """What is trained on what, and for how long."""

    d_model: int = 512
    heads: int = 8
    layers: int = 6
    layer: int = 3
    vocabulary: int = 32_000
    context: int = 128
    d_sae: int = 4096
    k: int = 32
    batch: int = 2048
    begin: int = 20  # steps after which the clock starts, and all steps: between them lie whole refills of both
    end: int = 100  # sides' buffers, of 16 batches here and of 20 there

    @property
    def rows(self) -> int:
        """Rows of tokens, enough for the steps and twice as much for buffers."""
        return 3 * self.end * self.batch // self.context


def measure() -> list[dict[str, Any]]:
    """Tokens a second of both sides, and vectors a second from a file."""
    return run_there(__name__)


def rows(job: Job = Job(), peers: bool = True) -> list[dict[str, Any]]:
    """The same, in this process."""
    tokens = np.random.default_rng(0).integers(job.vocabulary, size=(job.rows, job.context), dtype=np.uint16)
    with chosen():
        ours, four = _ours(job, tokens), _ours(job, tokens, SEVERAL)
        half = _ours(job, tokens, dtype=torch.bfloat16)
        stored, bare = _stored(job)
    peer = _saelens(job, tokens) if peers else None
    return [
        {
            "name": "with the model",
            "unit": "tokens/s",
            "ours": round(ours),
            "next to": "SAELens' runner",
            "peer": peer and round(peer),
            "ratio": peer and round(ours / peer, 2),
        },
        {
            "name": "with the model in bfloat16",
            "unit": "tokens/s",
            "ours": round(half),
            "next to": "SAELens' runner",
            "peer": peer and round(peer),
            "ratio": peer and round(half / peer, 2),
        },
        {
            "name": f"{SEVERAL} SAEs in one job",
            "unit": "tokens/s",
            "ours": round(four),
            "next to": "a job for each",
            "peer": round(ours / SEVERAL),
            "ratio": round(four * SEVERAL / ours, 2),
        },
        {
            "name": "from a file",
            "unit": "vectors/s",
            "ours": round(stored),
            "next to": "the bare steps",
            "peer": round(bare),
            "ratio": round(stored / bare, 2),
        },
    ]


def _config(job: Job) -> TrainConfig:
    options = coder_class("topk").Options(k=job.k)
    return TrainConfig(CoderConfig("topk", job.d_model, job.d_sae, options), steps=job.end, batch=job.batch)


def model_of(job: Job) -> Any:
    """A random GPT-NeoX of the job's shape, in float32."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = AutoConfig.for_model(
        "gpt_neox",
        hidden_size=job.d_model,
        num_hidden_layers=job.layers,
        num_attention_heads=job.heads,
        intermediate_size=4 * job.d_model,
        vocab_size=job.vocabulary,
        max_position_embeddings=job.context,
    )
    return AutoModelForCausalLM.from_config(shape).eval()


def _ours(job: Job, tokens: np.ndarray, count: int = 1, dtype: torch.dtype = torch.float32) -> float:
    model = model_of(job).to(dtype)
    wired, ticks = wiring_of("resid", (job.layer,)), list[float]()
    vectors = ModelVectors(model, tokens, [find(model, hook) for hook in wired.hooks], Mask())
    with tempfile.TemporaryDirectory() as folder:
        reading = Reading(vectors, wired.hooks, job.batch, 0, lambda: None, Path(folder))
        folders = [Path(folder) / str(number) for number in range(count)]
        trainers = [Trainer(_config(job), reading.see(wired).batch) for _ in folders]
        for trainer, own in zip(trainers, folders, strict=True):
            trainer.begin(own)
        while trainers[0].is_unfinished:
            for trainer, own in zip(trainers, folders, strict=True):
                trainer.advance(own)
            ticks.append(time.perf_counter())
    return _rate(job, ticks)


def _rate(job: Job, ticks: list[float]) -> float:
    """Tokens a second between the ends of two steps."""
    return (job.end - job.begin) * job.batch / (ticks[job.end - 1] - ticks[job.begin - 1])


def _saelens(job: Job, tokens: np.ndarray) -> float:
    from datasets import Dataset
    from sae_lens import LanguageModelSAERunnerConfig, LanguageModelSAETrainingRunner, LoggingConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    model = HookedTransformer(
        HookedTransformerConfig(
            n_layers=job.layers,
            d_model=job.d_model,
            n_heads=job.heads,
            d_head=job.d_model // job.heads,
            d_mlp=4 * job.d_model,
            d_vocab=job.vocabulary,
            n_ctx=job.context,
            act_fn="gelu",
            normalization_type="LN",
            positional_embedding_type="rotary",
            rotary_dim=job.d_model // job.heads // 4,
            parallel_attn_mlp=True,
        )
    )
    plan = LanguageModelSAERunnerConfig(
        sae=TopKTrainingSAEConfig(
            d_in=job.d_model, d_sae=job.d_sae, k=job.k, normalize_activations="expected_average_only_in"
        ),
        model_name="random",
        hook_name=f"blocks.{job.layer}.hook_resid_post",
        dataset_path="random",
        streaming=False,
        context_size=job.context,
        prepend_bos=False,
        training_tokens=job.end * job.batch,
        train_batch_size_tokens=job.batch,
        n_batches_for_norm_estimate=8,
        checkpoint_path=None,
        output_path=None,
        logger=LoggingConfig(log_to_wandb=False),
    )
    data = Dataset.from_dict({"tokens": tokens.astype(np.int64)})
    runner = LanguageModelSAETrainingRunner(plan, override_dataset=data, override_model=model)
    with _clocked(SAETrainer, "step") as ticks:
        runner.run()
    return _rate(job, ticks)


@contextmanager
def _clocked(owner: type, name: str) -> Iterator[list[float]]:
    """When each call of a method has ended."""
    method, ticks = getattr(owner, name), []

    def call(*args: Any, **more: Any) -> Any:
        result = method(*args, **more)
        ticks.append(time.perf_counter())
        return result

    setattr(owner, name, call)
    try:
        yield ticks
    finally:
        setattr(owner, name, method)


def _stored(job: Job) -> tuple[float, float]:
    """Vectors a second of a training on a file of activations, with a checkpoint in its middle; and of bare steps."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "activations"
        count = 16 * job.batch
        np.random.default_rng(0).standard_normal((count, job.d_model), dtype=np.float32).tofile(path)
        stored = np.memmap(path, np.float32, "r", shape=(count, job.d_model))
        bare = _bare(job, torch.from_numpy(stored[: job.batch].copy()))

        def source(step: int) -> torch.Tensor:
            chosen = np.random.default_rng(step).integers(count, size=job.batch)
            return torch.from_numpy(stored[chosen])

        trainer, ticks = Trainer(_config(job), source), []

        def after_step() -> None:
            if trainer.step == (job.begin + job.end) // 2:
                trainer.save(Path(folder))
            ticks.append(time.perf_counter())

        trainer.run(Path(folder), after_step)
        return _rate(job, ticks), bare


def _bare(job: Job, x: torch.Tensor) -> float:
    trainer = Trainer(_config(job), lambda step: x)
    coder, optimizer, step_state = trainer.coder, trainer.optimizer, StepState(torch.zeros(0, dtype=torch.int64))
    ticks: list[float] = []
    for _ in range(job.end):
        _bare_step(coder, x, step_state, optimizer.step)
        ticks.append(time.perf_counter())
    return _rate(job, ticks)


@torch.no_grad()
def _bare_step(coder: Any, x: torch.Tensor, step_state: StepState, move: Callable[[], Any]) -> None:
    coder.step(x, x, step_state)
    coder.constrain_gradient()
    move()
    coder.constrain()


if __name__ == "__main__":
    torch.set_num_threads(min(os.cpu_count() or 1, 8))
    answer(rows)
