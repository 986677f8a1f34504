"""PXELINUX: which config files a client looks for, and what a config file tells it to boot.

Source: SYSLINUX 6 documentation ("Config", "PXELINUX", "Menu") and the man page of pxelinux.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from uuid import UUID

from imagekit.errors import SpecError
from imagekit.pypxeboot.entry import BootEntry, LocalBoot

MAX_CONFIG = 256 * 1024
MAX_LINE = 8192
MAX_LABELS = 1024
MAX_INCLUDE_DEPTH = 8
MAX_INCLUDES = 64

KERNEL_WORDS = ("kernel", "linux")
IGNORED_CONSOLE = (
    "allowoptions",
    "console",
    "display",
    "font",
    "kbdmap",
    "nohalt",
    "prompt",
    "say",
)
IGNORED_OTHER = ("fdt", "fdtdir", "implicit", "nocomplete", "noescape", "onerror", "path", "serial")
IGNORED_TIMES = ("sendcookies", "timeout", "totaltimeout", "endtext")
IGNORED = frozenset(
    (*IGNORED_CONSOLE, *IGNORED_OTHER, *IGNORED_TIMES, *(f"f{key}" for key in range(13)))
)
FOREIGN_KERNELS = frozenset(("boot", "bss", "com32", "comboot", "config", "fdimage", "pxe"))
MENU_PROGRAM = re.compile(r"(^|/)(vesa)?menu\.c32$", re.IGNORECASE)
CHAIN_PROGRAM = re.compile(r"(^|/)(chain|localboot)\.c32$", re.IGNORECASE)

IPAPPEND_IP, IPAPPEND_BOOTIF, IPAPPEND_UUID = 1, 2, 4


def search_order(
    mac: bytes, address: str = "", uuid: UUID | None = None, named: str = ""
) -> list[str]:
    """The config files to try, relative to the prefix, first to last.

    ``named`` is DHCP option 209. ``address`` is dotted, "" when the guest has none yet.
    """
    names = [named] if named else []
    if uuid is not None:
        names.append(f"pxelinux.cfg/{uuid}")
    names.append("pxelinux.cfg/01-" + mac.hex("-"))
    if address:
        digits = f"{int(IPv4Address(address)):08X}"
        names += [f"pxelinux.cfg/{digits[:length]}" for length in range(8, 0, -1)]
    return [*names, "pxelinux.cfg/default"]


@dataclass
class Label:
    """One ``label`` section; None means the section does not say."""

    name: str
    kernel: str | None = None
    append: str | None = None
    initrd: str | None = None
    ipappend: int | None = None
    localboot: bool = False
    is_default: bool = False
    unsupported: str = ""


@dataclass
class Config:
    """A parsed config with its includes; ``globals`` holds what stands before any label."""

    labels: list[Label] = field(default_factory=list)
    globals: Label = field(default_factory=lambda: Label(""))
    default: str = ""
    ontimeout: str = ""
    ui: str = ""

    def find(self, name: str) -> Label | None:
        """The label called ``name``, blanks in names being one blank; the first one wins."""
        wanted = " ".join(name.split())
        return next((label for label in self.labels if label.name == wanted), None)


def parse(text: str, load: Callable[[str], str] | None = None, *, where: str = "") -> Config:
    """Read a config file; ``load`` fetches the text of an included one by its name.

    Raises SpecError with file and line for what is wrong or endless in it.
    """
    reader = _Reader(load)
    reader.read(text, where or "pxelinux config", depth=0)
    return reader.config


class _Reader:
    def __init__(self, load: Callable[[str], str] | None) -> None:
        self.config = Config()
        self._load = load
        self._current: Label | None = None
        self._includes = 0

    def read(self, text: str, where: str, depth: int) -> None:
        if len(text) > MAX_CONFIG:
            raise SpecError(f"larger than {MAX_CONFIG} bytes", where=where)
        in_text = False
        for number, raw in enumerate(re.split("\r\n|\n|\r", text), 1):
            place = f"{where}:{number}"
            if len(raw) > MAX_LINE:
                raise SpecError(f"a line of more than {MAX_LINE} characters", where=place)
            line = raw.strip(" \t\f\v\0\x1a")
            if in_text:
                in_text = line.lower() != "endtext"
                continue
            if not line or line.startswith("#"):
                continue
            word, _, rest = line.replace("\t", " ").partition(" ")
            word, rest = word.lower(), rest.strip()
            if word == "text" and rest.lower() == "help":
                in_text = True
            else:
                self._statement(word, rest, place, depth)

    def _statement(self, word: str, rest: str, place: str, depth: int) -> None:
        config = self.config
        if word == "label":
            self._start_label(rest, place)
        elif word == "default":
            config.default = rest
        elif word == "ontimeout":
            config.ontimeout = rest
        elif word == "ui":
            config.ui = rest
        elif word == "menu":
            self._menu(rest, place, depth)
        elif word == "include":
            self._include(rest, place, depth)
        elif word in KERNEL_WORDS or word in FOREIGN_KERNELS:
            self._kernel(word, rest, place)
        elif word in ("append", "initrd"):
            setattr(self._target(), word, rest)
        elif word in ("ipappend", "sysappend"):
            self._target().ipappend = self._flags(rest, place)
        elif word == "localboot":
            self._target().localboot = True
        elif word not in IGNORED:
            raise SpecError(
                f"unknown keyword {word[:40]!r}", where=place, hint="this is not a PXELINUX config"
            )

    def _target(self) -> Label:
        return self._current or self.config.globals

    def _start_label(self, name: str, place: str) -> None:
        if not name:
            raise SpecError("a label without a name", where=place)
        if len(self.config.labels) >= MAX_LABELS:
            raise SpecError(f"more than {MAX_LABELS} labels", where=place)
        self._current = Label(" ".join(name.split()))
        self.config.labels.append(self._current)

    def _kernel(self, word: str, rest: str, place: str) -> None:
        if not rest:
            raise SpecError(f"{word} without a file", where=place)
        label = self._target()
        label.kernel = rest
        label.unsupported = f"{word} {rest}" if word in FOREIGN_KERNELS else ""

    def _menu(self, rest: str, place: str, depth: int) -> None:
        word, _, argument = rest.partition(" ")
        if word.lower() == "default" and self._current is not None:
            self._current.is_default = True
        elif word.lower() == "include":
            self._include(argument.split(" ")[0].strip(), place, depth)

    def _include(self, name: str, place: str, depth: int) -> None:
        if not name:
            raise SpecError("include without a file", where=place)
        self._includes += 1
        if depth >= MAX_INCLUDE_DEPTH or self._includes > MAX_INCLUDES:
            raise SpecError("includes without an end", where=place)
        if self._load is None:
            raise SpecError(f"cannot include {name[:200]!r} here", where=place)
        self.read(self._load(name), name, depth + 1)

    def _flags(self, text: str, place: str) -> int:
        try:
            flags = int(text, 0)
        except ValueError:
            flags = -1
        if not 0 <= flags < 1 << 20:
            raise SpecError(f"ipappend takes a small number, not {text[:40]!r}", where=place)
        return flags


def choose(config: Config, wanted: str = "") -> BootEntry | LocalBoot:
    """What an unattended client boots: the label ``wanted``, else the config's own choice.

    With a menu program that is ``ontimeout``, then ``menu default``; without one it is
    ``default``. A name that is not there is an error and never another label.
    """
    label, extra = _chosen_label(config, wanted)
    if label.localboot:
        return LocalBoot(f"label {label.name!r} says localboot")
    kernel = label.kernel if label.kernel is not None else config.globals.kernel
    if kernel is None:
        raise SpecError(f"label {label.name!r} has no kernel")
    if CHAIN_PROGRAM.search(kernel.split(" ")[0]):
        return LocalBoot(f"label {label.name!r} chains to a local disk")
    if label.unsupported or kernel.lower().endswith((".c32", ".0", ".cbt", ".com", ".bin")):
        started = label.unsupported or kernel
        raise SpecError(
            f"label {label.name!r} starts {started!r}, which is no Linux kernel",
            hint="a domU can be given a Linux kernel and an initrd, or boot its own disk",
        )
    append = label.append if label.append is not None else config.globals.append or ""
    append = "" if append == "-" else append
    initrd = label.initrd if label.initrd is not None else config.globals.initrd
    args, appended = split_append(f"{append} {extra}".strip())
    flags = label.ipappend if label.ipappend is not None else config.globals.ipappend or 0
    names = initrd if initrd is not None else appended
    return BootEntry(label.name, kernel, _names(names, label.name), args, flags)


def _names(text: str, label: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if len(names) > 16:
        raise SpecError(f"label {label!r} names more than 16 initrds")
    return names


def _chosen_label(config: Config, wanted: str) -> tuple[Label, str]:
    if wanted:
        found = config.find(wanted)
        if found is None:
            raise SpecError(f"there is no label {wanted!r}", hint=_offered(config))
        return found, ""
    if _has_menu(config):
        marked = next((label for label in config.labels if label.is_default), None)
        if config.ontimeout:
            return _by_command(config, config.ontimeout)
        if marked is not None:
            return marked, ""
        if config.default and not MENU_PROGRAM.search(config.default.split(" ")[0]):
            default = config.find(config.default)
            if default is not None and not MENU_PROGRAM.search(default.kernel or ""):
                return default, ""
    elif config.default:
        return _by_command(config, config.default)
    if len(config.labels) == 1:
        return config.labels[0], ""
    marked = next((label for label in config.labels if label.is_default), None)
    if marked is not None:
        return marked, ""
    raise SpecError("the config does not say which label is the default", hint=_offered(config))


def _has_menu(config: Config) -> bool:
    first = config.default.split(" ")[0] if config.default else ""
    if config.ui or MENU_PROGRAM.search(first):
        return True
    named = config.find(config.default) if config.default else None
    return named is not None and bool(MENU_PROGRAM.search(named.kernel or ""))


def _by_command(config: Config, command: str) -> tuple[Label, str]:
    """The label a command line names (labels may hold blanks), and the arguments after it."""
    words = command.split()
    for count in range(len(words), 0, -1):
        label = config.find(" ".join(words[:count]))
        if label is not None:
            return label, " ".join(words[count:])
    raise SpecError(f"the default label {command[:80]!r} is not there", hint=_offered(config))


def _offered(config: Config) -> str:
    names = ", ".join(repr(label.name) for label in config.labels[:10])
    return f"the labels are: {names}" if names else "the config has no labels"


def split_append(append: str) -> tuple[str, str]:
    """Take ``initrd=`` out of kernel arguments: (the others, untouched and in order, initrd).

    The last ``initrd=`` counts.
    """
    found = re.findall(r"(?<!\S)initrd=(\S*)", append)
    rest = re.sub(r"(?<!\S)initrd=\S*\s*", "", append)
    return rest.strip(), found[-1] if found else ""


def with_system_appends(
    entry: BootEntry, *, mac: bytes, ip: Sequence[str] = (), uuid: UUID | None = None
) -> BootEntry:
    """Add what ``ipappend`` asks for; ``ip`` is (client, boot server, router, netmask)."""
    parts = [entry.args] if entry.args else []
    if entry.ipappend & IPAPPEND_IP and ip:
        parts.append("ip=" + ":".join(ip))
    if entry.ipappend & IPAPPEND_BOOTIF:
        parts.append("BOOTIF=01-" + mac.hex("-"))
    if entry.ipappend & IPAPPEND_UUID and uuid is not None:
        parts.append(f"SYSUUID={uuid}")
    return replace(entry, args=" ".join(parts))
