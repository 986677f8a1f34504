"""Runs a command on a wrong input, and says what it printed and what it wrote."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from imagekit.cli.main import COMMANDS, make_app
from imagekit.errors import ImagekitError

SPEC = """\
name: web01
os: {distribution: debian, suite: bookworm}
install: {method: debootstrap, packages: [openssh-server]}
disk: {size: 2GiB}
"""


@dataclass(frozen=True)
class Said:
    """What a command ended with: its exit code and its message, paths below the directory."""

    exit_code: int
    message: str


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below ``directory``."""
    found = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


def cut_off_kernel() -> bytes:
    """A bzImage whose setup header promises more than there is (Linux, boot.rst)."""
    header = bytearray(0x250)
    header[0x1F1] = 1
    header[0x1FE:0x200] = b"\x55\xaa"
    header[0x202:0x208] = b"HdrS\x0f\x02"
    header[0x24C:0x250] = (1 << 16).to_bytes(4, "little")
    return bytes(header) + bytes(4000)


def run(argv: list[str], directory: Path) -> Said:
    """``imagekit ARGV`` in this process, which must be in ``directory``."""
    done = CliRunner().invoke(make_app(COMMANDS), argv, prog_name="imagekit")
    if isinstance(done.exception, ImagekitError):
        text = str(done.exception).replace(f"{directory}/", "")
        return Said(done.exception.exit_code, text)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    # typer draws a box around what is wrong, and breaks lines at its border.
    boxed = " ".join(re.findall(r"│(.*)│", done.output))
    return Said(done.exit_code, re.sub(r"\s+", " ", boxed or done.output).strip())
