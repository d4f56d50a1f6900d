"""The stream's strongest examples are those of a dense top-k, patterns follow the rule, the page shows text as text."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

from tasks.features.feature_records import Example, Feature, read_features
from tasks.features.page import write_page
from tasks.features.patterns import most_interpretable, pattern_of, patterned_share, score, summarise
from tasks.features.top_examples import TopExamples

ROWS, CONTEXT, FEATURES, K, WINDOW = 120, 9, 13, 5, 2


def streams() -> dict[str, torch.Tensor]:
    """Activations of (rows, context, features), each hard in its own way."""
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(ROWS, CONTEXT, FEATURES, generator=generator)
    drift = torch.linspace(0, 5, ROWS)[:, None, None]
    return {
        "random": random,
        "full of ties": torch.randint(-1, 3, random.shape, generator=generator).float(),
        "ever stronger": random + drift,
        "ever weaker": random - drift,
        "mostly silent": random * (torch.rand(random.shape, generator=generator) < 0.01),
        "silent": torch.zeros_like(random),
        "all the same": torch.ones_like(random),
    }


def streamed(acts: torch.Tensor, batch: int) -> TopExamples:
    top = TopExamples(FEATURES, K, WINDOW)
    for start in range(0, ROWS, batch):
        part = acts[start : start + batch]
        top.update(part, torch.arange(start, start + len(part)))
    return top


def dense(acts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The oracle: each row's peak, the first among equals, then one sort over all rows; (features, k) both."""
    peaks, columns = acts.max(dim=1)
    values, rows = peaks.sort(dim=0, descending=True, stable=True)
    positions = rows * CONTEXT + columns.gather(0, rows)
    values, positions = values[:K].T, positions[:K].T
    assert torch.equal(values, peaks.topk(K, dim=0).values.T)
    silent = values <= 0
    return values.masked_fill(silent, -torch.inf), positions.masked_fill(silent, -1)


@pytest.mark.parametrize("batch", [1, 7, 50, ROWS])
@pytest.mark.parametrize("name", streams())
def test_the_stream_finds_what_a_dense_top_k_finds_however_it_is_cut(name, batch):
    acts = streams()[name]
    top = streamed(acts, batch)
    values, positions = dense(acts)
    assert torch.equal(top.values, values)
    assert torch.equal(top.positions, positions)
    assert torch.equal(top.fired, (acts > 0).sum((0, 1)))
    assert torch.equal(top.contexts, (acts > 0).any(1).sum(0))


def test_the_activations_around_a_peak_are_kept_and_end_with_the_row():
    acts = streams()["random"]
    top = streamed(acts, 7)
    for feature in range(FEATURES):
        for place in range(K):
            row, column = divmod(int(top.positions[feature, place]), CONTEXT)
            padded = torch.nn.functional.pad(acts[row, :, feature], (WINDOW, WINDOW))
            assert torch.equal(top.around[feature, place], padded[column : column + 2 * WINDOW + 1])


def test_a_row_with_a_nan_gives_no_example_and_is_counted():
    acts = streams()["random"].clone()
    acts[3, 4, 5] = torch.nan
    top = streamed(acts, 7)
    assert top.not_finite == 1
    assert not top.values.isnan().any()
    assert 3 not in (top.positions[5] // CONTEXT).tolist()


def test_rows_keep_their_own_numbers_when_only_some_are_read():
    acts = streams()["random"]
    top = TopExamples(FEATURES, K, WINDOW)
    numbers = torch.arange(0, ROWS, 3)
    top.update(acts[numbers], numbers)
    assert torch.equal(top.positions % (3 * CONTEXT) // CONTEXT, torch.zeros(FEATURES, K, dtype=torch.int64))


def test_saved_and_taken_up_again_it_ends_the_same(tmp_path):
    acts, whole = streams()["ever stronger"], streamed(streams()["ever stronger"], 10)
    first = TopExamples(FEATURES, K, WINDOW)
    first.update(acts[:50], torch.arange(50))
    first.save(tmp_path / "state", 50)
    second = TopExamples(FEATURES, K, WINDOW)
    assert second.resume(tmp_path / "none") == 0
    start = second.resume(tmp_path / "state")
    second.update(acts[start:], torch.arange(start, ROWS))
    for name in ("values", "positions", "around", "fired", "contexts"):
        assert torch.equal(getattr(second, name), getattr(whole, name)), name


def test_records_show_the_tokens_around_the_peak():
    acts = streams()["random"]
    rows = np.arange(ROWS * CONTEXT).reshape(ROWS, CONTEXT)
    for feature in read_features(streamed(acts, 7), rows, rows.size, lambda ids: list(map(str, ids))):
        for example in feature.examples:
            row, column = divmod(example.position, CONTEXT)
            assert example.peak_token == str(example.position)
            assert example.before_peak == (str(example.position - 1) if column else None)
            assert example.tokens == [str(token) for token in rows[row, max(0, column - WINDOW) : column + WINDOW + 1]]
            expected = [acts[row, int(token) % CONTEXT, feature.id].item() for token in example.tokens]
            assert example.activations == pytest.approx(expected, rel=1e-5)


def test_records_show_activations_however_small_they_are():
    acts = streams()["random"] * 1e-6
    for feature in read_features(streamed(acts, 7), np.zeros((ROWS, CONTEXT), int), ROWS, lambda ids: [""] * len(ids)):
        for example in feature.examples:
            assert 0 < example.activations[example.peak] <= feature.max_activation * (1 + 1e-5)


def feature(words: list[str], before: list[str] | None = None, contexts: int = 50, number: int = 0) -> Feature:
    """A feature whose examples peak on these words."""
    before = before or [f"w{i}" for i in range(len(words))]
    examples = [
        Example(i, [f"start{i}", left, word, "end"], [0.0, 0.5, 2.0, 0.0], 2, before_peak=left)
        for i, (left, word) in enumerate(zip(before, words, strict=True))
    ]
    return Feature(number, 0.003, contexts, 2.0, examples)


MIXED = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]


def test_seven_of_ten_contexts_with_one_peak_token_are_a_pattern_and_six_are_not():
    seven, six = pattern_of(feature([" self"] * 7 + MIXED[:3])), pattern_of(feature([" self"] * 6 + MIXED[:4]))
    assert seven is not None
    assert (seven.where, seven.token, seven.share) == ("at", " self", 0.7)
    assert six is None


def test_one_token_right_before_the_peak_is_a_pattern_too():
    found = pattern_of(feature(MIXED, before=["def"] * 8 + ["x", "y"]))
    assert found is not None
    assert (found.where, found.token, found.share) == ("before", "def", 0.8)


def test_peaks_at_the_beginning_of_their_rows_share_no_token_before():
    starts = Feature(0, 0.01, 50, 1.0, [Example(i, [word], [1.0], 0) for i, word in enumerate(MIXED)])
    assert pattern_of(starts) is None


def test_the_strongest_ten_judge_however_many_more_are_kept():
    assert pattern_of(feature(["x"] * 10 + MIXED * 3)) == pattern_of(feature(["x"] * 10))
    assert score(feature(["x"] * 10 + MIXED * 3)) == score(feature(["x"] * 10))


def test_the_token_before_the_peak_is_known_where_only_the_peak_is_shown():
    acts, rows = torch.zeros(20, 6, 1), np.full((20, 6), 7)
    acts[:, 3], rows[:, 2], rows[:, 3] = 1.0, 5, np.arange(20)
    top = TopExamples(1, 10, 0)
    top.update(acts, torch.arange(20))
    (found,) = read_features(top, rows, rows.size, lambda ids: list(map(str, ids)))
    assert found.examples[0].tokens == ["0"]
    pattern = pattern_of(found)
    assert pattern is not None
    assert (pattern.where, pattern.token) == ("before", "5")


def test_a_token_before_the_peak_begins_as_it_does_in_its_text():
    """Decoders leave out the space before the first token that they are given."""
    acts, rows = torch.zeros(20, 6, 1), np.full((20, 6), 7)
    acts[:, 3], rows[:, 2] = 1.0, np.arange(20) % 2
    texts = {0: " the", 1: "the", 7: " x"}
    found = []
    for window in (0, 1, 2):
        top = TopExamples(1, 10, window)
        top.update(acts, torch.arange(20))
        (one,) = read_features(
            top,
            rows,
            rows.size,
            lambda ids: [text.lstrip() if not n else text for n, text in enumerate(map(texts.__getitem__, ids))],
        )
        found.append([example.before_peak for example in one.examples])
    assert found[0] == found[1] == found[2] == [" the", "the"] * 5


def test_a_feature_that_fired_in_too_few_contexts_is_not_called_interpretable():
    assert most_interpretable([feature(["x"], contexts=1, number=n) for n in range(20)]) == []
    assert pattern_of(feature(["x"], contexts=1)) is None
    assert pattern_of(feature(["x"] * 10, contexts=10)) is not None


def test_the_patterned_share_counts_live_features_only():
    patterned, plain, rare = feature(["x"] * 10), feature(MIXED), feature(MIXED, contexts=9)
    assert patterned_share([patterned, plain, rare]) == 0.5
    assert patterned_share([rare]) == 0.0
    assert patterned_share([]) == 0.0


def test_the_most_interpretable_are_patterned_on_different_words():
    features = [
        feature([" import"] * 10, number=1),
        feature(["import"] * 10, number=2),
        feature([","] * 10, number=3),
        feature([" return"] * 8 + ["x", "y"], number=4),
        feature(MIXED, number=5),
        feature([" rare"] * 10, contexts=3, number=6),
    ]
    assert [found.id for found in most_interpretable(features)] == [1, 4, 3]
    result = summarise(features[0])
    assert result["contexts"][0] == [["start0", 0.0], ["w0", 0.5], [" import", 2.0], ["end", 0.0]]
    assert len(result["contexts"]) == 3


def test_a_page_shows_text_as_text(tmp_path):
    evil = ["<script>alert(1)</script>", "</script><b>", "<!--", "&amp;", "\u2028", "'\"", *MIXED[:4]]
    write_page(tmp_path / "p.html", "</title><script>x", [("model", "<img src=x>")], [feature(evil)])
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    blocks = re.findall(r'<script type="application/json" id="([^"]+)">(.*?)</script>', page, re.DOTALL)
    assert [name for name, _ in blocks] == ["index", "chunk-0"]
    assert not any(sign in text for _, text in blocks for sign in "<>&\u2028")
    head, chunk = (json.loads(text) for _, text in blocks)
    assert set(evil) <= set(head["strings"])
    assert head["title"] == "</title><script>x"
    assert chunk[0][0][0] == 2
    assert page.count("<script") == 3


def test_a_page_needs_nothing_from_elsewhere_and_parses_its_examples_in_parts(tmp_path):
    write_page(tmp_path / "p.html", "t", [], (feature(MIXED, number=number) for number in range(120)))
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|src=|<link|@import|url\(", page)
    assert [name for name in ("chunk-0", "chunk-1", "chunk-2", "chunk-3") if f'id="{name}"' in page] == [
        "chunk-0",
        "chunk-1",
        "chunk-2",
    ]
