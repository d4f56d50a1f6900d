"""SAEs that the peers made and saved themselves are taken in with the same codes and reconstructions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE
from sae_lens.registry import get_sae_class, get_sae_training_class
from sparsify import SparseCoder, SparseCoderConfig

from tasks.sae.formats import load_sae
from tasks.sae.importing import take
from tests.interop.coders import random
from tests.interop.conftest import Compare

D_IN, D_SAE = 48, 192
X = 20 * random(200, D_IN, seed=11) + 5
#: SAELens' classes with options; those of transcoders read x.
INFERENCE: dict[str, dict[str, Any]] = {
    "standard": {},
    "gated": {},
    "jumprelu": {},
    "topk": {"k": 8, "rescale_acts_by_decoder_norm": True},
    "transcoder": {"d_out": 40},
    "skip_transcoder": {"d_out": 40},
    "jumprelu_transcoder": {"d_out": 40},
    "jumprelu_skip_transcoder": {"d_out": 40},
}


def drawn(module: torch.nn.Module) -> None:
    """None of its parameters as at the start."""
    with torch.no_grad():
        for seed, parameter in enumerate(module.parameters()):
            parameter += 0.3 * random(*parameter.shape, seed=seed)


@pytest.mark.parametrize(
    ("architecture", "with_bias"),
    [(name, with_bias) for name in INFERENCE for with_bias in (True, False) if not (with_bias and "trans" in name)],
)
@torch.no_grad()
def test_saelens(compare: Compare, tmp_path: Path, architecture: str, with_bias: bool) -> None:
    kind, config = get_sae_class(architecture)
    theirs: SAE = kind(config(D_IN, D_SAE, apply_b_dec_to_input=with_bias, **INFERENCE[architecture]))
    drawn(theirs)
    theirs.save_model(tmp_path / "theirs")
    check(
        compare, tmp_path, "SAELens", f"{architecture} saved there: imported, encode, forward", theirs, theirs.encode(X)
    )


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("standard", {}),
        ("gated", {}),
        ("jumprelu", {"jumprelu_init_threshold": 0.3}),
        ("topk", {"k": 8}),
        ("batchtopk", {"k": 8}),
        ("matryoshka_batchtopk", {"k": 8, "matryoshka_widths": [48, 96, 192]}),
    ],
)
@torch.no_grad()
def test_what_saelens_trains(compare: Compare, tmp_path: Path, architecture: str, options: dict[str, Any]) -> None:
    kind, config = get_sae_training_class(architecture)
    trained = kind(config(d_in=D_IN, d_sae=D_SAE, **options))
    drawn(trained)
    if hasattr(trained, "topk_threshold"):
        trained.topk_threshold.fill_(0.7)
    trained.save_inference_model(tmp_path / "theirs")
    theirs = SAE.load_from_disk(tmp_path / "theirs")
    what = f"{architecture} trained there: imported, encode, forward"
    check(compare, tmp_path, "SAELens", what, theirs, theirs.encode(X))


@pytest.mark.parametrize("options", [{}, {"transcode": True}, {"transcode": True, "skip_connection": True}])
@torch.no_grad()
def test_sparsify(compare: Compare, tmp_path: Path, options: dict[str, Any]) -> None:
    theirs = SparseCoder(D_IN, SparseCoderConfig(num_latents=D_SAE, k=8, **options))
    drawn(theirs)
    theirs.save_to_disk(tmp_path / "theirs")
    values, ids, _ = theirs.encode(X)
    codes = torch.zeros(len(X), D_SAE).scatter(1, ids, values)
    what = " ".join(["topk", *options]) + " saved there: imported, encode, forward"
    check(compare, tmp_path, "sparsify", what, lambda x: theirs(x).sae_out, codes)


def check(compare: Compare, folder: Path, peer: str, what: str, theirs: Any, codes: torch.Tensor) -> None:
    take(folder / "theirs", folder / "ours", "theirs", {})
    ours = load_sae(folder / "ours")
    found = ours.encode(X)
    assert torch.equal(found > 0, codes > 0)
    compare(peer, what, found, codes)
    compare(peer, what, ours(X), theirs(X))
