"""What an ISO holds, read by a confined child (see ``iso_child``)."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from imagekit.errors import ImageError, SpecError, ToolError
from imagekit.host.run import run

SHIPS = ("iso_child.py",)
CHILD = Path(__file__).parent / "iso_child.py"
SECTOR = 2048
BIOS, UEFI = 0, 0xEF
SECONDS = 180


@dataclass(frozen=True)
class IsoFile:
    """A file: size in bytes, first sector of 2048 bytes, kind (file, link, directory)."""

    path: str
    size: int
    sector: int
    kind: str


@dataclass(frozen=True)
class BootEntry:
    """An El Torito entry: platform 0 is BIOS, 0xEF UEFI; ``sector`` where its image starts."""

    platform: int
    media: int
    sector: int
    count: int


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
    hostile, or a file to extract is not there.
    """
    if not path.is_file():
        raise SpecError("there is no such ISO file", where=str(path))
    job = {"iso": str(path), "extract": {k: str(v) for k, v in (extract or {}).items()}}
    try:
        done = run(
            [sys.executable, "-I", CHILD],
            input=json.dumps(job).encode(),
            check=False,
            timeout=SECONDS,
        )
    except ToolError:
        raise ImageError(f"reading it takes more than {SECONDS} s", where=str(path)) from None
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = said[-1][:300] if done.returncode == 3 and said else "reading it was stopped"
        raise ImageError(
            f"this is no usable ISO 9660 image: {reason}",
            where=str(path),
            hint="is the download complete? compare its checksum",
        )
    value = json.loads(done.stdout)
    files = {f[0]: IsoFile(*f) for f in value["files"]}
    _check_whole(path, files)
    boot = tuple(BootEntry(**entry) for entry in value["boot"])
    return Iso(path, value["volume_id"], value["joliet"], files, boot)


def _check_whole(path: Path, files: Mapping[str, IsoFile]) -> None:
    size = path.stat().st_size
    for file in files.values():
        if file.kind == "file" and file.sector * SECTOR + file.size > size and file.size:
            raise ImageError(
                f"the ISO ends before {file.path} does: it is cut off",
                where=str(path),
                hint="download it again, and compare its checksum",
            )
