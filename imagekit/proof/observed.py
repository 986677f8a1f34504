"""Turns what the lab brought back of a guest into the report's line about it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from imagekit.proof.boots import Trial
from imagekit.proof.console import read_console, tail
from imagekit.proof.diagnose import Evidence, diagnose, read_logs, read_text
from imagekit.proof.findings import findings_of
from imagekit.proof.freespace import full_file_systems
from imagekit.proof.guestmode import KINDS, from_kernel_log
from imagekit.proof.outcome import judged
from imagekit.proof.report import Boot, Failure
from imagekit.proof.session import Seen

VIRTFS = ".virtfs_metadata"  # QEMU hw/9pfs/9p-local.c, security_model=mapped-file
CREATE_LATE = -1
"""What the agent's call() gives for xl create when its time was up."""

CONNECTED = "4"  # XenbusStateConnected, xen/include/public/io/xenbus.h
_FRONTEND = re.compile(
    r'^/local/domain/\d+/device/(vbd|vif)/(\d{1,10})/(state|mac) = "([^"\n]{0,64})"', re.MULTILINE
)


def frontends(text: str) -> tuple[list[str], list[str]]:
    """Disks (xvda) and NICs (MAC) whose drivers in the guest are connected, from xenstore-ls -f."""
    keys = {(kind, int(number), key): value for kind, number, key, value in _FRONTEND.findall(text)}
    disks, nics = [], []
    for (kind, number, key), value in sorted(keys.items()):
        if key != "state" or value != CONNECTED:
            continue
        if kind == "vbd":
            disks.append(disk_name(number))
        else:
            nics.append(keys.get((kind, number, "mac"), f"vif{number}"))
    return disks, nics


def disk_name(number: int) -> str:
    """The name in the guest of a virtual block device's number (xen-vbd-interface(7))."""
    if number & 1 << 28:
        disk, part = number >> 8 & 0xFFFFF, number & 0xFF
    elif number >> 8 == 202:
        disk, part = number >> 4 & 15, number & 15
    elif number >> 8 in (3, 22):
        disk, part = (number >> 6 & 3) + (2 if number >> 8 == 22 else 0), number & 63
    elif number >> 8 == 8:
        disk, part = number >> 4 & 15, number & 15
    else:
        return f"vbd{number}"
    letters = ""
    disk += 1
    while disk:
        disk, rest = divmod(disk - 1, 26)
        letters = chr(ord("a") + rest) + letters
    return f"xvd{letters}{part or ''}"


def boot_of(seen: Seen, out: Path) -> Boot:
    """The report about ``seen``; the guest's logs are copied into ``out``/IDENT."""
    trial, config = seen.trial, seen.trial.config
    kept = out / trial.ident
    keep_logs(seen.directory, kept)
    console = _console(seen.directory)
    disks, nics = frontends(read_text(seen.directory / "xenstore.txt"))
    mode = from_kernel_log(console)
    evidence = mode.evidence if mode else _toolstack_type(seen.directory)
    given = _leases(seen)
    command = seen.result.get("command_status")
    full = _full(trial)
    failure = None
    if seen.verdict != "up":
        failure = diagnose(_evidence(seen, console, len(disks), full))
    elif command not in (None, 0):
        failure = Failure("command-failed", f"the guest is up and proof.command exits {command}")
    outcome, failure = judged(failure, seen.verdict, seen.allotment)
    create = seen.result.get("create_seconds")
    return Boot(
        ident=trial.ident,
        name=config.name,
        mode=config.mode,
        boot=config.boot,
        xen=trial.xen,
        toolstack=config.toolstack,
        format=trial.format,
        config=str(config.path),
        config_sha256=config.sha256,
        outcome=outcome,
        seconds=round(seen.seconds, 1) if seen.verdict == "up" else None,
        create_seconds=float(create) if isinstance(create, int | float) else None,
        guest_type=KINDS[mode.kind] if mode else None,
        evidence=evidence,
        disks=tuple(disks),
        nics=tuple(nics),
        dhcp={n.mac: _text(given.get(n.mac)) for n in config.nics if n.mac},
        stolen_seconds=round(seen.allotment.stolen, 1),
        restarts=int(seen.result.get("restarts", 0)),
        attempts=int(seen.result.get("attempts", 1)),
        console=str(kept / "console.log"),
        command_output=tuple(tail(read_text(seen.directory / "command.log"))),
        findings=findings_of(console, full),
        failure=failure,
    )


def _leases(seen: Seen) -> dict[str, object]:
    leases = seen.result.get("leases")
    return leases if isinstance(leases, dict) else {}


def keep_logs(source: Path, target: Path) -> None:
    """Copy a guest's logs, regular files only, over those of an earlier proof."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    (target / "console.log").touch()
    for path in sorted(source.rglob("*")):
        ours = path.suffix != ".part" and path.parent.name != VIRTFS
        if ours and path.is_file() and not path.is_symlink():
            shutil.copyfile(path, target / path.name)


def _console(directory: Path) -> str:
    return read_console(directory / "console.log") + read_console(directory / "serial.log")


def _full(trial: Trial) -> tuple[str, ...]:
    """The full file systems on the guest's first disk, each in words."""
    disk = next((d for d in trial.config.disks if d.path and not d.cdrom), None)
    if disk is None or disk.path is None:
        return ()
    return full_file_systems(trial.host_path(disk.path), disk.format)


def _evidence(seen: Seen, console: str, connected: int, full: tuple[str, ...]) -> Evidence:
    logs = seen.directory / "logs"
    others = "\n".join(read_logs(logs, name) for name in ("xen-hotplug", "qemu", "xl-"))
    toolstack = seen.trial.config.toolstack
    if toolstack == "xl":
        said = read_text(seen.directory / "xl.log")
    else:
        said = read_logs(logs, "libvirt-") + read_text(seen.directory / "virsh.log")
    error = seen.result.get("error")
    return Evidence(
        mode=seen.trial.config.mode,
        verdict=seen.verdict,
        created=seen.result.get("create_status") == 0,
        create_late=seen.result.get("create_status") == CREATE_LATE,
        console=console,
        xl=said,
        bootloader=read_logs(logs, "bootloader"),
        others=others,
        error=str(error)[:300] if error else None,
        disks_connected=connected,
        leased=next((a for a in _leases(seen).values() if isinstance(a, str)), None),
        full=full,
        toolstack=toolstack,
    )


def _toolstack_type(directory: Path) -> tuple[str, ...]:
    """What xl or libvirt says it built, where the guest's kernel is silent."""
    system = re.search(r"<type [^<>]*>(\w{1,20})</type>", read_text(directory / "domain.xml"))
    if system is not None:
        return (f"virsh dumpxml: os type {system[1]}",)
    try:
        value = json.loads((directory / "domain.json").read_bytes()[: 1 << 20])
        return (f"xl list -l: type {value[0]['config']['c_info']['type']}"[:100],)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return ()


def _text(value: object) -> str | None:
    return value[:64] if isinstance(value, str) else None
