"""The artifact of an extraction agrees with the model and the SAE asked directly, and a stopped one resumes."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import load_file

from mistudio_cli.views import feature_json
from tasks.activations.hook_sites import Hook
from tasks.activations.hooks import find
from tasks.activations.stream import read
from tasks.activations.token_mask import mask_for
from tasks.errors import UserError
from tasks.features import collect
from tasks.features.top_examples import TopExamples
from tasks.jobs.kind import Stopped, kind_named
from tasks.models import bfloat16
from tasks.models.bfloat16 import ProductSpeed
from tasks.models.loading import load_model
from tasks.sae import precision
from tasks.sae.architectures import build
from tasks.sae.architectures.topk import TopK
from tasks.sae.coder import CoderConfig
from tasks.sae.formats.native import Scales, load_sae, save_sae
from tasks.text.tokens import open_tokens, read_info
from tests.fixtures.work_folders import left_by, next_attempt

LAYER, FEATURES = 1, 48
TEXTS = [f"The {i}th of the documents says that {i} is not {i + 1}.\n" for i in range(150)]


@pytest.fixture
def chain(home, tmp_path):
    """A home with a corpus, a barely trained model, its tokens and a fresh SAE of 48 features on layer 1."""
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    home.run("download", "c", source=str(tmp_path / "c.jsonl"))
    home.run("toy-model", "m", dataset="c", layers=2, width=32, vocab=400, context=16, steps=2)
    home.run("tokenize", "t", dataset="c", model="m", context=16)
    add_sae(home, "s", d_in=32)
    return home


def add_sae(home, name: str, d_in: int, **result) -> None:
    output = next_attempt(home.store, name) / "output"
    save_sae(output, build(CoderConfig("topk", d_in, FEATURES, TopK.Options(k=4))), Scales((1,), (1,)), result)
    made_from = {"model": "models/m", "tokens": "tokens/t"}
    home.store.seal(
        output, {"job": name, "params": {"model": "m", "layer": LAYER}, "result": {}, "made_from": made_from}
    )
    home.store.publish(output, "saes", name)


def codes_of(coder, model, rows, site: str = "resid") -> torch.Tensor:
    (vectors,) = read(model, rows, [find(model, Hook(site, LAYER))])
    return coder.encode(vectors.flatten(0, 1)).unflatten(0, rows.shape)


def test_the_artifact_holds_what_the_model_and_the_sae_say(chain):
    result = chain.run("extract", "f", sae="s", top=3, window=4)
    rows = open_tokens(chain.path("tokens", "t"))
    coder, model = load_sae(chain.path("saes", "s")), load_model("m", chain.store)
    codes = codes_of(coder, model, rows)
    folder = chain.path("features", "f")
    found = load_file(folder / "features.safetensors")
    expected = codes.max(1).values.topk(3, dim=0).values.T
    assert torch.allclose(found["top_activations"].clamp(min=0), expected, atol=1e-4)
    assert torch.allclose(found["firing_counts"].float(), (codes > 0).sum((0, 1)).float(), atol=2)
    lines = [json.loads(line) for line in (folder / "features.jsonl").read_text().splitlines()]
    assert len(lines) == result["fired"] == int((found["top_positions"][:, 0] >= 0).sum())
    for line in lines:
        strongest = line["examples"][0]
        row, column = divmod(strongest["position"], rows.shape[1])
        assert codes[row, column, line["id"]].item() == pytest.approx(line["max_activation"], abs=1e-4)
        assert strongest["activations"][strongest["peak"]] == pytest.approx(line["max_activation"], abs=1e-3)
        assert "".join(strongest["tokens"]) in "<|endoftext|>".join(TEXTS) + "<|endoftext|>"
    assert (result["tokens"], result["page"]) == (rows.size, "index.html")
    assert len(json.dumps(result)) < 20_000


def test_what_is_called_patterned_does_not_depend_on_how_much_is_shown(chain):
    usual = chain.run("extract", "usual", sae="s")
    few = chain.run("extract", "few", sae="s", top=1)
    assert [each["feature"] for each in few["telling"]] == [each["feature"] for each in usual["telling"]]
    small = chain.run("extract", "small", sae="s", top=1, window=0)
    for name in ("live", "patterned_share", "same_token_share"):
        assert small[name] == few[name] == usual[name], name
    assert load_file(chain.path("features", "small") / "features.safetensors")["top_positions"].shape[1] == 1
    lines = [json.loads(line) for line in (chain.path("features", "small") / "features.jsonl").read_text().splitlines()]
    assert {len(line["examples"]) for line in lines} == {1}
    assert {len(line["examples"][0]["tokens"]) for line in lines} == {1}


def test_the_features_that_are_written_are_read_a_page_at_a_time_and_found_by_their_tokens(chain):
    result = chain.run("extract", "f", sae="s", top=3, window=4)
    (extraction,) = feature_json.extractions(chain.store, "s")
    assert (extraction["name"], extraction["fired"]) == ("f", result["fired"])
    found, after = [], 0
    while after is not None:
        page = feature_json.page(chain.store, "f", after, "", 7, 2)
        found, after = [*found, *page["features"]], page["next"]
        assert page["unreadable"] == 0
    assert len(found) == result["fired"]
    lines = [json.loads(line) for line in (chain.path("features", "f") / "features.jsonl").read_text().splitlines()]
    assert [(each["id"], each["density"]) for each in found] == [(line["id"], line["density"]) for line in lines]
    for each, line in zip(found, lines, strict=True):
        first, stored = each["examples"][0], line["examples"][0]
        assert (first["tokens"], first["activations"]) == (stored["tokens"], stored["activations"])
        hits = feature_json.page(chain.store, "f", 0, each["top_tokens"][0], 100, 1)["features"]
        assert each["id"] in [hit["id"] for hit in hits]


def test_what_the_sae_was_not_trained_on_is_left_out_again_and_its_hook_is_read(chain):
    rows, info = open_tokens(chain.path("tokens", "t")), read_info(chain.path("tokens", "t"))
    mask, module = mask_for(info, skip_bos=True), f"gpt_neox.layers.{LAYER}.mlp"
    add_sae(chain, "mlp", d_in=32, hook_name=f"blocks.{LAYER}.hook_mlp_out", hook_module=module, **mask.to_dict())
    result = chain.run("extract", "f", sae="mlp")
    coder, model = load_sae(chain.path("saes", "mlp")), load_model("m", chain.store)
    codes, kept = codes_of(coder, model, rows, "mlp"), torch.from_numpy(mask.kept(rows))
    fired = load_file(chain.path("features", "f") / "features.safetensors")["firing_counts"]
    assert torch.allclose(fired.float(), (codes[kept] > 0).sum(0).float(), atol=2)
    assert (result["hook"], result["tokens"]) == (module, int(kept.sum()))
    assert chain.run("extract", "all", sae="mlp", skip_bos=False)["tokens"] == rows.size
    everything = load_file(chain.path("features", "all") / "features.safetensors")["firing_counts"]
    assert torch.allclose(everything.float(), (codes > 0).sum((0, 1)).float(), atol=2)
    assert everything.sum() > fired.sum() + 4 * len(rows) - 2 * FEATURES


def test_an_sae_of_later_positions_is_read_there_alone(chain):
    rows = open_tokens(chain.path("tokens", "t"))
    add_sae(chain, "later", d_in=32, seqpos_slice=[5, -1])
    assert chain.run("extract", "f", sae="later")["tokens"] == len(rows) * (rows.shape[1] - 6)
    coder, model = load_sae(chain.path("saes", "later")), load_model("m", chain.store)
    fired = load_file(chain.path("features", "f") / "features.safetensors")["firing_counts"]
    assert torch.allclose(fired.float(), (codes_of(coder, model, rows)[:, 5:-1] > 0).sum((0, 1)).float(), atol=2)


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        ({"hook_name": "blocks.1.hook_resid_post", "hook_module": "model.layers.1"}, "this model has .*gpt_neox"),
        ({"hook_name": "blocks.7.hook_mlp_out"}, "no layer 7"),
        ({"hook_name": "blocks.1.attn.hook_z"}, "blocks.1.attn.hook_z, which is not known here"),
        ({"hook_name": "hook_embed"}, "hook_embed, which is not known here"),
        ({"hook_name": "blocks.1.hook_normalized_resid_post"}, "this model has blocks.1.hook_resid_post"),
    ],
)
def test_a_model_without_the_saes_own_hook_is_refused(chain, result: dict, sentence: str):
    add_sae(chain, "other", d_in=32, **result)
    with pytest.raises(UserError, match=sentence):
        chain.run("extract", "f", sae="other")


def test_an_imported_sae_is_read_at_its_hook_on_the_model_that_was_named(chain, tmp_path):
    theirs = build(CoderConfig("topk", 32, FEATURES, TopK.Options(k=4)), seed=3)
    save_sae(tmp_path / "theirs", theirs, Scales((1,), (1,)), {"hook_name": f"blocks.{LAYER}.hook_mlp_out"})
    chain.run("import", "got", source=str(tmp_path / "theirs"), model="m")
    with pytest.raises(UserError, match=r"does not say which tokens it was trained on\. Give --token-set"):
        chain.run("extract", "f", sae="got")
    result = chain.run("extract", "f", sae="got", tokens="t")
    assert (result["model"], result["hook"]) == ("m", f"gpt_neox.layers.{LAYER}.mlp")
    rows, model = open_tokens(chain.path("tokens", "t")), load_model("m", chain.store)
    codes = codes_of(theirs, model, rows, "mlp")
    fired = load_file(chain.path("features", "f") / "features.safetensors")["firing_counts"]
    assert torch.allclose(fired.float(), (codes > 0).sum((0, 1)).float(), atol=2)


def test_an_sae_of_unknown_origin_is_refused_as_it_is_submitted(chain, tmp_path):
    theirs = build(CoderConfig("topk", 32, FEATURES, TopK.Options(k=4)), seed=3)
    save_sae(tmp_path / "theirs", theirs, Scales((1,), (1,)), {})
    chain.run("import", "got", source=str(tmp_path / "theirs"))
    extract = kind_named("extract")
    for given, why in (
        ({}, r"which model it was trained on\. Give --model"),
        ({"model": "m"}, r"which tokens it was trained on\. Give --token-set"),
        ({"model": "m", "tokens": "t"}, r"which layer it was trained on\. Import it again .* with --layer"),
    ):
        with pytest.raises(UserError, match=why):
            extract.prepare(extract.params(sae="got", **given), chain)


def test_more_examples_than_rows_and_a_window_beyond_the_row_take_no_more_memory(chain, monkeypatch):
    chain.run("extract", "all", sae="s", top=len(TEXTS), window=15)
    made, init = [], TopExamples.__init__

    def counted(self, features, k, window, device="cpu"):
        made.append((k, window))
        init(self, features, k, window, device)

    monkeypatch.setattr(TopExamples, "__init__", counted)
    result = chain.run("extract", "more", sae="s", top=10_000, window=10_000)
    rows = open_tokens(chain.path("tokens", "t"))
    assert made == [(len(rows), rows.shape[1] - 1)]
    assert result["tokens"] == rows.size
    found = (chain.path("features", name) / "features.jsonl" for name in ("more", "all"))
    assert next(found).read_text() == next(found).read_text()


def test_a_stopped_extraction_resumes_where_it_was(chain, monkeypatch):
    monkeypatch.setattr(collect, "FORWARD_TOKENS", 160)
    chain.run("extract", "whole", sae="s")
    with pytest.raises(Stopped):
        chain.run("extract", "cut", sae="s", stop_when=lambda done: done >= 800)
    assert kind_named("extract").resume_point(left_by(chain.store, "job-cut")) == "row 60"
    chain.said.clear()
    chain.run("extract", "cut", sae="s", attempt=2)
    read = [done for phase, done, _, _ in chain.said if phase == "extracting"]
    assert read[0] > 960
    whole, cut = (load_file(chain.path("features", name) / "features.safetensors") for name in ("whole", "cut"))
    for name, tensor in whole.items():
        assert torch.equal(tensor, cut[name]), name


def test_an_extraction_keeps_the_dtype_of_its_model_and_notes_one_that_the_sae_was_not_trained_on(chain, monkeypatch):
    monkeypatch.setattr(collect, "FORWARD_TOKENS", 160)
    monkeypatch.setattr(bfloat16, "measured", lambda *shape: ProductSpeed(2.0, "it is fast"))
    add_sae(chain, "exact", d_in=32, model_dtype="float32")
    assert chain.run("extract", "as-trained", sae="exact")["model_dtype"] == "float32"
    assert chain.notes == []
    whole = chain.run("extract", "whole", sae="exact", model_dtype="bf16")
    assert whole["model_dtype"] == "bfloat16"
    assert chain.notes == ["the model runs in bfloat16; the SAE was trained on it in float32"]
    with pytest.raises(Stopped):
        chain.run("extract", "cut", sae="exact", model_dtype="bf16", stop_when=lambda done: done >= 800)
    monkeypatch.setattr(bfloat16, "measured", lambda *shape: ProductSpeed(0.2, "it is slow"))
    monkeypatch.setattr("tasks.models.bfloat16.has_units", lambda: False)
    assert chain.run("extract", "cut", sae="exact", model_dtype="bf16", attempt=2)["model_dtype"] == "bfloat16"
    files = [chain.path("features", name) / "features.safetensors" for name in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()
    with pytest.raises(UserError, match="bf16 gains nothing for m: it is slow"):
        chain.run("extract", "slow", sae="exact", model_dtype="bf16")


def test_an_extraction_whose_checkpoint_was_cut_short_says_so_and_begins_again(chain, monkeypatch):
    monkeypatch.setattr(collect, "FORWARD_TOKENS", 160)
    with pytest.raises(Stopped):
        chain.run("extract", "cut", sae="s", stop_when=lambda done: done >= 800)
    state = left_by(chain.store, "job-cut") / "top.safetensors"
    state.write_bytes(state.read_bytes()[:-1])
    assert kind_named("extract").resume_point(state.parent) is None
    chain.run("extract", "cut", sae="s", attempt=2)
    assert chain.notes == ["starts from scratch: its checkpoint is damaged"]


def test_fewer_tokens_are_spread_over_the_whole_corpus(chain):
    assert collect.choose_rows(100, 16, 160).tolist() == list(range(0, 100, 10))
    assert collect.choose_rows(7, 16, None).tolist() == list(range(7))
    assert chain.run("extract", "f", sae="s", max_tokens=160)["tokens"] == 160


def test_tokens_without_a_tokenizer_are_shown_as_their_numbers(chain):
    for copy in chain.store.path("tokens", "t").glob("tokenizer/*"):
        copy.unlink()
    chain.run("extract", "f", sae="s")
    page = (chain.store.path("features", "f") / "features.jsonl").read_text()
    assert re.search(r'"\[\d+\]"', page)


def test_a_damaged_tokenizer_is_one_sentence_before_the_pass(chain, monkeypatch):
    (chain.store.path("tokens", "t") / "tokenizer" / "tokenizer.json").write_text("{")
    monkeypatch.setattr("tasks.kinds.extract._collect", lambda *_: pytest.fail("the pass has begun"))
    with pytest.raises(UserError, match="The tokenizer of tokens/t cannot be read"):
        chain.run("extract", "f", sae="s")


def test_what_cannot_work_is_one_sentence(chain):
    with pytest.raises(UserError, match="no saes/nobody"):
        chain.run("extract", "f", sae="nobody")
    with pytest.raises(UserError, match="no tokens/nothing"):
        chain.run("extract", "f", sae="s", tokens="nothing")
    with pytest.raises(UserError, match="'nobody' is not a model"):
        chain.run("extract", "f", sae="s", model="nobody")
    add_sae(chain, "wide", d_in=64)
    with pytest.raises(UserError, match="reads 64 numbers a token, the model's residual stream has 32"):
        chain.run("extract", "f", sae="wide")
    assert not chain.store.names("features")


def as_if_faster(monkeypatch: pytest.MonkeyPatch, ratio: float) -> None:
    """A machine on which products are `ratio` times as fast in bfloat16, however small."""
    result = f"a product is {ratio} times as fast in bfloat16"
    monkeypatch.setattr(bfloat16, "measured", lambda *shape: bfloat16.ProductSpeed(ratio, result))
    monkeypatch.setattr(bfloat16, "is_small", lambda *shape: False)
    monkeypatch.setattr(precision, "MOST_K", 1.0)


def test_an_extraction_in_bfloat16_finds_what_one_in_float32_finds(chain, monkeypatch):
    as_if_faster(monkeypatch, 6.0)
    fast, slow = (chain.run("extract", name, sae="s", precision=name) for name in ("auto", "float32"))
    assert (fast["precision"], slow["precision"]) == ("bf16", "float32")
    assert fast["unsure_fraction"] == pytest.approx(0, abs=0.01)
    assert slow["unsure_fraction"] is None
    files = [load_file(chain.path("features", name) / "features.safetensors") for name in ("auto", "float32")]
    assert torch.allclose(files[0]["top_activations"], files[1]["top_activations"], atol=1e-4)
    assert torch.allclose(files[0]["firing_counts"].float(), files[1]["firing_counts"].float(), atol=2)


def test_an_extraction_is_refused_a_precision_that_gains_nothing_unless_it_resumes(chain, monkeypatch):
    as_if_faster(monkeypatch, 0.5)
    with pytest.raises(UserError, match=r"--precision bf16 gains nothing here: a product is 0\.5 times as fast"):
        chain.run("extract", "f", sae="s", precision="bf16")
    as_if_faster(monkeypatch, 6.0)
    monkeypatch.setattr(collect, "FORWARD_TOKENS", 160)
    with pytest.raises(Stopped):
        chain.run("extract", "cut", sae="s", precision="bf16", stop_when=lambda done: done >= 800)
    as_if_faster(monkeypatch, 0.5)
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://lab:6379/0")  # a submit cannot know which machine it will be
    assert chain.run("extract", "cut", sae="s", precision="bf16", attempt=2)["precision"] == "float32"


def test_an_extraction_from_compiled_blocks_finds_the_same(chain, monkeypatch):
    chain.run("extract", "plain", sae="s")
    monkeypatch.setattr(torch, "compile", lambda forward, dynamic: lambda *args, **named: forward(*args, **named))
    chain.notes.clear()
    chain.run("extract", "compiled", sae="s", compile=True)
    assert any("of the model are compiled, in " in note for note in chain.notes)
    files = [chain.path("features", name) / "features.safetensors" for name in ("plain", "compiled")]
    assert files[0].read_bytes() == files[1].read_bytes()
