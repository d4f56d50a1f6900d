"""What is wrong, the critical first: the causes of the health report, and how old what is shown instead is."""

from __future__ import annotations

from dataclasses import dataclass

from mistudio_cli.errors import Trouble, has_fix
from mistudio_cli.monitor.health.causes import HealthCause, health_of
from mistudio_cli.monitor.snapshot import Snapshot
from mistudio_cli.terminal import output
from mistudio_cli.terminal.humanize import duration
from mistudio_cli.terminal.layout import columns, cut
from mistudio_cli.top.frame.text import clean
from mistudio_cli.top.reading import SOURCES, Parts

#: Columns of a sentence that are left beside its command.
_LEAST_SENTENCE = 30


@dataclass(frozen=True)
class Alarm:
    """A sentence, and the command that fixes or shows it, if there is one; neither steers a terminal."""

    sentence: str
    command: str | None = None

    def text(self, room: int) -> str:
        """The sentence with the command; it is the sentence that is cut, as long as it can still be understood."""
        command = f" ({self.command})" if self.command else ""
        left = room - columns(command)
        return cut(self.sentence, left) + command if left >= _LEAST_SENTENCE else self.sentence


def alarms(parts: Parts) -> list[Alarm]:
    """An alarm for each cause of the health report, by what is shown; and one where reading takes long."""
    found = [_alarm(parts, cause) for cause in health_of(_shown(parts)).causes]
    if not parts.errors and parts.jobs.is_stale:
        found.append(Alarm(f"Reading takes long{_age(parts, 'ledger')}"))
    return found


def _alarm(parts: Parts, cause: HealthCause) -> Alarm:
    """The alarm of a cause; what an error says to do is its command."""
    sentence, command = cause.sentence, cause.command
    if command is None and has_fix(sentence):
        sentence, _, command = sentence.partition("; ")
    age = "" if cause.part is None else _age(parts, cause.part)
    command = None if command is None else output.suggested(clean(command))
    return Alarm(clean(sentence) + age, command)


def _shown(parts: Parts) -> Snapshot:
    """What is on the screen as a snapshot, old values included."""
    return Snapshot(
        read_at=parts.now,
        queues=parts.queues.value,
        jobs=parts.jobs.value,
        workers=parts.workers.value,
        devices=parts.devices.value,
        host=parts.host.value,
        hosts=parts.hosts.value,
        disagreements=parts.disagreements.value or (),
        consuming=parts.consuming.value,
        server=parts.server.value,
        errors=tuple(Trouble(part, message) for part, message in parts.errors),
    )


def _age(parts: Parts, source: str) -> str:
    """How old the values are that are shown in place of what could not be read."""
    shown = [part for name in SOURCES if SOURCES[name] == source and (part := getattr(parts, name)).value is not None]
    return f" (shown as of {duration(max(part.age_s for part in shown))} ago)" if shown else ""
