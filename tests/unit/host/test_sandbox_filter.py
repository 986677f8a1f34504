"""The seccomp filter, put on a process for real; the kernel says what it refuses.

No root is needed: a process without new privileges may filter itself.
"""

from __future__ import annotations

import errno
import json
import platform
import subprocess
import sys
from collections.abc import Sequence

import pytest

from imagekit.errors import HostError
from imagekit.host.sandbox import filter

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="missing: an x86-64 processor, whose numbers these are"
)
# Prints the error's number of each call, as JSON; calls are [kind, number, arguments]. "int" calls
# are i386's, by int 0x80: push and pop of rbx, which belongs to the caller.
PROGRAM = r"""
import ctypes, json, mmap, os, sys
job = json.load(sys.stdin)
libc = ctypes.CDLL(None, use_errno=True)
code = mmap.mmap(-1, 4096, prot=7)
code.write(bytes.fromhex("53" "89f8" "89f3" "89d1" "89ca" "cd80" "4898" "5b" "c3"))
legacy = ctypes.CFUNCTYPE(ctypes.c_long, *[ctypes.c_long] * 3)(
    ctypes.addressof(ctypes.c_char.from_buffer(code)))
class Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))
libc.prctl(38, 1, 0, 0, 0)
for text in job["filters"]:
    steps = bytes.fromhex(text)
    kept = ctypes.create_string_buffer(steps, len(steps))
    made = Program(len(steps) // 8, ctypes.addressof(kept))
    assert libc.prctl(22, ctypes.c_ulong(2), ctypes.byref(made), 0, 0) == 0
found = []
for kind, number, arguments in job["calls"]:
    full = [ctypes.c_long(a) for a in (*arguments, 0, 0, 0, 0, 0, 0)[:6]]
    ctypes.set_errno(0)
    if kind == "int":
        result = legacy(number, *(x.value for x in full[:2]))
        found.append(-result if -4096 < result < 0 else 0)
    else:
        result = libc.syscall(ctypes.c_long(number), *full)
        found.append(ctypes.get_errno() if result == -1 else 0)
        if number == 56 and result == 0:
            os._exit(0)
print(json.dumps(found))
"""


Call = tuple[str, int, tuple[int, ...]]


def answers(calls: Sequence[Call], *, mounting: bool, i386: bool = True) -> list[int]:
    programs = [p.hex() for p in filter.programs(mounting=mounting, i386=i386)]
    done = subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM],
        input=json.dumps({"filters": programs, "calls": calls}),
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[int] = json.loads(done.stdout)
    return found


# arch/x86/entry/syscalls/syscall_64.tbl and syscall_32.tbl. Arguments that make the call fail by
# itself, with another number than EPERM where it is allowed, also for root.
NEVER = {
    "ptrace": (101, 26, (-1, -1)),
    "process_vm_readv": (310, 347, (-1,)),
    "kexec_load": (246, 283, (0, 99)),
    "init_module": (175, 128, (0, 0)),
    "finit_module": (313, 350, (-1,)),
    "delete_module": (176, 129, (0,)),
    "bpf": (321, 357, (-1,)),
    "perf_event_open": (298, 336, (0,)),
    "userfaultfd": (323, 374, (-1,)),
    "io_uring_setup": (425, 425, (0, 0)),
    "keyctl": (250, 288, (-1,)),
    "add_key": (248, 286, (0,)),
    "request_key": (249, 287, (0,)),
    "open_by_handle_at": (304, 342, (-1,)),
    "setns": (308, 346, (-1,)),
    "swapon": (167, 87, (0,)),
    "settimeofday": (164, 79, (1,)),
    "acct": (163, 51, (1,)),
    "syslog": (103, 103, (-1,)),
    "quotactl": (179, 131, (-1,)),
    "pidfd_getfd": (438, 438, (-1,)),
    "reboot": (169, 88, (0,)),
    "fanotify_init": (300, 338, (-1,)),
}
MOUNTS = {
    "mount": (165, 21, (1,)),
    "umount2": (166, 52, (1,)),
    "pivot_root": (155, 217, (1, 1)),
    "open_tree": (428, 428, (-1, 0, -1)),
    "move_mount": (429, 429, (-1,)),
    "fsopen": (430, 430, (1,)),
    "fsmount": (432, 432, (-1,)),
    "mount_setattr": (442, 442, (-1,)),
}


@pytest.mark.parametrize("mounting", [False, True])
def test_refused_calls_are_refused_by_every_way_into_the_kernel(mounting: bool) -> None:
    names = {**NEVER, **({} if mounting else MOUNTS)}
    calls: list[Call] = []
    for wide, narrow, arguments in names.values():
        calls += [("call", wide, arguments), ("int", narrow, arguments)]
        calls += [("call", 0x40000000 | wide, arguments)]
    found = answers(calls, mounting=mounting)
    refused = {(errno.EPERM, errno.EPERM, errno.EPERM), (errno.EPERM, errno.EPERM, errno.ENOSYS)}
    wrong = {
        name: found[3 * n : 3 * n + 3]
        for n, name in enumerate(names)
        if tuple(found[3 * n : 3 * n + 3]) not in refused
    }
    assert wrong == {}


def test_mounts_are_left_to_what_makes_root_file_systems() -> None:
    calls = [("call", wide, arguments) for wide, _narrow, arguments in MOUNTS.values()]
    for refused, allowed in zip(
        answers(calls, mounting=False), answers(calls, mounting=True), strict=True
    ):
        assert refused == errno.EPERM
        # As root it fails for its arguments, as an ordinary user for want of a capability.
        assert allowed in (errno.EPERM, errno.EFAULT, errno.EINVAL, errno.EBADF, errno.ENOENT)


NAMESPACES = (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)


@pytest.mark.parametrize("flag", NAMESPACES)
@pytest.mark.parametrize("more", [0, 0x200, 0xFFFFFFFF00000000 - (1 << 64)])
def test_no_call_makes_a_namespace(flag: int, more: int) -> None:
    calls = [
        ("call", 272, (flag | more,)),
        ("call", 56, (flag | 17 | more,)),
        ("int", 310, (flag | (more & 0xFFFFFFFF),)),
        ("int", 120, (flag | 17,)),
    ]
    assert answers(calls, mounting=False) == [errno.EPERM] * 4


def test_user_namespaces_are_refused_also_to_what_mounts() -> None:
    calls = [
        ("call", 272, (0x10000000,)),
        ("call", 272, (0x10020000,)),
        ("int", 310, (0x10000000,)),
    ]
    assert answers(calls, mounting=True) == [errno.EPERM] * 3


@pytest.mark.parametrize("mounting", [False, True])
def test_calls_of_i386_are_refused_where_no_program_is_of_it(mounting: bool) -> None:
    # getpid, socketcall, open
    calls = [("int", number, (1, 0)) for number in (20, 102, 5)]
    assert answers(calls, mounting=mounting, i386=False) == [errno.EPERM] * 3
    assert answers([("int", 20, ())], mounting=mounting) != [errno.EPERM]


def test_a_process_can_still_be_made() -> None:
    assert answers([("call", 56, (17,)), ("call", 272, (0,))], mounting=False) == [0, 0]


def test_calls_that_hide_their_flags_or_are_new_are_not_there() -> None:
    numbers = (435, 443, 467, 468, 500, 4000, 0x3FFFFFFF)
    calls = [(kind, n, ()) for n in numbers for kind in ("call", "int")]
    assert set(answers(calls, mounting=False)) == {errno.ENOSYS}
    assert set(answers(calls, mounting=True)) == {errno.ENOSYS}


@pytest.mark.parametrize("command", [0x5412, 0x541C, 0xFFFFFFFF00005412 - (1 << 64)])
def test_no_input_is_put_into_a_terminal(command: int) -> None:
    assert answers([("call", 16, (-1, command))], mounting=False) == [errno.EPERM]
    assert answers([("int", 54, (-1, command & 0xFFFFFFFF))], mounting=False) == [errno.EPERM]


def test_other_commands_of_a_terminal_are_left() -> None:
    assert answers([("call", 16, (-1, 0x5401))], mounting=False) == [errno.EBADF]


@pytest.mark.parametrize("family", [0, *range(3, 10), *range(11, 16), *range(17, 47), 1 << 32 | 38])
def test_families_of_sockets_that_nothing_needs_are_unknown(family: int) -> None:
    assert answers([("call", 41, (family, 3, 0))], mounting=False) == [errno.EAFNOSUPPORT]


@pytest.mark.parametrize("family", [1, 2, 10])
def test_sockets_of_the_network_and_of_files_can_be_had(family: int) -> None:
    assert answers([("call", 41, (family, 1, 0))], mounting=False)[0] in (0, errno.EAFNOSUPPORT)
    assert answers([("call", 41, (1, 1, 0))], mounting=False) == [0]


@pytest.mark.parametrize("protocol", range(1, 24))
def test_of_netlink_there_is_the_routing_table_alone(protocol: int) -> None:
    calls = [("call", 41, (16, 3, protocol)), ("call", 41, (16, 3, 0))]
    assert answers(calls, mounting=False) == [errno.EPROTONOSUPPORT, 0]


@pytest.mark.parametrize("bit", [n for n in range(31) if n not in (3, 17, 18)])
def test_a_personality_that_weakens_a_process_is_refused(bit: int) -> None:
    calls = [("call", 135, (1 << bit,)), ("call", 135, (1 << 31 | 1 << bit,))]
    assert answers(calls, mounting=False) == [errno.EPERM, errno.EPERM]


def test_personalities_of_builds_are_left() -> None:
    wanted = (0xFFFFFFFF, 0x20000, 0x40000, 0x8, 0)
    assert answers([("call", 135, (p,)) for p in wanted], mounting=False) == [0] * 5


def test_without_the_library_the_error_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "seccomp", None)
    filter.programs.cache_clear()
    with pytest.raises(HostError) as caught:
        filter.programs(mounting=False, i386=False)
    assert "python3-seccomp" in str(caught.value.hint)
