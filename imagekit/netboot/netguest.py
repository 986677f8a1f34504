"""A guest to be published for netbooting, checked."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from imagekit.errors import SpecError
from imagekit.host.addresses import is_server_address
from imagekit.pypxeboot.profile import mac_to_bytes

Mode = Literal["install", "local"]
MODES: tuple[Mode, ...] = ("install", "local")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")


@dataclass(frozen=True)
class NetbootGuest:
    """What publishing needs to know of one guest.

    ``args`` is the kernel's command line; ``{answers}`` in it becomes the URL of the answers and
    ``{done}`` the URL that the installer fetches at its end to flip the guest to ``local``.
    ``answers`` is the text of the preseed or kickstart, or a function that gets both URLs and
    returns it. ``secret`` answers get an unguessable URL that serves them once. ``mode`` None
    keeps what is published already (at first: install). Digests are SHA-256, hexadecimal, and
    checked when given.
    """

    name: str
    mac: str
    kernel: Path
    initrd: Path | None = None
    args: str = ""
    ip: str = ""
    answers: str | Callable[[str, str], str] | None = field(default=None, repr=False)
    answers_name: str = "preseed.cfg"
    secret: bool = True
    mode: Mode | None = None
    kernel_sha256: str = ""
    initrd_sha256: str = ""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise SpecError(f"{self.name!r} is no guest name", hint="letters, digits, _ . + -")
        mac_to_bytes(self.mac)
        if self.ip and not is_server_address(self.ip):
            raise SpecError(f"{self.ip!r} is not an IPv4 address", where=self.name)
        if not NAME.fullmatch(self.answers_name):
            raise SpecError(f"{self.answers_name!r} is no file name", where=self.name)
        check_arguments(self.args, self.name)

    @property
    def mac_dashes(self) -> str:
        """The MAC as boot loaders put it in file names: lower case, with dashes."""
        return mac_to_bytes(self.mac).hex("-")


def check_arguments(args: str, where: str) -> None:
    """Raise SpecError for kernel arguments that not every boot loader passes on unchanged."""
    if any(ord(char) < 0x20 or ord(char) > 0x7E for char in args):
        raise SpecError("only printable ASCII can stand in kernel arguments", where=where)
    for word in args.split(" "):
        if word.startswith("initrd=") or word in ("||", "&&", "-") or "${" in word:
            raise SpecError(f"{word!r} means something to a boot loader", where=where)
    if len(args) > 2047:
        raise SpecError("Linux takes at most 2047 bytes of arguments", where=where)
