"""Files that lose a bit as a disk loses one: nothing but the content tells."""

from __future__ import annotations

import os
from pathlib import Path


def flip(path: Path) -> None:
    """Flip a bit in the middle of the file and put its time back."""
    status = path.stat()
    with path.open("r+b") as stream:
        stream.seek(status.st_size // 2)
        byte = stream.read(1)
        stream.seek(status.st_size // 2)
        stream.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
