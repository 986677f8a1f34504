"""What an ISO holds, read by a worker that can do nothing else (``imagekit.host.worker``)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from imagekit.disk.extents import opened
from imagekit.disk.isocontent import MAX_EXTRACT, BootEntry, Content, IsoFile
from imagekit.errors import ImageError, SpecError
from imagekit.host.outfile import os_errors
from imagekit.host.worker import MAX_FILES, MIB, Confined, Limits

__all__ = ["BIOS", "UEFI", "BootEntry", "Iso", "IsoFile", "read_iso"]

SECTOR = 2048
BIOS, UEFI = 0, 0xEF
# A listing is 300,000 files of a few hundred bytes.
_LIMITS = Limits(2048 * MIB, 90, 180.0, answer=64 * MIB, file_bytes=MAX_EXTRACT)


@dataclass(frozen=True)
class Iso:
    """An ISO's volume id, files by Rock Ridge path, and boot catalogue."""

    path: Path
    volume_id: str
    joliet: bool
    files: Mapping[str, IsoFile]
    boot: tuple[BootEntry, ...]

    def has(self, path: str) -> bool:
        """Whether ``path`` is a regular file."""
        found = self.files.get(path)
        return found is not None and found.kind == "file"

    def boot_image(self, entry: BootEntry) -> str | None:
        """Path of the file that ``entry`` loads; None when it lies in an appended partition."""
        for file in self.files.values():
            if file.kind == "file" and file.sector == entry.sector:
                return file.path
        return None


def read_iso(path: Path, extract: Mapping[str, Path] | None = None) -> Iso:
    """Read the ISO at ``path``; ``extract`` copies files out of it (path inside to new file).

    Raises SpecError when there is no such file, ImageError when it is no ISO, is damaged or
    hostile, or a file to extract is not there; then no new file is left.
    """
    if not path.is_file():
        raise SpecError("there is no such ISO file", where=str(path))
    left = list((extract or {}).items())
    with opened(path) as fd:
        while True:
            found = _extract(fd, path, dict(left[: MAX_FILES - 1]))
            left = left[MAX_FILES - 1 :]
            if not left:
                break
    files = {file.path: file for file in found.files}
    _check_whole(path, files)
    return Iso(path, found.volume_id, found.joliet, files, found.boot)


def _extract(iso: int, path: Path, extract: Mapping[str, Path]) -> Content:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with contextlib.ExitStack() as stack:
        targets = []
        for target in extract.values():
            with os_errors(target):
                targets.append(os.open(target, flags, 0o600))
            stack.callback(os.close, targets[-1])
        try:
            # pycdlib takes long to load, and few commands read an ISO.
            from imagekit.disk.iso9660 import content

            read = Confined(content, "the ISO", _LIMITS)
            return read(str(path), [iso, *targets], str(path), tuple(extract))
        except BaseException:
            for target in extract.values():
                target.unlink()
            raise


def _check_whole(path: Path, files: Mapping[str, IsoFile]) -> None:
    size = path.stat().st_size
    for file in files.values():
        if file.kind == "file" and file.sector * SECTOR + file.size > size and file.size:
            raise ImageError(
                f"the ISO ends before {file.path} does: it is cut off",
                where=str(path),
                hint="download it again, and compare its checksum",
            )
