"""Kernels of a guest, copied out within limits and examined on the host as hostile bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imagekit.errors import ImagekitError
from imagekit.guest.files import GuestFiles
from imagekit.kernel.reading import examine
from imagekit.kernel.report import KernelReport

MAX_KERNELS = 8
MAX_KERNEL = 128 << 20
MAX_INITRD = 512 << 20
MAX_CONFIG = 4 << 20

_KERNEL = re.compile(r"(?:vmlinu[xz]|kernel|bzImage)-(?P<release>.+)")
_NO_KERNEL = re.compile(r"\.(old|bak|sig|hmac|rpmsave|dpkg-\w+)$|rescue|kdump")


@dataclass(frozen=True)
class GuestKernel:
    """A kernel with the initrd and configuration that belong to it, by their guest paths.

    ``report`` is None when it could not be read, and ``problem`` says why; ``problem`` beside a
    report is about its initrd.
    """

    path: str
    initrd: str | None
    config: str | None
    report: KernelReport | None
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON object: the paths, what the kernel can boot as, and what is wrong with it."""
        return {
            "path": self.path,
            "initrd": self.initrd,
            "config": self.config,
            "problem": self.problem,
            **(self.report.to_json() if self.report else {}),
            "release": self.report.release if self.report else None,
        }


class KernelReader:
    """Examines kernels of the mounted guest; each file is copied and judged once."""

    def __init__(self, files: GuestFiles, scratch: Path) -> None:
        self._files = files
        self._scratch = scratch
        self._seen: dict[tuple[str, str | None], GuestKernel] = {}

    def installed(self) -> list[GuestKernel]:
        """Kernels of /boot and /usr/lib/modules, newest first."""
        found: dict[str, tuple[str, str]] = {}
        for name in self._files.names("/boot"):
            match = _KERNEL.fullmatch(name)
            if match and not _NO_KERNEL.search(name):
                self._add(found, f"/boot/{name}", match["release"])
        for release in self._files.names("/usr/lib/modules"):
            self._add(found, f"/usr/lib/modules/{release}/vmlinuz", release)
        ordered = sorted(found.values(), key=lambda item: _version(item[1]), reverse=True)
        return [self.examine(path, *self._belonging(r)) for path, r in ordered[:MAX_KERNELS]]

    def examine(
        self, path: str, initrd: str | None = None, config: str | None = None
    ) -> GuestKernel:
        """The kernel at a guest path, with the initrd and configuration named."""
        if config is None:
            match = _KERNEL.fullmatch(path.rpartition("/")[2])
            config = self._belonging(match["release"])[1] if match else None
        key = (self._files.resolve(path), self._files.resolve(initrd) if initrd else None)
        if key not in self._seen:
            self._seen[key] = self._examine(path, initrd, config)
        return replace(self._seen[key], path=path, initrd=initrd)

    def forget(self) -> None:
        """Examine anew from now on, because something changed."""
        self._seen.clear()

    def _add(self, found: dict[str, tuple[str, str]], path: str, release: str) -> None:
        status = self._files.stat(path)
        if status is not None and status.is_file:
            found.setdefault(self._files.resolve(path), (path, release))

    def _belonging(self, release: str) -> tuple[str | None, str | None]:
        initrd = self._first(
            f"/boot/initrd.img-{release}",
            f"/boot/initramfs-{release}.img",
            f"/boot/initrd-{release}",
            f"/boot/initrd-{release}.img",
            f"/boot/initramfs-{release}",
        )
        config = self._first(f"/boot/config-{release}", f"/usr/lib/modules/{release}/config")
        return initrd, config

    def _first(self, *paths: str) -> str | None:
        for path in paths:
            status = self._files.stat(path)
            if status is not None and status.is_file:
                return path
        return None

    def _examine(self, path: str, initrd: str | None, config: str | None) -> GuestKernel:
        directory = self._scratch / f"kernel-{len(self._seen)}"
        directory.mkdir()
        kernel_file = self._copy(path, directory, MAX_KERNEL)
        if kernel_file is None:
            return GuestKernel(path, initrd, config, None, "cannot be copied, or is too large")
        initrd_file = self._copy(initrd, directory / "initrd", MAX_INITRD) if initrd else None
        config_file = self._copy(config, directory / "config", MAX_CONFIG) if config else None
        try:
            return _judged(
                GuestKernel(path, initrd, config, None), kernel_file, initrd_file, config_file
            )
        finally:
            for file in (kernel_file, initrd_file, config_file):
                if file is not None:
                    file.unlink()

    def _copy(self, path: str, directory: Path, limit: int) -> Path | None:
        """Evidence names the files, so they keep their names; each apart, the guest chose them."""
        directory.mkdir(exist_ok=True)
        name = re.sub(r"[^A-Za-z0-9._+-]", "_", path.rpartition("/")[2]).lstrip(".")
        target = directory / "files"
        target.mkdir()
        target /= name[:120] or "file"
        return target if self._files.download(path, target, limit) else None


def _judged(
    found: GuestKernel, kernel: Path, initrd: Path | None, config: Path | None
) -> GuestKernel:
    problem = None
    if found.initrd and initrd is None:
        problem = f"the initrd {found.initrd} is not there, or is too large"
    for attempt in (initrd, None):
        try:
            report = examine(kernel, initrd=attempt, config=config)
        except ImagekitError as error:
            problem = error.what
            if attempt is None:
                break
            continue
        return replace(found, report=replace(report, name=found.path), problem=problem)
    return replace(found, problem=problem)


def _version(release: str) -> list[tuple[int, int, str]]:
    """Sort key: numbers count as numbers, 6.10 comes after 6.9."""
    pieces = re.findall(r"\d{1,18}|[^\d]+", release)
    return [(1, int(p), "") if p.isdigit() else (0, 0, p) for p in pieces]
