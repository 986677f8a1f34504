"""What an ISO holds, read by pycdlib: runs in a confined worker, see ``isoread``.

An ISO may be hostile, and a reader of its directories can be sent in circles: there that ends by a
limit of the kernel.
"""

from __future__ import annotations

import os
import struct
import time
from typing import Any

import pycdlib
import pycdlib.pycdlibexception

from imagekit.disk.isocontent import MAX_EXTRACT, BootEntry, Content, IsoFile, Kind
from imagekit.errors import ImageError

MAX_ENTRIES = 300_000
# A worker loads nothing: what strptime(), which reads dates of volumes, fetches when it is first
# used has to be there before.
time.strptime("2000", "%Y")


class Refused(Exception):
    """The ISO cannot be used; the text says why."""


def listing(iso: Any) -> list[IsoFile]:
    found: list[IsoFile] = []
    queue = [("", iso.pvd.root_directory_record())]
    seen = set()
    while queue:
        prefix, directory = queue.pop()
        key = directory.extent_location()
        if key in seen:
            raise Refused(f"the directory {prefix or '/'} contains itself")
        seen.add(key)
        for child in directory.children:
            if child.is_dot() or child.is_dotdot():
                continue
            name = child.rock_ridge.name().decode("utf-8", "strict")
            if name in ("", ".", "..") or "/" in name or not name.isprintable():
                raise Refused(f"the name {name!r} in {prefix or '/'} would leave its directory")
            path = f"{prefix}/{name}"
            if len(found) >= MAX_ENTRIES:
                raise Refused(f"more than {MAX_ENTRIES} files")
            kind: Kind = "link" if child.rock_ridge.is_symlink() else "file"
            if child.is_dir():
                queue.append((path, child))
                kind = "directory"
            found.append(IsoFile(path, child.get_data_length(), child.extent_location(), kind))
    return found


def boot_entries(iso: Any) -> tuple[BootEntry, ...]:
    """The El Torito catalogue."""
    catalog = iso.eltorito_boot_catalog
    if catalog is None:
        return ()
    entries = [(catalog.validation_entry.platform_id, catalog.initial_entry)]
    for section in catalog.sections:
        entries += [(section.platform_id, entry) for entry in section.section_entries]
    return tuple(
        BootEntry(platform, entry.boot_media_type, entry.get_rba(), entry.sector_count)
        for platform, entry in entries
        if entry.boot_indicator == 0x88
    )


def content(files: tuple[int, ...], where: str, extract: tuple[str, ...]) -> Content:
    """What the ISO, the first of ``files``, holds; the files ``extract`` of it are written to the
    others. Raises ImageError, HostError."""
    damaged = (
        *(pycdlib.pycdlibexception.PyCdlibException, Refused, struct.error, LookupError),
        *(ValueError, AttributeError, TypeError, RecursionError, OverflowError),
    )
    try:
        return _content(files, extract)
    except damaged as error:
        raise ImageError(
            f"this is no usable ISO 9660 image: {error or type(error).__name__}",
            where=where,
            hint="is the download complete? compare its checksum",
        ) from None


def _content(files: tuple[int, ...], extract: tuple[str, ...]) -> Content:
    iso = pycdlib.PyCdlib()
    iso.open_fp(os.fdopen(files[0], "rb"))
    if not iso.has_rock_ridge():
        raise Refused("it has no Rock Ridge names, as every installer for Linux has")
    found = listing(iso)
    sizes = {file.path: file.size for file in found if file.kind == "file"}
    for path, target in zip(extract, files[1:], strict=True):
        if path not in sizes or sizes[path] > MAX_EXTRACT:
            raise Refused(f"{path} is no regular file of at most 1 GiB")
        with os.fdopen(target, "wb") as stream:
            iso.get_file_from_iso_fp(stream, rr_path=path)
    volume = iso.pvd.volume_identifier.decode("ascii", "replace").rstrip(" ")
    return Content(volume, bool(iso.has_joliet()), tuple(found), boot_entries(iso))
