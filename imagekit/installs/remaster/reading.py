"""Boot menus of a stranger's ISO, read by a worker that can do nothing else."""

from __future__ import annotations

from imagekit.host.worker import MIB, Confined, Limits
from imagekit.installs.remaster import menus
from imagekit.installs.remaster.menus import Entry


def entries(loader: str, path: str, text: str) -> tuple[Entry, ...]:
    """The entries of the menu ``path`` of ``loader`` (ISOLINUX, GRUB) that start a kernel.

    Raises ImageError when it cannot be read.
    """
    return _ENTRIES(path, [], loader, path, text)


def _entries(_files: tuple[int, ...], loader: str, path: str, text: str) -> tuple[Entry, ...]:
    read = menus.read_isolinux if loader == menus.ISOLINUX else menus.read_grub
    return tuple(read(path, text))


_ENTRIES = Confined(_entries, "the boot menu", Limits(cpu_seconds=30, answer=16 * MIB))
