"""Families of installers: how each is told apart, and where it wants its answers.

Sources: debian-installer's initrd-preseed.sh (/preseed.cfg in the initrd is read first of all),
Anaconda's boot options (inst.ks=file:, ks= before RHEL 7), Subiquity's autoinstall quick start
(NoCloud seed named by ds=nocloud;s=).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from imagekit.answers.render import Kind
from imagekit.disk.isoread import Iso
from imagekit.errors import ImageError

CONSOLES = ("console=tty0", "console=ttyS0,115200n8")


@dataclass(frozen=True)
class Placement:
    """Files for the initrd (name to mode 0600 text), files for the ISO, and kernel arguments."""

    initrd: dict[str, str] = field(default_factory=dict)
    iso: dict[str, str] = field(default_factory=dict)
    args: tuple[str, ...] = ()


def family_of(iso: Iso) -> Kind:
    """Which kind of answers the installer on ``iso`` takes; ImageError for an unknown one."""
    names = iso.files
    if iso.has("/.discinfo") or iso.has("/.treeinfo") or "/images/pxeboot" in names:
        return "kickstart"
    if "/casper" in names:
        return "autoinstall"
    if any(n.startswith("/install") and n.endswith("/initrd.gz") for n in names):
        return "preseed"
    if iso.has("/initrd.gz") and iso.has("/linux"):  # mini.iso
        return "preseed"
    raise ImageError(
        "this is no installer that imagekit knows",
        where=str(iso.path),
        hint="Debian (netinst, DVD, mini), Ubuntu live server, RHEL family and Fedora are known",
    )


def placement(kind: Kind, answers: str, release: str = "") -> Placement:
    """Where ``answers`` go. ``release`` (RHEL6) decides how Anaconda spells its options."""
    if kind == "preseed":
        # On a dumb terminal the installer prints lines; on another it starts screen(1), whose
        # clock would look like a sign of life.
        frontend = ("DEBIAN_FRONTEND=text", "TERM=dumb")
        words = ("auto=true", "priority=critical", *frontend, *CONSOLES)
        return Placement(initrd={"preseed.cfg": answers}, args=words)
    if kind == "kickstart":
        old = release in ("RHEL5", "RHEL6")
        options = ("ks=file:/ks.cfg",) if old else ("inst.ks=file:/ks.cfg", "inst.text")
        return Placement(initrd={"ks.cfg": answers}, args=(*options, *CONSOLES))
    seed = {"/autoinstall/user-data": answers, "/autoinstall/meta-data": ""}
    args = ("autoinstall", "ds=nocloud;s=/cdrom/autoinstall/", *CONSOLES)
    return Placement(iso=seed, args=args)
