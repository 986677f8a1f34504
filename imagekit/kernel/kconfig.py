"""A kernel's build configuration (``/boot/config-RELEASE``).

Syntax: Linux ``Documentation/kbuild/kconfig.rst``; ``CONFIG_X=y`` or ``# CONFIG_X is not set``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from imagekit.errors import ImageError
from imagekit.kernel.image import read_file

Tristate = Literal["y", "m", "n"]

MAX_FILE = 8 << 20
_LINE = re.compile(r"(?:CONFIG_(\w{1,100})=(.{0,4096})|# CONFIG_(\w{1,100}) is not set)\s*", re.A)
_TITLE = re.compile(r"^# (?:Linux/\S+|Linux kernel version:?) +(\d+\.\d+\S{0,60})", re.M)
_FULL = 400


@dataclass(frozen=True)
class KernelConfig:
    """Symbols without their CONFIG_ prefix; ``release`` is the version in its title line.

    ``full`` is false for what looks like a defconfig, in which an absent symbol says nothing.
    """

    name: str
    symbols: Mapping[str, str] = field(repr=False)
    release: str | None
    full: bool

    def value(self, symbol: str) -> Tristate | None:
        """y, m or n; None when the file does not say (an absent symbol of a full file is n)."""
        value = self.symbols.get(symbol)
        if value is None:
            return "n" if self.full else None
        return "y" if value == "y" else "m" if value == "m" else "n"

    def mentions(self, symbol: str) -> bool:
        """Whether the file names the symbol at all: a newer kernel's symbol it cannot know."""
        return symbol in self.symbols


def parse_config(text: str, *, name: str) -> KernelConfig:
    """Read a configuration; raises ImageError when no line of it is one."""
    symbols: dict[str, str] = {}
    for line in text.splitlines():
        found = _LINE.fullmatch(line)
        if found and found.group(1):
            symbols[found.group(1)] = found.group(2).strip()
        elif found:
            symbols[found.group(3)] = "n"
    if not symbols:
        raise ImageError(
            "this is not a kernel configuration: no CONFIG_ line is in it",
            where=name,
            hint="give the file /boot/config-RELEASE that belongs to the kernel",
        )
    title = _TITLE.search(text[:4096])
    return KernelConfig(name, symbols, title.group(1) if title else None, len(symbols) >= _FULL)


def load_config(path: Path) -> KernelConfig:
    """Read the file ``path`` of at most 8 MiB; raises SpecError, ImageError."""
    data = read_file(path, MAX_FILE, "kernel configuration")
    return parse_config(data.decode("utf-8", "replace"), name=str(path))


def version_of(release: str | None) -> tuple[int, int] | None:
    """Major and minor of a release ("6.1.0-56-amd64" gives (6, 1)), or None."""
    found = re.match(r"(\d{1,4})\.(\d{1,4})", release or "", re.A)
    return (int(found.group(1)), int(found.group(2))) if found else None
