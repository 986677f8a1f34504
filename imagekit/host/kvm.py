"""Whether KVM really runs a kernel here, which ``/dev/kvm`` being there does not prove.

Nested or restricted hosts open the device, create a virtual machine and then abort on the first
register, or run a boot sector and hang in a stock kernel. So the probe runs the host's own kernel
to the end of its start: without a root file system it panics, and ``panic=-1`` with QEMU's
``-no-reboot`` turns that into an exit (Linux Documentation/admin-guide/kernel-parameters.txt).
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from imagekit.errors import ImagekitError, ToolError
from imagekit.host import tools
from imagekit.host.run import run

QEMU = "qemu-system-x86_64"
DEVICE = Path("/dev/kvm")
BOOT = Path("/boot")
TIMEOUT = 12.0
"""Seconds a probe may take; a kernel under working KVM needs one or two, nested ones four."""

_CPU = "host"  # what libguestfs and imagekit's own boots ask for under KVM
_EXIT_PORT = 0xF4
_SECTOR_STATUS = 0x21
# mov al, 0x10; out 0xf4, al; hlt. isa-debug-exit ends QEMU with status (0x10 << 1) | 1.
_BOOT_SECTOR = bytes([0xB0, 0x10, 0xE6, _EXIT_PORT, 0xF4]).ljust(510, b"\0") + b"\x55\xaa"
_END_OF_START = (b"Kernel panic - not syncing", b"Unable to mount root fs")


@dataclass(frozen=True)
class KvmVerdict:
    """``works``: KVM ran a kernel; ``reason``: how that is known, or why it does not."""

    works: bool
    reason: str


def kvm_works(cache: Path | None = None) -> KvmVerdict:
    """Whether guests may be run with ``-accel kvm``; never takes longer than about 15 s.

    The verdict of a probe is kept in ``cache`` (a directory; default $IMAGEKIT_CACHE, else
    /var/cache/imagekit for root, else the XDG cache) for as long as host boot, QEMU and kernel are
    the same. Nothing is raised: whatever goes wrong is a reason.
    """
    denied = _access()
    if denied is not None:
        return denied
    qemu = tools.find(QEMU)
    if qemu is None:
        return KvmVerdict(False, f"{QEMU} is not on this host")
    kernel = _kernel()
    key = _key(qemu, kernel)
    store = (cache or _cache_directory()) / "kvm.json"
    known = _load(store, key)
    if known is not None:
        return known
    try:
        verdict = _probe(kernel)
    except (ImagekitError, OSError) as error:
        return KvmVerdict(False, f"KVM could not be tried: {error}")
    _save(store, key, verdict)
    return verdict


def _access() -> KvmVerdict | None:
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return KvmVerdict(False, f"{DEVICE} does not exist")
    except PermissionError:
        return KvmVerdict(False, f"{DEVICE} may not be opened; add this user to the group kvm")
    except OSError as error:
        return KvmVerdict(False, f"{DEVICE} cannot be opened: {error.strerror}")
    return None


def _kernel() -> Path | None:
    """A kernel of this host that may be read, the newest file first."""
    found: list[tuple[float, Path]] = []
    with contextlib.suppress(OSError):
        for path in BOOT.glob("vmlinuz*"):
            if path.is_file() and os.access(path, os.R_OK):
                found.append((path.stat().st_mtime, path))
    return max(found)[1] if found else None


def _probe(kernel: Path | None) -> KvmVerdict:
    with tempfile.TemporaryDirectory(prefix="imagekit-kvm-") as scratch:
        sector = Path(scratch) / "sector.img"
        sector.write_bytes(_BOOT_SECTOR)
        reason = _run_sector(sector)
    if reason is not None:
        return KvmVerdict(False, reason)
    if kernel is None:
        return KvmVerdict(
            False,
            "a boot sector runs, but no kernel in /boot may be read to try one "
            "(chmod 0644 /boot/vmlinuz-*)",
        )
    return _run_kernel(kernel)


def _machine(memory_mib: int) -> list[str]:
    return [
        *(QEMU, "-accel", "kvm", "-cpu", _CPU, "-m", str(memory_mib)),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
    ]


def _run_sector(sector: Path) -> str | None:
    argv = [
        *_machine(32),
        *("-device", f"isa-debug-exit,iobase={_EXIT_PORT},iosize=1"),
        *("-drive", f"file={sector},format=raw,snapshot=on"),
    ]
    try:
        done = run(argv, check=False, timeout=2.5)
    except ToolError:
        return "a boot sector does not run under KVM"
    if done.returncode == _SECTOR_STATUS:
        return None
    lines = done.stderr.decode("utf-8", "backslashreplace").strip().splitlines()
    detail = lines[0].strip()[:200] if lines else f"exit {done.returncode}"
    return f"QEMU cannot run a boot sector under KVM: {detail}"


def _run_kernel(kernel: Path) -> KvmVerdict:
    argv = [
        *_machine(256),
        *("-serial", "stdio", "-kernel", str(kernel)),
        *("-append", "console=ttyS0 panic=-1 root=/dev/none"),
    ]
    try:
        done = run(argv, check=False, timeout=TIMEOUT)
    except ToolError as error:
        last = error.output.strip().splitlines()[-1:] or ["no output at all"]
        return KvmVerdict(False, f"{kernel} hangs under KVM after: {last[0][:120]}")
    if any(mark in done.stdout for mark in _END_OF_START):
        return KvmVerdict(True, f"{kernel} ran to the end of its start in {done.seconds:.1f} s")
    return KvmVerdict(False, f"{kernel} does not start under KVM (exit {done.returncode})")


def _key(qemu: Path, kernel: Path | None) -> dict[str, str]:
    boot_id = ""
    with contextlib.suppress(OSError):
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    version = ""
    with contextlib.suppress(ImagekitError):
        version = run([qemu, "--version"], timeout=10).text.partition("\n")[0]
    return {
        "boot_id": boot_id,
        "qemu": version,
        "kernel": str(kernel) if kernel else "",
        "uid": str(os.geteuid()),
    }


def _cache_directory() -> Path:
    # The same rule as the store's, which belongs to a layer above this one.
    if os.environ.get("IMAGEKIT_CACHE"):
        return Path(os.environ["IMAGEKIT_CACHE"])
    if os.geteuid() == 0:
        return Path("/var/cache/imagekit")
    return Path(os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")) / "imagekit"


def _load(store: Path, key: dict[str, str]) -> KvmVerdict | None:
    try:
        if store.stat().st_size > 1 << 16:
            return None
        data: Any = json.loads(store.read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(data, dict) or data.get("key") != key:
        return None
    works, reason = data.get("works"), data.get("reason")
    if isinstance(works, bool) and isinstance(reason, str):
        return KvmVerdict(works, reason)
    return None


def _save(store: Path, key: dict[str, str], verdict: KvmVerdict) -> None:
    # A cache that cannot be written only costs the next run its probe.
    with contextlib.suppress(OSError):
        store.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd, name = tempfile.mkstemp(dir=store.parent, prefix=".kvm.")
        with os.fdopen(fd, "w") as stream:
            json.dump({"key": key, **asdict(verdict)}, stream)
        Path(name).replace(store)
