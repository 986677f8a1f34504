"""What the guests of the self-check said, and whether a lab is right by that."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from imagekit.errors import ImageError, LabError
from imagekit.proof.checkprograms import pattern_sum
from imagekit.proof.console import read_console, tail
from imagekit.proof.session import Seen

SAID = re.compile(r"^LAB-(?:REGISTERS|HVM) [^\n]{1,80}\n", re.MULTILINE)
_REGISTERS = re.compile(r"^LAB-REGISTERS wrong=(\d{1,9}) of=(\d{1,9})\n", re.MULTILINE)
_DISK = re.compile(r"^LAB-HVM dma=([01]) sum=([0-9A-F]{8})\n", re.MULTILINE)
MAX_BYTES = 1 << 16


@dataclass(frozen=True)
class LabCheck:
    """A lab that passed: how many rounds of ``registers`` each of its guests went through."""

    pv_rounds: int
    pvh_rounds: int
    disk: str = "DMA"

    def __str__(self) -> str:
        rounds = self.pv_rounds + self.pvh_rounds
        return f"registers 0 of {rounds} wrong, disk reads by {self.disk}"

    def write(self, path: Path) -> None:
        """As JSON, for the store."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> LabCheck:
        """From what :meth:`write` wrote; raises ImageError."""
        try:
            with path.open("rb") as stream:
                value: Any = json.loads(stream.read(MAX_BYTES))
            return cls(int(value["pv_rounds"]), int(value["pvh_rounds"]), str(value["disk"]))
        except (OSError, ValueError, KeyError, TypeError):
            raise ImageError("is no result of a self-check", where=str(path)) from None


def registers(seen: Seen) -> int:
    """Rounds that the guest went through without a wrong register; raises LabError."""
    text = _spoken(seen)
    found = _REGISTERS.search(text)
    if found is None:
        raise _silent(seen, text)
    wrong, rounds = int(found[1]), int(found[2])
    if wrong or not rounds:
        mode = seen.trial.config.mode.upper()
        raise LabError(
            f"{wrong} of {rounds} times a {mode} guest found another domain's registers in its own",
            where=seen.trial.ident,
            hint="programs in guests crash at random so; the lab needs Xen's eager-fpu, "
            "and a QEMU that emulates it",
        )
    return rounds


def disk(seen: Seen) -> None:
    """Raise LabError unless the guest read its disk right, and by DMA."""
    text = _spoken(seen)
    found = _DISK.search(text)
    if found is None:
        raise _silent(seen, text)
    if int(found[2], 16) != pattern_sum():
        raise LabError(
            f"an HVM guest read something else than its disk holds: {found[0].strip()}",
            where=seen.trial.ident,
        )
    if found[1] != "1":
        raise LabError(
            f"the firmware of HVM guests reads disks without DMA: {found[0].strip()}",
            where=seen.trial.ident,
            hint="GRUB takes minutes so; imagekit prove --fresh-lab compiles firmware that has DMA",
        )


def _spoken(seen: Seen) -> str:
    return "".join(read_console(seen.directory / f"{name}.log") for name in ("console", "serial"))


def _silent(seen: Seen, console: str) -> LabError:
    """The guest did not say its line: what it, or xl, said instead."""
    xl = read_console(seen.directory / "xl.log")
    errors = [line for line in xl.splitlines() if "error:" in line]
    mode = seen.trial.config.mode.upper()
    last = tail(console, 3) or tail("\n".join(errors), 3) or ["it said nothing"]
    return LabError(
        f"a {mode} guest that only checks the lab did not come up ({seen.verdict} after "
        f"{seen.seconds:.0f} s): {' | '.join(last)}",
        where=seen.trial.ident,
        hint="this host's QEMU does not emulate what Xen needs; Debian 12's (7.2) does",
    )
