"""Domain configs as the real xl understands them, without a hypervisor.

``xl -N create -d FILE`` prints its ``libxl_domain_config`` as JSON; a preloaded library answers
what would reach Xen. Any message on stderr but the file's name means that xl disliked something.
"""

from __future__ import annotations

import atexit
import itertools
import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]

SOURCE = Path(__file__).with_name("xl_offline.c")


@dataclass(frozen=True)
class Reading:
    """What xl said: its exit status, the JSON (empty when it failed), and its complaints."""

    returncode: int
    config: Json = field(default_factory=dict)
    complaints: tuple[str, ...] = ()


def xl_program() -> str | None:
    """The xl binary of xen-utils (not Debian's wrapper), the newest; None when absent."""
    found = sorted(Path("/usr/lib").glob("xen-*/bin/xl"))
    return str(found[-1]) if found else None


def missing() -> str | None:
    """What keeps this oracle from working here, or None."""
    if xl_program() is None:
        return "missing: xl (Debian package xen-utils-4.17) is not installed"
    if shutil.which("gcc") is None:
        return "missing: gcc (Debian package gcc) is not installed"
    return None


_numbers = itertools.count()


@cache
def _library() -> Path:
    directory = tempfile.mkdtemp(prefix="xl-oracle-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    library = Path(directory) / "xl_offline.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, SOURCE], check=True)
    return library


def read(text: str | bytes) -> Reading:
    """``text`` as xl reads it."""
    program = xl_program()
    assert program is not None
    data = text.encode() if isinstance(text, str) else text
    library = _library()
    path = library.with_name(f"{next(_numbers)}.cfg")
    path.write_bytes(data)
    try:
        done = subprocess.run(
            [program, "-N", "create", "-d", path],
            env={"LD_PRELOAD": str(library), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            capture_output=True,
            timeout=20,
        )
    finally:
        path.unlink()
    lines = done.stderr.decode("utf-8", "backslashreplace").splitlines()
    complaints = tuple(line for line in lines if not line.startswith("Parsing config from "))
    config = json.loads(done.stdout) if done.returncode == 0 and done.stdout.strip() else {}
    return Reading(done.returncode, config, complaints)
