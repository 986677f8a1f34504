"""SHA-256 of large inputs, ISOs and trees, that are read once as long as nothing touches them.

The key of a stage holds what its inputs are, not where or since when they lie: on another machine,
or unpacked again, they are the same. What was read is remembered by device, inode, size and times;
an owner can set back the time of modification, not that of change.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from imagekit.host.strangers import make_folder, require_private_path
from imagekit.pipeline.stage import digest_file, digest_json
from imagekit.pipeline.workspace import HINT, cache_root

FOLDER = "digests"
SETTLED_NS = 2_000_000_000
"""A file changed later than this before now could change again without another time of change."""
REMEMBERED = 1000


def file_digest(path: Path) -> str:
    """SHA-256 of the content of a file; raises OSError."""
    status = path.stat()
    return _known([_marks(status)], status.st_ctime_ns, lambda: digest_file(path))


def tree_digest(root: Path) -> str:
    """SHA-256 over names, kinds, link targets, permissions and contents below ``root``.

    Owners and times do not count. Raises OSError.
    """
    entries = list(_walk(root))
    marks = [(name, *_marks(status)) for name, status in entries]
    newest = max((status.st_ctime_ns for _name, status in entries), default=0)
    return _known(marks, newest, lambda: digest_json([_plain(root, *e) for e in entries]))


def _walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted((*folders, *files)):
            path = Path(folder, name)
            yield str(path.relative_to(root)), path.lstat()


def _plain(root: Path, name: str, status: os.stat_result) -> list[str | int]:
    path, mode = root / name, stat.S_IMODE(status.st_mode)
    if stat.S_ISREG(status.st_mode):
        return [name, "file", mode, digest_file(path)]
    if stat.S_ISLNK(status.st_mode):
        return [name, "link", str(path.readlink())]
    return [name, f"{stat.S_IFMT(status.st_mode):o}", mode]


def _marks(status: os.stat_result) -> tuple[int, ...]:
    times = (status.st_mtime_ns, status.st_ctime_ns)
    return (status.st_dev, status.st_ino, status.st_mode, status.st_size, *times)


def _known(marks: list[tuple[object, ...]], newest: int, read: Callable[[], str]) -> str:
    """What was read of files with these ``marks``, or is read now."""
    folder = cache_root() / "store" / FOLDER
    os.close(make_folder(folder, 0o700))
    require_private_path(folder, HINT)
    path = folder / digest_json(marks)
    with contextlib.suppress(OSError):
        text = path.read_text()
        if len(text) == hashlib.sha256().digest_size * 2:
            return text
    digest = read()
    if time.time_ns() - newest > SETTLED_NS:
        _remember(path, digest)
    return digest


def _remember(path: Path, digest: str) -> None:
    """Write it down; the oldest ones go when there are too many."""
    with contextlib.suppress(OSError):
        part = path.with_name(f".{os.getpid()}-{secrets.token_hex(6)}")
        part.write_text(digest)
        part.replace(path)
        known = sorted(path.parent.iterdir(), key=lambda p: p.lstat().st_mtime)
        for old in known[:-REMEMBERED]:
            old.unlink(missing_ok=True)
