"""Units of systemd in a guest, enabled in its files: systemd.unit(5), "Installation"."""

from __future__ import annotations

from imagekit.guest.files import GuestFiles

DIRECTORY = "/etc/systemd/system"


def unit_path(name: str) -> str:
    """Where a unit of the administrator lies."""
    return f"{DIRECTORY}/{name}"


def enable_unit(files: GuestFiles, name: str, text: str, wanted_by: str) -> None:
    """Write the unit ``name`` and have the target ``wanted_by`` start it, as systemctl enable."""
    files.write(unit_path(name), text.encode(), mode=0o644)
    files.link(f"{DIRECTORY}/{wanted_by}.wants/{name}", unit_path(name))
