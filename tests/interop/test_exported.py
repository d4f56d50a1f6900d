"""Exported SAEs load with the libraries they were exported for, and give the same codes and reconstructions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dictionary_learning.utils import load_dictionary
from sae_lens import SAE
from sparsify import SparseCoder

from tasks.sae.formats.exporting import DICTIONARY_LEARNING, SAE_LENS, SPARSIFY, write_as
from tasks.sae.formats.native import load_sae, save_sae
from tests.interop.conftest import Compare
from tests.interop.trained import OPTIONS, SHAPES, activations, encoded_by, trained

HELD_OUT = torch.cat([activations(step) for step in (5000, 5001)])


def exported(
    form: str, folder: Path, choice: str, shape: str = "autoencoder"
) -> tuple[Path, torch.Tensor, torch.Tensor]:
    """Where a trained SAE was exported to, and its codes and reconstructions of the held-out activations."""
    trainer = trained(choice, shape)
    save_sae(folder / "store", trainer.coder, trainer.scales, {"model_name": "tiny", "hook_layer": 1})
    write_as(form, folder / "store", folder / "layers.1")
    return folder / "layers.1", *encoded_by(trainer, HELD_OUT)


@pytest.mark.parametrize("choice", OPTIONS)
@torch.no_grad()
def test_dictionary_learning(compare: Compare, tmp_path: Path, choice: str) -> None:
    folder, codes, made = exported(DICTIONARY_LEARNING, tmp_path, choice)
    theirs, config = load_dictionary(str(folder), "cpu")
    if trained(choice).coder.saved_as == "standard":  # it counts in decoder rows of length 1
        codes = codes * load_sae(tmp_path / "store").W_dec.norm(dim=1)
    found, what = theirs.encode(HELD_OUT), f"trained {choice}: load_dictionary, encode, decode"
    assert torch.equal(found > 0, codes > 0)
    compare("dictionary_learning", what, codes, found)
    compare("dictionary_learning", what, made, theirs.decode(codes))
    assert config["trainer"]["lm_name"] == "tiny"


@pytest.mark.parametrize("shape", [shape for shape, own in SHAPES.items() if own.get("d_out", 48) == 48])
@torch.no_grad()
def test_sparsify(compare: Compare, tmp_path: Path, shape: str) -> None:
    folder, codes, made = exported(SPARSIFY, tmp_path, "topk", shape)
    theirs, what = SparseCoder.load_from_disk(folder), f"trained topk {shape}: load_from_disk, encode, forward"
    values, ids, _ = theirs.encode(HELD_OUT)
    found = torch.zeros_like(codes).scatter(1, ids, values)
    assert torch.equal(found > 0, codes > 0)
    compare("sparsify", what, codes, found)
    compare("sparsify", what, made, theirs(HELD_OUT).sae_out)


@pytest.mark.parametrize("choice", OPTIONS)
@torch.no_grad()
def test_sae_lens(compare: Compare, tmp_path: Path, choice: str) -> None:
    folder, codes, made = exported(SAE_LENS, tmp_path, choice)
    theirs, what = SAE.load_from_disk(folder), f"trained {choice}: exported, encode, decode"
    compare("SAELens", what, codes, theirs.encode(HELD_OUT))
    compare("SAELens", what, made, theirs.decode(codes))
