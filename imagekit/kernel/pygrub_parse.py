"""Bootloader configurations as pygrub of Xen 4.17 reads them, its limits and mistakes included.

Behaviour follows Xen ``tools/pygrub/src/GrubConf.py`` and ``ExtLinuxConf.py``. pygrub is no GRUB:
it knows no variables, no conditions, and takes an ``initrd`` line's whole rest for one path.
Whatever makes pygrub stop raises ImageError here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from imagekit.errors import ImageError
from imagekit.kernel.bootmenu import MAX_ENTRIES, BootEntry, BootMenu, check_size

_GRUB2_FIELDS = {
    "set:root": "root",
    "linux": "kernel",
    "linux16": "kernel",
    "initrd": "initrd",
    "initrd16": "initrd",
}
_LEGACY_FIELDS = {"root": "root", "rootnoverify": "root", "kernel": "kernel", "initrd": "initrd"}


class _Refused(Exception):
    """pygrub stops here; the text says why."""


@dataclass(frozen=True)
class _Draft:
    """An entry while its lines are read; ``initrd`` is one path or None."""

    title: str = ""
    kernel: str | None = None
    args: str | None = None
    initrd: str | None = None
    root: str | None = None

    def finished(self) -> BootEntry:
        initrds = () if not self.initrd else (self.initrd,)
        return BootEntry(self.title, self.kernel, initrds, self.args or "", self.root)


def parse_grub2(text: str, *, source: str = "grub.cfg") -> BootMenu:
    """A grub.cfg as pygrub reads it; raises ImageError where pygrub gives up."""
    return _guarded(_grub2, text, source)


def parse_grub_legacy(text: str, *, source: str = "menu.lst") -> BootMenu:
    """A menu.lst or grub.conf as pygrub reads it; raises ImageError where pygrub gives up."""
    return _guarded(_legacy, text, source)


def parse_extlinux(text: str, *, source: str = "extlinux.conf") -> BootMenu:
    """An extlinux.conf or isolinux.cfg as pygrub reads it; raises ImageError likewise."""
    return _guarded(_extlinux, text, source)


def _guarded(
    parser: Callable[[Iterable[str]], tuple[list[_Draft], int]], text: str, source: str
) -> BootMenu:
    lines = (line.strip() for line in check_size(text, source))
    meaningful = (line for line in lines if line and not line.startswith("#"))
    try:
        drafts, default = parser(meaningful)
    except _Refused as error:
        raise ImageError(
            f"pygrub cannot read this configuration: {error}",
            where=source,
            hint="boot the guest directly (kernel=, ramdisk=) or through pvgrub, or rewrite it",
        ) from error
    entries = tuple(draft.finished() for draft in drafts)
    if not entries:
        return BootMenu((), None, source)
    return BootMenu(entries, default if default < len(entries) else 0, source)


def split_command(line: str, most: int = 1) -> list[str]:
    """A command and its rest: split at ``=`` where that comes before any blank, else at blanks."""
    equals = line.find("=")
    if equals == -1:
        return line.split(None, most)
    blanks = [at for at in (line.find(" "), line.find("\t")) if at != -1]
    if not blanks or equals < min(blanks):
        return line.split("=", most)
    return line.split(None, most)


def _command(line: str) -> tuple[str, str]:
    parts = [*split_command(line), "", ""]
    return parts[0], parts[1]


def _set_command(argument: str) -> tuple[str, str]:
    """``set NAME=VALUE``: pygrub splits in three and wants two, so a second ``=`` stops it."""
    parts = split_command(argument, 2)
    if len(parts) != 2:
        raise _Refused(f"it stops at 'set {argument[:80]}'")
    name, value = parts
    if value[:1] in ("'", '"') and (end := value.rfind(value[0], 1)) > 0:
        value = value[1:end]
    return f"set:{name}", value


def _default(value: str) -> int:
    try:
        number = 0 if value == "saved" else int(value)
    except ValueError:
        return 0
    if number < 0:
        raise _Refused(f"the default {value} is negative")
    return number


def _path(value: str) -> str:
    """A path without its ``(hd0,1)``, which must be one that pygrub understands."""
    if not value.startswith("("):
        return value
    device, closing, path = value.partition(")")
    if not closing:
        raise _Refused(f"no closing parenthesis in {value[:80]!r}")
    _check_device(device)
    return path


def _check_device(value: str) -> None:
    """What pygrub accepts as a disk: two characters and a number, then a partition number."""
    disk, *parts = value.split(",", 2)
    if len(parts) > 1:
        raise _Refused(f"it does not understand the device {value[:80]!r}")
    disk = disk.replace("(", "").replace(")", "")
    try:
        if disk.startswith("/dev/xvd"):
            ord(disk[len("/dev/xvd")])
        else:
            int(disk[2:])
        if parts:
            part = parts[0].replace("(", "").replace(")", "")
            part = part.removeprefix("msdos").removeprefix("gpt")
            int(part)
    except (ValueError, IndexError):
        raise _Refused(f"it does not understand the device {value[:80]!r}") from None


def _apply(draft: _Draft, field: str | None, value: str) -> _Draft:
    """The entry after one of its commands."""
    if field == "root":
        _check_device(value)
        return replace(draft, root=value)
    if field == "initrd":
        return replace(draft, initrd=_path(value))
    if field == "kernel":
        if " " not in value:
            return replace(draft, kernel=_path(value), args=None)
        parts = value.split(None, 1)
        if len(parts) != 2:
            raise _Refused(f"it cannot split {value[:80]!r}")
        return replace(draft, kernel=_path(parts[0]), args=parts[1])
    return draft


def _add(entries: list[_Draft], title: str, lines: Iterable[tuple[str | None, str]]) -> None:
    draft = _Draft(title.strip())
    for field, value in lines:
        draft = _apply(draft, field, value.strip())
    entries.append(draft)
    if len(entries) > MAX_ENTRIES:
        raise _Refused(f"more than {MAX_ENTRIES} entries")


def _grub2(lines: Iterable[str]) -> tuple[list[_Draft], int]:
    entries: list[_Draft] = []
    body: list[tuple[str | None, str]] | None = None
    title, level, in_function, default = "", 0, False, 0
    for line in lines:
        if line.startswith("function"):
            in_function = True
        elif in_function:
            in_function = not line.startswith("}")
        elif (found := menuentry_title(line)) is not None:
            if body is not None:
                raise _Refused("a menuentry inside a menuentry")
            body, title = [], found
        elif line.startswith("submenu"):
            level += 1
        elif line.startswith("}"):
            if body is None and level == 0:
                raise _Refused("a closing brace without a menuentry that pygrub recognised")
            if body is None:
                level -= 1
            else:
                _add(entries, title, body)
                body = None
        elif body is not None:
            body.append(_grub2_line(line))
        else:
            default = _grub2_top(line, default)
    if body is not None:
        raise _Refused("the file ends inside a menuentry")
    return entries, default


def menuentry_title(line: str) -> str | None:
    """The title if pygrub takes ``line`` for a menuentry: ``menuentry 'TITLE' ...{``.

    Means the expression ``^menuentry ["'](.*?)["'] (.*){`` but takes linear time.
    """
    if not line.startswith(("menuentry '", 'menuentry "')):
        return None
    ends = [at for at in (line.find("' ", 11), line.find('" ', 11)) if at != -1]
    if not ends or line.rfind("{") < min(ends) + 2:
        return None
    return line[11 : min(ends)]


def _grub2_line(line: str) -> tuple[str | None, str]:
    name, value = _command(line)
    if name == "set":
        name, value = _set_command(value)
    return _GRUB2_FIELDS.get(name), value


def _grub2_top(line: str, default: int) -> int:
    """The default entry's index after one line outside of any entry."""
    name, value = _command(line)
    if name == "set":
        name, value = _set_command(value)
    if name != "set:default":
        return default
    value = value.strip()
    return 0 if value in ("${saved_entry}", "${next_entry}") else _default(value)


def _legacy(lines: Iterable[str]) -> tuple[list[_Draft], int]:
    entries: list[_Draft] = []
    body: list[tuple[str | None, str]] | None = None
    title, default = "", 0
    for line in lines:
        if line.startswith("title"):
            if body is not None:
                _add(entries, title, body)
            body, title = [], line[6:]
        elif body is not None:
            name, value = _command(line)
            body.append((_LEGACY_FIELDS.get(name), value))
        else:
            name, value = _command(line)
            if name == "default":
                default = _default(value.strip())
            elif name == "splashimage":
                _path(value.strip())
    if body:
        _add(entries, title, body)
    return entries, default


def _extlinux(lines: Iterable[str]) -> tuple[list[_Draft], int]:
    entries: list[_Draft] = []
    wanted: str | None = None
    for line in lines:
        if line.lower().startswith("label"):
            if len(entries) >= MAX_ENTRIES:
                raise _Refused(f"more than {MAX_ENTRIES} entries")
            entries.append(_extlinux_line(_Draft(), line))
        elif entries:
            entries[-1] = _extlinux_line(entries[-1], line)
        else:
            name, value = _command(line)
            wanted = value.strip() if name.lower() == "default" else wanted
    titles = [entry.title for entry in entries]
    return entries, titles.index(wanted) if wanted in titles else 0


def _extlinux_line(draft: _Draft, line: str) -> _Draft:
    name, value = _command(line)
    name = name.lower()
    if name == "append" and draft.kernel is not None:
        if draft.kernel.endswith("mboot.c32"):
            return _mboot(draft, value)
        words = value.strip().split(" ") if "initrd=" in value else []
        for word in words:
            if word.lower().startswith("initrd="):
                draft = replace(draft, initrd=word.replace("initrd=", ""))
                value = value.replace(word, "")
    value = value.strip()
    if len(value) > 2 and value[0] == value[-1] == '"':
        value = value[1:-1]
    if name == "label":
        return replace(draft, title=value)
    if name == "append":
        return replace(draft, args=value)
    return _extlinux_kernel(draft, value) if name == "kernel" else draft


def _extlinux_kernel(draft: _Draft, value: str) -> _Draft:
    """Unlike GRUB's, a path keeps its parentheses here."""
    if " " not in value:
        return replace(draft, kernel=value, args=None)
    parts = value.split(None, 1)
    if len(parts) != 2:
        raise _Refused(f"it cannot split {value[:80]!r}")
    return replace(draft, kernel=parts[0], args=parts[1])


def _mboot(draft: _Draft, value: str) -> _Draft:
    """``xen.gz --- vmlinuz args --- initrd`` or ``vmlinuz args --- initrd``."""
    modules = value.split("---")
    if len(modules) not in (2, 3):
        return draft
    kernel, initrd = modules[-2], modules[-1]
    if kernel:
        draft = _extlinux_kernel(draft, kernel.strip())
    return replace(draft, initrd=initrd.strip()) if initrd else draft
