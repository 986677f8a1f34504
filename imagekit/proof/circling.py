"""Tells when the firmware of an HVM guest is lost: its processor runs and never gets anywhere.

QEMU's emulation now and then lets an HVM guest go on with a wrong code segment after a timer
interrupt. It then meets an invalid opcode, returns from SeaBIOS's empty handler and meets it again
(two alternating places), or runs through memory that holds zeros (``add %al, (%bx,%si)``, at as
many places as a segment has). That is no fault of the guest, which therefore is started anew. A
likely cause, an interrupt that is injected twice, is corrected (imagekit.proof.svm_fix).

All of that leaves the general registers as they are, for ever. A processor that works changes them:
a loader that reads or unpacks, a menu that waits for a key and looks at the clock, a 32-bit kernel,
a memory test. One that rests has executed HLT. The guest's code itself tells nothing: the monitor
reads memory without the nested pages of the guest, so that it shows other bytes.
"""

from __future__ import annotations

import re
import time
from collections import Counter, deque

from imagekit.errors import ToolError
from imagekit.proof.machine import Machine

ATTEMPTS = 3
"""The most that an HVM guest is given."""

SAMPLES = 40
EVERY = 0.5
"""Seconds between two samples; all of them together tell a circle from an unlucky series."""

SHARE = 0.8
"""So many of the samples show the same registers; the others are Xen's, whose timer goes on."""

_HALTED = re.compile(r"\bHLT=1\b")
# QEMU target/i386/cpu-dump.c. Xen and dom0 run in 64-bit mode, where it prints RAX and RIP. The
# stack pointer is left out: an interrupt that returns to where it was changes it for a moment.
_REGISTERS = re.compile(
    r"^EAX=([0-9a-f]{8}) EBX=([0-9a-f]{8}) ECX=([0-9a-f]{8}) EDX=([0-9a-f]{8})\s+"
    r"^ESI=([0-9a-f]{8}) EDI=([0-9a-f]{8}) EBP=([0-9a-f]{8}) ",
    re.MULTILINE,
)


def registers(said: str) -> tuple[str, ...] | None:
    """EAX to EBP of a processor that runs 16- or 32-bit code, which only HVM guests do, else None.

    ``said`` is what "info registers" of QEMU's monitor says.
    """
    found = _REGISTERS.search(said)
    return found.groups() if found else None


class Circling:
    """Watches one machine; ``look`` is to be called all the time."""

    def __init__(self, lab: Machine) -> None:
        self._lab = lab
        self._next = 0.0
        self._seen: deque[tuple[str, ...] | None] = deque(maxlen=SAMPLES)

    def look(self) -> bool:
        """Whether nearly all of the last samples showed the same registers."""
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + EVERY
        try:
            text = self._lab.qmp.command("human-monitor-command", command_line="info registers")
        except ToolError:  # the caller sees by itself that the machine is gone
            return False
        return self.sample(str(text))

    def sample(self, said: str) -> bool:
        """Take what the monitor ``said`` in; whether it and those before it show a circle."""
        if _HALTED.search(said):
            self._seen.clear()
            return False
        self._seen.append(registers(said))
        if len(self._seen) < SAMPLES:
            return False
        counts = Counter(here for here in self._seen if here is not None)
        return counts.most_common(1)[0][1] >= SHARE * SAMPLES if counts else False
