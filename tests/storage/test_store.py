"""The store: nothing half-written is visible, and no name leads out of it."""

from __future__ import annotations

import hashlib
import shutil
import stat
from pathlib import Path

import pytest

from tasks.errors import UserError
from tasks.storage.store import Store, remove, size_of, stats
from tests.fixtures.work_folders import next_attempt


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "-rf", "a" * 101, "a b", "x\n", "..", "é"])
def test_a_name_that_could_leave_the_store_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot be the name"):
        Store(tmp_path).path("saes", name)


def test_an_unknown_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Families"):
        Store(tmp_path).path("..", "x")


def test_an_artifact_appears_whole_with_the_digest_of_each_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    output = next_attempt(store, "j1") / "output"
    (output / "sub").mkdir()
    (output / "sub" / "weights").write_bytes(b"abc")
    store.seal(output, {"job": "j1"})
    assert not store.exists("saes", "a")
    assert store.names("saes") == []
    store.publish(output, "saes", "a")
    digest = hashlib.sha256(b"abc").hexdigest()
    assert store.manifest("saes", "a") == {"job": "j1", "files": {"sub/weights": {"bytes": 3, "sha256": digest}}}
    assert store.names("saes") == ["a"]


def test_an_artifact_is_never_overwritten(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, second = (next_attempt(store, job) / "output" for job in ("j1", "j2"))
    for output in (first, second):
        (output / "x").write_text(output.parent.parent.name)
        store.seal(output, {"job": output.parent.parent.name})
    store.publish(first, "saes", "a")
    with pytest.raises(UserError, match="made by job j1"):
        store.publish(second, "saes", "a")
    assert (store.path("saes", "a") / "x").read_text() == "j1"


def test_an_attempt_that_comes_late_finds_nothing_to_write_to(tmp_path: Path) -> None:
    store = Store(tmp_path)
    late, now = next_attempt(store, "j1") / "output", next_attempt(store, "j1") / "output"
    (now / "x").write_text("now")
    with pytest.raises(FileNotFoundError):
        (late / "x").write_text("late")
    with pytest.raises(FileNotFoundError):
        store.publish(late, "saes", "a")
    assert [path.name for path in store.work_folder("j1").iterdir()] == ["2-7e57"]


def test_discarding_a_job_removes_its_own_folder_and_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path)
    next_attempt(store, "j1"), next_attempt(store, "j2")
    store.discard("j1")
    assert [path.name for path in (tmp_path / ".tmp").iterdir()] == ["j2"]
    store.discard("never-was")


def test_asking_for_what_is_not_there_says_what_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There are: none"):
        Store(tmp_path).manifest("saes", "a")
    assert Store(tmp_path).find_manifest("saes", "a") is None
    assert list(tmp_path.iterdir()) == []


def test_what_somebody_else_removes_meanwhile_is_neither_measured_nor_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    for name in ("a", "b", "c"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_bytes(b"x" * 10)
    assert size_of(folder) == 30
    looking = stats(folder)
    assert [stat.S_ISDIR(next(looking).st_mode) for _ in range(2)] == [True, True]
    shutil.rmtree(folder)
    assert list(looking) == []
    assert size_of(folder) == 0


def test_what_cannot_be_removed_is_not_called_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "kept").mkdir()
    monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    assert not remove(tmp_path / "kept")
    assert f"{tmp_path / 'kept'} cannot be removed: Permission denied" in caplog.text
    monkeypatch.undo()
    assert remove(tmp_path / "kept")
    assert remove(tmp_path / "kept"), "it is gone, whoever removed it"
    assert list(tmp_path.iterdir()) == []
