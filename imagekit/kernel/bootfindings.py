"""Where pygrub reads a grub.cfg differently than GRUB does, line by line.

pygrub's grammar: Xen ``tools/pygrub/src/GrubConf.py``, class Grub2ConfigFile.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from imagekit.errors import ImageError
from imagekit.kernel.bootmenu import Finding, check_size
from imagekit.kernel.grub2 import INITRD_COMMANDS, LINUX_COMMANDS, words_of
from imagekit.kernel.pygrub_parse import menuentry_title, parse_grub2

_MAX_FINDINGS = 200
_PYGRUB_COMMANDS = ("linux", "linux16", "initrd", "initrd16")
_SET_DEFAULT = re.compile(r"""set\s+default=["']?(.*?)["']?$""")


def findings(text: str, *, source: str = "grub.cfg") -> tuple[Finding, ...]:
    """What pygrub cannot read or reads wrongly in the grub.cfg ``text``, at most 200 findings.

    Raises ImageError only for absurdly large files.
    """
    found: list[Finding] = []
    in_function = False
    for number, raw in enumerate(check_size(text, source), 1):
        line = raw.strip()
        if line.startswith("function"):
            in_function = True
        elif in_function:
            in_function = not line.startswith("}")
        elif line and not line.startswith("#"):
            found.extend(_of_line(line, number))
        if len(found) >= _MAX_FINDINGS:
            break
    try:
        if not parse_grub2(text, source=source).entries:
            found.append(Finding("error", "no-entries", 0, "pygrub recognises no entry in it"))
    except ImageError as error:
        found.append(Finding("error", "unreadable", 0, error.what, error.hint or ""))
    return tuple(found)


def _of_line(line: str, number: int) -> Iterator[Finding]:
    words = [word.text for word in words_of(line)]
    name = words[0] if words else ""
    if name == "menuentry" and menuentry_title(line) is None:
        yield Finding(
            "error",
            "menuentry-form",
            number,
            "pygrub does not recognise this menuentry",
            "write menuentry 'TITLE' { with the title quoted and the brace on the same line",
        )
    elif name == "submenu":
        yield Finding(
            "warning",
            "submenu",
            number,
            "pygrub ignores submenus: their entries count in one flat list",
            "let the default be an index into that flat list, or leave submenus out",
        )
    elif name == "blscfg":
        yield Finding(
            "error",
            "blscfg",
            number,
            "pygrub does not read loader/entries, where this file has its entries",
            "write the entries into grub.cfg (GRUB_ENABLE_BLSCFG=false) or boot directly",
        )
    elif name == "set":
        yield from _of_default(line, number)
    elif name in LINUX_COMMANDS or name in INITRD_COMMANDS:
        yield from _of_boot_line(name, words, line, number)


def _of_default(line: str, number: int) -> Iterator[Finding]:
    found = _SET_DEFAULT.fullmatch(line)
    if found is None:
        return
    value = found.group(1)
    if "$" in value:
        yield Finding(
            "warning",
            "default-variable",
            number,
            f"pygrub does not know {value[:80]} and takes the first entry",
            'write set default="0" after it: the last one in the file counts',
        )
    elif value and not value.isdigit():
        yield Finding(
            "error",
            "default-title",
            number,
            f"pygrub knows a default by number only; {value[:80]!r} becomes the first entry",
            'write the entry\'s index: set default="0"',
        )


def _of_boot_line(name: str, words: list[str], line: str, number: int) -> Iterator[Finding]:
    if name not in _PYGRUB_COMMANDS:
        yield Finding(
            "error",
            "unknown-command",
            number,
            f"pygrub does not know {name}",
            "write linux and initrd",
        )
    if "$" in line:
        yield Finding(
            "error",
            "variable",
            number,
            "pygrub does not expand variables; it takes the text as it stands",
            "write the value",
        )
    if name in INITRD_COMMANDS and len(words) > 2:
        yield Finding(
            "error",
            "several-initrds",
            number,
            "pygrub takes the whole rest of the line for one path",
            "join the initrds into one file (cat) and name that",
        )
    if name in LINUX_COMMANDS and any(quote in line for quote in "'\"\\"):
        yield Finding(
            "warning",
            "quotes",
            number,
            "pygrub hands quotes and backslashes to the kernel as they stand",
            "write the arguments without them",
        )
