"""What other libraries are given: the files of their forms, by their published formulas; tests/interop asks them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks.errors import UserError
from tasks.jobs.kind import kind_named
from tasks.sae.formats.exporting import DICTIONARY_LEARNING, FORMS, SAE_LENS, SPARSIFY, write_as
from tasks.sae.formats.native import Scales, load_sae, save_density, save_sae
from tests.fixtures.bench import Bench, Catalog
from tests.sae.test_formats import SCALE, trained

RAW = torch.randn(50, 8, generator=torch.Generator().manual_seed(7)) / SCALE.read[0]


def saved(folder: Path, architecture: str, **shape: Any) -> Path:
    save_sae(folder, trained(architecture, **shape), SCALE, {"model_name": "tiny", "hook_layer": 1, "context_size": 16})
    return folder


def test_sparsify_by_its_formula(tmp_path: Path):
    write_as(SPARSIFY, saved(tmp_path / "sae", "topk"), tmp_path / "out")
    result = json.loads((tmp_path / "out/cfg.json").read_text())
    assert (result["d_in"], result["num_latents"], result["k"], result["transcode"]) == (8, 24, 3, False)
    weights = load_file(tmp_path / "out/sae.safetensors")
    pre = ((RAW - weights["b_dec"]) @ weights["encoder.weight"].T + weights["encoder.bias"]).relu()
    values, ids = pre.topk(3)
    codes = torch.zeros(50, 24).scatter(1, ids, values)
    sae = load_sae(tmp_path / "sae")
    torch.testing.assert_close(codes, sae.encode(RAW), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(codes @ weights["W_dec"] + weights["b_dec"], sae(RAW), rtol=1e-5, atol=1e-4)


def test_dictionary_learning_by_its_formula(tmp_path: Path):
    write_as(DICTIONARY_LEARNING, saved(tmp_path / "sae", "standard"), tmp_path / "out")
    result = json.loads((tmp_path / "out/config.json").read_text())["trainer"]
    assert (result["dict_class"], result["activation_dim"], result["dict_size"], result["layer"]) == (
        "AutoEncoder",
        8,
        24,
        1,
    )
    weights = torch.load(tmp_path / "out/ae.pt", weights_only=True)
    codes = ((RAW - weights["bias"]) @ weights["encoder.weight"].T + weights["encoder.bias"]).relu()
    sae = load_sae(tmp_path / "sae")
    torch.testing.assert_close(weights["decoder.weight"].norm(dim=0), torch.ones(24))
    torch.testing.assert_close(codes, sae.encode(RAW) * sae.W_dec.norm(dim=1), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(codes @ weights["decoder.weight"].T + weights["bias"], sae(RAW), rtol=1e-5, atol=1e-4)


def test_jumprelu_of_dictionary_learning_reads_the_vectors_themselves(tmp_path: Path):
    write_as(DICTIONARY_LEARNING, saved(tmp_path / "sae", "batchtopk"), tmp_path / "out")
    weights = torch.load(tmp_path / "out/ae.pt", weights_only=True)
    pre = RAW @ weights["W_enc"] + weights["b_enc"]
    codes = pre * (pre > weights["threshold"])
    torch.testing.assert_close(codes, load_sae(tmp_path / "sae").encode(RAW), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("form", "architecture", "shape", "sentence"),
    [
        (SPARSIFY, "standard", {}, "TopK SAEs only, and this one's codes are standard"),
        (SPARSIFY, "gated", {}, "TopK SAEs only, and this one's codes are gated"),
        (SPARSIFY, "batchtopk", {}, "TopK SAEs only, and this one's codes are jumprelu"),
        (SPARSIFY, "topk", {"d_out": 5}, "this one 5 for 8"),
        (DICTIONARY_LEARNING, "topk", {"d_out": 8}, "dictionary_learning has no transcoders"),
        (DICTIONARY_LEARNING, "standard", {"blocks": 2}, "dictionary_learning has no crosscoders"),
        (SPARSIFY, "topk", {"blocks": 2}, "sparsify has no crosscoders"),
    ],
)
def test_what_a_form_has_no_words_for_is_refused_at_submit_and_leaves_nothing(
    bench: Bench, form, architecture, shape, sentence
):
    kind, before = kind_named("export"), sorted(bench.root.iterdir())
    values = {"sae": "mine", "folder": str(bench.root / "out"), "to": form}
    is_pending = Catalog(bench.store, {"saes/mine"})
    params, _ = kind.prepare(kind.read_params(values), is_pending)  # what it will be is not known yet
    bench.add("saes", "mine")
    save_sae(bench.store.path("saes", "mine"), trained(architecture, **shape), Scales((1.0,), (1.0,)), {})
    with pytest.raises(UserError, match=sentence):
        kind.prepare(kind.read_params(values), bench.known)
    with pytest.raises(UserError, match=sentence):
        kind.run(params, bench.context())
    assert sorted(bench.root.iterdir()) == before


def test_an_export_is_a_job_that_writes_where_the_user_stood(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    kind, folder = kind_named("export"), bench.store.path("saes", "mine")
    bench.add("saes", "mine")
    save_sae(folder, trained("topk"), SCALE, {})
    save_density(folder, torch.rand(24))
    monkeypatch.chdir(bench.root)
    for form in FORMS:
        values = {"sae": "mine", "folder": f"out-{form}", "to": form}
        params, _ = kind.prepare(kind.read_params(values), bench.known)
        result = kind.run(params, bench.context())
        assert result["folder"] == str(bench.root / f"out-{form}")
        assert result["files"] == sorted(path.name for path in (bench.root / f"out-{form}").iterdir())
    assert result["files"] == ["cfg.json", "sae.safetensors"]
    assert "sparsity.safetensors" in {path.name for path in (bench.root / f"out-{SAE_LENS}").iterdir()}
    with pytest.raises(UserError, match="is there already"):
        kind.prepare(kind.read_params(values), bench.known)
    with pytest.raises(UserError, match="no saes/yours"):
        kind.prepare(kind.read_params({**values, "sae": "yours"}), bench.known)


def test_what_a_form_has_no_place_for_is_noted(bench: Bench):
    kind = kind_named("export")
    bench.add("saes", "mine")
    about = {"hook_name": "blocks.1.hook_resid_post", "model_name": "toy"}
    save_sae(bench.store.path("saes", "mine"), trained("topk"), SCALE, about)
    notes = {}
    for form in FORMS:
        context = bench.context()
        kind.run(kind.read_params({"sae": "mine", "folder": str(bench.root / form), "to": form}), context)
        notes[form] = context.noted
    lost = (
        "files do not say the hook (blocks.1.hook_resid_post) and the model (toy): an import needs --layer and --model"
    )
    assert notes.pop(SAE_LENS) == []
    assert notes == {form: [f"{form.replace('-', '_')}'s {lost}"] for form in notes}


def test_an_export_that_was_killed_after_it_had_written_is_done(bench: Bench):
    kind = kind_named("export")
    for name in ("mine", "other"):
        bench.add("saes", name)
        save_sae(bench.store.path("saes", name), trained("topk"), SCALE, {})
    context, params = bench.context(), kind.read_params({"sae": "mine", "folder": str(bench.root / "out")})
    result = kind.run(params, context)
    assert kind.run(params, context) == result, "another attempt with the same work folder"
    with pytest.raises(UserError, match="is there already"):
        kind.run(params, bench.context("another"))
    shutil.rmtree(bench.root / "out")
    (bench.root / "out").mkdir()
    with pytest.raises(UserError, match="is there already"):
        kind.run(params, context)


def test_of_two_exports_to_one_folder_one_gets_it_whole_and_the_other_says_so(bench: Bench, monkeypatch):
    kind = kind_named("export")
    for name, architecture in (("first", "topk"), ("second", "standard")):
        bench.add("saes", name)
        save_sae(bench.store.path("saes", name), trained(architecture), SCALE, {})
    folder = bench.root / "out"
    slow, quick = ({"sae": name, "folder": str(folder)} for name in ("first", "second"))
    slow, quick = (kind.prepare(kind.read_params(values), bench.known)[0] for values in (slow, quick))
    copied = shutil.copyfile

    def overtaken(source: Path, target: Path) -> None:
        """The other export begins and ends while this one writes its first file."""
        monkeypatch.setattr(shutil, "copyfile", copied)
        copied(source, target)
        kind.run(quick, bench.context("second"))

    monkeypatch.setattr(shutil, "copyfile", overtaken)
    with pytest.raises(UserError, match="out is there already"):
        kind.run(slow, bench.context("first"))
    assert load_sae(folder).config.architecture == "standard"
    assert [path.name for path in bench.root.iterdir() if path.name.startswith("out")] == ["out"]


def test_a_folder_that_is_made_at_the_last_moment_is_left_as_it_is(tmp_path: Path, monkeypatch):
    sae, folder, rename = saved(tmp_path / "sae", "topk"), tmp_path / "out", Path.rename

    def too_late(draft: Path, target: Path) -> Path:
        (target / "theirs").mkdir(parents=True)
        return rename(draft, target)

    monkeypatch.setattr(Path, "rename", too_late)
    with pytest.raises(UserError, match="out is there already"):
        write_as(SAE_LENS, sae, folder)
    assert [path.name for path in folder.iterdir()] == ["theirs"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "sae"]
