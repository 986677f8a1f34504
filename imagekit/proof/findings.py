"""What a guest's console shows that is wrong, although the guest may be up.

A line counts only in the form in which the kernel, systemd or sysv-rc prints it: behind the
kernel's time stamp or at the beginning of a line. A unit described as "segfault" is no finding.

Sources of the forms: Linux arch/x86/kernel/traps.c and dumpstack.c, arch/x86/mm/fault.c,
kernel/watchdog.c, kernel/hung_task.c, kernel/panic.c, mm/oom_kill.c, fs/ext4/super.c,
fs/xfs/xfs_message.c, fs/btrfs/messages.c; systemd src/core/job.c; Debian's lsb-base.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "invalid-opcode",
    "segfault",
    "general-protection",
    "trap",
    "oops",
    "kernel-bug",
    "soft-lockup",
    "rcu-stall",
    "hung-task",
    "out-of-memory",
    "call-trace",
    "disk-full",
    "file-system",
    "unit-failed",
    "kernel-warning",
]

MAX_LINE = 400
"""Characters of a line that are read; a finding shows the last MAX_SHOWN of the kernel's words."""

MAX_SHOWN = 240
MAX_OF_A_KIND = 5
"""More of one kind are counted and not shown."""

BACK = 40
"""Lines above "Call Trace:" in which the kernel says what the trace is about."""

FORTH = 8
"""Lines below an exception in which the kernel says where it was."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: its kind, and the console's line, clean and at most 240 long."""

    kind: Kind
    line: str

    @property
    def grave(self) -> bool:
        """Whether ``--strict`` fails for it.

        A WARNING of the kernel says that something unforeseen happened and was dealt with; drivers
        print them on odd hardware, such as an emulated machine is. It is shown, and no failure.
        """
        return self.kind != "kernel-warning"


# printk's time stamp, and the caller that CONFIG_PRINTK_CALLER adds; both are optional only at the
# beginning of a line. A login prompt may stand before it.
_STAMP = r"(?:^|\[ {0,5}\d{1,9}\.\d{6}\](?:\[ {0,8}[TC]\d{1,9}\])? )"
# A program's name has at most 15 characters (TASK_COMM_LEN), whichever they are.
_TASK = r"[^\n]{1,15}\[\d{1,10}\]"
_KERNEL: tuple[tuple[Kind, str], ...] = (
    (
        "invalid-opcode",
        rf"(?:Oops: )?invalid opcode: [0-9a-f]{{4}} \[#\d|traps: {_TASK} trap invalid opcode ip:",
    ),
    ("segfault", rf"{_TASK}: segfault at [0-9a-f]{{1,16}} ip "),
    (
        "general-protection",
        rf"(?:Oops: )?general protection fault(?:, |: )|(?:traps: )?{_TASK} general protection",
    ),
    (
        "trap",
        rf"traps: (?:{_TASK} trap |PANIC: )"
        r"|(?:Oops: )?(?:divide error|stack segment|double fault|int3): [0-9a-f]{4} \[#\d",
    ),
    ("soft-lockup", r"(?:(?:NMI )?watchdog: )?(?:BUG: soft lockup|Watchdog detected hard LOCKUP)"),
    ("kernel-bug", r"BUG: (?!soft lockup)\S|kernel BUG at "),
    ("oops", r"Oops: \S|Kernel panic - not syncing: "),
    ("rcu-stall", r"rcu: INFO: \w{1,40} (?:self-detected stall|detected stalls)"),
    ("hung-task", r"INFO: task [^\n]{1,60} blocked for more than \d+ seconds"),
    ("out-of-memory", r"(?:Memory cgroup o|O)ut of memory: Kill"),
    ("kernel-warning", r"WARNING: (?:CPU: \d+ PID: \d+ at |\S{1,200}:\d+ at )"),
    (
        "file-system",
        r"EXT[234]-fs error \(|XFS \(\S{1,32}\): (?:Metadata corruption|Corruption|Internal error"
        r"|metadata I/O error)|BTRFS (?:error|critical) \(|JBD2: [^\n]{0,80}\berror\b"
        r"|(?:blk_update_request: )?I/O error, dev |Buffer I/O error on dev "
        r"|EXT[234]-fs \(\S{1,32}\): (?:Remounting filesystem read-only|error )",
    ),
    (
        "unit-failed",
        r"systemd\[1\]: (?:Failed to (?:start|mount|listen)|Dependency failed for"
        r"|Timed out waiting for device) ",
    ),
)
_FAMILIES = "|".join(f"(?P<k{number}>{text})" for number, (_, text) in enumerate(_KERNEL))
_OF_KERNEL = re.compile(rf"{_STAMP}(?P<said>{_FAMILIES})")
_FULL = re.compile(r"No space left on device")
# A status line begins a line; the login prompt may be there already.
_STATUS = re.compile(r"(?:^|login: )\[(?:FAILED|DEPEND| TIME |FAIL)\] +(?P<said>\S)")
_FSCK = re.compile(r"\S{1,64}: (?P<said>UNEXPECTED INCONSISTENCY; RUN fsck MANUALLY)")
_TRACE = re.compile(rf"{_STAMP}Call Trace:$")
_PLACE = re.compile(r" RIP: 0010:(\S{1,100}(?: \[\w{1,60}\])?)")
_STAMPED = re.compile(r"^\[[ \d.]{1,20}\](?:\[[^\]]{1,12}\])? ")
_ABOUT = re.compile(rf"{_STAMP}CPU: \d+ (?:UID: \d+ )?PID: \d+ ")
# One glance tells that most lines hold nothing of all that.
_GLANCE = re.compile(
    r"invalid opcode|segfault|protection|traps:|error|fault|stack segment|BUG|LOCKUP|Oops|panic"
    r"|INFO: |[Oo]ut of memory|WARNING: |XFS|BTRFS|read-only|ailed|\[FAIL|\[DEPEND|\[ TIME"
    r"|No space|RUN fsck|Call Trace"
)
_SPOKEN = {"oops", "kernel-bug", "soft-lockup", "rcu-stall", "hung-task", "kernel-warning",
           "invalid-opcode", "general-protection", "trap", "out-of-memory"}  # fmt: skip


def findings_of(console: str, full: Sequence[str]) -> tuple[Finding, ...]:
    """All findings about a guest: its ``full`` file systems, in words, and those of its console."""
    return (*(Finding("disk-full", line[:MAX_SHOWN]) for line in full), *findings_in(console))


def findings_in(console: str) -> tuple[Finding, ...]:
    """Everything wrong on a console (clean text), in its order, equal lines once.

    At most MAX_OF_A_KIND of each kind, the last of which tells how many more there are.
    """
    lines = [line[:MAX_LINE] for line in console.splitlines()]
    seen: dict[tuple[Kind, str], None] = {}
    for number, line in enumerate(lines):
        if _GLANCE.search(line):
            for kind, said in _of_line(lines, number, line):
                seen.setdefault((kind, said.strip()[:MAX_SHOWN]))
    if any(kind in _SPOKEN for kind, _ in seen):
        # The trace belongs to what is reported already.
        seen = {key: None for key in seen if key[0] != "call-trace"}
    return _bounded(list(seen))


def _of_line(lines: Sequence[str], number: int, line: str) -> Iterator[tuple[Kind, str]]:
    kernel = _OF_KERNEL.search(line)
    if kernel:
        index = next(n for n in range(len(_KERNEL)) if kernel[f"k{n}"] is not None)
        said = line[kernel.start("said") :].removeprefix("systemd[1]: ").strip()
        yield _KERNEL[index][0], said + _where(lines, number) if "[#" in said else said
    elif status := _STATUS.search(line):
        yield "unit-failed", line[status.start("said") :]
    elif _FULL.search(line):
        yield "disk-full", line
    elif check := _FSCK.search(line):
        yield "file-system", line[check.start() :]
    elif _TRACE.search(line):
        yield "call-trace", _subject(lines, number)


def _where(lines: Sequence[str], number: int) -> str:
    """The kernel's function in which an exception was raised, as it prints it below."""
    for line in lines[number + 1 : number + FORTH]:
        if place := _PLACE.search(line):
            return f", in {place[1]}"
    return ""


def _subject(lines: Sequence[str], number: int) -> str:
    """The line in which the kernel says why it prints the trace at ``number``.

    It stands above "CPU: 0 PID: 1 Comm: ...", dump_stack_print_info() in Linux lib/dump_stack.c.
    """
    for at in range(number - 1, max(0, number - BACK), -1):
        if _ABOUT.search(lines[at]):
            above = next((n for n in (at - 1, at - 2) if "Modules linked in" not in lines[n]), at)
            return _STAMPED.sub("", lines[above])
    return "Call Trace:"


def _bounded(seen: Sequence[tuple[Kind, str]]) -> tuple[Finding, ...]:
    total = Counter(kind for kind, _ in seen)
    shown: Counter[Kind] = Counter()
    kept = []
    for kind, line in seen:
        shown[kind] += 1
        if shown[kind] > MAX_OF_A_KIND:
            continue
        more = total[kind] - MAX_OF_A_KIND if shown[kind] == MAX_OF_A_KIND else 0
        kept.append(Finding(kind, f"{line} (and {more} more)" if more > 0 else line))
    return tuple(kept)
