"""Which tests begin first and which share a process, when several processes share the tests: the only list of both.

pytest-xdist hands out one file after the other. What takes long must not begin last, and a home that takes minutes to
light shall be lit once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

#: What takes longest, the longest first. Files of one chain are run by one process.
CHAINS = (
    ("e2e/test_first_light.py", "e2e/test_four_commands.py", "e2e/test_wrong_on_purpose.py"),
    ("e2e/test_documented_commands.py",),
    ("supervisor/test_workers.py",),
    ("e2e/test_survival.py",),
    ("machines/test_single_writer.py",),
    ("supervisor/test_remote_requests.py",),
    ("worker/test_worker.py",),
    ("supervisor/test_single_kills.py",),
    ("worker/test_device_assignment.py",),
    ("messaging/test_foreign_messages.py",),
    ("hub/test_saes.py",),
    ("train_job/test_retry.py",),
    ("supervisor/test_chaos.py",),
    ("supervisor/test_failover.py",),
    ("jobs/test_estimate.py",),
    ("jobs/test_stop_grace.py",),
    ("supervisor/test_refusals.py",),
    ("worker/test_limits.py",),
    ("worker/test_watchdog.py",),
    ("sae/test_training.py",),
    ("hub/test_models.py",),
    ("jobs/test_memory.py",),
    ("worker/test_removed_files.py",),
    ("train_job/test_sae_group.py",),
    ("supervisor/test_kills.py",),
    ("worker/test_concurrency.py",),
    ("supervisor/test_home_files.py",),
    ("worker/test_killed_training.py",),
)

_HERE = Path(__file__).parent
_ORDERED = [_HERE / file for chain in CHAINS for file in chain]
_CHAIN_OF = {f"tests/{file}": f"tests/{chain[0]}" for chain in CHAINS for file in chain}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the others as they were found."""
    assert [path for path in _ORDERED if not path.exists()] == [], "tests/order.py names files that are gone"
    rank = {path: number for number, path in enumerate(_ORDERED)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out files as `--dist loadfile` does, but in our order and whole chains at once."""
    from xdist.scheduler import LoadFileScheduling

    class ByChain(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return _CHAIN_OF.get(file, file)

    if config.getvalue("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False  # by the number of tests, whatever they take
    return ByChain(config, log)
