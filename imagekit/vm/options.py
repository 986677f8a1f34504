"""QEMU's command line: options with comma-separated properties, and what all machines share.

Source: qemu(1); QEMU util/qemu-option.c for the grammar of properties.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
"""QEMU's own seccomp filter: a guest that breaks out of it starts no process."""

Property = str | int | Path | bool | None


def option(name: str, first: str = "", **properties: Property) -> list[str]:
    """``name`` and its value: ``first``, then ``key=value`` for each property that is not None.

    A comma in a value is doubled; true and false are on and off; a trailing ``_`` of a key, which
    keeps it from being a word of Python (``if_``), is dropped.
    """
    words = [first] if first else []
    for key, value in properties.items():
        if value is not None:
            words.append(f"{key.rstrip('_')}={_text(value)}")
    return [name, ",".join(words)]


def _text(value: str | int | Path | bool) -> str:  # noqa: FBT001 - a value, no flag
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value).replace(",", ",,")


@dataclass(frozen=True)
class Processor:
    """What executes the guest. ``cpu`` and ``icount`` are worded as in qemu(1).

    ``translated_mib``: MiB for translated code, None for QEMU's own choice; only TCG has them.
    """

    accelerator: Literal["kvm", "tcg"]
    cpu: str
    translated_mib: int | None = None
    icount: str = ""

    @classmethod
    def best(cls, *, kvm: bool, translated_mib: int | None = None) -> Processor:
        """The host's own processor where KVM works, else all that QEMU can emulate."""
        return cls("kvm", "host") if kvm else cls("tcg", "max", translated_mib)

    def argv(self) -> list[str]:
        """The options for it."""
        size = self.translated_mib if self.accelerator == "tcg" else None
        argv = option("-accel", self.accelerator, **{"tb-size": size})
        if self.icount:
            argv += ["-icount", self.icount]
        return [*argv, "-cpu", self.cpu]


@dataclass(frozen=True)
class Board:
    """A machine before anything is plugged in: no default devices, no screen, one processor.

    QEMU ends where the guest would restart, and has its sandbox. ``machine`` is pc or q35, empty
    for QEMU's own choice (pc). Without ``graphics`` SeaBIOS talks on the serial port too. Without
    ``network`` there is no card even where a later option would bring one.
    """

    processor: Processor
    memory_mib: int
    machine: str = ""
    graphics: bool = True
    network: bool = True

    def argv(self) -> list[str]:
        """The options for it, to which those of its devices are added."""
        argv = self.processor.argv()
        if self.machine:
            argv += option("-machine", self.machine, graphics=None if self.graphics else False)
        argv += ["-smp", "1", "-m", str(self.memory_mib), "-nodefaults", "-no-user-config"]
        argv += ["-display", "none", "-no-reboot"]
        if not self.network:
            argv += ["-nic", "none"]
        return [*argv, "-sandbox", SANDBOX]
