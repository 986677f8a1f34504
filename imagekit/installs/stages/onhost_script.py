"""The POSIX shell script that runs an installation on a Xen host: ``onhost.sh`` with its values."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from imagekit.domain.model import Mode

SHIPS = ("onhost.sh",)
BODY = Path(__file__).with_name("onhost.sh")


def script(name: str, directory: Path, modes: Sequence[Mode], size: int, timeout: int) -> str:
    """The script of guest ``name``, whose files lie in ``directory`` (absolute).

    ``size`` is the disk's in bytes, ``timeout`` the installation's in seconds. It calls xl alone,
    and the usual tools of any dom0.
    """
    values = {
        "NAME": name,
        "DIRECTORY": str(directory),
        "DISK": str(directory / f"{name}.raw"),
        "SIZE": str(size),
        "MODES": " ".join(modes),
        "TIMEOUT": str(timeout),
    }
    head = ["#!/bin/sh", f"# Installs {name} on this Xen host. Written by imagekit.", ""]
    lines = [f"{key}={shlex.quote(value)}" for key, value in values.items()]
    return "\n".join([*head, *lines, "", BODY.read_text()])
