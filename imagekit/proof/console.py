"""What a guest's console says: up, lost, and its kernel's own messages. All of it is hostile."""

from __future__ import annotations

import re
from pathlib import Path

from imagekit.errors import SpecError

MAX_CONSOLE_BYTES = 16 << 20
LOGIN = re.compile(r"^[^\n]{0,300}\blogin: ", re.MULTILINE)
"""agetty(8)'s prompt, in the locale C."""

LOST = re.compile(
    r"Kernel panic - not syncing[^\n]*\n"
    r"|^\(initramfs\) "
    r"|Dropping to a shell!"
    r"|You are in (?:emergency|rescue) mode"
    r"|Press Enter for maintenance"
    r"|Entering emergency mode"
    r"|^grub(?: rescue)?> ",
    re.MULTILINE,
)
"""From here no guest goes on by itself."""

# CSI and OSC sequences and two-byte escapes (ECMA-48), then every other control character.
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def clean(data: bytes) -> str:
    """Text that is safe on a terminal: no escape sequences, no control characters but newlines."""
    text = _ESCAPE.sub("", data.decode("utf-8", "backslashreplace"))
    return _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def tail(text: str, lines: int = 20) -> list[str]:
    """The last lines that are not empty, each at most 300 characters."""
    return [line[:300] for line in text.splitlines() if line.strip()][-lines:]


def expectation(pattern: str | None) -> re.Pattern[str]:
    """The compiled regular expression that means "up"; raises SpecError for a wrong one."""
    if pattern is None:
        return LOGIN
    try:
        return re.compile(pattern, re.MULTILINE)
    except re.error as error:
        raise SpecError(
            f"{pattern!r} is not a regular expression: {error}", where="proof.expect"
        ) from None


class Follower:
    """Reads a growing console log and looks for signs in its end."""

    WINDOW = 1 << 16

    def __init__(self, path: Path, up: re.Pattern[str]) -> None:
        self._path = path
        self._up = up
        self._offset = 0
        self._raw = b""
        self.bytes_seen = 0

    def look(self) -> str | None:
        """ "up", "lost" or None after reading what came since the last look."""
        try:
            with self._path.open("rb") as stream:
                stream.seek(self._offset)
                data = stream.read(1 << 20)
        except OSError:
            return None
        if not data:
            return None
        self._offset += len(data)
        self.bytes_seen += len(data)
        self._raw = (self._raw + data)[-self.WINDOW :]
        text = clean(self._raw)
        if self._up.search(text):
            return "up"
        return "lost" if LOST.search(text) else None


def read_console(path: Path) -> str:
    """The whole console as clean text, at most 16 MiB of it."""
    try:
        with path.open("rb") as stream:
            return clean(stream.read(MAX_CONSOLE_BYTES))
    except OSError:
        return ""
