"""The UEFI firmware of this host: OVMF, a code file and the variables that belong to it.

Debian and Ubuntu name the builds for 4 MiB of flash OVMF_CODE_4M.fd and OVMF_VARS_4M.fd, those for
2 MiB OVMF_CODE.fd and OVMF_VARS.fd; newer releases have only the former, older ones only the
latter. Code of one size does not run with variables of the other.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from imagekit.errors import HostError
from imagekit.vm.options import option

PACKAGE = "ovmf"
DIRECTORY = Path("/usr/share/OVMF")
SUFFIXES = ("_4M", "")


@dataclass(frozen=True)
class Uefi:
    """Firmware: its code, which machines share, and the variables each of them begins with."""

    code: Path
    variables: Path

    def argv(self, own: Path) -> list[str]:
        """The options for it, with variables of the machine's own in the file ``own``."""
        return [
            *option("-drive", if_="pflash", format="raw", unit=0, file=self.code, readonly=True),
            *option("-drive", if_="pflash", format="raw", unit=1, file=own, readonly=False),
        ]

    def new_variables(self, own: Path) -> None:
        """Make ``own``, which only this user may read, what a machine begins with."""
        shutil.copyfile(self.variables, own)
        own.chmod(0o600)


def find_uefi() -> Uefi | None:
    """The firmware of this host, the larger first; None where no file has its partner."""
    for suffix in SUFFIXES:
        found = Uefi(DIRECTORY / f"OVMF_CODE{suffix}.fd", DIRECTORY / f"OVMF_VARS{suffix}.fd")
        if found.code.is_file() and found.variables.is_file():
            return found
    return None


def require_uefi() -> Uefi:
    """The firmware of this host; raises HostError."""
    found = find_uefi()
    if found is None:
        raise HostError("no UEFI firmware is on this host", hint=f"apt-get install {PACKAGE}")
    return found
