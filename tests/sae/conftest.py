"""Small real things: planted dictionaries, tiny language models, tokens on disk, and a home to run `train` in."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tasks.jobs.kind import Stopped
from tasks.sae.architectures import coder_class
from tasks.sae.coder import CoderConfig
from tasks.storage import attempts
from tasks.storage.store import Store
from tasks.text.tokens import TokenWriter
from tests.work_folders import next_attempt

CONTEXT, VOCABULARY = 16, 97


def shaped(architecture: str, d_in: int, d_sae: int, **values: Any) -> CoderConfig:
    """A coder's configuration with those of the values that are options of the architecture."""
    kind = coder_class(architecture).Options
    own = {spec.name for spec in dataclasses.fields(kind)}
    return CoderConfig(architecture, d_in, d_sae, kind(**{k: v for k, v in values.items() if k in own}))


class Planted:
    """Activations that are sparse sums of known unit directions: the truth a trainer has to find."""

    def __init__(self, features: int, d_in: int, active: float, batch: int, seed: int = 999) -> None:
        generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(features, d_in, generator=generator)
        self.directions = directions / directions.norm(dim=1, keepdim=True)
        self.chance, self.batch = active / features, batch

    def __call__(self, step: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(10_000 + step)
        shape = (self.batch, len(self.directions))
        on = torch.rand(shape, generator=generator) < self.chance
        return (on * (0.5 + torch.rand(shape, generator=generator))) @ self.directions


def tiny_model(kind: str = "gpt_neox", layers: int = 3) -> Any:
    """A real transformers model of the family, with random weights."""
    small = {
        "hidden_size": 16,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "ffn_dim": 32,
        "word_embed_proj_dim": 16,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 64,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    if kind in ("llama", "mistral", "qwen2", "gemma2"):
        small["num_key_value_heads"] = 2
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **small)).eval()


def some_tokens(rows: int, seed: int = 0) -> np.ndarray:
    """(rows, CONTEXT) token ids that are not quite random: each follows from the one before, mostly."""
    draw = np.random.default_rng(seed)
    first = draw.integers(VOCABULARY, size=(rows, 1))
    jumps = draw.integers(1, 4, size=(rows, CONTEXT))
    return (first + jumps.cumsum(axis=1)) % VOCABULARY


@dataclass
class Context:
    """What `run` sees, without a worker around it."""

    store: Store
    workdir: Path
    output: Path
    job_id: str = "job"
    name: str = "sae"
    attempt: int = 1
    device: str = "cpu"
    stop: Callable[[int], bool] = lambda done: False
    stops_in: str = "training"
    said: list[tuple[str, int, int | None, str]] = field(default_factory=list)
    measured: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    noted: list[str] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.store.root

    def stopping(self) -> bool:
        return bool(self.said) and self.said[-1][0] == self.stops_in and self.stop(self.said[-1][1])

    def metrics(self, at: int, values: Mapping[str, float | None]) -> None:
        self.measured.append((at, dict(values)))

    def note(self, sentence: str) -> None:
        self.noted.append(sentence)

    def progress(self, phase: str, done: int, total: int | None = None, unit: str = "") -> None:
        if self.stopping():
            raise Stopped
        self.said.append((phase, done, total, unit))


@dataclass
class Catalog:
    """What `prepare` may ask, answered from a store and a list of artifacts on their way."""

    store: Store
    on_their_way: set[str] = field(default_factory=set)
    is_this_cpu: bool = False

    def manifest(self, family: str, name: str) -> dict[str, Any] | None:
        return self.store.find_manifest(family, name)

    def is_pending(self, family: str, name: str) -> bool:
        return f"{family}/{name}" in self.on_their_way

    def path(self, family: str, name: str) -> Path:
        return self.store.path(family, name)

    def jobs_run_on_this_cpu(self) -> bool:
        return self.is_this_cpu


@dataclass
class Bench:
    """A store with the model `tiny` and the tokens `words` in it."""

    root: Path
    store: Store

    @property
    def known(self) -> Catalog:
        return Catalog(self.store)

    def context(self, name: str = "sae", **changes: Any) -> Context:
        """A context of the next attempt at the job `name`."""
        workdir = next_attempt(self.store, name)
        return Context(self.store, workdir, workdir / attempts.OUTPUT, name, name, **changes)

    def add_tokens(self, name: str, rows: int, vocabulary: int = VOCABULARY, **special: int) -> None:
        folder = self._folder("tokens", name)
        with TokenWriter(folder, CONTEXT, vocabulary, **special) as writer:
            writer.append(some_tokens(rows))

    def add_model(self, name: str) -> None:
        tiny_model().save_pretrained(self._folder("models", name))

    def add(self, family: str, name: str) -> Path:
        return self._folder(family, name)

    def _folder(self, family: str, name: str) -> Path:
        folder = self.store.path(family, name)
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"name": name}))
        return folder


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors this small gain nothing from a second thread, and lose much by waiting for it on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path, Store(tmp_path / "store"))
    made.add_model("tiny")
    made.add_tokens("words", rows=200)
    return made
