"""SAEs of processed models, trainers' checkpoints and slices of positions, held to SAELens and TransformerLens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from sae_lens import SAE, ActivationsStore
from sae_lens.load_model import load_model as load_by_sae_lens
from sae_lens.registry import get_sae_class, get_sae_training_class
from sae_lens.training.activation_scaler import ActivationScaler, ActivationWhitening
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens import HookedTransformer
from transformer_lens import loading_from_pretrained as loading
from transformer_lens.supported_models import MODEL_ALIASES, OFFICIAL_MODEL_NAMES
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from tasks.activations.hook_sites import Hook
from tasks.activations.hooks import catch, find, find_again
from tasks.activations.token_mask import mask_again
from tasks.errors import UserError
from tasks.sae.formats.exporting import SAE_LENS, write_as
from tasks.sae.formats.hooked_transformer_ids import HOOKED_MODELS, OLDEST
from tasks.sae.formats.native import load_sae, read_config, save_sae
from tasks.sae.importing.convert import take
from tasks.text.tokens import TokensInfo
from tasks.train_job.provenance import of_model
from tests.interop.conftest import Compare
from tests.interop.test_imported import D_IN, D_SAE, X, drawn
from tests.interop.trained import trained

CONTEXT = 16
IDS = torch.randint(2, 60, (4, CONTEXT), generator=torch.Generator().manual_seed(1))
_SIZES = {"hidden_size": D_IN, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 96}
#: A model of each norm, small: what TransformerLens calls one of the family, and its sizes.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {"n_embd": D_IN, "n_layer": 3, "n_head": 4, "n_positions": 32}),
    "gpt_neox": ("EleutherAI/pythia-70m", {**_SIZES, "max_position_embeddings": 32}),
    "qwen2": ("Qwen/Qwen2-0.5B", {**_SIZES, "num_key_value_heads": 3, "max_position_embeddings": 32}),
}
EVERYTHING = {"center_writing_weights": True, "fold_ln": True, "fold_value_biases": True, "center_unembed": True}


def small(family: str) -> Any:
    """A transformers model with random weights and biases, none of whose norms is as at the start."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=64, bos_token_id=1, eos_token_id=0, **MODELS[family][1])
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape), alpha=0.2)
    model.config.architectures, model.config.n_ctx = [type(model).__name__], 32
    return model


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    words = {"<eos>": 0, "<bos>": 1, **{f"w{i}": i for i in range(2, 64)}}
    made = Tokenizer(models.WordLevel(words, unk_token="<eos>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<eos>", "pad_token": "<eos>"}
    PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(tmp_path / "tokenizer")
    return AutoTokenizer.from_pretrained(tmp_path / "tokenizer")


@pytest.fixture
def as_sae_lens_loads_it(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> Any:
    """The model as SAELens has it: by TransformerLens, unprocessed but for what the SAE's metadata say."""

    def load(model: Any, family: str, **kwargs: Any) -> HookedTransformer:
        monkeypatch.setattr(loading.AutoConfig, "from_pretrained", lambda *_, **__: model.config)
        name = MODELS[family][0]
        return HookedTransformer.from_pretrained_no_processing(name, hf_model=model, tokenizer=tokenizer, **kwargs)

    return load


def saved(folder: Path, architecture: str, about: dict[str, Any], **options: Any) -> SAE:
    """An SAE of SAELens in a folder, whose codes are those of about half of its features."""
    kind, config = get_sae_class(architecture)
    theirs: SAE = kind(config(D_IN, D_SAE, **options))
    drawn(theirs)
    theirs.save_model(folder)
    result = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps({**result, "metadata": {**result["metadata"], **about}}))
    return theirs


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("kwargs", [{}, {"center_writing_weights": True}, EVERYTHING], ids=["none", "centered", "all"])
@pytest.mark.parametrize("site", ["hook_resid_post", "hook_mlp_out", "hook_attn_out"])
@torch.no_grad()
def test_codes_on_the_model_as_it_is_are_those_on_the_processed_one(
    compare: Compare, tmp_path: Path, as_sae_lens_loads_it: Any, family: str, kwargs: dict[str, Any], site: str
) -> None:
    about = {"model_name": MODELS[family][0], "hook_name": f"blocks.1.{site}", "model_from_pretrained_kwargs": kwargs}
    model = small(family)
    processed = as_sae_lens_loads_it(model, family, **kwargs)
    theirs_in = processed.run_with_cache(IDS)[1][f"blocks.1.{site}"].flatten(0, 1)
    for architecture, with_bias in (("standard", True), ("gated", False), ("topk", True), ("jumprelu", False)):
        options = {"k": 8} if architecture == "topk" else {}
        folder = tmp_path / architecture
        theirs = saved(folder / "theirs", architecture, about, apply_b_dec_to_input=with_bias, **options)
        take(folder / "theirs", folder / "ours", "theirs", {})
        ours, result = load_sae(folder / "ours"), read_config(folder / "ours")["metadata"]
        ours_in = catch(model, [find_again(model, result)], {"input_ids": IDS})[0].flatten(0, 1)
        what = f"{family} processed by TransformerLens ({len(kwargs)} ways): codes at {site}, as it is"
        compare("SAELens", what, ours.encode(ours_in), theirs.encode(theirs_in), bound=1e-4)
        compare("SAELens", what, ours(ours_in), theirs(theirs_in), bound=1e-4)


def test_value_biases_that_were_folded_change_what_is_between_and_are_refused(tmp_path: Path) -> None:
    about = {"model_name": "gpt2", "hook_name": "blocks.1.attn.hook_z"}
    saved(tmp_path / "theirs", "standard", {**about, "model_from_pretrained_kwargs": {"fold_value_biases": True}})
    with pytest.raises(UserError, match=r"reads 'attn\.hook_z' of a model with fold_value_biases"):
        take(tmp_path / "theirs", tmp_path / "ours", "", {})


def test_the_models_that_transformer_lens_knows() -> None:
    names = set(OFFICIAL_MODEL_NAMES) | {alias for aliases in MODEL_ALIASES.values() for alias in aliases}
    assert {name for name in names if "/" in name} == HOOKED_MODELS - OLDEST
    assert names >= OLDEST


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("standard", {}),
        ("jumprelu", {"jumprelu_init_threshold": 0.3}),
        ("topk", {"k": 8}),
        ("topk", {"k": 8, "rescale_acts_by_decoder_norm": False}),
        ("batchtopk", {"k": 8}),
        ("batchtopk", {"k": 8, "rescale_acts_by_decoder_norm": False}),
        ("matryoshka_batchtopk", {"k": 8, "matryoshka_widths": [48, 96, 192]}),
    ],
)
@pytest.mark.parametrize("normalized", ["none", "expected_average_only_in", "covariance_whitening"])
@torch.no_grad()
def test_a_checkpoint_of_a_trainer(
    compare: Compare, tmp_path: Path, architecture: str, options: dict[str, Any], normalized: str
) -> None:
    """What is saved while SAELens trains is what it would save at the end: activations are normalized in weights."""
    kind, config = get_sae_training_class(architecture)
    training = kind(config(d_in=D_IN, d_sae=D_SAE, normalize_activations=normalized, **options))
    drawn(training)
    if hasattr(training, "topk_threshold"):
        training.topk_threshold.fill_(0.7)
    training.save_model(tmp_path / "checkpoint")
    scaler = ActivationScaler()
    if normalized == "expected_average_only_in":
        scaler.scaling_factor = 0.37
        training.fold_activation_norm_scaling_factor(0.37)
    if normalized == "covariance_whitening":
        matrix = torch.linalg.qr(X.T @ X / len(X)).Q * torch.linspace(0.02, 0.2, D_IN)
        mean, inverse = X.mean(0), torch.linalg.inv(matrix.double()).float()
        scaler.whitening = ActivationWhitening(mean, matrix.contiguous(), inverse.contiguous())
        training.fold_activation_whitening(mean, matrix, inverse)
    scaler.save(str(tmp_path / "checkpoint/activation_scaler.json"))
    training.save_inference_model(tmp_path / "end")
    theirs = SAE.load_from_disk(tmp_path / "end")
    take(tmp_path / "checkpoint", tmp_path / "ours", "", {})
    ours, what = load_sae(tmp_path / "ours"), f"{architecture} checkpoint, activations {normalized}: imported"
    assert (theirs.encode(X) > 0).any()
    compare("SAELens", what, ours.encode(X), theirs.encode(X), bound=1e-4)
    compare("SAELens", what, ours(X), theirs(X), bound=1e-4)


@pytest.mark.parametrize("positions", [[None], [1, None], [5, None], [1, -1], [0, 12, 2], [-4, None], [3]])
def test_the_positions_that_count_are_those_that_saelens_reads(
    tmp_path: Path, as_sae_lens_loads_it: Any, positions: list[int | None]
) -> None:
    """SAELens' rows begin with BOS where the SAE says `prepend_bos`, and the slice counts from there."""
    model = small("gpt2")
    about = {"model_name": "gpt2", "hook_name": "blocks.1.hook_resid_post", "context_size": CONTEXT}
    theirs = saved(tmp_path / "theirs", "standard", {**about, "prepend_bos": True, "seqpos_slice": positions})
    theirs = SAE.load_from_disk(tmp_path / "theirs")
    words = torch.randint(2, 60, (40, 50), generator=torch.Generator().manual_seed(2)).tolist()
    text = Dataset.from_dict({"text": [" ".join(f"w{word}" for word in row) for row in words]})
    hooked = as_sae_lens_loads_it(model, "gpt2")
    store = ActivationsStore.from_sae(hooked, theirs, text, streaming=False, store_batch_size_prompts=4)
    rows = store.get_batch_tokens(4)
    assert (rows[:, 0] == 1).all(), "rows begin with BOS"
    expected = hooked.run_with_cache(rows)[1]["blocks.1.hook_resid_post"][:, slice(*positions)].flatten(0, 1)
    take(tmp_path / "theirs", tmp_path / "ours", "", {})
    result = read_config(tmp_path / "ours")["metadata"]
    assert (result["prepend_bos"], result["seqpos_slice"]) == (True, positions)
    tokens = rows.numpy()
    mask = mask_again(result, TokensInfo("uint16", len(tokens), CONTEXT, 64))
    kept = mask.kept(tokens)
    assert kept.sum(1).tolist() == [store.training_context_size] * 4 == mask.counts(tokens).tolist()
    found = catch(model, [find_again(model, result)], {"input_ids": rows})[0][torch.from_numpy(kept)]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert np.array_equal(kept.nonzero()[1].reshape(4, -1)[0], np.arange(CONTEXT)[slice(*positions)])


@torch.no_grad()
def test_saelens_finds_model_and_hook_of_an_exported_sae(compare: Compare, tmp_path: Path, tokenizer: Any) -> None:
    """By nothing but what `cfg.json` says, where transformers alone knows the model; and back here it is as it was."""
    model = small("qwen2")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    point = find(model, Hook("mlp", 1))
    about = {
        **of_model(str(tmp_path / "model"), [point], []),
        "hook_name": point.name,
        "hook_module": point.module,
    }
    trainer = trained("topk")
    save_sae(tmp_path / "sae", trainer.coder, trainer.scales, {**about, "prepend_bos": True})
    write_as(SAE_LENS, tmp_path / "sae", tmp_path / "exported")
    theirs = SAE.load_from_disk(tmp_path / "exported")
    result = theirs.cfg.metadata
    hooked = load_by_sae_lens(result.model_class_name, result.model_name, "cpu", None, [result.hook_name])
    _, cache = hooked.run_with_cache(IDS, names_filter=[result.hook_name])
    ours_in = catch(model, [point], {"input_ids": IDS})[0].flatten(0, 1)
    ours = load_sae(tmp_path / "sae")
    codes = theirs.encode(cache[result.hook_name].flatten(0, 1))
    compare("SAELens", "exported SAE, model and hook found by cfg.json: codes", ours.encode(ours_in), codes)
    take(tmp_path / "exported", tmp_path / "back", "", {})
    back = read_config(tmp_path / "back")["metadata"]
    assert back["hook_name"] == "blocks.1.hook_mlp_out"
    assert find_again(model, back) == point
