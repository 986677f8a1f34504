"""Tells when the lab's processor runs in one short circle and will never leave it.

QEMU 7.2's software emulation now and then loses the firmware of an HVM guest while GRUB reads the
disk: after a timer interrupt SeaBIOS goes on with a wrong code segment, meets an invalid opcode,
returns from its empty handler and meets it again, for ever (seen as two alternating instruction
pointers). That is no fault of the guest, which therefore is started anew.
"""

from __future__ import annotations

import re
import time
from collections import Counter, deque

from imagekit.errors import ToolError
from imagekit.proof.machine import Machine

ATTEMPTS = 6
"""The most that an HVM guest is given: about half of them are lost on some days."""

SAMPLES = 40
EVERY = 0.5
"""Seconds between two samples; all of them together tell a circle from an unlucky series."""

PLACES = 6
SHARE = 0.8
"""A circle has at most so many instructions, in at least this share of the samples; the others are
Xen's, whose timer goes on. A loader that reads or unpacks, and a menu that waits for a key by
asking the firmware, show more."""

_HALTED = re.compile(r"\bHLT=1\b")
# Xen and dom0 run in 64-bit mode, where QEMU prints RIP (target/i386/cpu-dump.c).
_PLACE = re.compile(r"^EIP=([0-9a-f]{8})\b.*?^CS =([0-9a-f]{4})\b", re.MULTILINE | re.DOTALL)


def place(registers: str) -> tuple[str, str] | None:
    """Code segment and instruction pointer of a CPU that runs 16- or 32-bit code, else None.

    ``registers`` is what "info registers" of QEMU's monitor says.
    """
    found = _PLACE.search(registers)
    return (found[2], found[1]) if found else None


class Circling:
    """Watches one machine; ``look`` is to be called all the time."""

    def __init__(self, lab: Machine) -> None:
        self._lab = lab
        self._next = 0.0
        self._seen: deque[tuple[str, str] | None] = deque(maxlen=SAMPLES)

    def look(self) -> bool:
        """Whether nearly all of the last samples were of very few instructions."""
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + EVERY
        try:
            text = self._lab.qmp.command("human-monitor-command", command_line="info registers")
        except ToolError:  # the caller sees by itself that the machine is gone
            return False
        return self.sample(str(text))

    def sample(self, registers: str) -> bool:
        """Take ``registers`` in; whether they and those before them show a circle."""
        if _HALTED.search(registers):
            self._seen.clear()
            return False
        self._seen.append(place(registers))
        if len(self._seen) < SAMPLES:
            return False
        counts = Counter(here for here in self._seen if here is not None)
        return sum(n for _, n in counts.most_common(PLACES)) >= SHARE * SAMPLES
