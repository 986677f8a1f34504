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
        _add_program(tree, name)
    tree.links = {"etc/localtime": "/usr/share/zoneinfo/UTC"}
    return tree


def _add_program(tree: Tree, name: str) -> None:
    """A program of this host and the libraries it is linked with."""
    program = Path("/") / name
    listed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    libraries = [word[1:] for word in listed.split() if word.startswith("/")]
    for path in [name, *libraries]:
        tree.files[path] = (Path("/") / path).read_bytes()
        tree.modes[path] = 0o755


def partitioned(tree: Tree, image: Path, scratch: Path, *, size_mib: int = 64) -> Path:
    """A GPT disk with ``tree`` as ext4 in its first partition."""
    root = scratch / f"tree-{image.name}"
    root.mkdir()
    tree.write(root)
    with image.open("wb") as stream:
        stream.truncate(size_mib * MIB)
    script = f"label: gpt\nlabel-id: {DISK_GUID}\nstart=2048, type=L\n"
    subprocess.run(["sfdisk", "-q", str(image)], input=script.encode(), check=True)
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    options = f"offset={START},root_owner=0:0"
    argv = ["mke2fs", "-q", "-F", "-t", "ext4", "-U", ROOT_UUID, "-L", "root", "-d", str(root)]
    argv += ["-E", options, str(image), f"{(size_mib - 2) * 1024}k"]
    subprocess.run(argv, check=True, env=environment)
    shutil.rmtree(root)
    return image


def debugfs(image: Path, command: str) -> str:
    """What e2fsprogs' own reader says about the first partition (a foreign oracle)."""
    done = subprocess.run(
        ["/usr/sbin/debugfs", "-R", command, f"{image}?offset={START}"],
        check=True,
        capture_output=True,
    )
    return done.stdout.decode()


def content(image: Path, path: str) -> str:
    """The content of a guest file, read by debugfs."""
    return debugfs(image, f"cat {path}")
