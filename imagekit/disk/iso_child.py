"""Reads an ISO with pycdlib in a process of its own, with little memory and little time.

An ISO may be hostile, and a reader of its directories can be sent in circles: here that ends by a
limit of the kernel. One JSON job on standard input: ``iso`` (path), ``extract`` (path in the ISO to
file of ours). One JSON answer on standard output. Exit status 3: the ISO is at fault, and standard
error says how.
"""

from __future__ import annotations

import json
import resource
import struct
import sys
from typing import Any

MEMORY = 2 << 30
CPU_SECONDS = 90
MAX_ENTRIES = 300_000
MAX_EXTRACT = 1 << 30


class Refused(Exception):
    """The ISO cannot be used; the text says why."""


def listing(iso: Any) -> list[list[Any]]:
    """Every file as [path, bytes, first sector of 2048 bytes, kind]."""
    found: list[list[Any]] = []
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
            if child.is_dir():
                queue.append((path, child))
                kind = "directory"
            else:
                kind = "link" if child.rock_ridge.is_symlink() else "file"
            found.append([path, child.get_data_length(), child.extent_location(), kind])
    return found


def boot_entries(iso: Any) -> list[dict[str, int]]:
    """The El Torito catalogue: platform (0 BIOS, 0xEF UEFI), media type, load sector, count."""
    catalog = iso.eltorito_boot_catalog
    if catalog is None:
        return []
    entries = [(catalog.validation_entry.platform_id, catalog.initial_entry)]
    for section in catalog.sections:
        entries += [(section.platform_id, entry) for entry in section.section_entries]
    return [
        {
            "platform": platform,
            "media": entry.boot_media_type,
            "sector": entry.get_rba(),
            "count": entry.sector_count,
        }
        for platform, entry in entries
        if entry.boot_indicator == 0x88
    ]


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Do the job."""
    import pycdlib

    iso = pycdlib.PyCdlib()
    iso.open(job["iso"])
    if not iso.has_rock_ridge():
        raise Refused("it has no Rock Ridge names, as every installer for Linux has")
    files = listing(iso)
    sizes = {path: size for path, size, _sector, kind in files if kind == "file"}
    for path, target in job["extract"].items():
        if path not in sizes or sizes[path] > MAX_EXTRACT:
            raise Refused(f"{path} is no regular file of at most 1 GiB")
        with open(target, "xb") as stream:  # noqa: PTH123 - runs alone, with few imports
            iso.get_file_from_iso_fp(stream, rr_path=path)
    return {
        "volume_id": iso.pvd.volume_identifier.decode("ascii", "replace").rstrip(" "),
        "joliet": bool(iso.has_joliet()),
        "files": files,
        "boot": boot_entries(iso),
    }


def main() -> int:
    """Read the job, answer it."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    job = json.load(sys.stdin)
    import pycdlib.pycdlibexception

    damaged = (
        *(pycdlib.pycdlibexception.PyCdlibException, Refused, struct.error, LookupError),
        *(ValueError, AttributeError, TypeError, MemoryError, RecursionError, OverflowError),
    )
    try:
        value = answer(job)
    except damaged as error:
        print(f"{error}" or type(error).__name__, file=sys.stderr)
        return 3
    json.dump(value, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
