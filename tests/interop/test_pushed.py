"""What the model card of a pushed SAE says works: SAELens loads it from the Hub, its densities included."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from tasks.sae.formats.native import save_density, save_sae
from tests.hub.repositories import serve_repos
from tests.interop.conftest import Compare
from tests.interop.trained import D_SAE, activations, encoded_by, trained

_LOAD = """
import sys
import torch
from safetensors.torch import load_file, save_file
from sae_lens import SAE
folder = sys.argv[1]
sae, _, density = SAE.from_pretrained_with_cfg_and_sparsity("owner/saes", "mine")
x = load_file(f"{folder}/x.safetensors")["x"]
with torch.no_grad():
    codes = sae.encode(x)
    save_file({"codes": codes, "made": sae.decode(codes), "density": density}, f"{folder}/result.safetensors")
"""


def test_saelens_loads_it_from_the_hub(compare: Compare, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    trainer, x = trained("batchtopk"), activations(5000)
    density = torch.rand(D_SAE, generator=torch.Generator().manual_seed(1))
    save_sae(tmp_path / "mine", trainer.coder, trainer.scales, {})
    save_density(tmp_path / "mine", density)
    save_file({"x": x}, tmp_path / "x.safetensors")
    with serve_repos() as (address, repos):
        files = {f"mine/{path.name}": path.read_bytes() for path in (tmp_path / "mine").iterdir()}
        repos.held["owner/saes"] = files
        settings = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
        environment = {**os.environ, **settings, "NO_PROXY": "127.0.0.1"}
        done = subprocess.run(
            [sys.executable, "-c", _LOAD, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=300
        )
    assert done.returncode == 0, done.stderr
    found, (codes, made) = load_file(tmp_path / "result.safetensors"), encoded_by(trainer, x)
    what = "trained batchtopk: from_pretrained from the Hub"
    compare("SAELens", what, codes, found["codes"])
    compare("SAELens", what, made, found["made"])
    compare("SAELens", what, density.log10(), found["density"])
