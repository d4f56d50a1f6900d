"""The checks of `doctor` on heartbeats of hosts: their clocks and the versions of their supervisors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mistudio_cli.monitor.check_result import Check, Verdict
from mistudio_cli.monitor.hosts import RUNNING, Fleet, clock_fault, state_of
from tasks.fleet.clock_offset import CLOCK_ERROR_S, CLOCK_FIX
from tasks.fleet.host_heartbeat import HostHeartbeat


def of_fleet(fleet: Fleet) -> Iterator[Check]:
    """The checks of all supervisors that send heartbeats; none where there are none."""
    heartbeats = [
        heartbeat
        for row in fleet.hosts
        for heartbeat in row.supervisors
        if state_of(heartbeat, fleet.read_at) == RUNNING
    ]
    if heartbeats:
        yield from clocks(heartbeats)
        yield versions(heartbeats)


def clocks(heartbeats: Sequence[HostHeartbeat]) -> Iterator[Check]:
    """Whether the clock of each host agrees with that of Redis; a check for each that does not."""
    of_hosts = {heartbeat.host: heartbeat for heartbeat in heartbeats}
    wrong = {host: fault for host, heartbeat in of_hosts.items() if (fault := clock_fault(heartbeat))}
    for host, fault in wrong.items():
        verdict: Verdict = "failed" if abs(of_hosts[host].clock_offset_s) > CLOCK_ERROR_S else "warning"
        yield Check(
            "clock",
            verdict,
            fault,
            f"On {host}, or where Redis runs if its clock is the wrong one: {CLOCK_FIX}",
        )
    if not wrong:
        most = max(abs(heartbeat.clock_offset_s) for heartbeat in heartbeats)
        yield Check("clock", "ok", f"within {most:.1f} s of Redis's on {', '.join(of_hosts)}")


def versions(heartbeats: Sequence[HostHeartbeat]) -> Check:
    """Whether all supervisors are of one version."""
    found = sorted({(heartbeat.version or "of an unknown version", heartbeat.host) for heartbeat in heartbeats})
    if len({version for version, _ in found}) == 1:
        return Check("versions", "ok", f"mistudio {found[0][0]} on {', '.join(host for _, host in found)}")
    detail = ", ".join(f"mistudio {version} on {host}" for version, host in found)
    fix = "On the older: pip install --upgrade mistudio, then there: mistudio workers stop --all, and start"
    return Check("versions", "warning", f"supervisors of different versions: {detail}", fix)
