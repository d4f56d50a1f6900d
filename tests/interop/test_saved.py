"""What is trained here loads with SAELens, and encodes and decodes activations as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sae_lens import SAE
from sae_lens.constants import SPARSITY_FILENAME
from sae_lens.training.sae_trainer import _log_feature_sparsity
from safetensors.torch import load_file

from tasks.sae.formats.native import load_density, save_density, save_sae
from tests.interop.conftest import Compare
from tests.interop.trained import OPTIONS, activations, encoded_by, trained

PEER = "SAELens"
#: Architectures whose saved form SAELens has as a transcoder.
TRANSCODED = [choice for choice in OPTIONS if choice not in ("gated", "topk")]


def check(compare: Compare, what: str, folder: Path, choice: str, shape: str) -> None:
    """SAELens' codes and reconstructions of held-out activations are those of the coder as it was trained."""
    trainer = trained(choice, shape)
    save_sae(folder, trainer.coder, trainer.scales, {"model_name": "tiny"})
    theirs = SAE.load_from_disk(folder)
    held_out = torch.cat([activations(step) for step in (5000, 5001)])
    codes, made = encoded_by(trainer, held_out)
    assert 1 < (codes > 0).sum(1).float().mean() < 100
    with torch.no_grad():
        found = theirs.encode(held_out)
        assert torch.equal(found > 0, codes > 0)
        compare(PEER, what, codes, found)
        compare(PEER, what, made, theirs(held_out))
        if "skip" not in shape:
            compare(PEER, what, made, theirs.decode(codes))


@pytest.mark.parametrize("choice", OPTIONS)
def test_an_autoencoder(compare: Compare, tmp_path: Path, choice: str) -> None:
    check(compare, f"trained {choice}: load_from_disk, encode, decode", tmp_path, choice, "autoencoder")


@pytest.mark.parametrize("choice", TRANSCODED)
@pytest.mark.parametrize("shape", ["transcoder", "skip transcoder"])
def test_a_transcoder(compare: Compare, tmp_path: Path, choice: str, shape: str) -> None:
    check(compare, f"trained {choice} {shape}: load_from_disk, encode, decode", tmp_path, choice, shape)


@pytest.mark.parametrize("choice", ["gated", "topk"])
@pytest.mark.parametrize("shape", ["transcoder", "skip transcoder"])
def test_saelens_has_no_class_for_some_transcoders(tmp_path: Path, choice: str, shape: str) -> None:
    """docs/formats.md says so; when this fails, SAELens has them and they belong above."""
    trainer = trained(choice, shape)
    save_sae(tmp_path, trainer.coder, trainer.scales, {})
    with pytest.raises(KeyError, match=f"{choice}_{shape.replace(' ', '_')}"):
        SAE.load_from_disk(tmp_path)


def test_densities(compare: Compare, tmp_path: Path) -> None:
    density = torch.tensor([0.0, 0.5, 1.0, 2.5e-4, 1e-6])
    save_density(tmp_path, density)
    compare(PEER, "density file", load_file(tmp_path / SPARSITY_FILENAME)["sparsity"], _log_feature_sparsity(density))
    torch.testing.assert_close(load_density(tmp_path), density, rtol=1e-4, atol=0)
