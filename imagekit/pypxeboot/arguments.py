"""The command line of pypxeboot, as four toolstacks write it.

- libxl: ``[--kernel=] [--ramdisk=] [--args=] [--runas= --quiet] --output= --output-format=simple0
  --output-directory= [bootloader_args ...] DISK`` (libxl_bootloader.c);
- libvirt: the same, with all of bootloader_args in one element, blanks and all (its libxl driver
  splits at the three-character separator blank-tab-newline, so not at all);
- xend: ``--args= -q --output=FIFO mac=...[,bridge=...] DISK`` (xend's BootLoader.py);
- a person: anything of these.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NoReturn

from imagekit.errors import HostError, SpecError
from imagekit.pypxeboot import profile
from imagekit.pypxeboot.handover import FORMATS

OUTPUT_DIRECTORY = Path("/var/run/xen/pypxeboot")
WHOLE = ("args", "kernel", "ramdisk", "output", "output-directory", "output-format")
"""Options of the toolstacks whose values may hold blanks and are never taken apart."""


VIF_PIECE = re.compile(r"(mac|bridge|ip|script|type|vifname|model|rate|backend)=")
"""xm users write ``bootargs = vif[0]``, and shlex cuts "mac=..., bridge=..." at its blank."""


@dataclass(frozen=True)
class Invocation:
    """A parsed command line. ``output`` None or "-" is standard output; ``kernel`` and ``ramdisk``
    replace the files the config names, ``args`` is added to its command line."""

    settings: profile.Settings
    disk: str
    output: str | None
    output_format: str
    output_directory: Path
    kernel: str
    ramdisk: str
    args: str
    quiet: bool


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SpecError(f"wrong arguments: {message}", hint="pypxeboot --help lists them")


def _parser() -> _Parser:
    parser = _Parser(
        prog="pypxeboot",
        allow_abbrev=False,
        description="A bootloader for Xen domUs that boots them by PXE, on their behalf.",
    )
    stack = parser.add_argument_group("given by the toolstack")
    stack.add_argument("--output")
    stack.add_argument("--output-format", choices=FORMATS, default="sxp")
    stack.add_argument("--output-directory", type=Path)
    stack.add_argument("--kernel", default="", help="this file instead of the config's kernel")
    stack.add_argument("--ramdisk", default="", help="this file instead of the config's initrd")
    stack.add_argument("--args", default="", help="added to the kernel's command line")
    stack.add_argument("-q", "--quiet", action="store_true")
    own = parser.add_argument_group("given by you, here or in a profile")
    own.add_argument("--profile", help=f"take settings from this table of {profile.PROFILE_FILE}")
    own.add_argument("--profile-file", type=Path, default=profile.PROFILE_FILE)
    for item in fields(profile.Settings):
        option = "--" + item.name.replace("_", "-")
        if isinstance(item.default, tuple):
            own.add_argument(option, action="append", metavar="ADDRESS")
        else:
            own.add_argument(option, type=type(item.default), metavar=item.name.upper())
    parser.add_argument("rest", nargs="*", metavar="[mac=MAC[,bridge=IF]] DISK")
    return parser


def parse(argv: Sequence[str]) -> Invocation:
    """Read ``argv`` (without the program's name); raises SpecError for what makes no sense."""
    given = _parser().parse_intermixed_args(_unpack(list(argv)))
    arguments: dict[str, object] = {}
    for item in fields(profile.Settings):
        value = getattr(given, item.name)
        if value is not None:
            arguments[item.name] = tuple(value) if isinstance(value, list) else value
    disk = _positionals(given.rest, arguments)
    table = profile.load_profile(given.profile, given.profile_file) if given.profile else {}
    return Invocation(
        settings=profile.merge(table, arguments),
        disk=disk,
        output=given.output,
        output_format=given.output_format,
        output_directory=_directory(given.output_directory),
        kernel=given.kernel,
        ramdisk=given.ramdisk,
        args=given.args,
        quiet=given.quiet,
    )


def output_path(argv: Sequence[str]) -> str | None:
    """What ``--output`` says, without judging the rest: it must be opened before all else."""
    words = list(argv)
    for number, word in enumerate(words):
        if word.startswith("--output="):
            return word.removeprefix("--output=")
        if word == "--output" and number + 1 < len(words):
            return words[number + 1]
    return None


def _unpack(words: list[str]) -> list[str]:
    """Split elements that hold several arguments, but neither the toolstack's own nor the disk."""
    result: list[str] = []
    for number, word in enumerate(words):
        previous = words[number - 1] if number else ""
        is_whole = word.startswith(tuple(f"--{name}=" for name in WHOLE))
        is_value = previous in tuple(f"--{name}" for name in WHOLE)
        is_last = number == len(words) - 1 and not word.lstrip().startswith(("--", "mac="))
        if is_whole or is_value or is_last or not any(char in word for char in " \t\n"):
            result.append(word)
            continue
        try:
            result += shlex.split(word)
        except ValueError as error:
            raise SpecError(f"cannot take {word[:80]!r} apart: {error}") from None
    return result


def _positionals(words: list[str], arguments: dict[str, object]) -> str:
    """Take ``mac=...,bridge=...`` out; the last of the others is the disk."""
    disks: list[str] = []
    for word in words:
        if not VIF_PIECE.match(word):
            disks.append(word)
            continue
        pairs = dict(part.strip().partition("=")[::2] for part in word.split(",") if part.strip())
        for key, name in (("mac", "mac"), ("bridge", "interface")):
            value = pairs.get(key, "").lower() if key == "mac" else pairs.get(key, "")
            if not value:
                continue
            known = arguments.setdefault(name, value)
            if str(known).lower() != value.lower():
                raise SpecError(f"two different values for {name}: {known} and {value}")
    if len(disks) > 1:
        raise SpecError(f"not understood: {disks[0][:80]!r}", hint="pypxeboot --help")
    return disks[0] if disks else ""


def _directory(given: Path | None) -> Path:
    if given is not None:
        return given
    try:
        OUTPUT_DIRECTORY.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(
            f"cannot make the output directory: {error.strerror}",
            where=str(OUTPUT_DIRECTORY),
            hint="run as root, or give --output-directory",
        ) from error
    return OUTPUT_DIRECTORY
