"""Files that are kept by their SHA-256 beside the results of stages, and that may go at any time.

A stage puts into it what it had to fetch, and looks there before it fetches anything. Whoever asks
for a file knows its digest from elsewhere, so that a wrong file can do nothing but be missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from pathlib import Path
from typing import IO

from imagekit.host.ownership import is_kept

PIECE = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")


class FilePool:
    """The files in the directory ``root``, a private one, named by their digests."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def has(self, sha256: str) -> bool:
        """Whether there is one of this digest; it then counts as used now."""
        try:
            os.utime(self._path(sha256))
        except OSError:
            return False
        return True

    def has_any(self) -> bool:
        """Whether there is a file at all."""
        with os.scandir(self.root) as entries:
            return any(_SHA256.fullmatch(entry.name) for entry in entries)

    def keep(self, source: IO[bytes], sha256: str) -> bool:
        """Copy ``source``, open at its start, into the pool, if it has that digest; else say no.

        Raises OSError.
        """
        part = self.root / f".{os.getpid()}-{secrets.token_hex(6)}"
        try:
            with _new(part) as stream:
                if _copy(source, stream) != sha256:
                    return False
            part.replace(self._path(sha256))
            return True
        finally:
            part.unlink(missing_ok=True)

    def copy(self, sha256: str, target: Path) -> bool:
        """Copy a file to ``target``, which is new. False when there is none, or a damaged one.

        A damaged one is removed. Raises OSError about ``target``.
        """
        path = self._path(sha256)
        try:
            source = path.open("rb")
        except OSError:
            return False
        with source:
            right = is_kept(os.fstat(source.fileno()))
            if right:
                stream = _new(target)
                right = False
                try:
                    with stream:
                        right = _copy(source, stream) == sha256
                finally:
                    if not right:
                        target.unlink()
        if not right:
            with contextlib.suppress(OSError):
                path.unlink()
        self.has(sha256)  # used now; whoever pruned it meanwhile takes nothing from the copy
        return right

    def sweep(self) -> None:
        """Remove what killed runs have left half copied."""
        for path in self.root.glob(".*"):
            pid = path.name[1:].split("-")[0]
            if not pid.isdigit() or not Path(f"/proc/{pid}").exists():
                path.unlink(missing_ok=True)

    def _path(self, sha256: str) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"{sha256!r} is no SHA-256")
        return self.root / sha256


def _new(path: Path) -> IO[bytes]:
    return os.fdopen(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb"
    )


def _copy(source: IO[bytes], target: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while piece := source.read(PIECE):
        digest.update(piece)
        target.write(piece)
    return digest.hexdigest()
