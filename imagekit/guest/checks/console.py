"""Consoles and logins: hvc0 for PV and PVH (drivers/tty/hvc/hvc_xen.c), ttyS0 for HVM."""

from __future__ import annotations

import re
from collections.abc import Iterator

from imagekit.guest.checks.fstab import edit_kernel_lines
from imagekit.guest.findings import Finding, Subject

_CONSOLE = re.compile(r"(?<!\S)console=([^\s,]+)\S*")
_MASKS = (
    "/etc/systemd/system/serial-getty@hvc0.service",
    "/etc/systemd/system/serial-getty@.service",
)
_INITTAB = "hvc0:2345:respawn:/sbin/getty 38400 hvc0\n"
_VARIABLE = re.compile(r'(?m)^(GRUB_CMDLINE_LINUX=)(["\']?)(.*?)\2[ \t]*$')


def find(subject: Subject) -> Iterator[Finding]:
    """Default entry without hvc0, and no login on it."""
    entry = subject.inspection.default_entry or subject.inspection.grub_default
    pv_like = [mode for mode in ("pv", "pvh") if mode in subject.modes]
    consoles = _CONSOLE.findall(entry.args) if entry else []
    if entry and pv_like and "hvc0" not in consoles:
        silent = bool(consoles)
        yield Finding(
            "console",
            "warning" if silent else "info",
            "pv" if "pv" in pv_like else "pvh",
            f"{entry.config}: the default entry has no console=hvc0"
            + (f" but console={', '.join(consoles)}" if silent else ""),
            "xl console stays dark while the guest boots"
            if silent
            else "the kernel chooses hvc0 by itself; messages may still go to a screen nobody sees",
            "add console=hvc0 to the kernel's command line",
            fixable=True,
        )
    if "hvm" in subject.modes and entry and consoles and not _seen_on_hvm(consoles):
        yield Finding(
            "console-hvm",
            "info",
            "hvm",
            f"{entry.config}: consoles {', '.join(consoles)}, none of them tty0 or ttyS0",
            "neither VNC nor the emulated serial port shows the boot",
            "add console=tty0 or console=ttyS0,115200n8",
        )
    if pv_like:
        yield from _logins(subject)


def fix_console(subject: Subject) -> None:
    """console=hvc0 in every kernel line and in the variable that update-grub reads."""
    edit_kernel_lines(subject, with_hvc0)
    text = subject.files.text("/etc/default/grub")
    if text is not None:
        subject.files.write_text("/etc/default/grub", default_with_hvc0(text))


def with_hvc0(line: str) -> str:
    """A kernel line with console=hvc0: before a serial console, else last (the last one that exists
    becomes /dev/console)."""
    consoles = list(_CONSOLE.finditer(line))
    if any(match[1] == "hvc0" for match in consoles):
        return line
    serial = next((match for match in consoles if match[1].startswith("ttyS")), None)
    if serial:
        return f"{line[: serial.start()]}console=hvc0 {line[serial.start() :]}"
    body = line.rstrip("\r\n")
    ending = line[len(body) :]
    first = "" if consoles else " console=tty0"
    return f"{body.rstrip()}{first} console=hvc0{ending}"


def default_with_hvc0(text: str) -> str:
    """/etc/default/grub with console=hvc0 in GRUB_CMDLINE_LINUX."""
    match = _VARIABLE.search(text)
    if match is None:
        newline = "" if not text or text.endswith("\n") else "\n"
        return f'{text}{newline}GRUB_CMDLINE_LINUX="console=tty0 console=hvc0"\n'
    value = with_hvc0(match[3]).strip()
    quote = match[2] or '"'
    return f"{text[: match.start()]}{match[1]}{quote}{value}{quote}{text[match.end() :]}"


def fix_login(subject: Subject) -> None:
    """Unmask systemd's getty, or give SysV's inittab a line; list hvc0 as a terminal for root."""
    files = subject.files
    for mask in _MASKS:
        if _is_masked(subject, mask):
            files.remove(mask)
    inittab = files.text("/etc/inittab")
    if inittab is not None and not _has_systemd(subject) and not _runs_getty(inittab):
        newline = "" if inittab.endswith("\n") else "\n"
        files.write_text("/etc/inittab", f"{inittab}{newline}{_INITTAB}")
    securetty = files.text("/etc/securetty")
    if securetty is not None and "hvc0" not in securetty.split():
        newline = "" if securetty.endswith("\n") or not securetty else "\n"
        files.write_text("/etc/securetty", f"{securetty}{newline}hvc0\n")


FIXES = {"console": fix_console, "getty": fix_login}


def _seen_on_hvm(consoles: list[str]) -> bool:
    return any(name.startswith(("tty0", "ttyS")) for name in consoles)


def _logins(subject: Subject) -> Iterator[Finding]:
    files = subject.files
    reasons = [f"{mask} is masked" for mask in _MASKS if _is_masked(subject, mask)]
    inittab = files.peek("/etc/inittab")
    if inittab and not _has_systemd(subject) and not _runs_getty(inittab):
        reasons.append("/etc/inittab starts no getty on hvc0")
    securetty = files.peek("/etc/securetty")
    if securetty.strip() and "hvc0" not in securetty.split():
        reasons.append("/etc/securetty does not list hvc0")
    if reasons:
        yield Finding(
            "getty",
            "warning",
            "pv" if "pv" in subject.modes else "pvh",
            "; ".join(reasons),
            "nobody can log in on xl console",
            "start a getty on hvc0 and list it in /etc/securetty",
            fixable=True,
        )


def _runs_getty(inittab: str) -> bool:
    lines = [line for line in inittab.splitlines() if not line.lstrip().startswith("#")]
    return any("hvc0" in line for line in lines)


def _has_systemd(subject: Subject) -> bool:
    paths = ("/lib/systemd/systemd", "/usr/lib/systemd/systemd")
    return any(subject.files.stat(path) is not None for path in paths)


def _is_masked(subject: Subject, path: str) -> bool:
    status = subject.files.lstat(path)
    if status is None:
        return False
    if status.is_link:
        return subject.files.readlink(path) == "/dev/null"
    return status.is_file and status.size == 0
