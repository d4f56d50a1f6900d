"""What SAELens' `run_evals` reports of a saved SAE is what we report, on the same rows of tokens.

docs/metrics.md says which of its names is which of ours, and where a definition differs on purpose.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import SAE
from sae_lens.evals import get_eval_everything_config, run_evals
from sae_lens.training.activation_scaler import ActivationScaler
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
from transformers import GPT2Config, GPT2LMHeadModel

from tasks.activations.hook_sites import Hook
from tasks.activations.hooks import find
from tasks.activations.intervention import splice
from tasks.activations.stream import ModelVectors
from tasks.activations.token_mask import Mask
from tasks.sae.architectures import coder_class
from tasks.sae.coder import CoderConfig
from tasks.sae.formats.native import save_sae
from tasks.sae.metrics import measure
from tasks.sae.training.schedule import TrainConfig
from tasks.sae.training.trainer import Trainer
from tasks.train_job.evaluation import EVERYWHERE, PREDICTIONS
from tests.interop.conftest import Compare

PEER, BOUND = "SAELens", 1e-4
D_MODEL, CONTEXT, VOCABULARY, ROWS, BOS = 32, 16, 61, 48, 0
CHOICES: dict[str, dict[str, Any]] = {
    "topk": {"k": 6},
    "batchtopk": {"k": 6},
    "matryoshka": {"k": 6, "groups": 3},
    "jumprelu": {"l0": 0.1},
    "standard": {"l1": 0.5},
    "gated": {"l1": 0.5},
}
#: Their name and ours, of what is measured at the hook and of what the model predicts.
AT_THE_HOOK = {
    "mse": "mse",
    "explained_variance": "explained_variance",
    "cossim": "cosine_similarity",
    "l0": "l0",
    "l1": "l1",
    "l2_norm_in": "l2_norm_in",
    "l2_norm_out": "l2_norm_out",
    "l2_ratio": "l2_ratio",
    "relative_reconstruction_bias": "relative_reconstruction_bias",
}
OF_PREDICTIONS = {
    "ce_loss_without_sae": "ce_loss",
    "ce_loss_with_sae": "ce_loss_with_sae",
    "ce_loss_with_ablation": "ce_loss_with_zero_ablation",
    "ce_loss_score": "ce_loss_recovered",
    "kl_div_with_sae": "kl",
    "kl_div_with_ablation": "kl_with_zero_ablation",
    "kl_div_score": "kl_recovered",
}


def rows_of_tokens(count: int, seed: int) -> np.ndarray:
    """Rows that begin with BOS; each token follows from the one before, mostly."""
    draw = np.random.default_rng(seed)
    jumps = draw.integers(1, 4, size=(count, CONTEXT))
    values = 1 + (draw.integers(VOCABULARY, size=(count, 1)) + jumps.cumsum(axis=1)) % (VOCABULARY - 1)
    values[:, 0] = BOS
    return values


@pytest.fixture(scope="module")
def models() -> tuple[GPT2LMHeadModel, HookedTransformer]:
    """A GPT-2 that has learned something, and the same weights in TransformerLens."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_embd=D_MODEL, n_layer=2, n_head=2, n_positions=CONTEXT, vocab_size=VOCABULARY, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=BOS, eos_token_id=BOS,
    )  # fmt: skip
    ours = GPT2LMHeadModel(config)
    tokens, optimizer = torch.from_numpy(rows_of_tokens(256, 1)), torch.optim.Adam(ours.parameters(), lr=3e-3)
    for _ in range(120):
        ours(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    ours.eval().requires_grad_(False)
    lens = HookedTransformerConfig(
        d_model=D_MODEL, n_layers=2, n_heads=2, d_head=D_MODEL // 2, n_ctx=CONTEXT, d_vocab=VOCABULARY,
        act_fn="gelu_new", normalization_type="LN", eps=config.layer_norm_epsilon, device="cpu",
    )  # fmt: skip
    theirs = HookedTransformer(lens)
    theirs.load_state_dict({**theirs.state_dict(), **convert_gpt2_weights(ours, lens)})
    theirs.eval().requires_grad_(False)
    torch.testing.assert_close(theirs(tokens[:4]), ours(tokens[:4]).logits, rtol=1e-4, atol=1e-4)
    return ours, theirs


def saved(folder: Path, choice: str, vectors: torch.Tensor) -> Trainer:
    """An SAE trained on these vectors, saved in the folder."""
    options = coder_class(choice).Options(**CHOICES[choice])
    config = TrainConfig(CoderConfig(choice, D_MODEL, 4 * D_MODEL, options), steps=150, batch=256, lr=3e-3)
    trainer = Trainer(
        config, lambda step: vectors[torch.randint(len(vectors), (256,), generator=torch.Generator().manual_seed(step))]
    )
    trainer.run(folder)
    about = {"model_name": "tiny", "hook_name": "blocks.0.hook_resid_post", "hook_head_index": None}
    save_sae(folder, trainer.coder, trainer.scales, about)
    return trainer


def their_numbers(folder: Path, model: HookedTransformer, tokens: np.ndarray, excluded: list[int] | bool) -> Any:
    """All that `run_evals` reports of the saved SAE on these rows, in one batch."""
    batch = torch.from_numpy(tokens)
    store: Any = SimpleNamespace(
        store_batch_size_prompts=len(tokens),
        context_size=tokens.shape[1],
        get_batch_tokens=lambda size: batch,
        reset_input_dataset=lambda: None,
    )
    wanted = get_eval_everything_config(len(tokens), n_eval_reconstruction_batches=1)
    sae = SAE.load_from_disk(folder)
    values, features = run_evals(sae, store, model, ActivationScaler(), wanted, exclude_special_tokens=excluded)
    return {name: value for group in values.values() for name, value in group.items()}, features


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("excluded", [[BOS], False], ids=["BOS excluded", "all positions"])
def test_run_evals(
    compare: Compare, tmp_path: Path, models: tuple[Any, Any], choice: str, excluded: list[int] | bool
) -> None:
    ours, theirs = models
    mask = Mask(first=False, ids=tuple(excluded)) if isinstance(excluded, list) else Mask()
    point = find(ours, Hook("resid", 0))
    seen = ModelVectors(ours, rows_of_tokens(256, 2), [point], mask)
    trainer = saved(tmp_path, choice, torch.cat(list(seen.read(np.arange(256)))))
    source = ModelVectors(ours, rows_of_tokens(ROWS, 3), [point], mask)
    raw = torch.cat(list(source.read(np.arange(ROWS))))
    found = measure(trainer.coder, raw * trainer.scales.read[0], unit=trainer.unit, counts=source.counts)
    assert 1 < found.l0 < 60
    values, features = their_numbers(tmp_path, theirs, source.tokens, excluded)

    def hold(what: str, own: Any, other: Any) -> None:
        compare(PEER, f"run_evals: {what}", torch.as_tensor(own), torch.as_tensor(other), BOUND)

    for name, own in AT_THE_HOOK.items():
        hold(name, getattr(found, own), values[name])
    hold("feature_density", found.density, features["feature_density"])
    alive = (torch.tensor(features["feature_density"]) > 0).float().mean()
    hold("frac_alive", 1 - found.dead_fraction, alive)
    names = PREDICTIONS | EVERYWHERE
    spliced = splice(source, np.arange(ROWS), 1, trainer.reconstruct, raw.mean(0), everywhere=True)
    assert spliced is not None
    assert spliced.ablated > spliced.clean
    for name, own in OF_PREDICTIONS.items():
        hold(name, getattr(spliced, names[own]), values[name])
    assert spliced.tokens == (ROWS * (CONTEXT - 2) if excluded else ROWS * (CONTEXT - 1))


def test_rows_without_bos_are_compared_by_the_names_that_say_everywhere(
    compare: Compare, tmp_path: Path, models: tuple[Any, Any]
) -> None:
    """SAELens replaces the first position of a row unless its token is excluded; we leave it, as in training."""
    ours, theirs = models
    point, mask = find(ours, Hook("resid", 0)), Mask(first=True)
    tokens = rows_of_tokens(ROWS, 3)
    tokens[:, 0] = tokens[:, 1]
    seen = ModelVectors(ours, rows_of_tokens(256, 2), [point], mask)
    trainer = saved(tmp_path, "topk", torch.cat(list(seen.read(np.arange(256)))))
    values, _ = their_numbers(tmp_path, theirs, tokens, False)
    every = ModelVectors(ours, tokens, [point], Mask())
    own = splice(every, np.arange(ROWS), 1, trainer.reconstruct, None, everywhere=True)
    kept = splice(ModelVectors(ours, tokens, [point], mask), np.arange(ROWS), 1, trainer.reconstruct, everywhere=True)
    assert own is not None
    assert kept is not None
    assert own.everywhere == own.spliced, "where all positions count, all are replaced"
    score = torch.tensor(values["ce_loss_score"])
    what = "run_evals: ce_loss_score as ce_loss_recovered_everywhere, all positions"
    compare(PEER, what, torch.tensor(own.recovered_everywhere), score, BOUND)
    assert kept.recovered is not None
    assert kept.recovered_everywhere is not None
    assert kept.recovered > kept.recovered_everywhere, "a first position that it was never trained on costs"


def test_the_legacy_explained_variance_is_another_number(
    compare: Compare, tmp_path: Path, models: tuple[Any, Any]
) -> None:
    """SAELens calls its formula incorrect: a mean of ratios. We do not report it; this is what it is."""
    ours, theirs = models
    point, tokens = find(ours, Hook("resid", 0)), rows_of_tokens(ROWS, 3)
    source = ModelVectors(ours, tokens, [point], Mask(ids=(BOS,)))
    raw = torch.cat(list(source.read(np.arange(ROWS))))
    trainer = saved(tmp_path, "topk", raw)
    values, _ = their_numbers(tmp_path, theirs, tokens, [BOS])
    ratios = (trainer.reconstruct(raw) - raw).square().sum(1) / (raw - raw.mean(0)).square().sum(1)
    legacy = torch.tensor(values["explained_variance_legacy"])
    compare(PEER, "run_evals: explained_variance_legacy, by its formula", 1 - ratios.mean(), legacy, BOUND)
    assert abs(values["explained_variance"] - values["explained_variance_legacy"]) > 1e-3
