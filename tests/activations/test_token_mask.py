"""What does not count is left out, the same wherever it is asked: by position and by token."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tasks.activations import token_mask
from tasks.activations.token_mask import Mask, mask_again, mask_for
from tasks.errors import UserError
from tasks.parsing.position_slices import positions_of
from tasks.text.tokens import TokensInfo

ROWS = np.array([[5, 1, 7, 2], [1, 6, 1, 8], [9, 9, 0, 0]], dtype=np.uint16)
INFO = TokensInfo("uint16", rows=3, context=4, vocab_size=10, eos_id=2, bos_id=1, pad_id=0)


def test_padding_never_counts_and_bos_and_the_first_position_when_asked():
    kept = mask_for(INFO, skip_bos=True).kept(ROWS)
    assert kept.astype(int).tolist() == [[0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 0, 0]]
    kept = mask_for(INFO, skip_bos=False).kept(ROWS)
    assert kept.astype(int).tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]]


@pytest.mark.parametrize(
    "mask",
    [
        Mask(),
        Mask(first=True),
        Mask(ids=(1, 0)),
        Mask(True, (9,)),
        Mask(positions=(1, -1)),
        Mask(ids=(9,), positions=(0, 3, 2)),
        Mask(positions=(-2, None)),
    ],
)
def test_what_counts_is_counted_in_pieces(monkeypatch: pytest.MonkeyPatch, mask: Mask):
    whole = mask.kept(ROWS).sum(axis=1).tolist()
    monkeypatch.setattr(token_mask, "_COUNTED_AT_ONCE", 8)
    assert mask.counts(ROWS).tolist() == whole
    assert mask.counts(ROWS).dtype == np.int32


@pytest.mark.parametrize("skip_bos", [True, False])
def test_what_an_sae_records_makes_the_same_mask_again(skip_bos: bool):
    mask = mask_for(INFO, skip_bos)
    assert mask_again(mask.to_dict(), INFO) == mask
    plain = dataclasses.replace(INFO, bos_id=None, pad_id=None)
    assert set(mask.ids) <= set(mask_again(mask.to_dict(), plain).ids), "the tokens it never saw stay left out"


def test_saelens_may_have_left_out_all_special_tokens():
    assert mask_again({"exclude_special_tokens": True}, INFO).ids == (0, 1, 2)
    assert mask_again({"exclude_special_tokens": False, "seqpos_slice": [None]}, INFO) == Mask(ids=(0,), pad=0)


def test_an_sae_without_a_recorded_mask_was_trained_on_everything():
    plain = dataclasses.replace(INFO, pad_id=None)
    assert mask_again({}, plain) == Mask()
    assert mask_again({}, INFO).kept(ROWS).sum() == 10


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ([5, None], [5, 6, 7]),
        ([1, -1], [1, 2, 3, 4, 5, 6]),
        ([0, 64, 2], [0, 2, 4, 6]),
        ([-3, None], [5, 6, 7]),
        ([None, None, 3], [0, 3, 6]),
        ([3], [0, 1, 2]),
        ([1, None], [1, 2, 3, 4, 5, 6, 7]),
        ([None], list(range(8))),
        (None, list(range(8))),
        ([], list(range(8))),
    ],
)
def test_only_the_positions_that_an_sae_was_trained_on_count(value: list | None, kept: list[int]):
    """As SAELens slices: the arguments of Python's own slice."""
    info = TokensInfo("uint16", 1, 8, 97, 1, None, None)
    mask = mask_again({"seqpos_slice": value}, info)
    found = mask.kept(np.arange(10, 18)[None])
    assert found[0].nonzero()[0].tolist() == kept
    assert mask.counts(np.arange(10, 18)[None]).tolist() == [len(kept)]
    assert mask_again(mask.to_dict(), info) == mask, "it says the same of itself"
    assert mask.to_dict()["seqpos_slice"] == (value or [None])


def test_a_slice_counts_from_each_end_of_rows_of_any_length_and_beside_tokens_that_are_left_out():
    mask = Mask(ids=(1,), positions=(1, -1))
    assert mask.kept(ROWS).astype(int).tolist() == [[0, 0, 1, 0], [0, 1, 0, 0], [0, 1, 1, 0]]
    assert mask.kept(ROWS[:, :3]).sum() == 2


@pytest.mark.parametrize(
    "value", [[0, 8, 0], [0, 8, -1], [1, 2, 3, 4], ["5", None], [1.5], [True], "5:", 5, {}, [10**20]]
)
def test_what_is_no_slice_is_refused(value: object):
    with pytest.raises(UserError, match=r"seqpos_slice is .*, expected start, end and a step above 0"):
        positions_of(value)


def test_an_sae_of_later_positions_than_rows_have_is_not_read_there():
    with pytest.raises(UserError, match=r"trained on positions \[64, None\] alone, and rows of 4 tokens have none"):
        mask_again({"seqpos_slice": [64, None]}, INFO)


def test_a_mask_says_in_one_way_which_positions_count():
    with pytest.raises(ValueError, match="either"):
        Mask(first=True, positions=(5, None))
