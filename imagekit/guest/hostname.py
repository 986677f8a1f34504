"""A guest's own name in its files: hostname(5), hosts(5), /etc/sysconfig/network of older RHEL."""

from __future__ import annotations

import re

from imagekit.guest.files import GuestFiles


def set_hostname(files: GuestFiles, name: str) -> None:
    """Name the guest ``name`` (short or with its domain); raises GuestError."""
    old = (files.text("/etc/hostname") or "").strip().split("\n")[0].strip()
    short = name.partition(".")[0]
    debian = files.lstat("/etc/debian_version") is not None
    files.write("/etc/hostname", f"{short if debian else name}\n".encode())
    if files.lstat("/etc/HOSTNAME") is not None:  # SUSE before 13
        files.write("/etc/HOSTNAME", f"{name}\n".encode())
    network = files.text("/etc/sysconfig/network")
    if network is not None and re.search(r"(?m)^\s*HOSTNAME=", network):
        changed = re.sub(r"(?m)^\s*HOSTNAME=.*$", f"HOSTNAME={name}", network)
        files.write_text("/etc/sysconfig/network", changed)
    hosts = files.text("/etc/hosts")
    changed = edit_hosts(hosts or "", old, name, own_line=debian)
    if changed != (hosts or ""):
        files.write_text("/etc/hosts", changed)


def edit_hosts(text: str, old: str, name: str, *, own_line: bool) -> str:
    """hosts(5) ``text`` in which ``name`` takes the place of ``old`` and its aliases.

    With ``own_line`` the line for 127.0.1.1 names it, as Debian has it (Debian Reference 5.1.1);
    without, names other than localhost are only replaced where they stand.
    """
    short = name.partition(".")[0]
    names = [name] if short == name else [name, short]
    old_names = {old, old.partition(".")[0]} - {"", "localhost"}
    lines, done, written_local = [], False, False
    for line in text.splitlines():
        body, mark, comment = line.partition("#")
        fields = body.split()
        if own_line and fields[:1] == ["127.0.1.1"]:
            if done:
                continue
            lines.append(_line("127.0.1.1", names, mark + comment))
            done = True
        elif fields and fields[0] in ("127.0.0.1", "::1") and old_names & set(fields[1:]):
            kept = [f for f in fields[1:] if f.partition(".")[0] not in old_names]
            extra = [] if own_line else names
            lines.append(_line(fields[0], [*kept, *extra] or ["localhost"], mark + comment))
        elif fields and old_names & set(fields[1:]):
            lines.append(_line(fields[0], _replaced(fields[1:], old_names, names), mark + comment))
        else:
            lines.append(line)
        written_local = written_local or fields[:1] == ["127.0.0.1"]
    if not written_local:
        lines.insert(0, "127.0.0.1\tlocalhost")
    if own_line and not done:
        at = next(i for i, line in enumerate(lines) if line.split()[:1] == ["127.0.0.1"])
        lines.insert(at + 1, _line("127.0.1.1", names, ""))
    return "\n".join(lines) + "\n"


def _replaced(words: list[str], old: set[str], names: list[str]) -> list[str]:
    kept = [word for word in words if word.partition(".")[0] not in old]
    return [*names, *kept]


def _line(address: str, names: list[str], comment: str) -> str:
    text = f"{address}\t{' '.join(dict.fromkeys(names))}"
    return f"{text} {comment}" if comment else text
