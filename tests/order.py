"""Which tests begin first and which share a process, when several processes share the tests: the only list of both.

pytest-xdist hands out one file after the other. What takes long must not begin last, and a home that takes minutes to
make shall be made once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

#: Files that share one home, which takes minutes to make: one process runs them, before all others.
OF_ONE_HOME = ("e2e/test_first_light.py", "e2e/test_four_commands.py", "e2e/test_wrong_on_purpose.py")

#: What takes longest of the others, the longest first.
LONGEST = (
    "e2e/test_documented_commands.py",
    "supervisor/test_workers.py",
    "train_job/test_resume.py",
    "e2e/test_survival.py",
    "worker/test_worker.py",
    "supervisor/test_single_kills.py",
    "cli/test_logs_from_anywhere.py",
    "supervisor/test_remote_requests.py",
    "worker/test_device_assignment.py",
    "messaging/test_foreign_messages.py",
    "train_job/test_retry.py",
    "jobs/test_estimate.py",
    "activations/test_compile_blocks.py",
    "cli/test_join.py",
    "machines/test_single_writer.py",
    "worker/test_limits.py",
    "hub/test_saes.py",
    "cli/test_page_browser.py",
    "supervisor/test_hung_parts.py",
    "jobs/test_stop_grace.py",
    "supervisor/test_refusals.py",
    "cli/test_pipelines.py",
    "deploy/test_commands.py",
    "worker/test_removed_files.py",
    "worker/test_concurrency.py",
    "fleet/test_other_versions.py",
    "jobs/test_memory.py",
    "cli/test_page_jobs.py",
    "supervisor/test_kills.py",
    "worker/test_watchdog.py",
    "cli/test_page_machines.py",
    "messaging/test_celery_calls.py",
    "supervisor/test_chaos.py",
    "logs/test_log_tails.py",
    "supervisor/test_home_files.py",
    "fleet/test_celery_inspect.py",
    "cli/test_top_actions.py",
    "cli/test_page_submit.py",
    "cli/test_page_saes.py",
    "cli/test_page_axe.py",
    "supervisor/test_replacing.py",
    "ledger/test_state_machine.py",
    "hub/test_models.py",
    "cli/test_page_job.py",
    "cli/test_json_contract.py",
    "accelerators/test_visible_devices.py",
    "machines/test_same_answers.py",
    "worker/test_killed_training.py",
    "worker/test_lease_keeper.py",
)

_HERE = Path(__file__).parent
_ORDERED = [_HERE / file for file in (*OF_ONE_HOME, *LONGEST)]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the others as they were found."""
    assert [path for path in _ORDERED if not path.exists()] == [], "tests/order.py names files that are gone"
    rank = {path: number for number, path in enumerate(_ORDERED)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out files as `--dist loadfile` does, but in our order, and those of one home together."""
    from xdist.scheduler import LoadFileScheduling

    class ByHome(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return OF_ONE_HOME[0] if file.removeprefix("tests/") in OF_ONE_HOME else file

    if config.getvalue("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False  # by the number of tests, whatever they take
    return ByHome(config, log)
