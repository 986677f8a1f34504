"""A boot server's files, a real dnsmasq to serve them, and pypxeboot run as toolstacks run it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from oracles.netns import Lab

MAC = "00:16:3e:10:20:36"
DASHES = MAC.replace(":", "-")
UUID = "6f1cd2a8-3c1b-4f6e-9d55-0a4e5d2c7b10"


def kernel_bytes(size: int = 3_000_000, seed: int = 1) -> bytes:
    """Random bytes with the magic of a bzImage at 0x202."""
    raw = bytearray(random.Random(seed).randbytes(size))
    raw[0x202:0x206] = b"HdrS"
    return bytes(raw)


KERNEL = kernel_bytes()
INITRD = random.Random(2).randbytes(5_000_001)


def fill(root: Path, config: str | None = None, name: str = "01-" + DASHES) -> Path:
    """A TFTP root with a kernel, an initrd, and one PXELINUX config."""
    (root / "pxelinux.cfg").mkdir(parents=True)
    (root / "images").mkdir()
    (root / "images/linux").write_bytes(KERNEL)
    (root / "images/initrd.gz").write_bytes(INITRD)
    if config is None:
        config = (
            "default install\nlabel install\n kernel images/linux\n"
            " append initrd=images/initrd.gz console=tty0 console=hvc0 ks=http://h/?a=b\n"
        )
    (root / "pxelinux.cfg" / name).write_text(config)
    for path in [root, *root.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return root


@contextmanager
def dnsmasq(
    lab: Lab, root: Path, *extra: str, dhcp: bool = True, in_dom0: bool = False
) -> Iterator[Path]:
    """dnsmasq in the server's namespace, or in dom0's on its bridge; yields its log."""
    place, interface = (lab.dom0, "xenbr0") if in_dom0 else (lab.server, "eth0")
    log = root.parent / f"dnsmasq-{root.name}.log"
    words = [
        "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0",
        f"--interface={interface}", "--bind-interfaces", "--log-dhcp", f"--log-facility={log}",
        "--pid-file=", f"--dhcp-leasefile={root.parent / 'leases'}", "--user=root",
        "--enable-tftp", f"--tftp-root={root}", "--no-ping",
    ]  # fmt: skip
    if dhcp:
        words += [
            "--dhcp-range=192.0.2.100,192.0.2.200,255.255.255.0",
            f"--dhcp-host={MAC},192.0.2.150",
            "--dhcp-boot=pxelinux.0",
        ]
    process = subprocess.Popen(
        lab.exec(place, *words, *extra), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        end = time.monotonic() + 10
        while not (log.exists() and "started" in log.read_text()):
            assert process.poll() is None, (process.stdout and process.stdout.read(), words)
            assert time.monotonic() < end
            time.sleep(0.02)
        yield log
    finally:
        process.terminate()
        process.wait(10)


@dataclass(frozen=True)
class Run:
    """What pypxeboot did: its status, standard output and error, and the seconds it took."""

    status: int
    out: bytes
    err: str
    seconds: float


def program(*words: str) -> list[str]:
    return [sys.executable, "-m", "imagekit.pypxeboot.program", *words]


def pypxeboot(lab: Lab | None, words: Sequence[str], *, limit: float = 120) -> Run:
    """Run it to its end, in dom0's namespace or (lab None) here."""
    argv = program(*words)
    started = time.monotonic()
    done = subprocess.run(
        lab.exec(lab.dom0, *argv) if lab else argv,
        capture_output=True,
        timeout=limit,
        check=False,
        env={"PATH": os.environ["PATH"], "TERM": "vt100"},
    )
    return Run(done.returncode, done.stdout, done.stderr.decode(), time.monotonic() - started)


def libxl_place(tmp: Path) -> tuple[Path, Path, list[str]]:
    """What libxl prepares: an empty 0600 file, a 0600 directory, and the options naming them."""
    output, directory = tmp / "bootloader.7.out", tmp / "bootloader.7.d"
    output.touch(0o600)
    directory.mkdir(0o600)
    return (
        output,
        directory,
        [
            f"--output={output}",
            "--output-format=simple0",
            f"--output-directory={directory}",
        ],
    )


def simple0(data: bytes) -> dict[str, str]:
    """Read ``simple0`` the way libxl_bootloader.c does: items to the first empty one."""
    assert data.endswith(b"\0\0")
    items = data[:-2].split(b"\0")
    return dict(item.decode().partition(" ")[::2] for item in items)
