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
    ("supervision/test_workers.py",),
    ("e2e/test_survival.py",),
    ("machines/test_one_writer.py",),
    ("supervision/test_remote_requests.py",),
    ("core/test_worker.py",),
    ("supervision/test_single_kills.py",),
    ("core/test_gpu.py",),
    ("core/test_citizens.py",),
    ("data/test_hub_saes.py",),
    ("sae/test_retried_training.py",),
    ("supervision/test_chaos.py",),
    ("supervision/test_failover.py",),
    ("core/test_estimate.py",),
    ("core/test_stop_grace.py",),
    ("supervision/test_refusals.py",),
    ("core/test_limits.py",),
    ("core/test_guard.py",),
    ("sae/test_training.py",),
    ("data/test_hub_models.py",),
    ("core/test_memory.py",),
    ("core/test_purged.py",),
    ("sae/test_together.py",),
    ("supervision/test_kills.py",),
    ("core/test_turns.py",),
    ("supervision/test_door.py",),
    ("core/test_struck_training.py",),
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
