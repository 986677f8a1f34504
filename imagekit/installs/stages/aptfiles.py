"""apt's files of a tree that packages have run in: no link of it is followed out of it."""

from __future__ import annotations

from pathlib import Path

from imagekit.guest.files import GuestFiles
from imagekit.installs.stages.provenance import MAX_LIST_BYTES

SOURCES_LIST, SOURCES_PARTS = "/etc/apt/sources.list", "/etc/apt/sources.list.d"
LISTS = "/lists"
ROOT = (0, 0)
PARTIAL = ("/var/lib/apt/lists/partial", "/var/cache/apt/archives/partial")
"""Where apt downloads as the user _apt, by this host's number for it."""


def settle(
    files: GuestFiles, wanted: list[str], *, locked: bool, downloaded_outside: bool
) -> list[str]:
    """Leave the tree as guests share it; returns the lines of its sources.list(5).

    It keeps the sources ``wanted``, which hold no credentials; none, and not ``locked``, keeps
    those it has. ``downloaded_outside``: this host's apt gave directories to its user _apt, whose
    number may be somebody else's in the guest; they become root's.
    Host keys go: every instance makes its own, and a rebuild must not differ by what nobody uses.
    """
    if wanted or locked:
        for name in files.names(SOURCES_PARTS):
            files.remove(f"{SOURCES_PARTS}/{name}")
        text = "".join(f"{line}\n" for line in wanted)
        files.write(SOURCES_LIST, text.encode(), mode=0o644, owner=ROOT)
    for name in PARTIAL if downloaded_outside else ():
        status = files.lstat(name)
        if status is not None and status.is_directory:
            files.chown(name, ROOT)
    for name in files.names("/etc/ssh"):
        if name.startswith("ssh_host_"):
            files.remove(f"/etc/ssh/{name}")
    own = files.text(SOURCES_LIST) or ""
    return [line for line in own.splitlines() if line.strip()]


def fetch_lists(work: GuestFiles, target: Path) -> None:
    """Copy apt's lists, ``lists`` in the directory of the tools, to the directory ``target``.

    Programs of the tree can write there: regular files alone, for by a link a file of the host
    would be read as a list.
    """
    for name in work.names(LISTS):
        status = work.lstat(f"{LISTS}/{name}")
        if "_dists_" in name and status is not None and status.is_file:
            work.download(f"{LISTS}/{name}", target / name, MAX_LIST_BYTES)
