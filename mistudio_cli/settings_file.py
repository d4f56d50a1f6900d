"""Changes to `mistudio.toml`: one key is set or removed, and comments and order stay as they are."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistudio_cli.settings import load
from tasks.kind_settings import KIND_SETTINGS
from tasks.problem import Problem
from tasks.setting_types import DURATION, TEXT, Type
from tasks.settings import KINDS, SETTINGS, config_file, read_as, setting_named

if TYPE_CHECKING:
    from tomlkit import TOMLDocument


def type_of(name: str) -> Type:
    """The type of a setting by its full name, such as keep_jobs or kinds.tokenize.priority. Problem for any other."""
    from tasks.job import kinds

    table, *keys = name.split(".")
    if table == KINDS and len(keys) == 2 and keys[0] in kinds():
        for setting in KIND_SETTINGS:
            if setting.name == keys[1]:
                return setting.type
    if not keys and name in [setting.name for setting in SETTINGS]:
        return setting_named(name).type
    known = [setting.name for setting in SETTINGS if not setting.is_secret]
    of_kinds = [f"{KINDS}.KIND.{setting.name}" for setting in KIND_SETTINGS]
    raise Problem(f"There is no setting {name!r}.", f"Settings: {', '.join([*known, *of_kinds])}")


def set_value(name: str, word: str) -> None:
    """Set a key to what a person typed. Problem for an unknown key or a wrong value; then the file stays as it is."""
    of = type_of(name)
    _refuse_secret(name)
    value = read_as(of, word, name)
    document = _read()
    *tables, key = name.split(".")
    place: Any = document
    for table in tables:
        place = place.setdefault(table, {})
    place[key] = _plain(of, value, word)
    before, was_right = _read(), _is_right()
    _write(document)
    if was_right and not _is_right():  # such as a soft limit above the hard one
        try:
            load()
        finally:
            _write(before)


def _is_right() -> bool:
    try:
        load()
    except Problem:
        return False
    return True


def unset_value(name: str) -> bool:
    """Remove a key; whether it was there. Problem for an unknown one."""
    type_of(name)
    document = _read()
    *tables, key = name.split(".")
    place: Any = document
    for table in tables:
        place = place.get(table, {})
    if key not in place:
        return False
    del place[key]
    _write(document)
    return True


def _refuse_secret(name: str) -> None:
    if name in [setting.name for setting in SETTINGS if setting.is_secret]:
        variable = setting_named(name).variable
        raise Problem(f"{name} is a secret, which no file may hold.", f"Set {variable} in the environment")


def _plain(of: Type, value: Any, word: str) -> Any:
    """The value as TOML shows it best: durations and "none" as typed, whole numbers without a point."""
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
        raise Problem(f"{config_file()} cannot be read: {error}.", "Correct or remove it") from error


def _write(document: TOMLDocument) -> None:
    """Replace the file at once, or leave it as it was. Problem where it cannot be written."""
    import tomlkit

    path = config_file().resolve()  # a link stays one
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=".mistudio-", suffix=".toml")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(tomlkit.dumps(document))
                file.flush()
                os.fsync(file.fileno())
            os.chmod(draft, path.stat().st_mode & 0o777 if path.exists() else 0o600)
            os.replace(draft, path)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise Problem(
            f"{path} cannot be written: {error}.", "Choose another folder with MISTUDIO_CONFIG_DIR"
        ) from error
