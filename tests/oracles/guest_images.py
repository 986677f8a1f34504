"""Small guest images for tests: a tree, put on disk without mounts or loop devices."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

MIB = 1 << 20
START = 1 * MIB
DISK_GUID = "6B1D3A7E-1111-4222-8333-944455566677"
ROOT_UUID = "0f7c2f0e-5a0f-4b57-9d39-6f5b5a0e0001"

ENV = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}

GRUB_CFG = """\
set default="1"
set timeout=3
menuentry 'Old' --class debian {
        linux /boot/vmlinuz-5.0 root=/dev/sda1 ro
        initrd /boot/initrd.img-5.0
}
menuentry 'Linux 6.1' --class debian {
        linux /boot/vmlinuz-6.1 root=UUID=%s ro console=hvc0 quiet
        initrd /boot/initrd.img-6.1
}
"""

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
web:x:1000:1000::/home/web:/bin/sh
trap:x:1001:1001::/home/trap:/bin/sh
"""


@dataclass
class Tree:
    """Files, directories and links of a guest, by path without the leading slash."""

    files: dict[str, bytes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    directories: list[str] = field(default_factory=list)
    modes: dict[str, int] = field(default_factory=dict)

    def write(self, root: Path) -> None:
        for name in self.directories:
            (root / name).mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(self.modes.get(name, 0o644))
        for name, target in self.links.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(target)


def debian_tree() -> Tree:
    """A tree that inspection takes for Debian 12, with a shell that runs."""
    tree = Tree()
    tree.directories = ["dev", "proc", "sys", "run", "tmp", "root", "home/web", "boot", "var/log"]
    text = {
        "etc/os-release": 'ID=debian\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\n'
        'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
        "etc/debian_version": "12.11\n",
        "etc/passwd": PASSWD,
        "etc/group": "root:x:0:\nwww-data:x:33:\nweb:x:1000:\n",
        "etc/hostname": "oldname\n",
        "etc/hosts": "127.0.0.1\tlocalhost\n127.0.1.1\toldname.example oldname\n::1 localhost\n",
        "etc/fstab": f"UUID={ROOT_UUID} / ext4 defaults 0 1\n",
        "etc/motd": "old motd\n",
        "boot/grub/grub.cfg": GRUB_CFG % ROOT_UUID,
    }
    tree.files = {name: value.encode() for name, value in text.items()}
    for name in ("bin/sh", "bin/cat", "bin/touch"):
        add_program(tree, name)
    tree.links = {"etc/localtime": "/usr/share/zoneinfo/UTC"}
    return tree


def add_program(tree: Tree, name: str) -> None:
    """A program of this host and the libraries it is linked with."""
    program = Path("/") / name
    listed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    libraries = [word[1:] for word in listed.split() if word.startswith("/")]
    for path in [name, *libraries]:
        tree.files[path] = (Path("/") / path).read_bytes()
        tree.modes[path] = 0o755


@dataclass
class Part:
    """A partition: sfdisk's type, the file system (ext4, vfat or none), what is in it, MiB."""

    type: str
    filesystem: str
    tree: Tree
    size_mib: int
    uuid: str


def disk_of(parts: list[Part], image: Path, scratch: Path, *, label: str = "gpt") -> Path:
    """A partitioned disk, its partitions one after the other from 1 MiB on."""
    total = sum(part.size_mib for part in parts)
    with image.open("wb") as stream:
        stream.truncate((total + 2) * MIB)
    lines = [f"label: {label}", *([f"label-id: {DISK_GUID}"] if label == "gpt" else [])]
    start = 1
    for part in parts:
        lines.append(f"start={start * 2048}, size={part.size_mib * 2048}, type={part.type}")
        start += part.size_mib
    script = "\n".join(lines) + "\n"
    subprocess.run(["sfdisk", "-q", str(image)], input=script.encode(), check=True, env=ENV)
    start = 1
    for number, part in enumerate(parts):
        root = scratch / f"tree-{image.name}-{number}"
        root.mkdir()
        part.tree.write(root)
        _make(part, image, root, start)
        shutil.rmtree(root)
        start += part.size_mib
    return image


def partitioned(tree: Tree, image: Path, scratch: Path, *, size_mib: int = 62) -> Path:
    """A GPT disk with ``tree`` as ext4 in its only partition."""
    return disk_of([Part("L", "ext4", tree, size_mib, ROOT_UUID)], image, scratch)


def _make(part: Part, image: Path, root: Path, start_mib: int) -> None:
    if part.filesystem == "ext4":
        argv = ["mke2fs", "-q", "-F", "-t", "ext4", "-U", part.uuid, "-d", str(root)]
        argv += ["-E", f"offset={start_mib * MIB},root_owner=0:0"]
        argv += [str(image), f"{part.size_mib * 1024}k"]
        subprocess.run(argv, check=True, env=ENV)
        return
    if part.filesystem == "none":
        return
    single = root.with_suffix(".vfat")
    with single.open("wb") as stream:
        stream.truncate(part.size_mib * MIB)
    volume = part.uuid.replace("-", "")
    subprocess.run(["mkfs.vfat", "-i", volume, single], check=True, env=ENV, capture_output=True)
    for entry in root.iterdir():
        subprocess.run(["mcopy", "-s", "-i", single, entry, "::/"], check=True, env=ENV)
    with image.open("r+b") as stream:
        stream.seek(start_mib * MIB)
        stream.write(single.read_bytes())
    single.unlink()


def debugfs(image: Path, command: str, offset: int = START) -> str:
    """What e2fsprogs' own reader says about the first partition (a foreign oracle)."""
    done = subprocess.run(
        ["/usr/sbin/debugfs", "-R", command, f"{image}?offset={offset}"],
        check=True,
        capture_output=True,
    )
    return done.stdout.decode()


def content(image: Path, path: str) -> str:
    """The content of a guest file, read by debugfs."""
    return debugfs(image, f"cat {path}")


def cpio(entries: dict[str, bytes]) -> bytes:
    """A newc cpio archive (Linux Documentation/driver-api/early-userspace/buffer-format.rst)."""
    out = bytearray()
    for number, (name, data) in enumerate([*entries.items(), ("TRAILER!!!", b"")], 1):
        encoded = name.encode() + b"\0"
        fields = [number, 0o100644, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0]
        out += b"070701" + b"".join(b"%08x" % value for value in fields) + encoded
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return bytes(out)


def host_kernel() -> tuple[str, Path]:
    """(release, path) of a kernel of this host."""
    kernel = max(Path("/boot").glob("vmlinuz-*"))
    return kernel.name.removeprefix("vmlinuz-"), kernel


def initrd_with(*modules: str, release: str) -> bytes:
    """An initrd of initramfs-tools' look that holds (empty) kernel modules."""
    base = f"usr/lib/modules/{release}"
    names = {f"{base}/kernel/drivers/{name}.ko": b"" for name in modules}
    return cpio(
        {"init": b"#!/bin/sh\n", "scripts/functions": b"", f"{base}/modules.builtin": b""} | names
    )
