"""Two processes that save checkpoints for one job at once: the one that holds the lease meets no error."""

from __future__ import annotations

import itertools
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from tasks.sae.training import checkpoint
from tasks.storage import attempts
from tasks.storage.store import Store
from tests.conftest import PATIENCE_S
from tests.fixtures.forked import FORKED

SAVES = 200


def save_all(root: Path, number: int, saves: int | None, said: Connection) -> None:
    """An attempt that resumes where the one before had come to, and says how far it comes, after at most N saves."""
    folder = attempts.begin(Store(root), "job", number, f"token{number}")
    found = checkpoint.newest(folder, "f")
    first = found[1]["step"] if found else 0
    said.send(("resumes", first))
    try:
        for step in itertools.islice(itertools.count(first + 1), saves):
            checkpoint.append(folder, "metrics.jsonl", [{"step": step}])
            checkpoint.save(folder, step, {"w": torch.full((1000,), float(step))}, {"fingerprint": "f"}, -step % 7)
            said.send(("saved", step))
    except OSError as error:
        said.send(("failed", str(error)))
    said.send(("ended", step))


def test_the_holder_of_the_lease_saves_all_and_the_other_can_save_nothing_more(tmp_path: Path) -> None:
    received: dict[int, list[tuple[str, object]]] = {1: [], 2: []}
    ends = {}
    for number, saves in ((1, None), (2, SAVES)):  # the first one is still at work when the other begins
        ours, theirs = FORKED.Pipe(duplex=False)
        process = FORKED.Process(target=save_all, args=(tmp_path, number, saves, theirs))
        process.start()
        ends[number] = (process, ours)
        if number == 1:
            while len(received[1]) < SAVES // 4:
                received[1].append(ours.recv())
    for number, (process, ours) in ends.items():
        while not received[number] or received[number][-1][0] != "ended":
            assert ours.poll(PATIENCE_S), "it hangs"
            received[number].append(ours.recv())
        process.join(PATIENCE_S)
    resumed = received[2][0][1]
    assert resumed >= SAVES // 4 - 2, "the newest whole checkpoint of the other is adopted"
    assert [word for word, _ in received[2]] == ["resumes", *["saved"] * SAVES, "ended"]
    late = [step for word, step in received[1] if word == "saved" and step > resumed + 1]
    assert len(late) <= 1, "what was renamed into its folder as that was taken away is nobody's"
    assert "No such file or directory" in dict(received[1])["failed"]
    folder = attempts.folder_of(Store(tmp_path), "job", 2, "token2")
    found = checkpoint.newest(folder, "f")
    assert found is not None
    assert found[1]["step"] == resumed + SAVES
    checkpoint.cut(folder, resumed + SAVES)
    assert [line["step"] for line in checkpoint.read(folder, "metrics.jsonl")][-SAVES:] == [
        *range(resumed + 1, resumed + SAVES + 1)
    ]
    assert [path.name for path in Store(tmp_path).work_folder("job").iterdir()] == [folder.name]
