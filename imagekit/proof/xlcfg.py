"""Reads an xl config as far as a proof must know it: the guest's kind and the paths it names.

Grammar: ``tools/libs/util/libxlu_cfg_l.l``, ``libxlu_cfg_y.y`` and ``libxlu_disk_l.l`` of Xen 4.17.
The config itself goes to xl byte for byte; this reading only prepares what it will look for.
"""

from __future__ import annotations

import re
from pathlib import Path

from imagekit.errors import SpecError
from imagekit.proof.guestconfig import GuestConfig, GuestDisk, GuestNic, boot_path

Value = str | int | list[str]

_TOKEN = re.compile(
    r"""(?P<blank>[ \t]+|\#[^\n]*)
      | (?P<end>[\n;])
      | (?P<name>[a-z][._0-9a-z]*)
      | (?P<number>[0-9][0-9a-fx]*)
      | (?P<string>"(?:[^"\\\n]|\\[^\n])*"|'(?:[^'\\\n]|\\[^\n])*')
      | (?P<mark>\+=|[=\[\],])""",
    re.VERBOSE,
)
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_FORMATS = ("raw", "qcow", "qcow2", "vhd", "qed", "empty")
_PREFIXES = {
    **dict.fromkeys(("phy", "file", "tap", "tap2", "tapdisk", "aio", "ioemu"), ""),
    **{name: name for name in ("raw", "qcow", "qcow2", "vhd")},
}
"""Prefixes of xm's disk lines, and the format each one means ("" is none in particular)."""


def parse_config(data: bytes, path: Path) -> GuestConfig:
    """The config in ``data``; ``path`` is for messages."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise SpecError("the config is not UTF-8", where=str(path)) from None
    settings = _Reader(text, path).settings()
    where = str(path)
    name = settings.get("name")
    if not isinstance(name, str) or not name:
        raise SpecError("the config names no domain", where=where)
    mode = _mode(settings, where)
    return GuestConfig(
        toolstack="xl",
        path=path,
        data=data,
        name=name,
        mode=mode,
        boot=_boot(settings, mode),
        memory_mib=max(_number(settings.get("memory", 0), "memory", where), 32),
        kernel=_text(settings, "kernel"),
        ramdisk=_text(settings, "ramdisk"),
        bootloader=_text(settings, "bootloader"),
        disks=tuple(parse_disk(item, where) for item in _items(settings, "disk")),
        nics=tuple(_nic(item) for item in _items(settings, "vif")),
        serial="serial" in settings,
    )


class _Reader:
    """The lexer and the three rules of the grammar."""

    def __init__(self, text: str, path: Path) -> None:
        self._text = text
        self._path = path
        self._at = 0
        self._start = 0
        self._kind, self._word = "", ""
        self._next()

    def settings(self) -> dict[str, Value]:
        found: dict[str, Value] = {}
        while self._kind != "eof":
            if self._kind == "end":
                self._next()
                continue
            key = self._take("name")
            operator = self._take("mark")
            if operator not in ("=", "+="):
                raise self._wrong("expected = or +=")
            value = self._value()
            if self._kind not in ("end", "eof"):
                raise self._wrong("expected the end of the line")
            before = found.get(key)
            if operator == "+=" and before is not None:
                value = self._joined(before, value)
            found[key] = value
        return found

    def _joined(self, before: Value, value: Value) -> Value:
        if isinstance(before, list) and isinstance(value, list):
            return before + value
        if isinstance(before, str) and isinstance(value, str):
            return before + value
        raise self._wrong("+= joins two strings or two lists")

    def _value(self) -> Value:
        if self._word == "[" and self._kind == "mark":
            return self._list()
        if self._kind == "number":
            return self._integer()
        return _unquoted(self._take("string"))

    def _list(self) -> list[str]:
        items: list[str] = []
        self._next()
        while True:
            self._skip_ends()
            if self._word == "]" and self._kind == "mark":
                self._next()
                return items
            number = self._kind == "number"
            items.append(str(self._integer()) if number else _unquoted(self._take("string")))
            self._skip_ends()
            if self._word == "," and self._kind == "mark":
                self._next()
            elif self._word != "]":
                raise self._wrong("expected , or ]")

    def _integer(self) -> int:
        word = self._take("number")
        try:
            # strtoul(3) with base 0: a leading zero means octal.
            return int(word, 8) if re.fullmatch(r"0[0-7]+", word) else int(word, 0)
        except ValueError:
            raise self._wrong(f"{word!r} is not a number") from None

    def _skip_ends(self) -> None:
        while self._kind == "end" and self._word == "\n":
            self._next()

    def _take(self, kind: str) -> str:
        if self._kind != kind:
            raise self._wrong(f"expected a {kind if kind != 'mark' else 'sign'}")
        word = self._word
        self._next()
        return word

    def _next(self) -> None:
        while self._at < len(self._text):
            self._start = self._at
            match = _TOKEN.match(self._text, self._at)
            if match is None:
                raise self._wrong("a character that has no place here")
            self._at = match.end()
            if match.lastgroup != "blank":
                self._kind, self._word = str(match.lastgroup), match[0]
                return
        self._kind, self._word = "eof", ""

    def _wrong(self, what: str) -> SpecError:
        line = self._text.count("\n", 0, self._start) + 1
        return SpecError(f"not an xl config: {what}", where=f"{self._path}:{line}")


def _unquoted(word: str) -> str:
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), word[1:-1])


def _number(value: Value, key: str, where: str) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    if not isinstance(value, int):
        raise SpecError(f"{key} is not a number of MiB", where=where)
    return value


def _text(settings: dict[str, Value], key: str) -> str | None:
    value = settings.get(key)
    return value if isinstance(value, str) and value else None


def _items(settings: dict[str, Value], key: str) -> list[str]:
    value = settings.get(key, [])
    return value if isinstance(value, list) else []


def _mode(settings: dict[str, Value], where: str) -> str:
    mode = _text(settings, "type") or {"hvm": "hvm"}.get(_text(settings, "builder") or "", "pv")
    if mode not in ("pv", "pvh", "hvm"):
        raise SpecError(f"type is {mode!r}, and not pv, pvh or hvm", where=where)
    return mode


def _boot(settings: dict[str, Value], mode: str) -> str:
    firmware = _text(settings, "firmware") or ""
    kernel = firmware if firmware.startswith("pvgrub") else _text(settings, "kernel")
    uefi = firmware in ("uefi", "ovmf") or settings.get("bios") == "ovmf"
    return boot_path(mode, kernel, _text(settings, "bootloader"), uefi=uefi)


def parse_disk(item: str, where: str) -> GuestDisk:
    """One disk specification, in the form of keys, of positions or of xm."""
    fields: dict[str, str] = {}
    positions = ["target", "format", "vdev", "access"]
    rest = item.strip()
    while rest:
        if match := re.match(r"target=(.*)\Z", rest, re.DOTALL):
            fields["target"] = match[1]
            break
        word, _, rest = rest.partition(",")
        word, rest = word.strip(), rest.lstrip()
        if match := re.fullmatch(r"([a-z]+)=(.*)", word):
            fields[match[1]] = match[2]
        elif word in ("cdrom", "discard", "no-discard", "direct-io-safe", "trusted", "untrusted"):
            fields[word] = "1"
        elif positions:
            name = positions.pop(0)
            prefix = re.match(r"([a-z0-9]+):", word)
            old = name == "target" and prefix and prefix[1] in _PREFIXES
            if old or (name == "format" and word and word not in _FORMATS):
                return _old_disk(item, where)
            if word:
                fields[name] = word
        else:
            raise SpecError(f"{item!r} is not a disk", where=where)
    return _disk(fields, item, where)


def _old_disk(item: str, where: str) -> GuestDisk:
    """xm's ``phy:/dev/x,xvda,w``, with any number of prefixes."""
    words = [word.strip() for word in item.split(",")]
    fields = dict(zip(("target", "vdev", "access"), words, strict=False))
    while (match := re.match(r"([a-z0-9]+):", fields["target"])) and match[1] in _PREFIXES:
        fields["target"] = fields["target"][match.end() :]
        fields["format"] = _PREFIXES[match[1]] or fields.get("format", "raw")
    vdev, _, kind = fields.get("vdev", "").partition(":")
    fields["vdev"] = vdev
    if kind == "cdrom":
        fields["cdrom"] = "1"
    if not fields["target"]:
        fields["format"] = "empty"
    return _disk(fields, item, where)


def _disk(fields: dict[str, str], item: str, where: str) -> GuestDisk:
    cdrom = "cdrom" in fields or fields.get("devtype") == "cdrom"
    kind = fields.get("format", "raw")
    if fields.get("access", "rw") not in ("r", "ro", "w", "rw"):
        raise SpecError(f"{item!r} is not a disk", where=where)
    if kind not in _FORMATS:
        raise SpecError(f"{kind!r} is not a format that xl knows", where=where)
    if not fields.get("vdev"):
        raise SpecError(f"{item!r} names no vdev", where=where)
    readonly = fields.get("access", "rw") in ("r", "ro") or cdrom
    target = fields.get("target") or None
    return GuestDisk(target, kind, fields["vdev"], readonly, cdrom, fields.get("script"))


def _nic(item: str) -> GuestNic:
    fields = dict(part.strip().partition("=")[::2] for part in item.split(","))
    mac = fields.get("mac")
    return GuestNic(
        mac.lower().replace("-", ":") if mac else None, fields.get("bridge") or "xenbr0"
    )
