"""Checks a rendered answers file before an installer sees it.

preseed: debconf's own checker, a table of debian-installer's questions with their types
(``questions.txt``), and the syntax of every shell command in it (``sh -n``). kickstart: pykickstart
for the named release. autoinstall: YAML 1.2 and the top-level keys of Subiquity's reference.
"""

from __future__ import annotations

import difflib
import functools
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from imagekit.answers.context import InstallerRelease
from imagekit.answers.render import Kind
from imagekit.errors import HostError, SpecError, ToolError
from imagekit.host import tools
from imagekit.host.run import run
from imagekit.spec.yamltext import yaml_reader

SHIPS = ("questions.txt", "debconf.conf")
QUESTIONS = Path(__file__).parent / "questions.txt"
DEBCONF = Path(__file__).parent / "debconf.conf"
AUTOINSTALL_KEYS = frozenset(
    {
        *("version", "interactive-sections", "early-commands", "locale", "refresh-installer"),
        *("keyboard", "source", "network", "proxy", "apt", "storage", "identity", "ssh", "codecs"),
        *("active-directory", "ubuntu-pro", "drivers", "oem", "snaps", "debconf-selections"),
        *("packages", "kernel", "kernel-crash-dumps", "timezone", "updates", "shutdown", "zdevs"),
        *("late-commands", "error-commands", "reporting", "user-data"),
    }
)
COMMANDS = frozenset(
    {"preseed/early_command", "preseed/late_command", "partman/early_command", "preseed/run"}
)
TYPES = frozenset(
    {"boolean", "string", "select", "multiselect", "password", "note", "text", "error", "seen"}
)
CHOICES = frozenset({"string", "select", "multiselect"})
SECONDS = 60


@dataclass(frozen=True)
class Answer:
    """One logical line of a preseed file; ``line`` is where it starts."""

    line: int
    owner: str
    question: str
    type: str
    value: str


Lines = Callable[[], Sequence[int]]
"""Gives, for each line of the checked text, the line of the file it comes from."""


@dataclass(frozen=True)
class Place:
    """What errors name: the template ``file``, and its line where ``lines`` knows it."""

    file: str
    lines: Lines | None = None

    def at(self, number: int) -> str:
        """Where line ``number`` of the checked text comes from."""
        known = self.lines() if self.lines else ()
        if 1 <= number <= len(known):
            return f"{self.file}:{known[number - 1]}"
        return f"{self.file}, line {number} as rendered"

    def named_in(self, said: str) -> str:
        """As :meth:`at`, for the line that another program's message names."""
        found = re.search(r"\bline (\d+)", said)
        return self.at(int(found[1])) if found else self.file


def validate(
    kind: Kind, text: str, *, target: InstallerRelease, where: str, lines: Lines | None = None
) -> list[str]:
    """Raise SpecError for what the installer would refuse; returns what is merely doubtful.

    ``where`` names the template in errors. Line numbers are those of the rendered text, or by
    ``lines`` the template's own.
    """
    place = Place(where, lines)
    if kind == "preseed":
        return _preseed(text, place)
    if kind == "kickstart":
        _kickstart(text, target, place)
    else:
        _autoinstall(text, place)
    return []


def read_preseed(text: str, place: Place = Place("preseed")) -> list[Answer]:
    """The answers of a preseed file, as debian-installer reads it. Raises SpecError."""
    found = []
    for number, line in _logical_lines(text):
        words = line.split(None, 3)
        if len(words) < 3:
            raise SpecError(
                f"{line[:80]!r} is not 'owner question type value'", where=place.at(number)
            )
        value = words[3] if len(words) > 3 else ""
        found.append(Answer(number, words[0], words[1], words[2], value))
    return found


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Comments and blank lines go first, also between continued lines, as in the installer."""
    parts: list[str] = []
    start = 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or raw.startswith("#"):
            continue
        start = start or number
        parts.append(line.removesuffix("\\").rstrip())
        if line.endswith("\\"):
            continue
        yield start, " ".join(parts)
        parts, start = [], 0
    if parts:
        yield start, " ".join(parts)


@functools.cache
def known_questions() -> dict[str, str]:
    """Question to type, from ``questions.txt``."""
    rows = [
        line.split() for line in QUESTIONS.read_text().splitlines() if line[:1] not in ("", "#")
    ]
    return {question: type_ for question, type_ in rows}


def _preseed(text: str, place: Place) -> list[str]:
    warnings = []
    for answer in read_preseed(text, place):
        if answer.type not in TYPES:
            raise SpecError(f"{answer.type!r} is no type of debconf", where=place.at(answer.line))
        if answer.owner == "d-i":
            warnings += _known(answer, place)
        if answer.type == "boolean" and answer.value not in ("true", "false"):
            raise SpecError(f"{answer.question} is true or false", where=place.at(answer.line))
        if answer.question in COMMANDS:
            _shell_syntax(answer, place)
    _debconf(text, place)
    return warnings


def _known(answer: Answer, place: Place) -> list[str]:
    known = known_questions()
    wanted = known.get(answer.question)
    if wanted is None:
        close = difflib.get_close_matches(answer.question, known, n=1, cutoff=0.9)
        if close:
            raise SpecError(
                f"the installer has no question {answer.question}",
                where=place.at(answer.line),
                hint=f"is {close[0]} meant?",
            )
        shown = place.at(answer.line)
        return [f"{shown}: {answer.question} is not in the table of known questions"]
    # Its guide writes string for many select questions; cdebconf keeps the template's own type.
    allowed = {"string", "select", "multiselect"} if wanted in CHOICES else {wanted}
    if answer.type not in allowed | {"seen"}:
        raise SpecError(
            f"{answer.question} is a {wanted}, not a {answer.type}", where=place.at(answer.line)
        )
    return []


def _shell_syntax(answer: Answer, place: Place) -> None:
    done = run(["sh", "-n"], input=answer.value.encode(), check=False, timeout=SECONDS)
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip()[:200]
        raise SpecError(
            f"{answer.question} is no shell command: {said}", where=place.at(answer.line)
        )


def _debconf(text: str, place: Place) -> None:
    done = run(
        ["debconf-set-selections", "--checkonly"],
        input=text.encode(),
        env={"DEBCONF_SYSTEMRC": str(DEBCONF)},
        check=False,
        timeout=SECONDS,
    )
    said = done.stderr.decode("utf-8", "replace").strip()
    if "error:" in said:
        raise SpecError(f"debconf refuses the answers: {said[:300]}", where=place.named_in(said))
    if done.returncode != 0:
        # It says "error:" about every line it refuses; anything else is about debconf itself.
        raise ToolError("debconf cannot check the answers", output=said)


def _kickstart(text: str, target: InstallerRelease, place: Place) -> None:
    program = _ksvalidator()
    with tempfile.TemporaryDirectory(prefix="imagekit-ks-") as directory:
        path = Path(directory) / "answers.ks"
        path.touch(mode=0o600)
        path.write_text(text)
        # pykickstart leaves a copy of what it reads, password hashes and all, in TMPDIR.
        done = run(
            [program, "--version", target.name, "--firsterror", path],
            env={"TMPDIR": directory},
            check=False,
            timeout=SECONDS,
        )
        output = (done.stdout + done.stderr).decode("utf-8", "replace").replace(str(path), "")
    if done.returncode == 0:
        return
    if "is not supported by pykickstart" in output:
        raise SpecError(f"pykickstart knows no release {target.name}", where=place.file)
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Checking kickstart file")]
    said = " ".join(lines[:3])[:300] or f"exit {done.returncode}"
    raise SpecError(
        f"pykickstart refuses the answers for {target.name}: {said}",
        where=place.named_in(output),
        hint="the line in pykickstart's own words is that of the rendered file",
    )


def _ksvalidator() -> Path:
    beside = Path(sys.executable).parent / "ksvalidator"
    found = beside if beside.is_file() else tools.find("ksvalidator")
    if found is None:
        raise HostError(
            "kickstart files are checked by pykickstart, which is not installed",
            hint="pip install 'imagekit[kickstart]'",
        )
    return found


def _autoinstall(text: str, place: Place) -> None:
    try:
        # Unlike the safe loader this one keeps the line of every key.
        value = yaml_reader("rt").load(text)
    except (YAMLError, ValueError, RecursionError) as error:
        first = str(error).strip().splitlines()
        mark = getattr(error, "problem_mark", None)
        where = place.at(mark.line + 1) if mark else place.file
        raise SpecError(f"not YAML: {first[0] if first else error}", where=where) from None
    top = value.get("autoinstall", value) if isinstance(value, dict) else None
    if not isinstance(top, dict) or top.get("version") != 1:
        raise SpecError("autoinstall needs a mapping with version: 1", where=place.file)
    unknown = [key for key in top if key not in AUTOINSTALL_KEYS]
    if unknown:
        where = place.at(_line_of(top, unknown[0]))
        raise SpecError(f"autoinstall has no key {unknown[0]}", where=where)
    if not ({"identity", "user-data"} & set(top)):
        raise SpecError("autoinstall needs identity or user-data", where=place.file)
    for key in ("early-commands", "late-commands", "error-commands"):
        for number, command in enumerate(top.get(key) or []):
            if isinstance(command, str) and re.search(r"[\r\n]", command.strip()):
                raise SpecError(
                    f"a command of {key} has more than one line",
                    where=place.at(_line_of(top[key], number)),
                )


def _line_of(node: Any, key: Any) -> int:
    """The line of a key or an item in a mapping or list that ruamel.yaml read; 0 if unknown."""
    try:
        return int(node.lc.data[key][0]) + 1
    except (AttributeError, KeyError, IndexError, TypeError):
        return 0
