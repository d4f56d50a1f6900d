"""SAEs of others become ours by exact turns, and what cannot be taken is one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tasks.activations.hooks import find_again
from tasks.errors import UserError
from tasks.jobs.kind import kind_named
from tasks.sae.coder import Coder
from tasks.sae.density import histogram
from tasks.sae.formats.native import load_density, load_sae, read_config, save_density, save_sae
from tasks.sae.importing.convert import folders_in, form_of, take
from tests.fixtures.bench import Bench
from tests.models.families import model_of
from tests.sae.test_formats import SCALE, trained

D_IN, D_SAE = 8, 24
X = 20 * torch.randn(60, D_IN, generator=torch.Generator().manual_seed(7)) + 5


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weights(**more: Tensor) -> dict[str, Tensor]:
    """Weights by SAELens' names, whose decoder rows have many lengths."""
    made = {"W_enc": drawn(D_IN, D_SAE, seed=1), "b_enc": drawn(D_SAE, seed=2), "b_dec": drawn(D_IN, seed=4)}
    made["W_dec"] = drawn(D_SAE, D_IN, seed=3) * torch.linspace(0.2, 3, D_SAE)[:, None]
    return {**made, **more}


def write(folder: Path, result: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True)
    (folder / "cfg.json").write_text(json.dumps({"d_in": D_IN, "d_sae": D_SAE, "dtype": "float32", **result}))
    save_file(tensors, folder / "sae_weights.safetensors")
    return folder


def taken(folder: Path, output: Path, source: str = "somewhere", **about: Any) -> Any:
    take(folder, output, source, about)
    return load_sae(output)


def close(found: Tensor, expected: Tensor) -> None:
    assert (expected != 0).any()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)


def test_an_encoder_that_reads_the_vector_itself(tmp_path: Path):
    own = weights(threshold=drawn(D_SAE, seed=5))
    result = {"architecture": "jumprelu", "apply_b_dec_to_input": False, "metadata": {"model_name": "gpt2"}}
    sae = taken(write(tmp_path / "theirs", result, own), tmp_path / "ours")
    pre = X @ own["W_enc"] + own["b_enc"]
    codes = pre.relu() * (pre > own["threshold"])  # half of the thresholds are negative: codes still are not
    close(sae.encode(X), codes)
    close(sae(X), codes @ own["W_dec"] + own["b_dec"])
    assert read_config(tmp_path / "ours")["apply_b_dec_to_input"] is True


def test_a_gated_one_that_reads_the_vector_itself(tmp_path: Path):
    own = weights(b_gate=drawn(D_SAE, seed=5), b_mag=drawn(D_SAE, seed=6), r_mag=0.3 * drawn(D_SAE, seed=8))
    del own["b_enc"]
    result = {"architecture": "gated", "apply_b_dec_to_input": False, "metadata": {}}
    sae = taken(write(tmp_path / "theirs", result, own), tmp_path / "ours")
    z = X @ own["W_enc"]
    close(sae.encode(X), (z * own["r_mag"].exp() + own["b_mag"]).relu() * (z + own["b_gate"] > 0))


def test_topk_by_the_lengths_of_decoder_rows(tmp_path: Path):
    own = weights()
    result = {"architecture": "topk", "k": 3, "rescale_acts_by_decoder_norm": True, "metadata": {}}
    sae = taken(write(tmp_path / "theirs", result, own), tmp_path / "ours")
    lengths = own["W_dec"].norm(dim=1)
    pre = ((X - own["b_dec"]) @ own["W_enc"] + own["b_enc"]) * lengths
    values, ids = pre.topk(3)
    codes = torch.zeros_like(pre).scatter(1, ids, values.relu())
    close(sae.encode(X), codes)
    close(sae(X), (codes / lengths) @ own["W_dec"] + own["b_dec"])


def test_saelens_before_its_version_6(tmp_path: Path):
    own = {**weights(), "scaling_factor": torch.ones(D_SAE)}
    result = {
        "model_name": "gpt2-small",
        "hook_point": "blocks.3.hook_resid_post",
        "hook_point_layer": 3,
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 5},
        "normalize_activations": None,
    }
    sae = taken(write(tmp_path / "theirs", result, own), tmp_path / "ours")
    assert (sae.config.architecture, sae.options.k) == ("topk", 5)
    found = read_config(tmp_path / "ours")["metadata"]
    assert (found["model_name"], found["hook_name"], found["hook_layer"]) == (
        "gpt2-small",
        "blocks.3.hook_resid_post",
        3,
    )


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        ({"activation_fn": "tanh-relu"}, "has 'tanh-relu' codes, and only those of ReLU and TopK are known"),
        ({"activation_fn_str": "tanh-relu"}, "has 'tanh-relu' codes, and only those of ReLU and TopK are known"),
        ({"activation_fn_str": "topk"}, "TopK without a whole number of active features: k = None"),
        ({"activation_fn": "topk", "activation_fn_kwargs": None}, "TopK without .* k = None"),
        ({"activation_fn": "topk", "activation_fn_kwargs": {"k": "64"}}, "TopK without .* k = '64'"),
        ({"activation_fn": "topk", "activation_fn_kwargs": {"k": 0}}, "TopK without .* k = 0"),
    ],
)
def test_codes_that_saelens_before_its_version_6_had_and_are_not_known_are_refused(
    tmp_path: Path, result: dict[str, Any], sentence: str
):
    with pytest.raises(UserError, match=sentence):
        take(write(tmp_path / "theirs", result, weights()), tmp_path / "ours", "", {})


@pytest.mark.parametrize("result", [{}, {"activation_fn": None}, {"activation_fn_str": "relu"}])
def test_saelens_before_its_version_6_has_relu_where_it_says_no_other(tmp_path: Path, result: dict[str, Any]):
    own = weights()
    sae = taken(write(tmp_path / "theirs", result, own), tmp_path / "ours")
    assert sae.config.architecture == "standard"
    close(sae.encode(X), ((X - own["b_dec"]) @ own["W_enc"] + own["b_enc"]).relu())


def test_half_precision_becomes_single(tmp_path: Path):
    own = {name: tensor.bfloat16() for name, tensor in weights().items()}
    sae = taken(write(tmp_path / "theirs", {"architecture": "standard", "metadata": {}}, own), tmp_path / "ours")
    assert sae.W_enc.dtype == torch.float32
    assert torch.equal(sae.W_dec, own["W_dec"].float())


def gemma_scope(folder: Path, **changes: Any) -> dict[str, Tensor]:
    own = weights(threshold=drawn(D_SAE, seed=5).abs())
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **{name: tensor.numpy() for name, tensor in own.items()} | changes)
    return own


def close_to_jumprelu(sae: Coder, own: dict[str, Tensor]) -> None:
    """Its codes and reconstructions are those of the formula with these weights, whose encoder reads x."""
    pre = X @ own["W_enc"] + own["b_enc"]
    codes = pre * (pre > own["threshold"])
    close(sae.encode(X), codes)
    close(sae(X), codes @ own["W_dec"] + own["b_dec"])


def test_gemma_scope_by_its_formula_and_its_names(tmp_path: Path):
    own = gemma_scope(tmp_path / "theirs")
    source = "google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71"
    sae = taken(tmp_path / "theirs", tmp_path / "ours", source)
    close_to_jumprelu(sae, own)
    found = read_config(tmp_path / "ours")["metadata"]
    assert (found["model_name"], found["hook_name"]) == ("google/gemma-2-2b", "blocks.20.hook_resid_post")
    assert (found["seqpos_slice"], found["imported_from"]) == ([1, None], source)
    take(tmp_path / "theirs", tmp_path / "mlp", "google/gemma-scope-9b-it-mlp/layer_3/width_16k/average_l0_9", {})
    found = read_config(tmp_path / "mlp")["metadata"]
    assert (found["model_name"], found["hook_name"]) == ("google/gemma-2-9b-it", "blocks.3.hook_mlp_out")
    take(
        tmp_path / "theirs", tmp_path / "att", "/data/layer_7/gemma-scope-2b-pt-att/snapshots/5f/layer_12/width_16k", {}
    )
    found = read_config(tmp_path / "att")["metadata"]
    assert (found["model_name"], found["hook_name"]) == ("google/gemma-2-2b", "blocks.12.attn.hook_z")


def test_a_transcoder_of_gemma_scope_reads_the_norm_before_the_mlp_without_its_weights_and_writes_after(tmp_path: Path):
    own = gemma_scope(tmp_path / "theirs")
    source = "google/gemma-scope-2b-pt-transcoders/layer_5/width_16k/average_l0_41"
    sae = taken(tmp_path / "theirs", tmp_path / "ours", source)
    close_to_jumprelu(sae, own)
    assert sae.is_transcoder
    about = read_config(tmp_path / "ours")["metadata"]
    assert about["model_name"] == "google/gemma-2-2b"
    assert (about["hook_name"], about["hook_name_out"]) == ("blocks.5.ln2.hook_normalized", "blocks.5.hook_mlp_out")
    assert (about["hook_layer"], about["hook_layer_out"]) == (5, 5)
    with pytest.raises(UserError, match=r"trained on blocks\.5\.ln2\.hook_normalized, which is not known here"):
        find_again(model_of("gemma2"), about)


@pytest.mark.parametrize(
    "source",
    [
        "google/gemma-scope-2b-pt-crosscoders/layer_5/width_16k/average_l0_41",
        "google/gemma-scope-2b-pt-residual/layer_5/width_16k/average_l0_41",
        "google/gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6",
        "/data/layer_5/width_16k/average_l0_41",
        "/data/layer_5/gemma-scope-2b-pt-res/average_l0_41",
    ],
)
def test_names_of_gemma_scope_that_do_not_identify_a_hook_leave_it_open(tmp_path: Path, source: str):
    gemma_scope(tmp_path / "theirs")
    assert not taken(tmp_path / "theirs", tmp_path / "ours", source).is_transcoder
    assert not [name for name in read_config(tmp_path / "ours")["metadata"] if name.startswith("hook_")]


def gemma_scope_2(
    folder: Path, result: dict[str, Any] | None, skip: bool = False, **changes: Tensor
) -> dict[str, Tensor]:
    """A folder of google/gemma-scope-2-…, with the files and names that it has there; half of the features below 0."""
    own = {name.lower(): tensor for name, tensor in weights(threshold=drawn(D_SAE, seed=5)).items()}
    own |= {"affine_skip_connection": drawn(D_IN, D_IN, seed=6)} if skip else {}
    folder.mkdir(parents=True)
    save_file({**own, **changes}, folder / "params.safetensors")
    if result is not None:
        base = {"width": D_SAE, "architecture": "jump_relu", "l0": 60, "affine_connection": skip, "type": "sae"}
        (folder / "config.json").write_text(json.dumps({**base, **result}))
    return own


def read_by(own: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Codes and reconstructions by the formulas of Gemma Scope 2."""
    pre = X @ own["w_enc"] + own["b_enc"]
    codes = pre.relu() * (pre > own["threshold"])
    made = codes @ own["w_dec"] + own["b_dec"]
    return codes, made + X @ own["affine_skip_connection"] if "affine_skip_connection" in own else made


NORMED = "model.layers.5.pre_feedforward_layernorm.output", "model.layers.5.post_feedforward_layernorm.output"


@pytest.mark.parametrize(
    ("points", "hook", "folder"),
    [
        (("model.layers.9.output",) * 2, "blocks.9.hook_resid_post", "resid_post/layer_9_width_16k_l0_medium"),
        ((NORMED[1],) * 2, "blocks.5.hook_mlp_out", "mlp_out_all/layer_5_width_16k_l0_small"),
        (("model.layers.0.self_attn.o_proj.input",) * 2, "blocks.0.attn.hook_z", "attn_out/layer_0_width_1m_l0_big"),
    ],
    ids=["resid", "mlp", "attn"],
)
def test_gemma_scope_2_by_its_formula_its_file_and_its_names(tmp_path: Path, points: tuple, hook: str, folder: str):
    result = {"hf_hook_point_in": points[0], "hf_hook_point_out": points[1], "model_name": "google/gemma-3-4b-it"}
    own = gemma_scope_2(tmp_path / "theirs", result)
    sae = taken(tmp_path / "theirs", tmp_path / "ours")
    codes, made = read_by(own)
    close(sae.encode(X), codes)
    close(sae(X), made)
    about = read_config(tmp_path / "ours")["metadata"]
    assert (about["model_name"], about["hook_name"]) == ("google/gemma-3-4b-it", hook)
    assert about["hook_layer"] == int(hook.split(".")[1])
    (tmp_path / "theirs/config.json").unlink()
    source = f"google/gemma-scope-2-4b-it/{folder}"
    assert torch.equal(taken(tmp_path / "theirs", tmp_path / "again", source).encode(X), sae.encode(X))
    again = read_config(tmp_path / "again")["metadata"]
    assert (again["model_name"], again["hook_name"]) == ("google/gemma-3-4b-it", hook), "its path says the same"


@pytest.mark.parametrize("skip", [False, True])
def test_a_transcoder_of_gemma_scope_2_reads_before_the_mlp_and_writes_after(tmp_path: Path, skip: bool):
    points = {"hf_hook_point_in": NORMED[0], "hf_hook_point_out": NORMED[1], "type": "transcoder"}
    own = gemma_scope_2(tmp_path / "theirs", {**points, "model_name": "gemma-v3-270m-pt"}, skip)
    sae = taken(tmp_path / "theirs", tmp_path / "ours")
    codes, made = read_by(own)
    close(sae.encode(X), codes)
    close(sae(X), made)
    assert (sae.is_transcoder, sae.config.skip) == (True, skip)
    about = read_config(tmp_path / "ours")["metadata"]
    assert about["model_name"] == "google/gemma-3-270m"
    assert (about["hook_name"], about["hook_name_out"]) == ("blocks.5.mlp.hook_in", "blocks.5.hook_mlp_out")
    assert (about["hook_layer"], about["hook_layer_out"]) == (5, 5)
    source = "google/gemma-scope-2-270m-pt/transcoder_all/layer_5_width_16k_l0_big" + "_affine" * skip
    (tmp_path / "theirs/config.json").unlink()
    assert taken(tmp_path / "theirs", tmp_path / "again", source).config == sae.config
    assert read_config(tmp_path / "again")["metadata"] == {**about, "imported_from": source}


def test_the_hooks_of_gemma_scope_2_are_found_in_a_gemma_3():
    model = model_of("gemma3_text")
    for name, module in {
        "hook_resid_post": "model.layers.1",
        "hook_mlp_out": "model.layers.1.post_feedforward_layernorm",
        "mlp.hook_in": "model.layers.1.mlp",
    }.items():
        assert find_again(model, {"hook_name": f"blocks.1.{name}"}).module == module


@pytest.mark.parametrize(
    ("result", "changes", "sentence"),
    [
        (None, {}, "What the SAE in .* reads and writes is not said"),
        ({"hf_hook_point_in": "model.layers.1.output", "architecture": "topk"}, {}, "'topk', and only jump_relu"),
        ({"hf_hook_point_in": "model.layers.1.output", "type": "crosscoder"}, {}, "a coder of several layers"),
        (
            {"hf_hook_point_in": NORMED[0], "hf_hook_point_out": NORMED[1]},
            {"w_dec": drawn(D_SAE, 3, D_IN, seed=1)},
            "a coder of several layers",
        ),
    ],
)
def test_what_of_gemma_scope_2_cannot_be_taken_is_one_sentence(
    tmp_path: Path, result: dict | None, changes: dict, sentence: str
):
    gemma_scope_2(tmp_path / "theirs", result, **changes)
    with pytest.raises(UserError, match=sentence):
        take(tmp_path / "theirs", tmp_path / "ours", "", {})


def test_the_files_of_a_cross_layer_transcoder_say_so(tmp_path: Path):
    save_file(weights(), tmp_path / "params_layer_0.safetensors")
    with pytest.raises(UserError, match="a coder of several layers"):
        form_of(tmp_path)


def test_no_object_in_an_npz_is_unpickled(tmp_path: Path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    gemma_scope(tmp_path / "theirs", W_enc=np.array([Trap()], dtype=object))
    with pytest.raises(UserError, match="holds objects, which are not read"):
        take(tmp_path / "theirs", tmp_path / "ours", "", {})
    assert not (tmp_path / "sprung").exists()


def test_our_own_come_back_with_their_densities(tmp_path: Path):
    save_sae(tmp_path / "sae", trained("gated"), SCALE, {"model_name": "tiny", "exclude_special_tokens": True})
    save_density(tmp_path / "sae", torch.linspace(0, 1, D_SAE))
    (tmp_path / "ours").mkdir()
    result = take(tmp_path / "sae", tmp_path / "ours", "somewhere", {"model_name": "other"})
    sae = load_sae(tmp_path / "ours")
    assert result["density_histogram"] == histogram(torch.linspace(0, 1, D_SAE)).to_dict()
    assert torch.equal(sae.encode(X), load_sae(tmp_path / "sae").encode(X))
    torch.testing.assert_close(load_density(tmp_path / "ours"), torch.linspace(0, 1, D_SAE), rtol=1e-4, atol=1e-8)
    found = read_config(tmp_path / "ours")["metadata"]
    assert (found["model_name"], found["trained_as"]) == ("other", "gated")
    assert "exclude_special_tokens" not in found, "which ones, nobody said"


@pytest.mark.parametrize("shape", [{"blocks": 2}, {"d_out": 5, "skip": True}])
def test_what_saelens_has_no_class_for_comes_back_too(tmp_path: Path, shape: dict[str, Any]):
    save_sae(tmp_path / "sae", trained("topk", **shape), SCALE, {})
    sae, first = taken(tmp_path / "sae", tmp_path / "ours"), load_sae(tmp_path / "sae")
    assert sae.config == first.config
    assert torch.equal(sae(X), first(X))


STANDARD = {"architecture": "standard", "metadata": {}}


@pytest.mark.parametrize(
    ("result", "change", "sentence"),
    [
        ({**STANDARD, "normalize_activations": "layer_norm"}, {}, "normalize_activations = 'layer_norm'"),
        ({**STANDARD, "reshape_activations": "hook_z"}, {}, "reshape_activations = 'hook_z'"),
        ({"architecture": "temporal", "metadata": {}}, {}, "no SAE architecture 'temporal'"),
        (STANDARD, {"scaling_factor": torch.full((D_SAE,), 2.0)}, "a factor of their own"),
        ({"architecture": "jumprelu", "metadata": {}}, {}, "has no threshold among its weights"),
        ({"architecture": "topk", "metadata": {}}, {}, "TopK without a whole number of active features: k = None"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path: Path, result: dict, change: dict, sentence: str):
    with pytest.raises(UserError, match=sentence):
        take(write(tmp_path / "theirs", result, weights(**change)), tmp_path / "ours", "", {})


def test_where_there_is_no_sae_it_says_what_there_is(tmp_path: Path):
    with pytest.raises(UserError, match=r"no SAE in .*Known are cfg.json and sae_weights.safetensors \(SAELens\)"):
        form_of(tmp_path)
    write(tmp_path / "run/layer_3", STANDARD, weights())
    with pytest.raises(UserError, match=r"in folders below it\. For one: .*run/layer_3"):
        form_of(tmp_path)
    (tmp_path / "ae.pt").write_bytes(b"")
    with pytest.raises(UserError, match=r"ae\.pt, a pickle: loading one can run any code"):
        form_of(tmp_path)
    files = ["a/cfg.json", "a/sae_weights.safetensors", "b/cfg.json", "c/d/params.npz", "README.md"]
    assert folders_in(files) == ["a", "c/d"]


def test_an_import_is_a_job_whose_artifact_names_the_model(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    write(bench.root / "theirs", {**STANDARD, "metadata": {"model_name": "gpt2"}}, weights())
    monkeypatch.chdir(bench.root)
    kind = kind_named("import")
    params, requests = kind.prepare(kind.read_params({"source": "theirs", "model": "tiny", "layer": 1}), bench.known)
    assert (params.source, requests, kind.default_name(params)) == (str(bench.root / "theirs"), [], "theirs")
    context = bench.context()
    result = kind.run(params, context)
    assert (result["form"], result["model"], result["hook"]) == ("SAELens", "tiny", "blocks.1.hook_resid_post")
    assert json.dumps(result)
    assert load_sae(context.output).config.d_sae == D_SAE
    for source, sentence in (("nowhere", "no folder 'nowhere'"), (str(bench.root), "in folders below it")):
        with pytest.raises(UserError, match=sentence):
            kind.prepare(kind.read_params({"source": source}), bench.known)


def test_a_record_that_becomes_a_link_while_weights_are_read_is_not_followed(tmp_path: Path, monkeypatch):
    secret, folder = tmp_path / "secret", tmp_path / "theirs"
    secret.write_text('{"password": "planted"}')
    save_sae(folder, trained("topk"), SCALE, {})
    (folder / "mistudio.json").write_text("{}")

    def swapped(path: Path) -> Any:
        (folder / "mistudio.json").unlink()
        (folder / "mistudio.json").symlink_to(secret)

    monkeypatch.setattr("tasks.sae.formats.native.load_sae", swapped)
    with pytest.raises(UserError, match="a link that leads out of the folder"):
        take(folder, tmp_path / "output", "somewhere", {})
    assert not (tmp_path / "output" / "mistudio.json").exists()
