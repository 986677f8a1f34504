"""Programs that read bytes of strangers, started where they can reach nothing else.

What such a program reads and writes is handed over open, under the name that :func:`given` tells.
It has no network, the host's programs and libraries read-only and nothing else of its files, and
bounds of memory, processor time and file size.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imagekit.host import tools
from imagekit.host.program_child import SHOWN
from imagekit.host.run import child_argv

__all__ = ["SHOWN", "Bounds", "confined", "given"]

_UNBOUNDED = 1 << 62
_DAY = 86400


@dataclass(frozen=True)
class Bounds:
    """What a program may take: bytes of address space, seconds of processor time, and bytes of each
    file that it writes."""

    memory: int = 2 << 30
    cpu_seconds: int = _DAY
    file_bytes: int = _UNBOUNDED


def given(fd: int) -> str:
    """The name under which a program finds the open file or directory ``fd``."""
    return f"/proc/self/fd/{fd}"


def confined(
    argv: Sequence[str | Path],
    *,
    readable: Sequence[int] = (),
    writable: Sequence[int] = (),
    shown: Path | None = None,
    bounds: Bounds | None = None,
) -> list[str]:
    """The command that runs ``argv`` confined, for ``host.run``, whose ``pass_fds`` are the same
    descriptors.

    ``shown`` is a directory of ours whose files the program finds, read-only, in SHOWN, for one
    that wants names.
    Raises HostError when there is no such program.
    """
    bounds = bounds or Bounds()
    job = {
        "program": str(tools.require(str(argv[0]))),
        "argv": [str(a) for a in argv],
        "readable": list(readable),
        "writable": list(writable),
        "shown": str(shown.absolute()) if shown else None,
        "memory": bounds.memory,
        "cpu_seconds": bounds.cpu_seconds,
        "file_bytes": bounds.file_bytes,
    }
    return [*child_argv("imagekit.host.program_child"), json.dumps(job)]
