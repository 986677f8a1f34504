"""Boot menus of installer ISOs: which entry installs, and a menu that starts it by itself.

Sources: syslinux's doc/syslinux.txt (LABEL, KERNEL, LINUX, APPEND, INITRD, MENU DEFAULT), the GRUB
manual ("Shell-like scripting": inside single quotes nothing is special).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from imagekit.errors import SpecError

ISOLINUX = "isolinux"
GRUB = "grub"
MAX_ISOLINUX_ARGS = 2047  # core/parsecmd.inc, max_cmd_len
_LINUX = re.compile(r"\s*(linux(?:16|efi)?)\s+(\S+)\s*(.*)")
_INITRD = re.compile(r"\s*(initrd(?:16|efi)?)\s+(.+)")
_KEEP = re.compile(r"\s*(search\s|set\s+root=)")
_SAFE = re.compile(r"[A-Za-z0-9_.,:/@%+=\[\]^~!-]+")
# Words of entries that are no plain installation on a text console.
_OTHER = re.compile(
    r"gtk|speech|speakup|rescue|expert|memtest|rd\.live\.check|xdriver|nomodeset|hwe|oem|"
    r"auto=|theme=dark|localboot|checkdisc|mediacheck|systemrescue|recommended|basic"
)
_DROPPED = re.compile(r"quiet|splash|rhgb|rd\.live\.check|mediacheck|vga=\S*|nomodeset")


@dataclass(frozen=True)
class Entry:
    """A menu entry: ``args`` are as the menu has them, in its own quoting, without initrd=."""

    loader: str
    config: str
    title: str
    kernel: str
    initrds: tuple[str, ...]
    args: str
    default: bool = False
    commands: tuple[str, str] = ("linux", "initrd")


def read_isolinux(path: str, text: str) -> list[Entry]:
    """The entries of an isolinux configuration file that start a kernel."""
    default = re.search(r"(?im)^\s*default\s+(\S+)", text)
    entries = []
    for block in re.split(r"(?im)^(?=\s*label\s)", text)[1:]:
        label = block.split()[1] if len(block.split()) > 1 else ""
        kernel = re.search(r"(?im)^\s*(?:kernel|linux)\s+(\S+)", block)
        if kernel is None or kernel[1].endswith((".c32", ".bin")):
            continue
        append = re.search(r"(?im)^\s*append[ \t]+(.*)$", block)
        words = append[1].split() if append else []
        initrd = [w.removeprefix("initrd=") for w in words if w.startswith("initrd=")]
        apart = re.search(r"(?im)^\s*initrd\s+(\S+)", block)
        names = (initrd[-1] if initrd else (apart[1] if apart else "")).split(",")
        chosen = bool(re.search(r"(?im)^\s*menu\s+default", block))
        chosen = chosen or bool(default and default[1] == label)
        args = " ".join(w for w in words if not w.startswith("initrd="))
        entries.append(
            Entry(ISOLINUX, path, label, kernel[1], tuple(n for n in names if n), args, chosen)
        )
    return entries


def read_grub(path: str, text: str) -> list[Entry]:
    """The entries of a grub.cfg that start a kernel."""
    entries: list[Entry] = []
    title = ""
    for line in text.splitlines():
        if re.match(r"\s*(menuentry|submenu)\b", line):
            title = line.strip()
        elif (match := _LINUX.match(line)) is not None:
            entries.append(
                Entry(GRUB, path, title, match[2], (), match[3].strip(), commands=(match[1], ""))
            )
        elif (match := _INITRD.match(line)) is not None and entries:
            commands = (entries[-1].commands[0], match[1])
            entries[-1] = replace(entries[-1], initrds=tuple(match[2].split()), commands=commands)
    return entries


def choose(entries: Iterable[Entry]) -> Entry | None:
    """The entry that installs on a text console: the default, if it is one, else the first."""
    ranked = [
        (bool(_OTHER.search(f"{e.title} {e.kernel} {' '.join(e.initrds)} {e.args}".lower())), e)
        for e in entries
    ]
    plain = [e for other, e in ranked if not other] or [e for _other, e in ranked]
    chosen = [e for e in plain if e.default]
    return next(iter(chosen or plain), None)


def path_in_iso(entry: Entry, name: str) -> str:
    """Absolute path of a file that ``entry`` names, which isolinux counts from its directory."""
    name = re.sub(r"^\([^)]*\)", "", name)
    if name.startswith("/"):
        return str(PurePosixPath(name))
    return str(PurePosixPath(entry.config).parent / name)


def arguments(entry: Entry, added: Sequence[str]) -> str:
    """The kernel's arguments: ``added`` in the loader's quoting, then the entry's own.

    What follows ``---`` (and so reaches the installed system with debian-installer) stays behind.
    """
    quote = isolinux_word if entry.loader == ISOLINUX else grub_word
    before, dashes, after = entry.args.partition("---")
    own = [w for w in before.split() if not _DROPPED.fullmatch(w)]
    kept = [w for w in after.split() if not _DROPPED.fullmatch(w)]
    tail = ["---", *kept] if dashes else []
    return " ".join([*own, *(quote(w) for w in added), *tail])


def isolinux_word(word: str) -> str:
    """``word`` for an APPEND line, which knows no quoting; the kernel takes double quotes."""
    _check_word(word)
    return f'"{word}"' if " " in word else word


def grub_word(word: str) -> str:
    """``word`` for a linux command of grub.cfg."""
    _check_word(word)
    if _SAFE.fullmatch(word):
        return word
    if "'" in word:
        raise SpecError("a single quote cannot be passed on by GRUB", where=word)
    return f"'{word}'"


def _check_word(word: str) -> None:
    if not word or not word.isprintable() or not word.isascii() or '"' in word or "\\" in word:
        raise SpecError(
            "a kernel argument is printable ASCII without double quotes and backslashes",
            where=repr(word),
        )


def isolinux_cfg(entry: Entry, added: Sequence[str]) -> str:
    """An isolinux.cfg that starts ``entry`` at once, with the serial port as second console."""
    args = f"initrd={','.join(entry.initrds)} {arguments(entry, added)}"
    if len(args) > MAX_ISOLINUX_ARGS:
        raise SpecError(f"isolinux passes on {MAX_ISOLINUX_ARGS} bytes of arguments at most")
    return (
        "# Written by imagekit: starts the unattended installation.\n"
        "SERIAL 0 115200\nDEFAULT imagekit\nPROMPT 0\nTIMEOUT 1\n"
        f"LABEL imagekit\n  KERNEL {entry.kernel}\n  APPEND {args}\n"
    )


def grub_cfg(entry: Entry, added: Sequence[str], original: str) -> str:
    """A grub.cfg that starts ``entry`` at once; how ``original`` finds the ISO is kept."""
    head = re.split(r"(?m)^\s*(?:menuentry|submenu)\b", original, maxsplit=1)[0]
    kept = [line.strip() for line in head.splitlines() if _KEEP.match(line)]
    linux, initrd = entry.commands
    return "\n".join(
        [
            "# Written by imagekit: starts the unattended installation.",
            *kept,
            "serial --unit=0 --speed=115200",
            "terminal_input console serial",
            "terminal_output console serial",
            "set default=0",
            "set timeout=1",
            "menuentry 'Unattended installation' {",
            f"    {linux} {entry.kernel} {arguments(entry, added)}".rstrip(),
            *([f"    {initrd} {' '.join(entry.initrds)}"] if entry.initrds else []),
            "}",
            "",
        ]
    )
