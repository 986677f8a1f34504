"""Names the likely cause when a guest did not come up, from what each program said.

The sentences are those of Xen 4.17 (tools/libs/light, tools/libs/guest, tools/hotplug/Linux),
pygrub, initramfs-tools, dracut and the Linux kernel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from imagekit.proof.circling import ATTEMPTS
from imagekit.proof.console import clean, read_console, tail
from imagekit.proof.report import Failure

MAX_LOG_BYTES = 1 << 20
MAX_LINE = 400
MAX_LINES = 20000


@dataclass(frozen=True)
class Evidence:
    """What there is to judge by: texts are clean, ``frontends`` counts connected disks."""

    mode: str
    verdict: str
    created: bool
    console: str
    xl: str
    bootloader: str
    others: str = ""
    error: str | None = None
    disks_connected: int = 0
    disks: int = 0


@dataclass(frozen=True)
class Cause:
    """A cause that is known: ``pattern`` in the ``source`` text shows it."""

    word: str
    source: str
    pattern: re.Pattern[str]
    message: str
    hint: str


def _cause(word: str, source: str, pattern: str, message: str, hint: str) -> Cause:
    return Cause(word, source, re.compile(pattern, re.MULTILINE), message, hint)


CREATE_CAUSES = (
    _cause(
        "netboot-failed",
        "bootloader",
        r"^pypxeboot: (?!(?:address|config|script|kernel|initrd|warning:) )",
        "pypxeboot could not bring what the boot server has for this guest",
        "its last words are below; the guest's MAC must be published in the tree",
    ),
    _cause(
        "pygrub-no-entry",
        "bootloader",
        r"Unable to find partition containing kernel",
        "pygrub found no bootloader config with a kernel on the disk",
        "imagekit inspect shows what pygrub can read; --boot direct or pvgrub does not need it",
    ),
    _cause(
        "pygrub-failed",
        "bootloader",
        r"^\w{0,40}(?:Error|Exception)\b",
        "pygrub failed",
        "the bootloader's log below has its last words",
    ),
    _cause(
        "bridge-missing",
        "all",
        r"Could not find bridge device",
        "the config names a bridge that dom0 does not have; the lab has xenbr0",
        "name the bridge that the dom0 has, or make it there",
    ),
    _cause(
        "kernel-without-note",
        "xl",
        r"(?:no loader found|[Nn]o ELF notes|image not capable of booting inside a HVM"
        r"|not a Xen-ELF image|Not a Xen|is not a xen-|Missing 'LOADER|No PVH ELF note"
        r"|xc_dom_find_loader|unsupported ELF note|PVH only requires one ELF note"
        r"|ERROR: Unknown|will only boot in)",
        "the kernel has no entry point (ELF note) for this mode",
        "imagekit kernel shows which modes it can boot in",
    ),
    _cause(
        "memory",
        "xl",
        r"not enough memory|failed to free memory|Cannot allocate memory",
        "dom0 has too little memory for the guest",
        "give the guest less memory",
    ),
    _cause(
        "image-damaged",
        "all",
        r"Image is corrupt|Could not open '|qcow2: |does not support reading",
        "dom0's QEMU cannot read the disk image",
        "qemu-img check tells more",
    ),
)
_ALERT = re.compile(r"ALERT! ")
_ROOT_LOST = re.compile(
    r"Gave up waiting for root|Unable to mount root fs|Cannot open root device"
    r"|Warning: /dev/\S+ does not exist"
)
_PANIC = re.compile(r"Kernel panic - not syncing")
_SHELL = re.compile(r"You are in (?:emergency|rescue) mode|Entering emergency mode")
_CMDLINE_ROOT = re.compile(r"ommand line:[^\n]*?\broot=(\S+)")
_BLKFRONT = re.compile(r"blkfront: (\w+):|\bxvd[a-z]+\d*: ")


def diagnose(evidence: Evidence) -> Failure:
    """The failure of a guest that is not up."""
    evidence = replace(
        evidence,
        console=bounded(evidence.console),
        xl=bounded(evidence.xl),
        bootloader=bounded(evidence.bootloader),
        others=bounded(evidence.others),
    )
    found = _created(evidence) if evidence.created else _refused(evidence)
    word, message, hint, line = found
    return Failure(
        word,
        message,
        hint,
        line.strip()[:300] if line else None,
        console=tuple(tail(evidence.console)),
        bootloader=tuple(tail(evidence.bootloader, 8)) if not evidence.created else (),
        xl=tuple(_complaints(evidence.xl) or ([] if evidence.created else tail(evidence.xl, 5))),
    )


def bounded(text: str) -> str:
    """``text`` with its last lines only, none of them long: hostile logs cost no time then."""
    lines = (line[:MAX_LINE] for line in text.splitlines()[-MAX_LINES:])
    return "\n".join(lines)


def _line(text: str, match: re.Match[str]) -> str:
    """The whole line in which ``match`` begins."""
    start = text.rfind("\n", 0, match.start()) + 1
    return text[start:].split("\n", 1)[0]


_Found = tuple[str, str, str | None, str | None]


def _refused(evidence: Evidence) -> _Found:
    texts = {
        "bootloader": evidence.bootloader,
        "xl": evidence.xl,
        "all": "\n".join((evidence.xl, evidence.bootloader, evidence.others)),
    }
    for cause in CREATE_CAUSES:
        match = cause.pattern.search(texts[cause.source])
        if match:
            return cause.word, cause.message, cause.hint, _line(texts[cause.source], match)
    if evidence.error:
        return "lab", f"the guest could not be tried: {evidence.error}", None, None
    return "create-failed", "xl refused to start the guest", "xl's own words are below", None


def _created(evidence: Evidence) -> _Found:
    console = evidence.console
    lost = _ALERT.search(console) or _ROOT_LOST.search(console)
    if lost:
        if not evidence.disks_connected and not _BLKFRONT.search(console):
            return (
                "no-blkfront",
                "the guest's kernel has no driver for its disk: xen-blkfront is not in the initrd",
                "add xen-blkfront to the initrd (install.initrd_modules), or rebuild it",
                _line(console, lost),
            )
        root = _CMDLINE_ROOT.search(console)
        named = f"root={root[1]}" if root else "its root="
        return (
            "root-not-found",
            f"the guest sees its disk but not its root file system: {named} names none on it",
            "compare it with the UUIDs on the disk (imagekit inspect)",
            _line(console, lost),
        )
    panic = _PANIC.search(console)
    if panic:
        return "kernel-panic", "the guest's kernel panicked", None, _line(console, panic)
    shell = _SHELL.search(console)
    if shell:
        return (
            "emergency-mode",
            "the guest stopped in its emergency shell",
            "a file system in /etc/fstab, or a service needed for booting, failed",
            _line(console, shell),
        )
    if evidence.verdict == "circling":
        return (
            "firmware-lost",
            "the guest's firmware or boot loader ran in a circle that changes no register, in each"
            f" of {ATTEMPTS} attempts",
            "prove it again, or with --boot direct; a boot loader that hangs looks the same",
            None,
        )
    if evidence.error:
        return "lab", f"the guest could not be watched: {evidence.error}", None, None
    if not console.strip():
        return _silent(evidence)
    if evidence.verdict in ("gone", "restarts for ever"):
        how = "ended by itself" if evidence.verdict == "gone" else "restarted again and again"
        return "guest-ended", f"the guest {how} before it was up", None, None
    return (
        "timeout",
        "the guest was not up in time",
        "a longer --timeout, or proof.expect where no login prompt is shown",
        None,
    )


def _silent(evidence: Evidence) -> _Found:
    if evidence.mode == "hvm":
        return (
            "silent",
            "nothing came over the serial port",
            'the config needs serial="pty" and the guest console=ttyS0',
            None,
        )
    crash = re.search(r"domain_crash|Unhandled|Triple fault", evidence.others)
    return (
        "silent",
        "nothing came over the guest's console",
        "the guest's kernel needs console=hvc0",
        _line(evidence.others, crash) if crash else None,
    )


def _complaints(text: str) -> list[str]:
    """The lines of xl's log that are complaints, the last ones."""
    lines = [x for x in text.splitlines() if re.match(r"\w+: (?:error|panic|warning):", x)]
    return lines[:8]


def read_logs(directory: Path, prefix: str) -> str:
    """The clean text of the logs in ``directory`` whose names begin with ``prefix``."""
    texts = []
    for path in sorted(directory.glob(f"{prefix}*"))[:20] if directory.is_dir() else []:
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as stream:
                texts.append(clean(stream.read(MAX_LOG_BYTES)))
    return "\n".join(texts)


def read_text(path: Path) -> str:
    """One log as clean text, "" when it is not there."""
    return read_console(path)[:MAX_LOG_BYTES]
