"""Names the likely cause when a guest did not come up, from what each program said.

The sentences are those of Xen 4.17 (tools/libs/light, tools/libs/guest, tools/hotplug/Linux) and
pygrub; what guests themselves say is read in imagekit.proof.stuck.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from imagekit.proof.circling import ATTEMPTS
from imagekit.proof.console import clean, read_console, tail
from imagekit.proof.report import Failure
from imagekit.proof.stuck import stuck_for_good, stuck_so_far, whole_line
from imagekit.spec.model import ProofToolstack

MAX_LOG_BYTES = 1 << 20
MAX_LINE = 400
MAX_LINES = 20000


@dataclass(frozen=True)
class Evidence:
    """What there is to judge by; texts are clean. ``xl`` is what the ``toolstack`` itself says.

    ``disks_connected`` counts disks that the guest's own driver took. ``create_late``: xl create
    did not end in time. ``leased`` is an address that DHCP gave the guest itself, ``full`` are
    the full file systems of its image, in words.
    """

    mode: str
    verdict: str
    created: bool
    console: str
    xl: str
    bootloader: str
    others: str = ""
    error: str | None = None
    disks_connected: int = 0
    create_late: bool = False
    leased: str | None = None
    full: tuple[str, ...] = ()
    toolstack: ProofToolstack = "xl"

    @property
    def starter(self) -> str:
        """What is called to start a guest."""
        return "xl create" if self.toolstack == "xl" else "virsh start"


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
        "not-defined",
        "xl",
        r"^error: Failed to define domain",
        "libvirt does not take the domain's XML",
        "virsh's own words are below",
    ),
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
        "kernel-compression",
        "xl",
        r"unknown compression format|decompress support unavailable|unable to \w+ decompress kernel"
        r"|ZSTD: ",
        "this Xen cannot unpack the guest's kernel",
        "zstd needs Xen 4.15: pack the kernel with gzip or xz, or give Xen the plain vmlinux",
    ),
    _cause(
        "kernel-without-note",
        "xl",
        r"(?:no loader found|[Nn]o ELF notes|image not capable of booting inside a HVM"
        r"|not a Xen-ELF image|Not a Xen|is not a xen-|Missing 'LOADER|No PVH ELF note"
        r"|unsupported ELF note|PVH only requires one ELF note"
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
        "no-firmware",
        "xl",
        r"failed to read BIOS file",
        "dom0 does not have the firmware that the config asks for",
        "UEFI needs the package ovmf there, BIOS the package seabios",
    ),
    _cause(
        "format-unsupported",
        "all",
        r"Unknown driver '[a-z0-9]{1,20}'",
        "dom0's QEMU has no driver for the format of the disk",
        "that of Debian 13 reads no VHD; imagekit convert makes raw or qcow2",
    ),
    _cause(
        "image-damaged",
        "all",
        r"Image is corrupt|Could not open '|qcow2: |does not support reading",
        "dom0's QEMU cannot read the disk image",
        "qemu-img check tells more",
    ),
)


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
    said = tuple(_complaints(evidence) or ([] if evidence.created else tail(evidence.xl, 5)))
    return Failure(
        word,
        message,
        hint,
        line.strip()[:300] if line else None,
        console=tuple(tail(evidence.console)),
        bootloader=tuple(tail(evidence.bootloader, 8)) if not evidence.created else (),
        xl=said if evidence.toolstack == "xl" else (),
        libvirt=said if evidence.toolstack == "libvirt" else (),
    )


def bounded(text: str) -> str:
    """``text`` with its last lines only, none of them long: hostile logs cost no time then."""
    lines = (line[:MAX_LINE] for line in text.splitlines()[-MAX_LINES:])
    return "\n".join(lines)


_PV_CONSOLE = "console=hvc0 for its kernel"
_CONSOLES = {
    "hvm": 'serial="pty" in its config and console=ttyS0 for its kernel',
    "bare": "console=ttyS0 for its kernel",
}
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
            return cause.word, cause.message, cause.hint, whole_line(texts[cause.source], match)
    hint = f"{evidence.toolstack}'s own words are below"
    if evidence.create_late:
        return "create-late", f"{evidence.starter} did not end in time", hint, None
    if evidence.error:
        return "lab", f"the guest could not be tried: {evidence.error}", None, None
    return "create-failed", f"{evidence.toolstack} refused to start the guest", hint, None


def _created(evidence: Evidence) -> _Found:
    console = evidence.console
    driver = None if evidence.mode == "bare" else "xen-blkfront"
    stuck = stuck_for_good(console, evidence.disks_connected, driver, evidence.full)
    if stuck is not None:
        return stuck.word, stuck.message, stuck.hint, stuck.line
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
    if evidence.leased is None and not console.strip():
        return _silent(evidence)
    if evidence.verdict in ("gone", "restarts for ever"):
        how = "ended by itself" if evidence.verdict == "gone" else "restarted again and again"
        return "guest-ended", f"the guest {how} before it was up", None, None
    return _late(evidence)


def _late(evidence: Evidence) -> _Found:
    stuck = stuck_so_far(evidence.console, evidence.full)
    if stuck is not None:
        return stuck.word, stuck.message, stuck.hint, stuck.line
    if evidence.leased:
        return (
            "no-console",
            f"the guest runs and DHCP gave it {evidence.leased}, but its console shows no login",
            f"the guest needs {_CONSOLES.get(evidence.mode, _PV_CONSOLE)}, and a getty there",
            None,
        )
    return (
        "timeout",
        "the guest was not up in time",
        "a longer --timeout, or proof.expect where no login prompt is shown",
        None,
    )


def _silent(evidence: Evidence) -> _Found:
    if evidence.mode in _CONSOLES:
        return (
            "silent",
            "nothing came over the serial port",
            f"the guest needs {_CONSOLES[evidence.mode]}",
            None,
        )
    if evidence.disks_connected:
        return (
            "no-console",
            "the guest runs and has taken its disk, but nothing came over its console",
            f"the guest needs {_PV_CONSOLE}, and a getty there",
            None,
        )
    crash = re.search(r"domain_crash|Unhandled|Triple fault", evidence.others)
    return (
        "silent",
        "nothing came over the guest's console",
        f"the guest needs {_PV_CONSOLE}",
        whole_line(evidence.others, crash) if crash else None,
    )


_COMPLAINT = {
    "xl": re.compile(r"\w+: (?:error|panic|warning):"),
    "libvirt": re.compile(r"error: \S|[-0-9]{10} [0-9:.+]+: (?:libxl|xc): "),
}
"""How lines of xl begin; those of virsh, and of libxl as libvirt logs it, errors only."""


def _complaints(evidence: Evidence) -> list[str]:
    """The lines of the toolstack's log that are complaints, the first ones."""
    lines = evidence.xl.splitlines()
    return [line for line in lines if _COMPLAINT[evidence.toolstack].match(line)][:8]


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
