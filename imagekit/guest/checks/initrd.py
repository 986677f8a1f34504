"""Xen's disk driver in the initrd, now and after the next kernel update."""

from __future__ import annotations

import re
from collections.abc import Iterator

from imagekit.errors import GuestError
from imagekit.guest.backends.appliance import run_in_appliance
from imagekit.guest.changes import RunScript
from imagekit.guest.findings import Finding, Subject
from imagekit.guest.kernels import GuestKernel

MODULES = ("xen-blkfront", "xen-netfront")
TIMEOUT = 1800.0

_LIST = "/etc/initramfs-tools/modules"
_DRACUT = "/etc/dracut.conf.d/60-imagekit-xen.conf"
_RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+~-]*")
_SCRIPT = """\
#!/bin/sh
set -e
if command -v update-initramfs >/dev/null; then
    update-initramfs -u -k '{release}'
else
    dracut --force '{initrd}' '{release}'
fi
"""


def find(subject: Subject) -> Iterator[Finding]:
    """Initrds without xen_blkfront, and a configuration that would make the next one lack it."""
    for kernel in subject.inspection.kernels:
        yield from _without_blkfront(subject, kernel)
    if _builds_for_this_machine(subject) and not _lists_modules(subject):
        yield Finding(
            "initramfs-dep",
            "warning",
            "all",
            "/etc/initramfs-tools has MODULES=dep and does not list xen-blkfront",
            "the next kernel update makes an initrd for the machine it runs on; built anywhere "
            "but in a Xen guest it does not find the disk",
            f"list xen-blkfront and xen-netfront in {_LIST}",
            fixable=True,
        )


def fix_modules(subject: Subject) -> None:
    """List Xen's drivers where the guest's own initrd builder reads them."""
    files = subject.files
    if files.stat("/etc/initramfs-tools") is not None:
        text = files.text(_LIST) or ""
        listed = _words(text)
        missing = [name for name in MODULES if name.replace("-", "_") not in listed]
        newline = "" if not text or text.endswith("\n") else "\n"
        files.write_text(_LIST, text + newline + "".join(f"{name}\n" for name in missing))
    if files.stat("/etc/dracut.conf.d") is not None and files.stat(_DRACUT) is None:
        files.write(_DRACUT, f'add_drivers+=" {" ".join(MODULES)} "\n'.encode())


def fix_initrds(subject: Subject) -> None:
    """List the drivers and make every initrd that lacks them anew, inside the guest."""
    fix_modules(subject)
    for kernel in subject.inspection.kernels:
        release = kernel.report.release if kernel.report else None
        if not _lacks(kernel) or kernel.initrd is None or release is None:
            continue
        if not _RELEASE.fullmatch(release) or "'" in kernel.initrd:
            raise GuestError(f"{release!r} is no kernel release", where=kernel.path)
        text = _SCRIPT.format(release=release, initrd=kernel.initrd)
        script = RunScript(f"initrd-{release}", text.encode(), TIMEOUT)
        run_in_appliance(script, subject.files, subject.root.arch)


FIXES = {"initramfs-dep": fix_modules, "initrd-blkfront": fix_initrds}


def _without_blkfront(subject: Subject, kernel: GuestKernel) -> Iterator[Finding]:
    report = kernel.report
    if report is None or report.initrd is None or not _lacks(kernel):
        return
    for mode in subject.modes:
        if mode == "hvm" and report.unplugs_disks is False:
            continue
        yield Finding(
            "initrd-blkfront",
            "error",
            mode,
            f"{kernel.initrd} has no xen_blkfront",
            "the kernel takes the emulated disks away and finds no root file system"
            if mode == "hvm"
            else "the kernel finds no disk and stops before the root file system is mounted",
            "list xen-blkfront for the initrd and make it anew",
            _builder(subject) is not None and report.release is not None,
        )


def _lacks(kernel: GuestKernel) -> bool:
    report = kernel.report
    return bool(report and report.initrd and report.initrd.xen_blkfront.state == "missing")


def _builder(subject: Subject) -> str | None:
    if subject.root.arch not in ("x86_64", "i386", "unknown"):
        return None
    places = ("/usr/sbin", "/sbin", "/usr/bin", "/bin")
    for name in ("update-initramfs", "dracut"):
        if any(subject.files.stat(f"{place}/{name}") is not None for place in places):
            return name
    return None


def _builds_for_this_machine(subject: Subject) -> bool:
    files = subject.files
    texts = [files.peek("/etc/initramfs-tools/initramfs.conf")]
    for name in files.names("/etc/initramfs-tools/conf.d")[:50]:
        texts.append(files.peek(f"/etc/initramfs-tools/conf.d/{name}"))
    found = re.findall(r"(?m)^\s*MODULES\s*=\s*[\"']?(\w+)", "\n".join(texts))
    return bool(found) and found[-1] == "dep"


def _lists_modules(subject: Subject) -> bool:
    return "xen_blkfront" in _words(subject.files.peek(_LIST))


def _words(text: str) -> set[str]:
    lines = [line.partition("#")[0].split() for line in text.splitlines()]
    return {words[0].replace("-", "_") for words in lines if words}
