"""pygrub reads a hostile disk as a user without rights: what it can reach, and for how long."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import imagekit
from imagekit.errors import ImageError, ImagekitError, ToolError
from imagekit.host import confined
from imagekit.pypxeboot import localboot
from imagekit.pypxeboot.domain_user import domain_user
from imagekit.pypxeboot.handover import FreshFiles, Result, fresh_files

pytestmark = pytest.mark.real
PACKAGE = Path(imagekit.__file__).parent
PYGRUBS = sorted(Path("/usr/lib").glob("xen-*/bin/pygrub"))
KERNEL, INITRD = b"MZ kernel" * 4000, b"initrd" * 5000
# A program in pygrub's place, taken over by the disk that it reads.
TAKEN_OVER = """#!/usr/bin/python3
import os, sys
options = dict(word[2:].split("=", 1) for word in sys.argv[2:-1])
disk, out = sys.argv[-1], options["output-directory"]
def result(kernel, text="args "):
    with open(options["output"], "w") as report:
        report.write(f"kernel {kernel}\\0{text}\\0")
def made(name, text):
    path = f"{out}/{name}"
    with open(path, "w") as stream:
        stream.write(text)
    return path
"""


@pytest.fixture(autouse=True)
def _root() -> None:
    if os.geteuid() != 0:
        pytest.skip("missing: root, who has other users' rights to give up")


@pytest.fixture
def files(tmp_path: Path) -> Iterator[FreshFiles]:
    """As libxl makes it: root's, and closed to all others by its mode and by its parents."""
    directory = tmp_path / "bootloader.7.d"
    directory.mkdir(mode=0o600)
    with fresh_files(directory) as made:
        yield made


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A disk that only root can read."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"the guest's disk")
    path.chmod(0o600)
    return path


def boot(disk: Path, files: FreshFiles, script: str, *, max_bytes: int = 1 << 24) -> Result:
    """What comes of a pygrub that does ``script``."""
    uid = domain_user("", "/var/lib/xen/bootloader.7.out", "", str(disk))
    # The directories of a test are closed to other users.
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        Path(place).chmod(0o755)
        program = Path(place, "pygrub")
        program.write_text(TAKEN_OVER + script)
        program.chmod(0o755)
        return localboot.boot_from_disk(
            str(disk), files, pygrub=program, uid=uid, max_file_bytes=max_bytes
        )


def test_it_is_a_user_of_the_domain_without_rights(disk: Path, files: FreshFiles) -> None:
    script = "result(made('k', open('/proc/self/status').read() + open(disk).read()))"
    found = boot(disk, files, script).kernel
    text = found.read_text()
    uid = str(confined.FIRST_DOMAIN + 7)
    assert re.search(rf"Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n", text)
    assert re.search(rf"Gid:\t{uid}\t{uid}\t{uid}\t{uid}\n", text) and "Groups:\t \n" in text
    for name in ("Inh", "Prm", "Eff", "Bnd", "Amb"):
        assert f"Cap{name}:\t0000000000000000\n" in text
    assert "NoNewPrivs:\t1\n" in text and "Seccomp:\t2\n" in text
    assert text.endswith("the guest's disk")
    status = found.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (0, 0, 0o600)
    assert found.parent == files.directory


ATTEMPTS = {
    "a file of root's": "open('/etc/shadow').read()",
    "the disk by its own name": "open({disk!r}).read()",
    "writing to the disk": "os.close(os.open(disk, os.O_RDWR))",
    "the output directory": "os.listdir({directory!r})",
    "the host's loopback": "__import__('socket').create_connection(('127.0.0.1', {port}), 5)",
    "an abstract socket": "__import__('socket').socket(1, 1).connect('\\0' + {name!r})",
    "a signal to its parent": "os.kill({pid}, 0)",
    "another process's memory": "open('/proc/{pid}/mem', 'rb')",
    "a link": "os.symlink('/etc/shadow', out + '/l')",
    "a device": "os.mknod(out + '/d', 0o60600, os.makedev(254, 0))",
    "a mount": "__import__('subprocess').run(['mount', '-t', 'tmpfs', 'x', out], check=True)",
    "another process": "os.fork()",
    "a file beside its own": "open(os.path.dirname(out) + '/f', 'w')",
}


def test_a_pygrub_that_was_taken_over_reaches_nothing(disk: Path, files: FreshFiles) -> None:
    name = f"imagekit-test-{os.getpid()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        abstract.bind(f"\0{name}")
        abstract.listen()
        values = {
            "disk": str(disk),
            "directory": str(files.directory),
            "port": server.getsockname()[1],
            "name": name,
            "pid": os.getpid(),
        }
        lines = ["done = []"]
        for what, code in ATTEMPTS.items():
            attempt = re.sub(
                r"\{(\w+)(!r)?\}", lambda m: (repr if m[2] else str)(values[m[1]]), code
            )
            lines += ["try:", f"    {attempt}", f"    done.append({what!r})"]
            lines += ["except Exception:", "    pass"]
        script = "\n".join([*lines, "result(made('k', repr(done)))"])
        found = boot(disk, files, script)
        assert found.kernel.read_text() == "[]"
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert disk.read_bytes() == b"the guest's disk"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("while True: pass", "signal|failed"),
        ("held = bytearray(2 << 30)", "failed"),
        ("made('k', 'x' * (3 << 20))", "failed"),
        ("raise SystemExit(3)", "exit 3"),
    ],
)
def test_a_disk_that_makes_it_run_for_ever_or_take_all_has_limits(
    disk: Path,
    files: FreshFiles,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    words: str,
) -> None:
    monkeypatch.setitem(localboot.LIMITS, "CPU", 1)
    with pytest.raises(ToolError, match=words):
        boot(disk, files, script, max_bytes=1 << 20)
    assert list(files.directory.iterdir()) == []


def test_a_disk_at_which_it_waits_for_ever_is_given_up(
    disk: Path, files: FreshFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(localboot, "PYGRUB_SECONDS", 2.0)
    with pytest.raises(ToolError, match="took longer"):
        boot(disk, files, "__import__('signal').pause()")


@pytest.mark.parametrize(
    "script",
    [
        "result('/etc/shadow')",
        "result(out + '/../../../etc/shadow')",
        "result(out + '/..')",
        "result(out + '/missing')",
        "os.mkdir(out + '/k')\nresult(out + '/k')",
        "result(made('k', ''), 'ramdisk /etc/passwd')",
        "os.unlink(options['output'])\nos.mkdir(options['output'])",
        "os.unlink(options['output'])",
    ],
)
def test_what_it_says_is_not_believed(disk: Path, files: FreshFiles, script: str) -> None:
    with pytest.raises(ImagekitError) as caught:
        boot(disk, files, script)
    assert isinstance(caught.value, ImageError)
    assert Path("/etc/shadow").stat().st_uid == 0


@pytest.mark.parametrize("kind", ["file", "loop device"])
def test_the_real_one_boots_a_disk_that_only_root_can_read(
    files: FreshFiles, tmp_path: Path, kind: str
) -> None:
    if not PYGRUBS:
        pytest.skip("missing: pygrub")
    tree, image = tmp_path / "tree", tmp_path / "guest.img"
    (tree / "boot/grub").mkdir(parents=True)
    (tree / "boot/vmlinuz").write_bytes(KERNEL)
    (tree / "boot/initrd").write_bytes(INITRD)
    (tree / "boot/grub/grub.cfg").write_text(
        "menuentry 'Linux' {\n linux /boot/vmlinuz root=/dev/xvda ro\n initrd /boot/initrd\n}\n"
    )
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-d", tree, image, "20M"], check=True, capture_output=True
    )
    image.chmod(0o600)
    disk, loop = image, ""
    if kind == "loop device":
        made = subprocess.run(
            ["losetup", "--find", "--show", image], capture_output=True, check=False, text=True
        )
        if made.returncode != 0:
            pytest.skip("missing: loop devices")
        loop = made.stdout.strip()
        disk = Path(loop)
    try:
        uid = domain_user("64123", None, "", "")
        found = localboot.boot_from_disk(
            str(disk), files, pygrub=PYGRUBS[-1], args="quiet", uid=uid
        )
    finally:
        if loop:
            subprocess.run(["losetup", "--detach", loop], check=True)
    assert found.kernel.read_bytes() == KERNEL
    assert found.ramdisk is not None and found.ramdisk.read_bytes() == INITRD
    assert found.args == "root=/dev/xvda ro quiet"
    for path in (found.kernel, found.ramdisk):
        assert path.stat().st_uid == 0 and path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_can_be_mounted_for_nobody_else_is_shown_by_a_loop_device(
    disk: Path, files: FreshFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/dev/loop-control").exists() or shutil.which("losetup") is None:
        pytest.skip("missing: loop devices")
    disk.write_bytes(b"sector".ljust(1 << 16, b"."))
    # A child that mounts nothing idmapped stands for a kernel that cannot.
    copied = tmp_path / "child/imagekit"
    for name in ("__init__.py", "host/__init__.py", "host/confined_child.py", "host/syscalls.py"):
        (copied / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACKAGE / name, copied / name)
    text = (PACKAGE / "host/syscalls.py").read_text()
    changed = text.replace("MOUNT_SETATTR = 428, 429, 442", "MOUNT_SETATTR = 428, 429, 9999")
    assert changed != text
    (copied / "host/syscalls.py").write_text(changed)
    monkeypatch.setattr(sys, "path", [str(copied.parent), *sys.path])
    found = boot(disk, files, "result(made('k', open(disk).read(6)))")
    assert found.kernel.read_text() == "sector"
    used = subprocess.run(["losetup", "--list"], capture_output=True, text=True, check=True).stdout
    assert str(disk) not in used
