"""What does not count is left out, the same wherever it is asked: by position and by token."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tasks import masks
from tasks.masks import Mask, mask_again, mask_for
from tasks.text.tokens import TokensInfo

ROWS = np.array([[5, 1, 7, 2], [1, 6, 1, 8], [9, 9, 0, 0]], dtype=np.uint16)
INFO = TokensInfo("uint16", rows=3, context=4, vocab_size=10, eos_id=2, bos_id=1, pad_id=0)


def test_padding_never_counts_and_bos_and_the_first_position_when_asked():
    kept = mask_for(INFO, skip_bos=True).kept(ROWS)
    assert kept.astype(int).tolist() == [[0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 0, 0]]
    kept = mask_for(INFO, skip_bos=False).kept(ROWS)
    assert kept.astype(int).tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]]


@pytest.mark.parametrize("mask", [Mask(), Mask(first=True), Mask(ids=(1, 0)), Mask(True, (9,))])
def test_what_counts_is_counted_in_pieces(monkeypatch: pytest.MonkeyPatch, mask: Mask):
    whole = mask.kept(ROWS).sum(axis=1).tolist()
    monkeypatch.setattr(masks, "_COUNTED_AT_ONCE", 8)
    assert mask.counts(ROWS).tolist() == whole
    assert mask.counts(ROWS).dtype == np.int32


@pytest.mark.parametrize("skip_bos", [True, False])
def test_what_an_sae_tells_makes_the_same_mask_again(skip_bos: bool):
    mask = mask_for(INFO, skip_bos)
    assert mask_again(mask.told(), INFO) == mask
    plain = dataclasses.replace(INFO, bos_id=None, pad_id=None)
    assert set(mask.ids) <= set(mask_again(mask.told(), plain).ids), "the tokens it never saw stay left out"


def test_saelens_may_have_left_out_all_special_tokens():
    assert mask_again({"exclude_special_tokens": True}, INFO).ids == (0, 1, 2)
    assert mask_again({"exclude_special_tokens": False, "seqpos_slice": [None]}, INFO) == Mask(ids=(0,), pad=0)


def test_an_sae_that_tells_nothing_was_trained_on_everything():
    plain = dataclasses.replace(INFO, pad_id=None)
    assert mask_again({}, plain) == Mask()
    assert mask_again({}, INFO).kept(ROWS).sum() == 10
