"""A virtual machine of this host's own kernel and files, for what needs device-mapper.

The host's root is mounted read-only by 9p, tmpfs lies over /run and /etc/lvm, /dev is the
machine's own and LVM makes its nodes there itself, as no udev runs. One disk is given as
/dev/vda; what the command prints comes back over the console.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

WANTED = ("virtio_pci", "virtio_blk", "9p", "9pnet_virtio", "dm-mod", "dm-snapshot")
INIT = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /host
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
for m in $(/bin/busybox cat /order); do /bin/busybox insmod /$m; done
/bin/busybox mount -t 9p -o ro,trans=virtio,msize=262144,cache=loose host /host || exec poweroff -f
/bin/busybox mount -t proc proc /host/proc
/bin/busybox mount -t sysfs sysfs /host/sys
/bin/busybox mount -t devtmpfs dev /host/dev
/bin/busybox mount -t tmpfs run /host/run
/bin/busybox mount -t tmpfs lvm /host/etc/lvm
echo "activation { udev_sync = 0 udev_rules = 0 }" > /host/etc/lvm/lvm.conf
cd /host
/bin/busybox chroot /host /bin/sh -c '@COMMAND@'
echo "exit status $?"
/bin/busybox poweroff -f
"""


def kernels() -> list[Path]:
    """Kernels of this host that have their modules, the newest last."""
    found = sorted(Path("/boot").glob("vmlinuz-*"))
    return [k for k in found if modules(k).joinpath("kernel/drivers/md/dm-mod.ko").exists()]


def modules(kernel: Path) -> Path:
    return Path("/lib/modules") / kernel.name.removeprefix("vmlinuz-")


def run(work: Path, command: str, *, disk_bytes: int, timeout: float) -> str:
    """Run the shell ``command`` (without single quotes) with a new disk; returns its output."""
    kernel = kernels()[-1]
    initrd, disk = work / "dm-initrd", work / "dm-disk"
    _make_initrd(kernel, work / "dm-tree", initrd, command)
    with disk.open("xb") as stream:
        stream.truncate(disk_bytes)
    argv = ["qemu-system-x86_64", "-accel", "tcg", "-m", "768", "-nographic", "-no-reboot"]
    argv += ["-nic", "none", "-kernel", str(kernel), "-initrd", str(initrd)]
    argv += ["-append", "console=ttyS0 quiet panic=-1"]
    argv += ["-drive", f"file={disk},format=raw,if=virtio,cache=unsafe"]
    share = "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"
    argv += ["-virtfs", share]
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
    )
    return done.stdout + done.stderr


def _make_initrd(kernel: Path, tree: Path, initrd: Path, command: str) -> None:
    root = modules(kernel)
    needs = {}
    for line in (root / "modules.dep").read_text().splitlines():
        name, _, rest = line.partition(":")
        needs[Path(name).name.partition(".")[0].replace("-", "_")] = [name, *rest.split()]
    order: list[str] = []
    for wanted in WANTED:
        order += [m for m in reversed(needs[wanted.replace("-", "_")]) if m not in order]
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/busybox").write_bytes(Path("/bin/busybox").read_bytes())
    for module in order:
        (tree / Path(module).name).write_bytes((root / module).read_bytes())
    (tree / "order").write_text("\n".join(Path(module).name for module in order))
    (tree / "init").write_text(INIT.replace("@COMMAND@", command))
    for program in ("init", "bin/busybox"):
        (tree / program).chmod(0o755)
    names = "\n".join(str(p.relative_to(tree)) for p in sorted(tree.rglob("*"))) + "\n"
    with initrd.open("wb") as out:
        argv = ["cpio", "--quiet", "-o", "-H", "newc"]
        subprocess.run(argv, cwd=tree, input=names.encode(), stdout=out, check=True)
