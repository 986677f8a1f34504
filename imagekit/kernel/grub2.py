"""A grub.cfg as GRUB 2 itself means it, as far as that follows from the file.

Grammar: GRUB manual, "Writing full configuration files directly". Variables set in the file are
expanded; conditions are not evaluated (of several ``set default`` the last one counts that has a
value), since they depend on the machine. Submenus are flattened.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from imagekit.errors import ImageError
from imagekit.kernel.bootmenu import MAX_ENTRIES, BootEntry, BootMenu, Expansion, check_size

LINUX_COMMANDS = ("linux", "linux16", "linuxefi")
INITRD_COMMANDS = ("initrd", "initrd16", "initrdefi")

_BLOCKS = ("menuentry", "submenu", "function")
_VARIABLE = re.compile(r"\$(?:\{(\w{1,64})\}|(\w{1,64}))", re.A)
_MAX_DEPTH = 64


def parse_grubenv(text: str) -> dict[str, str]:
    """A GRUB environment block (GRUB manual, "environment block"): its variables."""
    found = (line.partition("=") for line in text[:4096].splitlines() if not line.startswith("#"))
    return {name: value for name, equals, value in found if equals}


def read_grub2(
    text: str, *, grubenv: Mapping[str, str] | None = None, source: str = "grub.cfg"
) -> BootMenu:
    """Entries and default; ``grubenv`` supplies saved_entry and the like. Raises ImageError."""
    reading = _Reading(dict(grubenv or {}), source)
    for line in check_size(text, source):
        words = words_of(line)
        if words:
            reading.line(words)
    return BootMenu(tuple(reading.entries), reading.default_index(), source)


@dataclass(frozen=True)
class Word:
    """A word of a command: its text with quotes removed and whether variables in it expand."""

    text: str
    literal: bool


def words_of(line: str) -> list[Word]:
    """Split one line as GRUB's shell does: quotes, backslashes, comments, ``;`` and braces."""
    words: list[Word] = []
    current: list[str] = []
    quote, literal, started, at = "", False, False, 0
    while at < len(line):
        char = line[at]
        at += 1
        if quote:
            if char == quote:
                quote = ""
            elif char == "\\" and quote == '"' and line[at : at + 1] in ('"', "\\", "$"):
                current.append(line[at])
                at += 1
            else:
                current.append(char)
        elif char in "'\"":
            quote, literal, started = char, literal or char == "'", True
        elif char.isspace() or char == ";":
            if started:
                words.append(Word("".join(current), literal))
            current, literal, started = [], False, False
            if char == ";":
                words.append(Word(";", literal=False))
        elif char == "#" and not started:
            break
        else:
            if char == "\\" and at < len(line):
                char, at = line[at], at + 1
            started = True
            current.append(char)
    if started:
        words.append(Word("".join(current), literal))
    return words


@dataclass(frozen=True)
class _Place:
    """A menuentry or submenu in the menu that holds it."""

    index: int
    title: str
    id: str | None

    def is_called(self, name: str) -> bool:
        return name in (str(self.index), self.title, self.id)


class _Reading:
    """The state of one pass over a grub.cfg."""

    def __init__(self, variables: dict[str, str], source: str) -> None:
        self._variables = variables
        self._source = source
        self._expansion = Expansion(_VARIABLE, variables, source)
        self._blocks: list[str] = []
        self._open: BootEntry | None = None
        self._default = ""
        self._counts = [0]
        self._path: list[_Place] = []
        self._places: list[tuple[_Place, ...]] = []
        self.entries: list[BootEntry] = []

    def line(self, words: list[Word]) -> None:
        """One line: its commands, separated by ``;`` or the brace that opens a block."""
        command: list[Word] = []
        for word in [*words, Word(";", literal=False)]:
            opens = word.text == "{" and command and command[0].text in _BLOCKS
            if (word.text == ";" or opens) and not word.literal:
                if command:
                    self._command(command)
                command = []
            else:
                command.append(word)

    def _command(self, words: list[Word]) -> None:
        name = words[0].text
        if name in _BLOCKS:
            self._begin(name, words[1:])
        elif name == "}":
            self._end()
        elif "function" in self._blocks:
            return
        elif name == "set" and len(words) > 1:
            self._set(words[1])
        elif self._open is not None:
            self._in_entry(name, words[1:])

    def _begin(self, name: str, words: list[Word]) -> None:
        self._blocks.append(name)
        if len(self._blocks) > _MAX_DEPTH:
            raise ImageError("menus are nested too deeply", where=self._source)
        if name == "function":
            return
        title = self._expand(words[0]) if words else ""
        place = _Place(self._counts[-1], title, _id_of(words))
        self._counts[-1] += 1
        self._path.append(place)
        if name == "menuentry":
            self._open = BootEntry(title, None, id=place.id)
        else:
            self._counts.append(0)

    def _end(self) -> None:
        block = self._blocks.pop() if self._blocks else ""
        if block == "submenu":
            self._counts.pop()
        elif block == "menuentry" and self._open is not None:
            self.entries.append(self._open)
            self._places.append(tuple(self._path))
            self._open = None
            if len(self.entries) > MAX_ENTRIES:
                raise ImageError(f"more than {MAX_ENTRIES} menu entries", where=self._source)
        if block in ("submenu", "menuentry"):
            self._path.pop()

    def _set(self, word: Word) -> None:
        name, equals, value = word.text.partition("=")
        if not equals:
            return
        value = self._expand(Word(value, word.literal))
        if name == "default" and self._open is None:
            self._default = value or self._default
        elif name == "root" and self._open is not None:
            self._open = replace(self._open, root=value)
        if len(value) <= 4096 and len(self._variables) < 4096:
            self._variables[name] = value

    def _in_entry(self, name: str, words: list[Word]) -> None:
        entry = self._open
        texts = [self._expand(word) for word in words]
        if entry is None or not texts:
            return
        if name in LINUX_COMMANDS:
            self._open = replace(entry, kernel=_path(texts[0]), args=" ".join(texts[1:]))
        elif name in INITRD_COMMANDS:
            self._open = replace(entry, initrds=tuple(map(_path, texts)))

    def _expand(self, word: Word) -> str:
        """Variables replaced once; unknown ones are empty, as in GRUB."""
        if word.literal or "$" not in word.text:
            return word.text
        return self._expansion(word.text)

    def default_index(self) -> int | None:
        """The default (number, id or title, ``>`` between the levels), as an index into entries."""
        if not self.entries:
            return None
        wanted = self._default.split(">")
        for index, places in enumerate(self._places):
            if len(places) >= len(wanted) and all(map(_Place.is_called, places, wanted)):
                return index
        for index, entry in enumerate(self.entries):
            if wanted[-1] and wanted[-1] == entry.id:
                return index
        return 0


def _path(text: str) -> str:
    """A path without the device in parentheses before it."""
    return text.partition(")")[2] if text.startswith("(") and ")" in text else text


def _id_of(words: list[Word]) -> str | None:
    """The value after ``--id``; Debian's grub-mkconfig writes it as $menuentry_id_option."""
    for option, value in pairwise(words):
        if option.text in ("--id", "$menuentry_id_option", "${menuentry_id_option}"):
            return value.text
    return None
