"""Two files of every guest: os-release(5) and fstab(5)."""

from __future__ import annotations

from dataclasses import dataclass

from imagekit.guest.files import GuestFiles

MAX_LINES = 500


@dataclass(frozen=True)
class FstabLine:
    """One line of fstab(5); ``number`` is its place in the file, from 1."""

    number: int
    device: str
    mountpoint: str
    type: str
    options: str


def parse_os_release(text: str) -> dict[str, str]:
    """Variables of os-release(5), quotes removed."""
    values: dict[str, str] = {}
    for line in text.splitlines()[:MAX_LINES]:
        name, equals, value = line.strip().partition("=")
        if equals and name.isidentifier():
            value = value.strip()
            if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
                value = value[1:-1]
            values[name] = value
    return values


def parse_fstab(text: str) -> tuple[FstabLine, ...]:
    """Lines of an fstab that mount something; others are left out."""
    lines = []
    for number, line in enumerate(text.splitlines()[:MAX_LINES], 1):
        fields = line.split()
        if len(fields) >= 3 and not fields[0].startswith("#"):
            options = fields[3] if len(fields) > 3 else "defaults"
            lines.append(FstabLine(number, fields[0], fields[1], fields[2], options))
    return tuple(lines)


def looks_like_system(files: GuestFiles) -> bool:
    """Whether these are the files of a Linux: os-release(5), and programs."""
    release = any(files.stat(p) for p in ("/etc/os-release", "/usr/lib/os-release"))
    return release and any(files.stat(p) for p in ("/bin", "/usr/bin"))
