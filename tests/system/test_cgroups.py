"""The limits of a cgroup of version 1 are read as those of version 2 are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.system.cgroups import Allowed, read_allowed

GIB = 1 << 30
UNLIMITED = "9223372036854771712"


@pytest.mark.parametrize(
    ("files", "allowed"),
    [
        ({}, Allowed(None, None)),
        ({"memory/memory.limit_in_bytes": UNLIMITED, "cpu/cpu.cfs_quota_us": "-1"}, Allowed(None, None)),
        ({"memory/job/memory.limit_in_bytes": str(4 * GIB)}, Allowed(None, 4 * GIB)),
        ({"memory/job/memory.limit_in_bytes": UNLIMITED, "memory/memory.limit_in_bytes": str(GIB)}, Allowed(None, GIB)),
        ({"cpu,cpuacct/job/cpu.cfs_quota_us": "150000"}, Allowed(1.5, None)),
        ({"cpu/job/cpu.cfs_quota_us": "50000"}, Allowed(0.5, None)),
        ({"cpu/job/cpu.cfs_quota_us": "nonsense", "memory/job/memory.limit_in_bytes": ""}, Allowed(None, None)),
    ],
)
def test_limits_of_version_1_hold_in_the_group_and_above_it(
    tmp_path: Path, files: dict[str, str], allowed: Allowed
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("9:memory:/job\n4:cpu,cpuacct:/job\n1:name=systemd:/other\n")
    for name, text in files.items():
        file = tmp_path / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
        (file.parent / "cpu.cfs_period_us").write_text("100000\n")
    assert read_allowed(tmp_path / "proc", tmp_path / "cgroup") == allowed
