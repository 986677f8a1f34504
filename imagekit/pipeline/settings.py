"""What the store is told beside the command line: two files of settings, and the environment.

The files are TOML, ``/etc/imagekit/imagekit.toml`` for the host and the user's own in
``$XDG_CONFIG_HOME/imagekit``. A variable of the environment wins over both.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

from imagekit.errors import SpecError

VARIABLES = {
    ("cache", "size"): "IMAGEKIT_CACHE_SIZE",
    ("cache", "free"): "IMAGEKIT_CACHE_FREE",
    ("store", "remote"): "IMAGEKIT_STORE_REMOTE",
}
"""Every setting, by table and name, and the variable that sets it too."""


@dataclass(frozen=True)
class Setting:
    """A value as TOML has it (text, from the environment), and ``where`` it stands, for errors."""

    name: str
    value: object
    where: str


def settings_files() -> tuple[Path, ...]:
    """Files of settings that are read, the weaker first: the host's, the user's."""
    home = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path("/etc/imagekit/imagekit.toml"), Path(home, "imagekit/imagekit.toml")


def settings(table: str) -> list[Setting]:
    """The settings of ``table``, each at most once, the strongest.

    Raises SpecError for a file that cannot be read, and for a table or setting that there is not.
    """
    found: dict[str, Setting] = {}
    for path in settings_files():
        found |= {setting.name: setting for setting in _read(path, table)}
    for (of, name), variable in VARIABLES.items():
        if of == table and os.environ.get(variable):
            found[name] = Setting(name, os.environ[variable], variable)
    return list(found.values())


def _read(path: Path, wanted: str) -> list[Setting]:
    try:
        tables = tomllib.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SpecError(f"cannot be read: {error}", where=str(path)) from None
    known = list(dict.fromkeys(table for table, _name in VARIABLES))
    for name, table in tables.items():
        if name not in known:
            hint = f"use {' or '.join(f'[{name}]' for name in known)}"
            raise SpecError(f"there is no table {name!r}", where=str(path), hint=hint)
        if not isinstance(table, dict):
            raise SpecError(f"{name} must be a table", where=str(path), hint=f"write [{name}]")
        names = [setting for of, setting in VARIABLES if of == name]
        for setting in table:
            if setting not in names:
                hint = f"use {' or '.join(names)}"
                raise SpecError(f"there is no setting {name}.{setting}", where=str(path), hint=hint)
    table = tables.get(wanted, {})
    return [Setting(n, value, f"{path}: {wanted}.{n}") for n, value in table.items()]
