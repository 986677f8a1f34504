"""What tests ask of a proof: its report, a guest that is up, the machines still running."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def report_of(directory: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((directory / "proof.json").read_text())
    return report


def assert_up(boot: dict[str, Any], kind: str) -> None:
    assert boot["ok"], boot["failure"]
    assert boot["outcome"] == "up"
    # Debian 12's PVH guests print a WARNING about XSAVE under Xen 4.20.
    assert [found for found in boot["findings"] if found["kind"] != "kernel-warning"] == []
    assert boot["guest_type"] == kind
    assert boot["evidence"]
    assert boot["disks"] == ["xvda"]
    (mac,) = boot["dhcp"]
    assert boot["nics"] == [mac]
    assert boot["dhcp"][mac].startswith("198.18.0.")
    console = Path(boot["console"]).read_text(errors="replace")
    assert "web01 login:" in console
    for sign in ("segfault", "general protection", "traps:"):
        assert sign not in console


def machines(cache: Path) -> list[str]:
    """Process ids of every QEMU that works below ``cache``: the host's, or the lab's own."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                argv = (entry / "cmdline").read_bytes()
                at = (entry / "cwd").readlink()  # it names its files from there
            except OSError:
                continue
            # The lab's is started by its own dynamic linker: LINKER --library-path LIBRARIES QEMU.
            words = argv.split(b"\0")
            qemu = any(word.endswith((b"/qemu", b"qemu-system-x86_64")) for word in words[:4])
            if qemu and (str(cache).encode() in argv or at.is_relative_to(cache)):
                found.append(entry.name)
    return found
