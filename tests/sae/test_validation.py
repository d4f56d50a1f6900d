"""Every tensor and field of an SAE's files is checked before anything is published, and named where it is wrong."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mistudio_cli.views.sae_tables import listed, table
from tasks.errors import UserError
from tasks.jobs.kind import kind_named
from tasks.parsing.tensor_files import save_tensors
from tasks.sae.architectures import build
from tasks.sae.formats.exporting import SPARSIFY, write_as
from tasks.sae.formats.native import load_sae, read_config, save_density, save_sae
from tasks.sae.importing.convert import take
from tasks.sae.training import checkpoint
from tests.fixtures.bench import Bench
from tests.fixtures.work_folders import next_attempt
from tests.sae.test_formats import SCALE, trained
from tests.sae.test_importing import D_IN, D_SAE, STANDARD, X, close, drawn, gemma_scope, taken, weights, write

TOPK = {"architecture": "topk", "k": 3, "metadata": {}}
JUMPRELU = {"architecture": "jumprelu", "metadata": {}}


def refused(folder: Path, sentence: str, **about: Any) -> None:
    """An import of the folder says this, and writes nothing."""
    output = folder.parent / "refused"
    output.mkdir(exist_ok=True)
    with pytest.raises(UserError, match=sentence):
        take(folder, output, "somewhere", about)
    assert not any(output.iterdir())


@pytest.mark.parametrize(
    ("result", "change", "sentence"),
    [
        (STANDARD, {"W_dec": torch.tensor(1.0)}, r"tensor W_dec has shape \(\), expected \(24, 8\)"),
        (STANDARD, {"b_enc": torch.ones(1)}, r"tensor b_enc has shape \(1,\), expected \(24,\)"),
        (STANDARD, {"b_dec": torch.ones(1)}, r"tensor b_dec has shape \(1,\), expected \(8,\)"),
        (STANDARD, {"W_enc": drawn(D_SAE, D_IN, seed=1)}, r"tensor W_enc has shape \(24, 8\), expected \(8, 24\)"),
        (JUMPRELU, {"threshold": torch.tensor(0.5)}, r"tensor threshold has shape \(\), expected \(24,\)"),
        (STANDARD, {"another": torch.ones(3)}, "has 'another' among its weights, which is not known"),
        (STANDARD, {"W_enc": drawn(D_IN, D_SAE, seed=1).int()}, "tensor 'W_enc' has type I32, expected F64 or F32"),
        (STANDARD, {"b_enc": torch.ones(D_SAE, dtype=torch.bool)}, "tensor 'b_enc' has type BOOL"),
        (STANDARD, {"W_dec": torch.full((D_SAE, D_IN), float("nan"))}, "tensor W_dec holds NaN or infinite"),
        (STANDARD, {"b_dec": torch.full((D_IN,), float("inf"))}, "tensor b_dec holds NaN or infinite"),
        (STANDARD, {"b_dec": torch.full((D_IN,), 1e300, dtype=torch.float64)}, "tensor b_dec holds NaN or infinite"),
        ({**TOPK, "k": 25}, {}, "k is 25, but the SAE has 24 features"),
        ({**TOPK, "k": True}, {}, "without a whole number of active features: k = True"),
        ({**STANDARD, "d_in": 16}, {}, r"tensor W_enc has shape \(8, 24\), expected \(16, 24\)"),
        ({**STANDARD, "d_sae": "24"}, {}, "d_sae is '24', expected a whole number above 0"),
        ({**STANDARD, "d_in": True}, {}, "d_in is True, expected a whole number above 0"),
        ({**STANDARD, "d_sae": 10**12}, {}, "d_sae is 1000000000000, expected a whole number above 0"),
        ({"architecture": "p_anneal", "metadata": {}}, {}, "no SAE architecture 'p_anneal'"),
        ({**STANDARD, "apply_b_dec_to_input": 1}, {}, "apply_b_dec_to_input is 1, expected true or false"),
        ({**STANDARD, "dtype": "float8"}, {}, "dtype is 'float8', expected one of float32"),
        ({"architecture": "standard", "metadata": []}, {}, r"metadata is \[\], expected an object"),
    ],
)
def test_what_does_not_fit_is_refused_by_file_and_tensor(tmp_path: Path, result: dict, change: dict, sentence: str):
    refused(write(tmp_path / "theirs", result, weights(**change)), sentence)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_real_types_become_single(tmp_path: Path, kind: torch.dtype):
    own = {name: tensor.to(kind) for name, tensor in weights().items()}
    sae = taken(write(tmp_path / "theirs", STANDARD, own), tmp_path / "ours")
    assert {tensor.dtype for tensor in sae.parameters.values()} == {torch.float32}
    assert torch.equal(sae.W_dec, own["W_dec"].float())


def test_a_stored_sae_whose_files_were_damaged_is_not_used(tmp_path: Path):
    save_sae(tmp_path / "sae", trained("batchtopk"), SCALE, {})
    path = tmp_path / "sae/sae_weights.safetensors"
    held = load_file(path)
    for name, tensor, sentence in (
        ("b_enc", torch.ones(1), r"sae_weights\.safetensors: tensor b_enc has shape \(1,\), expected \(24,\)"),
        ("threshold", torch.tensor(float("nan")).expand(D_SAE).clone(), "tensor threshold holds NaN"),
    ):
        save_file({**held, name: tensor}, path)
        with pytest.raises(UserError, match=sentence):
            load_sae(tmp_path / "sae")
    save_file({**held, "threshold": -held["threshold"]}, path)
    assert (load_sae(tmp_path / "sae").encode(X) >= 0).all(), "a code is not negative, as in SAELens"


def test_no_tensor_is_broadcast_into_a_coder():
    coder = trained("topk")
    for tensor in (torch.tensor(1.0), torch.ones(1, 8), coder.W_dec.T):
        with pytest.raises(UserError, match=r"Tensor W_dec has shape .*, expected \(24, 8\)"):
            build(coder.config).load({**coder.state, "W_dec": tensor})
    with pytest.raises(UserError, match="has no b_enc"):
        build(coder.config).load({"W_enc": coder.W_enc, "W_dec": coder.W_dec, "b_dec": coder.b_dec})


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cfg.json", "sae_weights.safetensors", "sparsity.safetensors", "mistudio.json"])
@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("/etc/passwd", "is a link that leads out of the folder: it is not followed"),
        ("/dev/zero", "is a link that leads out of the folder"),
        ("nowhere", "is a link that leads nowhere"),
        ("pipe", "is a named pipe, not a regular file: it is not read"),
        ("folder", "is a folder, not a regular file"),
    ],
)
def test_only_regular_files_inside_the_folder_are_read(tmp_path: Path, name: str, kind: str, sentence: str):
    folder = write(tmp_path / "theirs", STANDARD, weights())
    (folder / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "folder":
        (folder / name).mkdir()
    else:
        (folder / name).symlink_to(kind)
    refused(folder, f"{name} {sentence}")


def test_a_link_within_the_folder_and_one_of_the_hubs_cache_are_followed(tmp_path: Path):
    folder = write(tmp_path / "theirs", STANDARD, weights())
    (folder / "cfg.json").rename(folder / "kept")
    (folder / "cfg.json").symlink_to("kept")
    assert taken(folder, tmp_path / "ours").config.d_sae == D_SAE
    cached = write(tmp_path / "models--o--n/snapshots/5f/layer_3", STANDARD, weights())
    blobs = tmp_path / "models--o--n/blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(cached.iterdir())):
        path.rename(blobs / str(number))
        path.symlink_to(f"../../../blobs/{number}")
    assert taken(cached, tmp_path / "again").config.d_sae == D_SAE


def test_a_description_of_more_than_some_mebibytes_is_not_read(tmp_path: Path):
    folder = write(tmp_path / "theirs", STANDARD, weights())
    (folder / "cfg.json").write_bytes(b" " * (5 << 20))
    refused(folder, "cfg.json: larger than 4 MiB")


def test_an_npz_that_grows_beyond_what_weights_take_is_not_read(tmp_path: Path):
    import numpy as np

    gemma_scope(tmp_path / "theirs")
    np.savez_compressed(tmp_path / "theirs/params.npz", W_enc=np.zeros(96 << 18, dtype=np.float32))
    refused(tmp_path / "theirs", r"params\.npz has no W_dec")
    names = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
    np.savez_compressed(
        tmp_path / "theirs/params.npz", **{name: np.zeros(96 << 18, dtype=np.float32) for name in names}
    )
    refused(tmp_path / "theirs", "grow to .*: weights do not compress so")


def test_a_path_within_the_source_stays_there(bench: Bench):
    write(bench.root / "outside", STANDARD, weights())
    (bench.root / "source").mkdir()
    kind = kind_named("import")
    params = kind.read_params({"source": str(bench.root / "source"), "path": "../outside"})
    with pytest.raises(UserError, match="leads out of"):
        kind.prepare(params, bench.known)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_written_files_are_readable_as_the_umask_says(tmp_path: Path, umask: int):
    before = os.umask(umask)
    try:
        save_sae(tmp_path / "sae", trained("topk"), SCALE, {})
        save_density(tmp_path / "sae", torch.ones(D_SAE))
        write_as(SPARSIFY, tmp_path / "sae", tmp_path / "exported")
        (tmp_path / "run").mkdir()
        checkpoint.save(tmp_path / "run", 1, {"a": torch.ones(3)}, {"fingerprint": "x"})
        save_tensors(tmp_path / "plain.safetensors", {"a": torch.ones(3)})
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert len(files) >= 7
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o666 & ~umask}
    finally:
        os.umask(before)


def test_a_published_artifact_is_readable_as_the_umask_says_whoever_wrote_its_files(bench: Bench):
    output = next_attempt(bench.store, "job") / "output"
    save_file({"a": torch.ones(3)}, output / "model.safetensors")  # as transformers saves a model
    assert stat.S_IMODE((output / "model.safetensors").stat().st_mode) == 0o600
    bench.store.seal(output, {"name": "m"})
    published = bench.store.publish(output, "models", "m")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in published.iterdir()}
    assert modes == {stat.S_IMODE((published / "manifest.json").stat().st_mode)}
    assert modes != {0o600}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{}", "[" * 100_000, '{"metadata": []}', '{"architecture": 3, "metadata": {"hook_names": [1]}}'],
)
def test_a_list_of_saes_holds_one_whose_description_is_damaged(bench: Bench, text: str):
    bench.add("saes", "damaged")
    (bench.store.path("saes", "damaged") / "cfg.json").write_text(text)
    (line,), _ = listed(bench.store)
    assert (line["name"], line["architecture"], line["hooks"]) == ("damaged", None, None)
    assert table([line])[1][0][0] == "damaged"


# -- what the metadata say ---------------------------------------------------------------------------------------------


def imported(folder: Path, outcome: dict[str, Any], about: dict[str, Any], **more: Any) -> tuple[dict[str, Any], dict]:
    """What an import of such an SAE returns, and its metadata then."""
    own = weights(**more)
    write(folder / "theirs", {**outcome, "metadata": about}, own)
    (folder / "ours").mkdir()
    result = take(folder / "theirs", folder / "ours", "somewhere", {})
    return result, read_config(folder / "ours")["metadata"]


def test_each_field_is_acted_on_or_reported(tmp_path: Path):
    about = {
        "hook_name": "blocks.3.hook_resid_post",
        "prepend_bos": True,
        "context_size": 64,
        "training_tokens": 8_000_000_000,
        "seqpos_slice": [5, None],
        "exclude_special_tokens": True,
        "neuronpedia_id": "gpt2-small/3-res",
        "l0": 31.5,
    }
    outcome = {"architecture": "standard", "dtype": "bfloat16", "noise": 0.1, "l1_coefficient": 5, "lp_norm": None}
    result, kept = imported(tmp_path, outcome, about)
    assert result["ignored"] == [
        "l1_coefficient",
        "noise",
        "metadata.l0",
        "metadata.exclude_special_tokens",
    ]
    assert result["notes"] == ["its files say bfloat16; it is used in float32 here"]
    assert (kept["prepend_bos"], kept["context_size"], kept["seqpos_slice"]) == (True, 64, [5, None])
    assert kept["neuronpedia_id"] == "gpt2-small/3-res"


def test_an_import_puts_what_it_ignored_into_the_jobs_history(bench: Bench):
    write(bench.root / "theirs", {**STANDARD, "l1_coefficient": 5, "dtype": "float16"}, weights())
    kind, context = kind_named("import"), bench.context()
    kind.run(kind.read_params({"source": str(bench.root / "theirs")}), context)
    assert context.noted == [
        "its files say float16; it is used in float32 here",
        "nothing was done with: l1_coefficient",
        "its files do not say what it was trained on: `extract` needs it imported with --model and --layer",
    ]


def test_saelens_before_its_version_6_began_rows_with_bos(tmp_path: Path):
    taken(write(tmp_path / "theirs", {"model_name": "gpt2"}, weights()), tmp_path / "ours")
    assert read_config(tmp_path / "ours")["metadata"]["prepend_bos"] is True
    taken(write(tmp_path / "without", {"prepend_bos": False}, weights()), tmp_path / "ours2")
    assert read_config(tmp_path / "ours2")["metadata"]["prepend_bos"] is False


@pytest.mark.parametrize(
    ("name", "now", "module"),
    [
        ("blocks.4.hook_resid_pre", "blocks.3.hook_resid_post", None),
        ("model.layers.5", "blocks.5.hook_resid_post", "model.layers.5"),
        ("transformer.h.5.mlp", "blocks.5.hook_mlp_out", "transformer.h.5.mlp"),
        ("gpt_neox.layers.2.attention", "blocks.2.hook_attn_out", "gpt_neox.layers.2.attention"),
        ("model.language_model.layers.7", "blocks.7.hook_resid_post", "model.language_model.layers.7"),
    ],
)
def test_hooks_by_other_names_are_those_here(tmp_path: Path, name: str, now: str, module: str | None):
    result, kept = imported(tmp_path, STANDARD, {"hook_name": name})
    assert (kept["hook_name"], kept.get("hook_module")) == (now, module)
    assert kept["hook_layer"] == int(now.split(".")[1])
    assert result["notes"] == [f"hook {name} is {now} here"]


@pytest.mark.parametrize(
    ("result", "about", "sentence"),
    [
        ({}, {"hook_name": "blocks.0.hook_resid_pre"}, "reads blocks.0.hook_resid_pre, the model's embeddings"),
        ({}, {"hook_head_index": 3}, "hook_head_index is 3: SAEs of one attention head are not read"),
        ({}, {"hook_name": "blocks.3.hook_mlp_out", "hook_layer": 4}, "hook_name is .*, but hook_layer is 4"),
        ({}, {"seqpos_slice": [0, 8, 0]}, "seqpos_slice is .*, expected start, end and a step above 0"),
        ({}, {"seqpos_slice": "5:"}, "seqpos_slice is '5:', expected"),
        ({}, {"prepend_bos": "yes"}, "prepend_bos is 'yes', expected true or false"),
        ({}, {"context_size": 1.5}, "context_size is 1.5, expected a whole number above 0"),
        ({}, {"exclude_special_tokens": ["a"]}, "exclude_special_tokens is .*, expected true, false or a list"),
        ({"normalize_activations": "layer_norm"}, {}, "normalize_activations = 'layer_norm', which is not supported"),
        ({"normalize_activations": "constant_norm_rescale"}, {}, "'constant_norm_rescale', which is not supported"),
        ({"normalize_activations": True}, {}, "but its factor is unknown: no activation_scaler.json"),
        ({"activation_fn": "tanh-relu"}, {}, "has 'tanh-relu' codes, and only those of ReLU and TopK"),
        ({"rescale_acts_by_decoder_norm": True}, {}, "rescale_acts_by_decoder_norm is not known of a 'standard' SAE"),
        ({"architecture": "batchtopk", "k": 3}, {}, "has no topk_threshold among its weights"),
        ({"architecture": "jumprelu"}, {}, "has no threshold among its weights"),
        ({"architecture": "transcoder", "d_out": 8, "apply_b_dec_to_input": True}, {}, "a transcoder has no bias"),
    ],
)
def test_what_would_change_its_codes_and_is_not_known_is_refused(
    tmp_path: Path, result: dict, about: dict, sentence: str
):
    refused(write(tmp_path / "theirs", {**STANDARD, **result, "metadata": about}, weights()), sentence)


def test_activations_that_were_multiplied_in_training_are_so_in_the_weights(tmp_path: Path):
    own = weights()
    folder = write(tmp_path / "theirs", {**STANDARD, "normalize_activations": "expected_average_only_in"}, own)
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 0.25}')
    sae = taken(folder, tmp_path / "ours")
    codes = ((0.25 * X - own["b_dec"]) @ own["W_enc"] + own["b_enc"]).relu()
    close(sae.encode(X), codes)
    close(sae(X), (codes @ own["W_dec"] + own["b_dec"]) / 0.25)


def test_thresholds_that_were_trained_as_logarithms(tmp_path: Path):
    own = weights(log_threshold=drawn(D_SAE, seed=5))
    sae = taken(write(tmp_path / "theirs", JUMPRELU, own), tmp_path / "ours")
    pre = (X - own["b_dec"]) @ own["W_enc"] + own["b_enc"]
    close(sae.encode(X), pre.relu() * (pre > own["log_threshold"].exp()))


CENTERED = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("architecture", ["standard", "gated"])
def test_an_sae_of_centered_activations_reads_them_as_they_are(tmp_path: Path, architecture: str, with_bias: bool):
    more = {name: drawn(D_SAE, seed=seed) for seed, name in enumerate(("b_gate", "b_mag", "r_mag"), 5)}
    own = weights(**(more if architecture == "gated" else {}))
    if architecture == "gated":
        del own["b_enc"]
    about = {**CENTERED, "model_name": "gpt2-small", "hook_name": "blocks.4.hook_resid_pre"}
    result = {"architecture": architecture, "apply_b_dec_to_input": with_bias, "metadata": about}
    write(tmp_path / "theirs", result, own)
    sae, centered = taken(tmp_path / "theirs", tmp_path / "ours"), X - X.mean(1, keepdim=True)
    z = (centered - own["b_dec"] * with_bias) @ own["W_enc"]
    if architecture == "gated":
        codes = (z * own["r_mag"].exp() + own["b_mag"]).relu() * (z + own["b_gate"] > 0)
    else:
        codes = (z + own["b_enc"]).relu()
    close(sae.encode(X), codes)
    close(sae(X), codes @ own["W_dec"] + own["b_dec"])
    kept = read_config(tmp_path / "ours")["metadata"]
    assert (kept["model_from_pretrained_kwargs"], kept["folded"]) == ({}, ["center_writing_weights"])


@pytest.mark.parametrize(
    ("about", "source", "changed"),
    [
        ({"model_name": "google/gemma-2-2b", **CENTERED}, "x", False),
        ({"model_name": "gpt2", "model_from_pretrained_kwargs": {"center_writing_weights": False}}, "x", False),
        ({"model_name": "gpt2", "model_from_pretrained_kwargs": {"fold_ln": True}}, "x", False),
        ({"model_name": "gpt2", "model_from_pretrained_kwargs": None}, "x", False),
        ({"model_name": "gpt2"}, "x", False),
        ({"model_name": "gpt2"}, "jbloom/GPT2-Small-SAEs-Reformatted/blocks.4.hook_resid_pre", True),
    ],
)
def test_only_a_model_with_layernorm_that_was_centered_changes_an_encoder(
    tmp_path: Path, about: dict, source: str, changed: bool
):
    own = weights()
    result = {**STANDARD, "metadata": {"hook_name": "blocks.4.hook_resid_post", **about}}
    sae = taken(write(tmp_path / "theirs", result, own), tmp_path / "ours", source)
    read = X - X.mean(1, keepdim=True) if changed else X
    close(sae.encode(X), ((read - own["b_dec"]) @ own["W_enc"] + own["b_enc"]).relu())


@pytest.mark.parametrize(
    ("about", "sentence"),
    [
        ({"model_name": "owner/new", **CENTERED}, "whether 'owner/new' has LayerNorm, .* is not known"),
        ({"model_name": "gpt2", **CENTERED, "hook_name": "blocks.2.hook_embed"}, "cannot be folded"),
        ({"model_from_pretrained_kwargs": {"fold_the_moon": 1}}, "loaded with 'fold_the_moon', which is not known"),
        ({"model_from_pretrained_kwargs": {"revision": 3}}, "trained on revision 3 of its model"),
        ({"model_from_pretrained_kwargs": {"checkpoint_index": 0}}, "trained on checkpoint_index 0 of its model"),
        ({"model_from_pretrained_kwargs": {"fold_ln": "yes"}}, "fold_ln = 'yes', expected true or false"),
        (
            {"model_from_pretrained_kwargs": {"fold_ln": True}, "hook_name": "blocks.2.ln2.hook_normalized"},
            "reads 'ln2.hook_normalized' of a model with fold_ln",
        ),
    ],
)
def test_a_model_that_was_processed_otherwise_is_refused(tmp_path: Path, about: dict, sentence: str):
    result = {**STANDARD, "metadata": {"hook_name": "blocks.4.hook_resid_post", **about}}
    refused(write(tmp_path / "theirs", result, weights()), sentence)


def test_a_given_model_shows_its_norm(bench: Bench):
    """`--model tiny`, whose `config.json` says that it is a GPT-NeoX."""
    about = {**CENTERED, "model_name": "owner/new", "hook_name": "blocks.1.hook_resid_post"}
    write(bench.root / "theirs", {**STANDARD, "metadata": about}, weights())
    kind, context = kind_named("import"), bench.context()
    result = kind.run(kind.read_params({"source": str(bench.root / "theirs"), "model": "tiny"}), context)
    assert result["notes"][0].startswith("center_writing_weights was folded into its encoder")
    assert json.dumps(result)
