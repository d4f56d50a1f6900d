"""A split is what its files are called, as for `load_dataset` of `datasets`; several are never merged as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from datasets import load_dataset

from tasks.errors import UserError
from tasks.kinds import download
from tests.text.test_files import documents, parquet

ULTRACHAT = ("train_sft", "test_sft", "train_gen", "test_gen")


def sharded(folder: Path, splits: Sequence[str], shards: int = 1, digest: str = "") -> Path:
    for split in splits:
        for shard in range(shards):
            parquet(folder / "data" / f"{split}-{shard:05d}-of-{shards:05d}{digest}.parquet", 2, f"{split} {shard}")
    return folder


@pytest.mark.parametrize("split", ULTRACHAT)
@pytest.mark.parametrize("shards", [1, 2])
def test_a_split_in_shards_is_read_by_its_own_name_as_load_dataset_does(tmp_path, split, shards):
    folder = sharded(tmp_path / "ultra", ULTRACHAT, shards)
    expected = load_dataset(str(folder), split=split, cache_dir=str(tmp_path / "cache"))["text"]
    assert documents(folder, split=split) == list(expected)


@pytest.mark.parametrize("split", [None, "train"])
@pytest.mark.parametrize("splits", [ULTRACHAT, ("train_sft", "train_gen")])
def test_several_splits_that_a_word_means_are_refused_and_listed_at_submit_time(home, tmp_path, split, splits):
    folder = sharded(tmp_path, splits)
    with pytest.raises(UserError, match=r"has several splits: .*train_gen") as refused:
        download.prepare(download.Params(str(folder), split=split), home)
    assert all(name in refused.value.sentence for name in splits)
    with pytest.raises(ValueError, match="Unknown split"):
        load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(documents(folder, split="train_sft")) == 2
    assert home.run("download", "chosen", source=str(folder), pattern="train_*")["rows"] == 4


def test_shards_of_one_split_are_read_whole_with_the_digests_they_once_had(tmp_path):
    folder = sharded(tmp_path, ("train", "test"), 3, "-a09b74b3ef9c3b56")
    assert len(documents(folder)) == len(documents(folder, split="train")) == 6


def test_a_file_called_as_the_split_is_that_split(tmp_path):
    for name in ("train", "pretrain", "test"):
        parquet(tmp_path / f"{name}.parquet", 1, name)
    assert documents(tmp_path, split="pretrain") == ["pretrain 0"]
    assert documents(tmp_path) == documents(tmp_path, split="train") == ["train 0"]
    with pytest.raises(UserError, match="is named as one of the split 'sft'") as refused:
        documents(tmp_path, split="sft")
    assert refused.value.hint == "Its splits are: test, train"


def test_a_folder_called_as_the_split_is_that_split(tmp_path):
    parquet(tmp_path / "pretrain" / "0.parquet", 1, "pretrain")
    parquet(tmp_path / "train" / "0.parquet", 1, "train")
    parquet(tmp_path / "train" / "test.parquet", 1, "test")
    assert documents(tmp_path, split="pretrain") == ["pretrain 0"]
    assert documents(tmp_path, split="train") == ["train 0"]


def test_files_of_one_word_without_shards_are_read_together_as_load_dataset_does(tmp_path):
    for name in ("train_en", "train_de", "test_en"):
        parquet(tmp_path / "own" / f"{name}.parquet", 1, name)
    expected = load_dataset(str(tmp_path / "own"), split="train", cache_dir=str(tmp_path / "cache"))["text"]
    assert sorted(documents(tmp_path / "own")) == sorted(expected)
