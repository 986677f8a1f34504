"""Boot configs for one guest: PXELINUX, iPXE and GRUB, each read back or quoted for its grammar.

Sources: SYSLINUX documentation ("PXELINUX"), iPXE "Command reference", GRUB manual ("Network",
"Shell-like scripting").
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from imagekit.errors import SpecError
from imagekit.netboot.netguest import Mode
from imagekit.pypxeboot import pxelinux
from imagekit.pypxeboot.entry import LocalBoot

HEADER = "# Written by imagekit; a change made here is lost.\n"


@dataclass(frozen=True)
class BootFacts:
    """What the configs of one guest say. ``kernel`` and ``initrd`` are paths below the TFTP root
    (``initrd`` "" for none); ``prefix`` goes before them for TFTP, ``http`` before them for HTTP.
    """

    mode: Mode
    mac: str
    ip: str
    kernel: str
    initrd: str
    args: str
    prefix: str
    http: str


def configs(facts: BootFacts) -> dict[str, str]:
    """All config files of a guest, by their path below the TFTP root."""
    names = ["01-" + facts.mac]
    if facts.ip:
        names.append(f"{int(IPv4Address(facts.ip)):08X}")
    files = {f"ipxe/{facts.mac}.ipxe": ipxe_script(facts)}
    for name in names:
        files[f"pxelinux.cfg/{name}"] = pxelinux_config(facts)
        files[f"grub/grub.cfg-{name}"] = grub_config(facts)
    return files


def entry_script() -> str:
    """The iPXE script all guests share: it goes on to the guest's own."""
    return "#!ipxe\nchain ipxe/${net0/mac:hexhyp}.ipxe\n"


def pxelinux_config(facts: BootFacts) -> str:
    """A PXELINUX config, read back with our own parser before it is given out."""
    if facts.mode == "local":
        return f"{HEADER}default local\nprompt 0\nlabel local\n  localboot 0\n"
    initrd = f"initrd={facts.prefix}{facts.initrd} " if facts.initrd else ""
    append = f"{initrd}{facts.args}".strip()
    text = (
        f"{HEADER}default install\nprompt 0\nlabel install\n"
        f"  kernel {facts.prefix}{facts.kernel}\n"
        f"  append {append or '-'}\n  ipappend 2\n"
    )
    found = pxelinux.choose(pxelinux.parse(text))
    if isinstance(found, LocalBoot) or (found.kernel, found.args) != (
        facts.prefix + facts.kernel,
        facts.args,
    ):
        raise SpecError("a PXELINUX config cannot say this", where=facts.args)
    return text


def ipxe_script(facts: BootFacts) -> str:
    """An iPXE script; files come over HTTP when there is an HTTP server."""
    if facts.mode == "local":
        return f"#!ipxe\n{HEADER}sanboot --no-describe --drive 0x80\n"
    base = facts.http or f"tftp://${{next-server}}/{facts.prefix.lstrip('/')}".rstrip("/")
    lines = [f"kernel {base}/{facts.kernel} {facts.args}".rstrip()]
    if facts.initrd:
        lines[0] += f" initrd={facts.initrd.rsplit('/', 1)[-1]}"
        lines.append(f"initrd {base}/{facts.initrd}")
    return f"#!ipxe\n{HEADER}" + "\n".join([*lines, "boot", ""])


def grub_config(facts: BootFacts) -> str:
    """A config for GRUB's network images (grub-mknetdir), which look for grub.cfg-01-MAC."""
    if facts.mode == "local":
        return (
            f'{HEADER}if [ "$grub_platform" = efi ]; then\n  exit\nelse\n'
            "  set root=(hd0)\n  chainloader +1\n  boot\nfi\n"
        )
    root = "/" + facts.prefix.lstrip("/")
    words = " ".join(quote_grub(word) for word in facts.args.split())
    lines = [f"linux {quote_grub(root + facts.kernel)} {words}".rstrip()]
    if facts.initrd:
        lines.append(f"initrd {quote_grub(root + facts.initrd)}")
    return HEADER + "\n".join([*lines, "boot", ""])


def quote_grub(word: str) -> str:
    """One word for GRUB's shell; plain words stay as they are."""
    if word and all(char.isalnum() or char in "/._-=:,+@%" for char in word):
        return word
    return "'" + word.replace("'", "'\\''") + "'"
