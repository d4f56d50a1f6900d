"""What `join` writes into the settings file, kept with what was there before, so that `leave` restores that.

The note is `run/joined.json` in the home, which only its owner can read. It has no password of the Redis that was
joined; a password that was in the settings file before is in it, since nothing else could restore it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from mistudio_cli.fleet import settings_file, start_stop
from mistudio_cli.settings import redacted
from tasks.errors import UserError
from tasks.paths import Places, make_home, make_private
from tasks.settings import read_file


@dataclass(frozen=True)
class Joined:
    """By setting: what `join` wrote, without passwords, and what was there before, None where nothing was."""

    written: dict[str, str]
    before: dict[str, str | None]


def read(places: Places) -> Joined | None:
    """The note; None where this home has not joined. UserError when it cannot be read."""
    path = places.joined_note
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return Joined(dict(fields["written"]), dict(fields["before"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read: {error!r}.", "Remove it, correct the settings: mistudio config show"
        ) from error


@contextmanager
def written(places: Places, wanted: Mapping[str, str]) -> Iterator[None]:
    """Write these settings; inside, workers are started. Undone when that fails before any worker was started."""
    before, note, running = settings_file.save(), read(places), start_stop.running(places)
    try:
        _keep(places, _note_of(wanted, note))
        settings_file.change(wanted, mode=0o600)
        yield
    except BaseException:
        if not _has_started_since(places, running):
            settings_file.restore(before)
            _keep(places, note)
        raise


def restore(places: Places) -> None:
    """Restore what was in the settings file before `join`, except for settings that were changed since."""
    joined = read(places)
    if joined is None:
        return
    now = read_file()
    as_written = {name for name, value in joined.written.items() if name in now and _shown(str(now[name])) == value}
    if as_written:
        settings_file.change({name: joined.before[name] for name in as_written})
    _keep(places, None)


def _note_of(wanted: Mapping[str, str], note: Joined | None) -> Joined:
    """What is to be noted; what was there before the first of several joins stays so."""
    now = read_file()
    before = {name: str(now[name]) if name in now else None for name in wanted}
    shown = {name: _shown(value) for name, value in wanted.items()}
    return Joined({**note.written, **shown}, {**before, **note.before}) if note else Joined(shown, before)


def _shown(value: str) -> str:
    return redacted(value) if "://" in value else value


def _keep(places: Places, note: Joined | None) -> None:
    path = places.joined_note
    try:
        if note is None:
            path.unlink(missing_ok=True)
            return
        make_home(places.home)
        make_private(places.run)
        settings_file.replace_file(path, json.dumps(asdict(note)), 0o600)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}.", "Choose another folder with MISTUDIO_HOME") from error


def _has_started_since(places: Places, running: set[tuple[str, int | None]]) -> bool:
    try:
        return bool(start_stop.running(places) - running)
    except TimeoutError:  # its supervisor does not answer, and may have started some
        return True
