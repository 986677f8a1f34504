"""Which operating system a guest is, and the parts of its configuration that booting touches."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from typing import Any

from imagekit.guest.appliance import Appliance, CallFailed
from imagekit.guest.files import GuestFiles
from imagekit.guest.mounts import GuestRoot
from imagekit.guest.osfiles import parse_os_release

_PACKAGES = {
    "debian": ("deb", "apt"),
    "rhel": ("rpm", "dnf"),
    "fedora": ("rpm", "dnf"),
    "suse": ("rpm", "zypper"),
    "alpine": ("apk", "apk"),
    "arch": ("pacman", "pacman"),
}
"""Package format and tool by ID or ID_LIKE of os-release(5)."""


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
        """JSON object with the fields by their names."""
        return asdict(self)


def read_os(app: Appliance, files: GuestFiles, root: GuestRoot) -> OsInfo | None:
    """The system on ``root``: os-release(5) first, libguestfs's inspection where it is silent."""
    release = parse_os_release(files.peek("/etc/os-release", 1 << 16))
    if not root.system and not release:
        return None

    def inspected(what: str) -> str | None:
        if not root.inspected or not root.system:
            return None
        with contextlib.suppress(CallFailed):
            value = str(app.call(f"inspect_get_{what}", root.device))
            return None if value in ("", "unknown") else value
        return None

    family = [release.get("ID", ""), *release.get("ID_LIKE", "").split()]
    packages = next((_PACKAGES[name] for name in family if name in _PACKAGES), (None, None))
    return OsInfo(
        release.get("ID") or inspected("distro"),
        release.get("PRETTY_NAME") or inspected("product_name"),
        release.get("VERSION_ID") or inspected("major_version"),
        None if root.arch == "unknown" else root.arch,
        packages[0] or inspected("package_format"),
        packages[1] or inspected("package_management"),
    )
