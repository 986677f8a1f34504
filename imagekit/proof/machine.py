"""The emulated machine that Xen and the lab's dom0 run on.

One virtual CPU without SMAP, SMEP, MONITOR and RDTSCP is what QEMU 7.2 emulates well enough for
Xen 4.17 and its PV, PVH and HVM guests (nested SVM with NPT); with two, guests' memory is damaged.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from imagekit.errors import ToolError
from imagekit.proof.busy import waited
from imagekit.proof.emulator import EmulatorArchive
from imagekit.proof.overlay import Overlaid
from imagekit.vm.handed import Handed
from imagekit.vm.launch import Line, start
from imagekit.vm.options import Board, Processor, option
from imagekit.vm.qmp import Qmp

# With a family that has no Retbleed and SRSO (family=16) guests need no return thunks: PV and PVH
# boot a tenth faster, but of three HVM guests one stood still while its kernel started.
# With AVX on offer, the kernel's AES self-test meets an invalid opcode in PVH and HVM guests.
CPU = "EPYC,-smap,-smep,-monitor,-rdtscp,-avx,-avx2,-fma,-f16c"
# The clock counts instructions (4 ns each) and goes on in real time only while all is idle: on a
# busy host time passes more slowly inside, and no service of a guest runs into its timeout.
ICOUNT = "shift=2,sleep=on"
DOM0_MIB = 640
# On AMD processors Xen leaves a domain's FPU registers loaded and sets CR0.TS, to be told by #NM
# when the next domain uses them. XSAVE, XSAVEOPT and XRSTOR do not raise #NM in QEMU's emulation
# (target/i386/tcg/translate.c, 0F AE /4 to /6; 7.2 to 11.1), so a guest kernel that saves a
# program's registers saves those of another domain. eager-fpu makes Xen load them at every switch.
XEN_ARGS = (
    f"dom0_mem={DOM0_MIB}M,max:{DOM0_MIB}M com1=115200,8n1 console=com1 guest_loglvl=all "
    "loglvl=warning bootscrub=0 spec-ctrl=no,eager-fpu=yes"
)
LINUX_ARGS = "console=hvc0 quiet panic=1 net.ifnames=0 mitigations=off"
MAX_LINE = 1 << 16
NAMES = ("xen", "kernel", "initrd")
"""What QEMU is told to open, in the directory in which it runs: fields of :class:`LabFiles`."""


@dataclass(frozen=True)
class LabFiles:
    """What the machine boots: hypervisor (unpacked), kernel, initrd and the disk of dom0.

    ``emulator`` is the QEMU that is the machine.
    """

    xen: Path
    kernel: Path
    initrd: Path
    disk: Path
    emulator: EmulatorArchive


def lab_files(files: Mapping[str, Path], emulator: EmulatorArchive) -> LabFiles:
    """The artefacts of imagekit.proof.labimage.LabImage as what a machine boots, and its QEMU."""
    return LabFiles(files["xen"], files["vmlinuz"], files["initrd"], files["dom0.img"], emulator)


@dataclass(frozen=True)
class Shape:
    """What must be equal for a saved state to be taken up again; memory in MiB."""

    memory_mib: int = 3072
    xen_args: str = XEN_ARGS
    linux_args: str = LINUX_ARGS
    cpu: str = CPU
    icount: str = ICOUNT
    accelerator: Literal["tcg", "kvm"] = "tcg"

    def argv(self, disk: Path) -> list[str]:
        """QEMU's machine with dom0's ``disk``, without what differs from run to run.

        Its other files have ``NAMES``.
        """
        processor = Processor("tcg", self.cpu, translated_mib=512, icount=self.icount)
        if self.accelerator == "kvm":
            processor = Processor.best(kvm=True)
        return [
            *Board(processor, self.memory_mib, "pc", network=False).argv(),
            *("-kernel", "xen", "-append", self.xen_args),
            *("-initrd", f"kernel {self.linux_args},initrd"),
            *option("-drive", file=disk, format="raw", if_="none", id="dom0", snapshot=True),
            *option("-device", "virtio-blk-pci", drive="dom0"),
            *option("-device", "virtio-scsi-pci", id="disks"),
        ]


@dataclass
class Machine:
    """A running machine."""

    process: subprocess.Popen[bytes]
    qmp: Qmp
    _serial: socket.socket
    _text: bytes = b""
    _sets: dict[int, tuple[int, int]] = field(default_factory=dict)

    def wait_for(self, word: str, timeout: float) -> float:
        """Wait until the serial console says ``word``; returns the seconds it took.

        Raises ToolError after ``timeout`` seconds, or when the machine ends or reports a failure.
        """
        started = time.monotonic()
        while time.monotonic() - started < timeout:
            self._serial.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                data = self._serial.recv(65536)
                if not data:
                    raise self.failed("the lab ended while it started")
                self._text = (self._text + data)[-MAX_LINE:]
            if word.encode() in self._text:
                self._text = self._text.partition(word.encode())[2]
                return time.monotonic() - started
            if b"LAB-FAILED" in self._text or b"Panic on CPU" in self._text:
                raise self.failed("the lab does not start")
        raise self.failed(f"the lab was not up after {timeout:.0f} s")

    def say(self, line: str) -> None:
        """Type ``line`` on the serial console."""
        self._serial.sendall(line.encode() + b"\n")

    def alive(self) -> bool:
        """Whether QEMU still runs; also takes what the serial console said meanwhile."""
        self._serial.setblocking(False)  # noqa: FBT003 - socket's
        with contextlib.suppress(OSError):
            while data := self._serial.recv(65536):
                self._text = (self._text + data)[-MAX_LINE:]
        return self.process.poll() is None

    def stolen(self) -> float:
        """Seconds in which the virtual CPU wanted a processor of this host and had none."""
        return waited(self.process.pid)

    def add_disk(self, target: int, disk: Overlaid) -> None:
        """Plug in ``disk`` as the SCSI disk at ``target``."""
        name = f"disk{target}"
        below = self._hand_over(disk.host, (os.O_RDONLY,))
        above = self._hand_over(disk.overlay, (os.O_RDONLY, os.O_RDWR))
        self._sets[target] = (below, above)
        node = disk.node(_set_name(below), _set_name(above))
        self.qmp.command("blockdev-add", node_name=name, **node)
        self.qmp.command(
            "device_add",
            driver="scsi-hd",
            id=f"scsi{target}",
            bus="disks.0",
            scsi_id=target,
            lun=0,
            drive=name,
            write_cache="on",
        )

    def _hand_over(self, path: Path, ways: tuple[int, ...]) -> int:
        """Give QEMU ``path`` open in each of ``ways``; the number of the set they are in."""
        number = -1
        for way in ways:
            fd = os.open(path, way | os.O_CLOEXEC)
            try:
                more = {"fdset_id": number} if number >= 0 else {}
                number = int(self.qmp.command("add-fd", fd=fd, **more)["fdset-id"])
            finally:
                os.close(fd)
        return number

    def remove_disk(self, target: int) -> None:
        """Unplug the disk at ``target``."""
        self.qmp.command("device_del", id=f"scsi{target}")
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                self.qmp.command("blockdev-del", node_name=f"disk{target}")
                break
            except ToolError:
                time.sleep(0.1)
        for number in self._sets.pop(target, ()):
            with contextlib.suppress(ToolError):
                self.qmp.command("remove-fd", fdset_id=number)

    def save(self, target: Path, timeout: float = 120) -> None:
        """Write the machine's state to ``target``; the machine stands still afterwards."""
        self.qmp.command("migrate-set-parameters", max_bandwidth=8 << 30)
        self.qmp.command("stop")
        with target.open("wb") as stream:
            self.qmp.command("getfd", fd=stream.fileno(), fdname="state")
        self.qmp.command("migrate", uri="fd:state")
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            state = self.qmp.command("query-migrate").get("status")
            if state == "completed":
                return
            if state in ("failed", "cancelled"):
                break
            time.sleep(0.1)
        raise ToolError("the lab's state could not be saved")

    def failed(self, what: str) -> ToolError:
        """The error that says ``what``, with the last words of the console and of QEMU."""
        text = self._text.decode("utf-8", "backslashreplace")
        if self.process.poll() is not None and self.process.stderr is not None:
            text += self.process.stderr.read(65536).decode("utf-8", "backslashreplace")
        return ToolError(what, output=text)


@contextlib.contextmanager
def machine(
    shape: Shape,
    files: LabFiles,
    *,
    share: Path,
    read_only: Path,
    scratch: Path,
    state: Path | None = None,
) -> Iterator[Machine]:
    """Run the lab for the length of a block: from a saved ``state``, or from its start.

    ``share`` and ``read_only`` are new directories dom0 can mount, below one that is closed to
    others: dom0 writes to the first as a user without rights. ``scratch`` takes the temporary file
    of dom0's disk and the console's log (``lab.log``).
    """
    own = scratch / "machine"
    own.mkdir()
    # QEMU reaches what lies here by its name in the directory that it runs in. A blank ends a
    # module's name in -initrd, so that the names are short.
    for name in NAMES:
        shutil.copyfile(getattr(files, name), own / name)
        (own / name).chmod(0o644)
    own.chmod(0o755)
    emulator = files.emulator.unpack(own / "qemu", known_as=Path("qemu"))
    handed = Handed()
    argv = [*emulator.argv(), *shape.argv(handed.file(files.disk))]
    argv += _shared(handed.directory(share), handed.directory(read_only))
    for directory, mode in ((share, 0o777), (read_only, 0o755)):
        directory.chmod(mode)
    if state is not None:
        argv += ["-incoming", f"fd:{handed.stream(state)}"]
    with contextlib.ExitStack() as stack:
        started = stack.enter_context(
            start(
                argv,
                (Line("qmp", "qmp"), Line("com1", log=scratch / "lab.log")),
                scratch=scratch,
                handed=handed,
                cwd=own,
                env=emulator.environment(),
            )
        )
        running = Machine(started.process, Qmp(started.lines["qmp"]), started.lines["com1"])
        try:
            running.qmp.greet(30)
        except ToolError:
            raise running.failed("QEMU does not start") from None
        if state is not None:
            _resume(running)
        yield running


def _set_name(number: int) -> str:
    """By which QEMU opens what is in a set of descriptors (qapi/misc.json, add-fd)."""
    return f"/dev/fdset/{number}"


def _resume(running: Machine) -> None:
    deadline = time.monotonic() + 60
    while running.qmp.command("query-status").get("status") == "inmigrate":
        if time.monotonic() > deadline:
            raise ToolError("the lab's saved state does not load")
        time.sleep(0.05)
    running.qmp.command("cont")


def _shared(share: Path, read_only: Path) -> list[str]:
    argv = []
    for tag, path, writable in (("share", share, True), ("files", read_only, False)):
        argv += option(
            "-fsdev",
            "local",
            id=tag,
            path=path,
            # mapped-file: whatever dom0 makes is a plain file here, never a link or a device.
            security_model="mapped-file" if writable else "none",
            readonly=None if writable else True,
        )
        argv += option("-device", "virtio-9p-pci", fsdev=tag, mount_tag=tag)
    return argv
