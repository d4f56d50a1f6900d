"""One attempt at a training in a process of its own, which a signal may meet at a step that was chosen for it."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from tasks.jobs.kind import Stopped
from tasks.kinds import train
from tasks.storage.attempts import OUTPUT
from tasks.storage.store import Store
from tests.conftest import PATIENCE_S
from tests.fixtures.bench import Catalog, Context
from tests.fixtures.forked import FORKED
from tests.fixtures.work_folders import next_attempt


def attempt(root: Path, name: str, values: dict[str, Any], number: int, blow: tuple[int, signal.Signals] | None) -> int:
    """How an attempt at the job `name` ended: 0, or less the number of the signal that it got after that step."""
    process = FORKED.Process(target=_train, args=(root, name, values, number, blow))
    process.start()
    process.join(PATIENCE_S)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def _train(root: Path, name: str, values: dict[str, Any], number: int, blow: tuple[int, signal.Signals] | None) -> None:
    torch.set_num_threads(1)
    result: list[int] = []
    signal.signal(signal.SIGTERM, lambda signum, _: result.append(signum))
    store = Store(root / "store")

    def strike(done: int) -> bool:  # called after a step, with what was done before it
        if blow and not result and done >= (blow[0] - 1) * values["batch"]:
            os.kill(os.getpid(), blow[1])
        return bool(result)

    workdir = next_attempt(store, name)
    context = Context(store, workdir, workdir / OUTPUT, name, name, attempt=number, stop=strike)
    params, _ = train.prepare(train.KIND.read_params(values), Catalog(store))
    with suppress(Stopped):
        train.run(params, context)
        result.clear()
    if result:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
