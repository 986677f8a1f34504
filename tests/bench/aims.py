"""The aims for the work that people wait for, and the table that says which are met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Unit = Literal["s", "B"]


@dataclass(frozen=True)
class Measured:
    """What a row of the bench gave: ``value`` in seconds or bytes, None when it failed, and what
    came out of it or why it failed."""

    name: str
    value: float | None
    result: str
    unit: Unit = "s"

    @property
    def shown(self) -> str:
        """The value for people."""
        if self.value is None:
            return "-"
        return f"{self.value:.2f} s" if self.unit == "s" else f"{self.value / 1e6:.0f} MB"


@dataclass(frozen=True)
class Aim:
    """``work`` is to cost at most ``most``: times the row ``against``, or without one, in the unit
    of the row ``row`` itself."""

    work: str
    row: str
    against: str | None
    most: float

    def ratio(self, measured: Mapping[str, Measured]) -> float | None:
        """What it costs now; None when a row that is needed has no value."""
        own = measured.get(self.row)
        if own is None or own.value is None:
            return None
        if self.against is None:
            return own.value
        base = measured.get(self.against)
        if base is None or not base.value or base.unit != own.unit:
            return None
        return own.value / base.value

    def verdict(self, measured: Mapping[str, Measured]) -> str:
        """``met``, ``not met``, or why that cannot be said."""
        ratio = self.ratio(measured)
        if ratio is not None:
            return "met" if ratio <= self.most else "not met"
        rows = [name for name in (self.row, self.against) if name is not None]
        failed = [name for name in rows if name in measured and measured[name].value is None]
        if failed:
            return f"{failed[0]}: {measured[failed[0]].result}"
        return "not measured: " + ", ".join(name for name in rows if name not in measured)


COLD, PEER, UNCHANGED = "imagekit, cold", "mmdebstrap to tar", "imagekit, unchanged"
FILE, PACKAGE = "imagekit, one file changed", "imagekit, one package added"
SECOND = "imagekit, second spec"
LVM_COLD, LVM_FILE = "imagekit LVM, cold", "imagekit LVM, one file changed"
INJECT, INSPECT, LVM_INSPECT = "inject one file", "inspect", "inspect LVM"
STORE_ONE, STORE_TEN = "store after one build", "store after ten builds"

AIMS = (
    Aim("cold, three formats, to mmdebstrap's tar", COLD, PEER, 0.25),
    Aim("one package added, to cold", PACKAGE, COLD, 0.25),
    Aim("one file changed, to cold", FILE, COLD, 0.15),
    Aim("one file changed on LVM, to cold", LVM_FILE, LVM_COLD, 0.15),
    Aim("unchanged spec, seconds", UNCHANGED, None, 0.5),
    Aim("second spec that shares the base, to cold", SECOND, COLD, 0.35),
    Aim("inject of one file, seconds", INJECT, None, 2.0),
    Aim("inspect of an LVM image, to a plain one", LVM_INSPECT, INSPECT, 1.3),
    Aim("store after ten builds, to one build's", STORE_TEN, STORE_ONE, 3.0),
)


def aims_table(measured: Mapping[str, Measured]) -> str:
    """A line for each aim: what it is now, what it is to be, and whether that is met."""
    lines = [f"{'aims':<44} {'now':>7} {'at most':>8}"]
    for aim in AIMS:
        ratio = aim.ratio(measured)
        now = "-" if ratio is None else f"{ratio:.2f}"
        lines.append(f"  {aim.work:<42} {now:>7} {aim.most:>8.2f}  {aim.verdict(measured)}")
    return "\n".join(lines)


def table(title: str, rows: Sequence[Measured], base: float | None) -> str:
    """A line for each row, with its ratio to ``base``."""
    lines = [title]
    for row in rows:
        ratio = f"{row.value / base:6.2f}" if row.value is not None and base else "     -"
        lines.append(f"  {row.name:<32} {row.shown:>10} {ratio}  {row.result}")
    return "\n".join(lines)


def with_needed(wanted: Sequence[str], needs: Mapping[str, Sequence[str]]) -> list[str]:
    """``wanted`` and all they need, in the order of ``needs``, whose keys are all rows."""
    pending, found = list(wanted), set()
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending.extend(needs[name])
    return [name for name in needs if name in found]
