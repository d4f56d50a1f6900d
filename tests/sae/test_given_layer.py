"""`import --layer` names the residual stream after a layer, where files and names leave that open, and only there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.errors import UserError
from tasks.jobs.kind import kind_named
from tasks.sae.formats.exporting import SAE_LENS, SPARSIFY, write_as
from tasks.sae.formats.native import read_config, save_sae
from tests.fixtures.bench import Bench
from tests.sae.test_formats import SCALE, trained
from tests.sae.test_importing import NORMED, gemma_scope, gemma_scope_2


def saved(bench: Bench, form: str, place: str, about: dict[str, Any], **shape: Any) -> Path:
    """The folder `place` with an SAE in that form whose files say this of it."""
    save_sae(bench.root / "sae", trained("topk", **shape), SCALE, about)
    write_as(form, bench.root / "sae", bench.root / place)
    return bench.root / place


def requested(folder: Path, layer: int) -> Any:
    return kind_named("import").read_params({"source": str(folder), "layer": layer})


def imported(bench: Bench, folder: Path, layer: int) -> dict[str, Any]:
    """The metadata of the SAE that an import with that layer makes."""
    kind, context = kind_named("import"), bench.context()
    params, _ = kind.prepare(requested(folder, layer), bench.known)
    kind.run(params, context)
    return read_config(context.output)["metadata"]


def refused(bench: Bench, folder: Path, layer: int, sentence: str) -> None:
    """It is refused at submit, and by the job where it was not known then."""
    kind = kind_named("import")
    with pytest.raises(UserError, match=sentence):
        kind.prepare(requested(folder, layer), bench.known)
    with pytest.raises(UserError, match=sentence):
        kind.run(requested(folder, layer), bench.context())


HOOK = {"hook_name": "blocks.3.hook_resid_post", "hook_layer": 3}


@pytest.mark.parametrize(
    ("form", "place", "about", "layer"),
    [
        (SAE_LENS, "theirs", {}, 6),
        (SAE_LENS, "theirs", HOOK, 3),
        (SAE_LENS, "theirs", {"hook_name": "blocks.7.hook_resid_pre", "hook_layer": 7}, 6),
        (SPARSIFY, "theirs", {}, 6),
        (SPARSIFY, "layers.6", {}, 6),
    ],
)
def test_a_layer_is_taken_where_nothing_identifies_another_hook(bench: Bench, form, place, about, layer):
    found = imported(bench, saved(bench, form, place, about), layer)
    assert (found["hook_name"], found["hook_layer"]) == (f"blocks.{layer}.hook_resid_post", layer)


@pytest.mark.parametrize(
    ("form", "place", "about", "layer", "found"),
    [
        (SAE_LENS, "theirs", HOOK, 4, "blocks.3.hook_resid_post"),
        (SAE_LENS, "theirs", {"hook_name": "blocks.3.hook_mlp_out"}, 3, "blocks.3.hook_mlp_out"),
        (SAE_LENS, "theirs", {"hook_name": "blocks.3.hook_resid_pre"}, 3, "blocks.3.hook_resid_pre"),
        (SPARSIFY, "layers.3", {}, 4, "blocks.3.hook_resid_post"),
        (SPARSIFY, "layers.3.mlp", {}, 3, "blocks.3.hook_mlp_out"),
    ],
)
def test_a_layer_is_refused_where_the_files_or_names_identify_another_hook(
    bench: Bench, form, place, about, layer, found
):
    sentence = rf"reads {found}, not blocks\.{layer}\.hook_resid_post\. Leave --layer out"
    refused(bench, saved(bench, form, place, about), layer, sentence)


@pytest.mark.parametrize(
    ("form", "shape", "kind"),
    [
        (SPARSIFY, {"d_out": 8}, "transcoder"),
        (SPARSIFY, {"d_out": 8, "skip": True}, "transcoder"),
        (SAE_LENS, {"d_out": 5}, "transcoder"),
        (SAE_LENS, {"blocks": 2}, "crosscoder"),
    ],
)
def test_one_layer_does_not_identify_what_a_transcoder_reads_and_writes(bench: Bench, form, shape, kind):
    refused(
        bench, saved(bench, form, "theirs", {}, **shape), 6, f"is a {kind}, and one layer does not identify what it"
    )


@pytest.mark.parametrize(("module", "read"), [("layers.6.mlp", "mlp.hook_in"), ("layers.6", "hook_resid_pre")])
@pytest.mark.parametrize("layer", [5, 6])
def test_a_transcoder_with_known_hooks_keeps_them(bench: Bench, module: str, read: str, layer: int):
    folder = saved(bench, SPARSIFY, module, {}, d_out=8)
    refused(bench, folder, layer, rf"reads blocks\.6\.{read}, not blocks\.{layer}\.hook_resid_post")


def test_the_names_and_files_of_gemma_scope_identify_it_too(bench: Bench):
    place = bench.root / "gemma-scope-2b-pt-mlp/layer_3/width_16k"
    gemma_scope(place)
    refused(bench, place, 3, r"reads blocks\.3\.hook_mlp_out, not")
    open_place = bench.root / "layer_3/width_16k"
    gemma_scope(open_place)
    assert imported(bench, open_place, 3)["hook_name"] == "blocks.3.hook_resid_post"
    gemma_scope_2(bench.root / "theirs", {"hf_hook_point_in": NORMED[0], "hf_hook_point_out": NORMED[1]})
    refused(bench, bench.root / "theirs", 5, r"reads blocks\.5\.mlp\.hook_in, not")
