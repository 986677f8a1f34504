"""Faults on a console, in the forms in which Linux, systemd and sysv-rc print them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.proof.console import clean
from imagekit.proof.findings import MAX_OF_A_KIND, MAX_SHOWN, Finding, findings_in, findings_of

CONSOLES = Path(__file__).parent / "consoles"

# From the kernel's own sources and logs: 5.10, 6.1, 6.12.
REAL = [
    ("segfault", "[   12.345678] sshd[412]: segfault at 0 ip 00007f1e sp 00007ffc error 4 in libc"),
    ("segfault", "web01 login: [   91.1] (x)\n[   99.000001][  T412] (udev-worker)[99]: segfault "
     "at 7f00 ip 000055d1 sp 00007ffd error 6 in udevadm[55d1+1]"),
    ("segfault", "web01 login: [   50.123456] cron[77]: segfault at 10 ip 0000 sp 0000 error 4"),
    ("general-protection", "[    8.100000] traps: init[1] general protection fault ip:7f sp:7f "
     "error:0 in libc.so.6[7f+1]"),
    ("general-protection", "[    8.100000] general protection fault, probably for non-canonical "
     "address 0xdead000000000100: 0000 [#1] PREEMPT SMP NOPTI"),
    ("general-protection", "[    8.100000] general protection fault: 0000 [#1] SMP"),
    ("invalid-opcode", "[    7.906000] invalid opcode: 0000 [#1] PREEMPT SMP NOPTI"),
    ("invalid-opcode", "[    7.906000] Oops: invalid opcode: 0000 [#1] PREEMPT SMP NOPTI"),
    ("invalid-opcode", "[   20.906000] traps: python3[9] trap invalid opcode ip:4 sp:7 error:0"),
    ("trap", "[   20.906000] traps: a.out[9] trap divide error ip:4 sp:7 error:0 in a.out"),
    ("trap", "[   20.906000] divide error: 0000 [#1] SMP"),
    ("oops", "[    7.906000] Oops: 0002 [#1] PREEMPT SMP NOPTI"),
    ("kernel-bug", "[    7.906000] BUG: unable to handle page fault for address: ff"),
    ("kernel-bug", "[    7.906000] BUG: kernel NULL pointer dereference, address: 08"),
    ("kernel-bug", "[    7.906000] kernel BUG at mm/slub.c:435!"),
    ("soft-lockup", "[   68.000000] watchdog: BUG: soft lockup - CPU#0 stuck for 23s! [init:1]"),
    ("rcu-stall", "[   68.000000] rcu: INFO: rcu_preempt self-detected stall on CPU"),
    ("hung-task", "[  242.000000] INFO: task mount:321 blocked for more than 120 seconds."),
    ("out-of-memory", "[   42.000000] Out of memory: Killed process 411 (apt) total-vm:1kB"),
    ("file-system", "[   42.000000] EXT4-fs error (device xvda3): ext4_lookup:1785: inode #2"),
    ("file-system", "[   42.000000] I/O error, dev xvda, sector 2048 op 0x0:(READ) flags 0x0"),
    ("file-system", "[   42.000000] XFS (xvda3): Metadata corruption detected at xfs_agf_verify"),
    ("file-system", "/dev/xvda3: UNEXPECTED INCONSISTENCY; RUN fsck MANUALLY."),
    ("disk-full", "touch: cannot touch '/var/x': No space left on device"),
    ("unit-failed", "[\x1b[0;1;31mFAILED\x1b[0m] Failed to start \x1b[0;1;39mssh.service\x1b[0m"),
    ("unit-failed", "[   25.954130] systemd[1]: Failed to start ssh.service - OpenBSD"),
    ("unit-failed", "[\x1b[0;1;38;5;185mDEPEND\x1b[0m] Dependency failed for srv.mount - /srv."),
    ("unit-failed", "[FAIL] Starting periodic command scheduler: cron failed!"),
    ("kernel-warning", "[    3.000000] WARNING: CPU: 0 PID: 1 at kernel/sched/core.c:1 x+0x1/0x2"),
    ("kernel-warning", "[    3.000000] WARNING: kernel/sched/core.c:1 at x+0x1/0x2, CPU#0: init/1"),
]  # fmt: skip

HARMLESS = [
    # A unit's description may say what it likes: on the status line and in the kernel's log.
    "         Starting watch.service - Looks for segfault at boot...",
    "[\x1b[0;32m  OK  \x1b[0m] Started watch.service - Oops: BUG: soft lockup watcher.",
    "[   25.954130] systemd[1]: Starting watch.service - init[1]: segfault at boot...",
    "[   25.954130] systemd[1]: Starting oops.service - Oops: 0002 [#1]...",
    "[   25.954130] systemd[1]: Starting trace.service - Call Trace: of the day...",
    "[\x1b[0;32m  OK  \x1b[0m] Started x.service - Says [FAILED] Failed to start y.",
    # What sound guests print: Debian 12's kernel on the lab's processor.
    "[    7.250054] Speculative Return Stack Overflow: WARNING: See https://kernel.org/doc/x.html",
    "[    0.791568] tsc: Fast TSC calibration failed",
    "[   39.634469] platform regulatory.0: Direct firmware load for regulatory.db failed",
    "[    2.000000] PCI: Fatal: No config space access function found",
    "[    2.000000] traps: enabled",
]


@pytest.mark.parametrize(("kind", "line"), REAL)
def test_each_fault_is_found_in_its_own_form(kind: str, line: str) -> None:
    found = findings_in(clean(line.encode()))
    assert [finding.kind for finding in found] == [kind]
    assert found[0].line in clean(line.encode())


@pytest.mark.parametrize("line", HARMLESS)
def test_what_only_speaks_of_faults_is_none(line: str) -> None:
    assert findings_in(clean(line.encode())) == ()


def test_a_sound_guests_console_has_no_finding() -> None:
    assert findings_in(clean((CONSOLES / "up.log").read_bytes())) == ()


def test_what_real_guests_printed_that_came_up_all_the_same() -> None:
    """PVH guests of Debian 12: with AVX on offer in QEMU's emulation; under Xen 4.20."""
    opcode = findings_in(clean((CONSOLES / "pvh-invalid-opcode.log").read_bytes()))
    place = "aes_ctr_enc_128_avx_by8+0xa/0x1250 [aesni_intel]"
    assert opcode == (
        Finding("invalid-opcode", f"invalid opcode: 0000 [#1] PREEMPT SMP NOPTI, in {place}"),
    )
    (warning,) = findings_in(clean((CONSOLES / "pvh-warning.log").read_bytes()))
    assert (warning.kind, warning.grave) == ("kernel-warning", False)
    assert "fpu__init_system_xstate" in warning.line


def test_a_trace_belongs_to_the_fault_above_it() -> None:
    trace = (
        "[    7.1] x\n[    7.100000] kworker/0:1: page allocation failure: order:4, mode:0xcc0\n"
        "[    7.100001] CPU: 0 PID: 9 Comm: kworker/0:1 Not tainted 6.1.0 #1\n"
        "[    7.100002] Call Trace:\n"
    )
    (found,) = findings_in(trace)
    assert found.kind == "call-trace"
    assert found.line.startswith("kworker/0:1: page allocation failure")
    oops = "[    7.000000] Oops: 0002 [#1] PREEMPT SMP NOPTI\n"
    assert [finding.kind for finding in findings_in(oops + trace)] == ["oops"]


def test_only_a_warning_of_the_kernel_is_not_grave() -> None:
    assert Finding("segfault", "").grave
    assert not Finding("kernel-warning", "").grave


def test_many_findings_are_counted_and_not_listed() -> None:
    text = "".join(f"[  1.000000] x[{n}]: segfault at {n:x} ip 1 sp 1\n" for n in range(999))
    found = findings_in(text)
    assert len(found) == MAX_OF_A_KIND
    assert found[-1].line.endswith(f"(and {999 - MAX_OF_A_KIND} more)")
    assert len(findings_in("[  1.000000] x[1]: segfault at 0 ip 1\n" * 9)) == 1


def test_full_file_systems_come_first() -> None:
    text = "[FAILED] Failed to start x.\n"
    assert [f.kind for f in findings_of(text, ("ext4: 0 free",))] == ["disk-full", "unit-failed"]


@given(st.text(max_size=400))
def test_any_console_whatever_can_be_searched(text: str) -> None:
    for finding in findings_in(text):
        assert len(finding.line) <= MAX_SHOWN + 40


@pytest.mark.parametrize(
    "text",
    [
        "[    1.000000] " + "x" * (4 << 20),
        "Call Trace:\n" * (1 << 18),
        "[    1.000000] " * (1 << 18),
        "[    1.000000] Oops: 1\n" * (1 << 18),
        "\n" * (1 << 22),
    ],
)
def test_a_hostile_console_takes_no_time(text: str) -> None:
    started = time.monotonic()
    findings_in(text)
    assert time.monotonic() - started < 60
