"""Booting a guest from its own disk: the toolstack's pygrub reads the disk, we pass its find on.

Sources: tools/pygrub/src/pygrub of Xen 4.17 (options, ``simple0`` output).
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from imagekit.errors import CapabilityError, ImageError, SpecError
from imagekit.host.run import run
from imagekit.host.tools import find
from imagekit.pypxeboot.handover import FreshFiles, Result

PYGRUB_SECONDS = 90.0
MAX_RESULT = 65536


def find_pygrub(root: Path = Path("/")) -> Path:
    """The pygrub of the running Xen, else of the newest installed; raises CapabilityError.

    Debian's /usr/bin/pygrub is a wrapper that needs a running Xen, so it comes last.
    """
    running = _running_version(root)
    found = sorted(root.glob("usr/lib/xen-*/bin/pygrub"), key=_version_of, reverse=True)
    found.sort(key=lambda path: path.parts[-3] != f"xen-{running}")
    for fixed in ("usr/lib/xen/bin/pygrub", "usr/libexec/xen/bin/pygrub"):
        found += [path for path in [root / fixed] if path.exists()]
    if found:
        return found[0]
    on_path = find("pygrub")
    if on_path is None:
        raise CapabilityError(
            "the boot server says to boot the guest's own disk, and there is no pygrub here",
            hint="install the toolstack's pygrub (Debian: xen-utils-4.17)",
        )
    return on_path


def _running_version(root: Path) -> str:
    parts = []
    for name in ("major", "minor"):
        try:
            parts.append((root / "sys/hypervisor/version" / name).read_text().strip())
        except OSError:
            return ""
    return ".".join(parts)


def _version_of(path: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall("[0-9]+", path.parts[-3]))


def boot_from_disk(
    disk: str,
    files: FreshFiles,
    *,
    pygrub: Path | None = None,
    kernel: str = "",
    ramdisk: str = "",
    args: str = "",
    runas: str = "",
) -> Result:
    """Let pygrub pick the kernel from ``disk`` (a raw file or a block device).

    ``kernel``, ``ramdisk``, ``args`` and ``runas`` are pygrub's own options. Raises ToolError when
    pygrub finds nothing, ImageError when what it says makes no sense.
    """
    if not disk or not Path(disk).exists():
        raise SpecError(
            "the boot server says to boot the guest's own disk, and "
            + (f"{disk} does not exist" if disk else "no disk was given"),
            hint="the toolstack gives disk[0] as the last argument; the domain needs one",
        )
    options = {"kernel": kernel, "ramdisk": ramdisk, "args": args, "runas": runas}
    with tempfile.TemporaryDirectory(prefix="pygrub.", dir=files.directory) as private:
        report = Path(private) / "report"
        report.touch(0o600)
        run(
            [
                pygrub or find_pygrub(),
                "-q",
                *(f"--{name}={value}" for name, value in options.items() if value),
                f"--output={report}",
                "--output-format=simple0",
                f"--output-directory={private}",
                disk,
            ],
            timeout=PYGRUB_SECONDS,
            what="reading the boot configuration of the guest's disk with pygrub",
        )
        with report.open("rb") as stream:
            found = parse_simple0(stream.read(MAX_RESULT), Path(private))
        return Result(
            _take_over(found.kernel, "boot_kernel.", files),
            _take_over(found.ramdisk, "boot_ramdisk.", files) if found.ramdisk else None,
            found.args,
        )


def _take_over(path: Path, prefix: str, files: FreshFiles) -> Path:
    """Move pygrub's copy into the output directory itself, under a fresh name."""
    descriptor, fresh = files.create(prefix)
    os.close(descriptor)
    path.replace(fresh)
    return fresh


def parse_simple0(said: bytes, directory: Path) -> Result:
    """Read pygrub's ``simple0`` report; its files must lie in ``directory``."""
    items: dict[str, str] = {}
    for item in said.split(b"\0"):
        name, _, value = item.decode("utf-8", "surrogateescape").partition(" ")
        if value:
            items[name] = value
    if "kernel" not in items:
        raise ImageError("pygrub found no kernel on the guest's disk")
    return Result(
        _inside(items["kernel"], directory),
        _inside(items["ramdisk"], directory) if "ramdisk" in items else None,
        items.get("args", ""),
    )


def _inside(name: str, directory: Path) -> Path:
    path = Path(name)
    if path.parent != directory or path.is_symlink() or not path.is_file():
        raise ImageError("pygrub reports a file outside its output directory", where=name)
    return path
