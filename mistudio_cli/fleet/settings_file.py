"""Changes to `mistudio.toml`: keys are set or removed, and comments and order stay as they are."""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistudio_cli.settings import load
from tasks.errors import UserError
from tasks.jobs.kind_settings import KIND_SETTINGS
from tasks.parsing.setting_types import DURATION, FOLDER, TEXT, Type
from tasks.settings import KINDS, SETTINGS, config_file, read_as, setting_named

if TYPE_CHECKING:
    from tomlkit import TOMLDocument


def type_of(name: str) -> Type:
    """The type of a setting by its full name, such as keep_jobs or kinds.tokenize.priority. UserError for any other."""
    from tasks.jobs.kind import kinds

    table, *keys = name.split(".")
    if table == KINDS and len(keys) == 2 and keys[0] in kinds():
        for setting in KIND_SETTINGS:
            if setting.name == keys[1]:
                return setting.type
    if not keys and name in [setting.name for setting in SETTINGS]:
        return setting_named(name).type
    known = [setting.name for setting in SETTINGS if not setting.is_secret]
    of_kinds = [f"{KINDS}.KIND.{setting.name}" for setting in KIND_SETTINGS]
    raise UserError(f"There is no setting {name!r}.", f"Settings: {', '.join([*known, *of_kinds])}")


@dataclass(frozen=True)
class SavedFile:
    """The settings file at one time: its text and its permissions, both None where there was none."""

    text: str | None
    mode: int | None


def save() -> SavedFile:
    """The file as it is now. UserError when it cannot be read."""
    path = config_file()
    try:
        return SavedFile(path.read_text(encoding="utf-8"), path.stat().st_mode & 0o777)
    except (FileNotFoundError, NotADirectoryError):
        return SavedFile(None, None)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.", "Correct or remove it") from error


def restore(saved: SavedFile) -> None:
    """Make the file what it was; harmless when it is. UserError where it cannot be written."""
    if save() == saved:
        return
    if saved.text is None:
        config_file().unlink(missing_ok=True)
    else:
        _write(saved.text, saved.mode)


def set_value(name: str, word: str) -> None:
    """Set a key to what a person typed. UserError for an unknown key or a wrong value; then the file stays as it is."""
    change({name: word}, check=check_usable)


def change(words: Mapping[str, str | None], mode: int | None = None, check: Callable[[], object] = load) -> None:
    """Set keys to what a person typed, remove those of None, and write once; `mode` None keeps the permissions.

    UserError for an unknown key, a wrong value, or what `check` then refuses; then the file stays as it is.
    """
    with _locked():
        document = _read()
        for name, word in words.items():
            if word is None:
                _remove(document, name)
            else:
                _put(document, name, word)
        _replace(document, mode, check)


def _replace(document: TOMLDocument, mode: int | None, check: Callable[[], object]) -> None:
    before, was_right = save(), _passes(check)
    _write(document.as_string(), mode)
    if was_right and not _passes(check):  # such as a soft limit above the hard one
        try:
            check()
        except UserError as error:
            raise _without_place(error) from error
        finally:
            restore(before)


def _without_place(error: UserError) -> UserError:
    """The error with the key alone: the line is one that the file does not have any more."""
    sentence = re.sub(rf"{re.escape(str(config_file()))}(:\d+)?: ", "", error.sentence)
    return error if sentence == error.sentence else UserError(sentence, error.hint)


def check_usable() -> str | None:
    """The URL of Redis that was set. UserError for the first thing wrong in the settings of this process, or in it."""
    return load().broker_url


@contextmanager
def _locked() -> Iterator[None]:
    """While one command changes the file, others that would wait. UserError where its folder cannot be made."""
    folder = config_file().resolve().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _put(document: TOMLDocument, name: str, word: str) -> None:
    of = type_of(name)
    _refuse_secret(name)
    value = read_as(of, word, name)
    *tables, key = name.split(".")
    place: Any = document
    for table in tables:
        place = place.setdefault(table, {})
    place[key] = _plain(of, value, word)


def _passes(check: Callable[[], object]) -> bool:
    try:
        check()
    except UserError:
        return False
    return True


def unset_value(name: str) -> bool:
    """Remove a key; whether it was there. UserError for an unknown one."""
    if not _remove(_read(), name):
        return False
    change({name: None}, check=check_usable)
    return True


def _remove(document: TOMLDocument, name: str) -> bool:
    type_of(name)
    *tables, key = name.split(".")
    place: Any = document
    for table in tables:
        place = place.get(table, {})
    if key not in place:
        return False
    del place[key]
    return True


def _refuse_secret(name: str) -> None:
    if name in [setting.name for setting in SETTINGS if setting.is_secret]:
        variable = setting_named(name).variable
        raise UserError(f"{name} is a secret, which no file may hold.", f"Set {variable} in the environment")


def _plain(of: Type, value: Any, word: str) -> Any:
    """The value as TOML shows it best: durations and "none" as typed, whole numbers without a point.

    A folder is the one that is meant here, whatever the folder of the command that reads it.
    """
    if of is FOLDER:
        return str(Path(word).expanduser().absolute())
    if value is None or of is TEXT or of is DURATION or of.expected.startswith(DURATION.expected):
        return word
    return int(value) if isinstance(value, float) and value == int(value) else value


def _read() -> TOMLDocument:
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        return tomlkit.parse(config_file().read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return tomlkit.document()
    except (OSError, ValueError, RecursionError, TOMLKitError) as error:
        raise UserError(f"{config_file()} cannot be read: {error}.", "Correct or remove it") from error


def _write(text: str, mode: int | None = None) -> None:
    """Replace the file at once, or leave it as it was. UserError where it cannot be written."""
    path = config_file().resolve()  # a link stays one
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if mode is None:
            mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
        replace_file(path, text, mode)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be written: {error}.", "Choose another folder with MISTUDIO_CONFIG_DIR")


def replace_file(path: Path, text: str, mode: int) -> None:
    """Replace a file at once by one with this text and these permissions. OSError leaves it as it was."""
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=".mistudio-", suffix=path.suffix)  # its mode is 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(draft, mode)
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
