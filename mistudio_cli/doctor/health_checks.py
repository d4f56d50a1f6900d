"""The checks of `doctor` that are the causes of the health report, in its words and with its commands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mistudio_cli.monitor.check_result import Check
from mistudio_cli.monitor.health.causes import Health, HealthCause

#: Checks of doctor's own that say more than a cause with the same name: of what is wrong there, one is enough.
_SAYS_MORE = ("redis", "redis append-only file", "redis writes", "disk", "gpu", "clock", "supervisor")

_NAMES = {
    "ledger_unread": "redis",
    "redis_file": "redis append-only file",
    "redis_memory": "redis writes",
    "disk": "disk",
    "gpu": "gpu",
    "gpu_lost": "gpu",
    "clock": "clock",
    "no_consumer": "workers",
    "no_workers": "workers",
}

#: Causes by which jobs are not run, though others may be.
_FAILED = ("no_consumer", "worker_fatal", "worker_backoff", "worker_refused", "gpu", "gpu_lost")


def with_causes(own: Sequence[Check], found: Health) -> Iterator[Check]:
    """The checks of doctor's own, and one for each cause that none of them says more about."""
    wrong = {check.name for check in own if check.verdict != "ok"}
    causes = [of_cause(cause) for cause in found.causes]
    causes = [cause for cause in causes if cause.name not in _SAYS_MORE or cause.name not in wrong]
    named = {cause.name for cause in causes}
    for check in own:
        if check.verdict != "ok" or check.name not in named:
            yield check
    yield from causes


def of_cause(cause: HealthCause) -> Check:
    """A cause as a check."""
    default = "workers" if cause.code.startswith("worker_") else "health"
    name = cause.part if cause.code == "part_unread" and cause.part else _NAMES.get(cause.code, default)
    has_failed = cause.is_critical or cause.code in _FAILED
    return Check(name, "failed" if has_failed else "warning", cause.sentence, cause.command or "")
