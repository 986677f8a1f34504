"""The command lines of every QEMU we start, as a program in QEMU's place was given them.

What it is given open is shown by the name of the file that is open.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.namespaces import need_a_network_of_ones_own

from imagekit.answers.context import Static
from imagekit.cli import doctor
from imagekit.errors import HostError, ToolError
from imagekit.host.kvm import KvmVerdict
from imagekit.installs import machine as installer
from imagekit.proof import machine as lab
from imagekit.proof import plain
from imagekit.vm import launch, uefi
from imagekit.vm.card import NetworkBoot
from imagekit.vm.handed import Handed
from imagekit.vm.launch import QEMU, Line, file_console, start
from imagekit.vm.options import SANDBOX, Board, Processor, option
from imagekit.vm.uefi import find_uefi, require_uefi

Recorded = Callable[[], list[str]]
COMMON = f"-nodefaults -no-user-config -display none -no-reboot -sandbox {SANDBOX}"
DEVICES = {"-drive", "-device", "-netdev", "-fsdev"}
"""Among these order means something, and among serial ports: it numbers slots, units and ports."""
INSTALLER_LINES = (
    "-chardev socket,id=console,fd=N -chardev socket,id=syslog,fd=N "
    "-chardev socket,id=monitor,fd=N -serial chardev:console -serial chardev:syslog "
    "-mon chardev=monitor,mode=control"
)
DISK = (
    "format=raw,if=none,id=disk,cache=unsafe,discard=unmap,detect-zeroes=unmap,"
    "werror=stop,rerror=stop"
)
CD = (
    "-drive file=/T/a,,b.iso,format=raw,if=none,id=cd,readonly=on "
    "-device ide-cd,drive=cd,bus=ide.1,bootindex=1"
)
FAKE = r"""
import json, os, re, sys
words, sets = [], {}
def open_file(number, word):
    name = os.readlink(f"/proc/self/fd/{number}")
    return name if word.startswith("{") else name.replace(",", ",,")
for word in sys.argv[1:]:
    if words and words[-1] == "-add-fd":
        words.pop()
        number, group = re.fullmatch(r"fd=(\d+),set=(\d+)", word).groups()
        first = sets.setdefault(group, number)
        assert os.path.samestat(os.fstat(int(first)), os.fstat(int(number)))
    else:
        words.append(word)
for i, word in enumerate(words):
    word = re.sub(r"/dev/fdset/(\d+)", lambda m: open_file(sets[m[1]], word), word)
    words[i] = re.sub(r"/proc/self/fd/(\d+)", lambda m: open_file(m[1], word), word)
"""


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorded]:
    """A QEMU that writes down its arguments and ends."""
    argv = tmp_path / "argv.json"
    fake = tmp_path / "bin" / QEMU
    fake.parent.mkdir()
    fake.write_text(
        f"#!{sys.executable}\n{FAKE}\nopen({str(argv)!r}, 'w').write(json.dumps(words))"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(fake.parent), prepend=":")
    monkeypatch.setattr(launch, "new_user", lambda: None)  # another one reads no files of ours

    def read() -> list[str]:
        words = json.loads(argv.read_text())
        return [re.sub(r"\bfd([:=])\d+", r"fd\1N", w.replace(str(tmp_path), "/T")) for w in words]

    yield read


@pytest.fixture
def ovmf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host's directory of UEFI firmware, empty at first."""
    directory = tmp_path / "ovmf"
    directory.mkdir()
    monkeypatch.setattr(uefi, "DIRECTORY", directory)
    return directory


def firmware(directory: Path, suffix: str) -> None:
    for part in ("CODE", "VARS"):
        (directory / f"OVMF_{part}{suffix}.fd").write_text(part + suffix)


def paired(words: list[str]) -> list[tuple[str, str]]:
    """Options and their values; an option without one has an empty value."""
    found: list[tuple[str, str]] = []
    for word in words:
        if word.startswith("-"):
            found.append((word, ""))
        else:
            assert found[-1][1] == "", word
            found[-1] = (found[-1][0], word)
    return found


def same(found: list[str], expected: str) -> None:
    """Equal options; equal order where order has a meaning."""
    ours, theirs = paired(found), paired(expected.split(" "))
    assert sorted(ours) == sorted(theirs)
    for names in (DEVICES, {"-serial"}):
        assert [pair for pair in ours if pair[0] in names] == [
            pair for pair in theirs if pair[0] in names
        ]


def install(tmp_path: Path, recorded: Recorded, **changes: Any) -> list[str]:
    need_a_network_of_ones_own()
    base = {"media": tmp_path / "a,b.iso", "disk": tmp_path / "d", "memory": 512, "kvm": False}
    for name in ("a,b.iso", "d"):
        (tmp_path / name).touch()
    hardware = installer.Hardware(**{**base, **changes})
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with installer.machine(
        hardware, scratch=scratch, logs=scratch, listener=lambda _name, _line: None
    ) as running:
        while running.step(0.1):
            pass
    return recorded()


def test_an_installer_from_an_iso(tmp_path: Path, recorded: Recorded) -> None:
    same(
        install(tmp_path, recorded),
        f"-accel tcg,tb-size=512 -cpu max -smp 1 -m 512 {COMMON} -device VGA "
        f"-device virtio-rng-pci {CD} -drive file=/T/d,{DISK} "
        "-device virtio-blk-pci,drive=disk,bootindex=2 -netdev user,id=net "
        f"-device virtio-net-pci,netdev=net,mac=52:54:00:12:34:56,romfile= {INSTALLER_LINES}",
    )


def test_an_installer_without_virtio_under_kvm(tmp_path: Path, recorded: Recorded) -> None:
    same(
        install(tmp_path, recorded, kvm=True, bus="ide"),
        f"-accel kvm -cpu host -smp 1 -m 512 {COMMON} -device VGA "
        f"-device virtio-rng-pci {CD} -drive file=/T/d,{DISK} "
        "-device ide-hd,bus=ide.0,drive=disk,bootindex=2 -netdev user,id=net "
        f"-device e1000,netdev=net,mac=52:54:00:12:34:56,romfile= {INSTALLER_LINES}",
    )


def test_an_installer_with_uefi_and_a_fixed_address(
    tmp_path: Path, recorded: Recorded, ovmf: Path
) -> None:
    firmware(ovmf, "_4M")
    static = Static("192.0.2.10", "255.255.255.0", 24, "192.0.2.1", ("192.0.2.53",), 4)
    same(
        install(tmp_path, recorded, firmware="uefi", static=static),
        f"-accel tcg,tb-size=512 -cpu max -smp 1 -m 512 {COMMON} -device VGA "
        f"-device virtio-rng-pci {CD} -drive file=/T/d,{DISK} "
        "-device virtio-blk-pci,drive=disk,bootindex=2 "
        "-netdev user,id=net,net=192.0.2.0/24,host=192.0.2.1,dhcpstart=192.0.2.10,dns=192.0.2.53 "
        "-device virtio-net-pci,netdev=net,mac=52:54:00:12:34:56,romfile= "
        "-drive if=pflash,format=raw,unit=0,file=/T/ovmf/OVMF_CODE_4M.fd,readonly=on "
        "-drive if=pflash,format=raw,unit=1,file=/T/scratch/firmware-state,readonly=off "
        f"{INSTALLER_LINES}",
    )
    own = tmp_path / "scratch/firmware-state"
    assert own.read_text() == "VARS_4M" and own.stat().st_mode & 0o777 == 0o600


def test_an_installer_from_the_network(tmp_path: Path, recorded: Recorded) -> None:
    media = NetworkBoot(tmp_path / "t,f", "boot.ipxe")
    media.tftp.mkdir()
    same(
        install(tmp_path, recorded, media=media, mac="52:54:00:00:00:01"),
        f"-accel tcg,tb-size=512 -cpu max -smp 1 -m 512 {COMMON} -device VGA "
        f"-device virtio-rng-pci -machine pc,graphics=off -drive file=/T/d,{DISK} "
        "-device virtio-blk-pci,drive=disk,bootindex=2 "
        "-netdev user,id=net,tftp=/T/t,,f,bootfile=boot.ipxe "
        "-device virtio-net-pci,netdev=net,mac=52:54:00:00:00:01,bootindex=1 "
        f"{INSTALLER_LINES}",
    )


@pytest.mark.parametrize(
    ("accelerator", "processor", "state"),
    [
        ("tcg", f"-accel tcg,tb-size=512 -icount {lab.ICOUNT} -cpu {lab.CPU}", None),
        ("kvm", "-accel kvm -cpu host", Path("/dev/null")),
    ],
)
def test_the_lab(
    tmp_path: Path, recorded: Recorded, accelerator: Any, processor: str, state: Path | None
) -> None:
    program = str(tmp_path / "bin" / QEMU)
    emulator: Any = SimpleNamespace(
        unpack=lambda _directory, **_options: SimpleNamespace(
            argv=lambda: [program, "-L", "firmware"], environment=dict
        )
    )
    x = tmp_path / "x"
    x.write_bytes(b"x")
    files = lab.LabFiles(x, x, x, x, emulator)
    for name in ("sh,are", "ro"):
        (tmp_path / name).mkdir()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    shape = lab.Shape(xen_args="XEN", linux_args="LINUX", accelerator=accelerator)
    with (
        pytest.raises(ToolError, match="QEMU does not start"),
        lab.machine(
            shape,
            files,
            share=tmp_path / "sh,are",
            read_only=tmp_path / "ro",
            scratch=scratch,
            state=state,
        ),
    ):
        pass
    words = recorded()
    assert "kernel LINUX,initrd" in words
    words[words.index("kernel LINUX,initrd")] = "INITRD"
    same(
        words,
        f"-L firmware {processor} -machine pc -smp 1 -m 3072 -nic none {COMMON} -kernel xen "
        "-append XEN -initrd INITRD -drive file=/T/x,format=raw,if=none,id=dom0,snapshot=on "
        "-device virtio-blk-pci,drive=dom0 -device virtio-scsi-pci,id=disks "
        "-fsdev local,id=share,path=/T/sh,,are,security_model=mapped-file "
        "-device virtio-9p-pci,fsdev=share,mount_tag=share "
        "-fsdev local,id=files,path=/T/ro,security_model=none,readonly=on "
        "-device virtio-9p-pci,fsdev=files,mount_tag=files -chardev socket,id=qmp,fd=N "
        "-mon chardev=qmp,mode=control "
        "-chardev socket,id=com1,fd=N,logfile=/T/scratch/lab.log -serial chardev:com1"
        + (" -incoming fd:N" if state else ""),
    )


@pytest.mark.parametrize(
    ("kind", "bus", "kvm", "expected"),
    [
        (
            "bios",
            "ide",
            False,
            "-accel tcg -cpu max -machine pc -device ide-hd,drive=disk,bootindex=1 "
            "-netdev user,id=net,restrict=on -device e1000,netdev=net",
        ),
        (
            "uefi",
            "virtio",
            True,
            "-accel kvm -cpu host -machine q35 "
            "-drive if=pflash,format=raw,unit=0,file=/T/ovmf/OVMF_CODE.fd,readonly=on "
            "-drive if=pflash,format=raw,unit=1,file=/T/vars.fd,readonly=off "
            "-device virtio-blk-pci,drive=disk,bootindex=1 "
            "-netdev user,id=net,restrict=on -device virtio-net-pci,netdev=net",
        ),
    ],
)
def test_an_ordinary_machine(
    tmp_path: Path, recorded: Recorded, ovmf: Path, kind: Any, bus: Any, kvm: bool, expected: str
) -> None:
    firmware(ovmf, "")
    image, overlay = tmp_path / "a,b.raw", tmp_path / "overlay.qcow2"
    image.touch()
    console = tmp_path / "cons,ole.log"
    machine = plain.Plain("web", image, "raw", kind, 768, bus, image)
    overlay.touch()
    handed = Handed()
    argv = plain.command_of(machine, overlay, tmp_path, console, handed, kvm=kvm)
    with start(argv, scratch=tmp_path, handed=handed) as started:
        started.process.wait(30)
    words = recorded()
    node = json.loads(words.pop(words.index("-blockdev") + 1))
    words.remove("-blockdev")
    assert node["file"]["filename"] == "/T/overlay.qcow2" and node["driver"] == "qcow2"
    assert node["backing"]["file"]["filename"] == "/T/a,b.raw" and node["backing"]["read-only"]
    same(
        words,
        f"-smp 1 -m 768 {COMMON} {expected} "
        "-chardev file,id=serial,path=/T/cons,,ole.log -serial chardev:serial",
    )


def test_lines_reach_both_ways_and_the_machine_ends_with_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / QEMU
    fake.write_text(
        f"#!{sys.executable}\nimport re, socket, sys\n"
        "fd = int(re.search(r'id=com1,fd=(\\d+)', ' '.join(sys.argv))[1])\n"
        "line = socket.socket(fileno=fd)\nline.sendall(b'<' + line.recv(9) + b'>')\nline.recv(9)\n"
    )
    fake.chmod(0o755)
    monkeypatch.setattr(launch, "new_user", lambda: None)
    with start([fake], [Line("com1"), Line("qmp", "qmp")], scratch=tmp_path) as started:
        started.lines["com1"].sendall(b"hello")
        assert started.lines["com1"].recv(9) == b"<hello>"
        assert started.process.poll() is None
    assert started.process.poll() is not None


def test_firmware_is_found_by_either_name_and_only_with_its_partner(ovmf: Path) -> None:
    with pytest.raises(HostError, match="no UEFI firmware"):
        require_uefi()
    (ovmf / "OVMF_CODE_4M.fd").touch()
    assert find_uefi() is None
    firmware(ovmf, "")
    assert require_uefi().code.name == "OVMF_CODE.fd"
    firmware(ovmf, "_4M")
    assert require_uefi().code.name == "OVMF_CODE_4M.fd"
    assert require_uefi().variables.name == "OVMF_VARS_4M.fd"


def test_properties_are_worded_as_qemu_reads_them() -> None:
    assert option("-drive", file=Path("/a,b"), if_="none", readonly=True, unit=0, id=None) == [
        "-drive",
        "file=/a,,b,if=none,readonly=on,unit=0",
    ]
    assert file_console(Path("/c,d"))[1] == "file,id=serial,path=/c,,d"
    quiet = Board(Processor.best(kvm=True), 64, "pc", graphics=False, network=False).argv()
    assert "pc,graphics=off" in quiet and quiet[quiet.index("-nic") + 1] == "none"


@pytest.mark.parametrize("suffix", ["", "_4M"])
def test_doctor_finds_the_firmware_that_machines_would_use(
    ovmf: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(doctor, "kvm_works", lambda: KvmVerdict(False, "not tried"))
    found = {check.pipeline: check for check in doctor.checks() if check.name == "ovmf"}
    assert not found["prove"].ok and found["prove"].required and not found["iso"].required
    firmware(ovmf, suffix)
    for check in doctor.checks():
        if check.name == "ovmf":
            assert check.ok and check.detail == str(ovmf / f"OVMF_CODE{suffix}.fd")
