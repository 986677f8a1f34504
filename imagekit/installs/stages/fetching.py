"""Where programs in a tree fetch packages while it is made, and where its guest will.

The guest's sources.list names the spec's mirrors or the distribution's own, so that an image does
not depend on who built it. Elements with a network fetch from what this host uses; that is in the
tree as long as they run, under a first line by which it is known.
"""

from __future__ import annotations

from collections.abc import Sequence

from imagekit.guest.files import GuestFiles
from imagekit.installs.stages.aptfiles import ROOT, SOURCES_LIST

MARK = "# Mirrors of the build host, for the time of the build: written by imagekit."
APT_LISTS = "/var/lib/apt/lists"


def begin(files: GuestFiles, guest: Sequence[str], fetched: Sequence[str]) -> None:
    """Have the tree fetch from ``fetched``, unless somebody changed its sources ``guest``.

    Both are sources.list(5) lines without credentials. Without ``fetched`` it stays as it is.
    """
    have = files.text(SOURCES_LIST)
    if fetched and list(fetched) != list(guest) and have == lines_of(guest):
        _write(files, [MARK, *fetched])


def renew(files: GuestFiles, fetched: Sequence[str]) -> bool:
    """Replace what :func:`begin` wrote on a host with other mirrors; whether that was so."""
    have = files.text(SOURCES_LIST) or ""
    if not fetched or not have.startswith(MARK) or have == lines_of([MARK, *fetched]):
        return False
    _write(files, [MARK, *fetched])
    return True


def end(files: GuestFiles, guest: Sequence[str]) -> None:
    """Give the tree its sources ``guest`` back, unless an element has chosen others since.

    The lists that apt fetched are named after the mirrors, and go.
    """
    if not (files.text(SOURCES_LIST) or "").startswith(MARK):
        return
    _write(files, guest)
    for name in files.names(APT_LISTS):
        if "_dists_" in name:
            files.remove(f"{APT_LISTS}/{name}")


def lines_of(lines: Sequence[str]) -> str:
    """``lines`` as the text of a file."""
    return "".join(f"{line}\n" for line in lines)


def _write(files: GuestFiles, lines: Sequence[str]) -> None:
    files.write(SOURCES_LIST, lines_of(lines).encode(), mode=0o644, owner=ROOT)
