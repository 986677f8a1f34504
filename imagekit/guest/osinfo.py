"""Which operating system a guest is, and the parts of its configuration that booting touches."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from typing import Any

from imagekit.guest.appliance import Appliance, CallFailed
from imagekit.guest.files import GuestFiles
from imagekit.guest.mounts import GuestRoot

MAX_LINES = 500


@dataclass(frozen=True)
class OsInfo:
    """An installed operating system; None where the image does not say."""

    distribution: str | None
    name: str | None
    version: str | None
    arch: str | None
    package_format: str | None
    package_manager: str | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class FstabLine:
    """One line of fstab(5); ``number`` is its place in the file, from 1."""

    number: int
    device: str
    mountpoint: str
    type: str
    options: str


def read_os(app: Appliance, files: GuestFiles, root: GuestRoot) -> OsInfo | None:
    """The system on ``root``: os-release(5) first, libguestfs's inspection where it is silent."""
    release = parse_os_release(files.peek("/etc/os-release", 1 << 16))
    if not root.system and not release:
        return None

    def inspected(what: str) -> str | None:
        if not root.system:
            return None
        with contextlib.suppress(CallFailed):
            value = str(app.call(f"inspect_get_{what}", root.device))
            return None if value in ("", "unknown") else value
        return None

    return OsInfo(
        release.get("ID") or inspected("distro"),
        release.get("PRETTY_NAME") or inspected("product_name"),
        release.get("VERSION_ID") or inspected("major_version"),
        None if root.arch == "unknown" else root.arch,
        inspected("package_format"),
        inspected("package_management"),
    )


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
