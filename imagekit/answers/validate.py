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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from imagekit.answers.context import Target
from imagekit.answers.render import Kind
from imagekit.errors import HostError, SpecError
from imagekit.host import tools
from imagekit.host.run import run

QUESTIONS = Path(__file__).parent / "questions.txt"
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


def validate(kind: Kind, text: str, *, target: Target, where: str) -> list[str]:
    """Raise SpecError for what the installer would refuse; returns what is merely doubtful.

    ``where`` names the template in errors; their line numbers are those of the rendered text.
    """
    if kind == "preseed":
        return _preseed(text, where)
    if kind == "kickstart":
        _kickstart(text, target, where)
    else:
        _autoinstall(text, where)
    return []


def read_preseed(text: str, where: str = "preseed") -> list[Answer]:
    """The answers of a preseed file, as debian-installer reads it. Raises SpecError."""
    found = []
    for number, line in _logical_lines(text):
        words = line.split(None, 3)
        if len(words) < 3:
            raise SpecError(
                f"{line[:80]!r} is not 'owner question type value'", where=f"{where}, line {number}"
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


def _preseed(text: str, where: str) -> list[str]:
    answers = read_preseed(text, where)
    warnings = []
    for answer in answers:
        place = f"{where}, line {answer.line} as rendered"
        if answer.type not in TYPES:
            raise SpecError(f"{answer.type!r} is no type of debconf", where=place)
        if answer.owner == "d-i":
            warnings += _known(answer, place)
        if answer.type == "boolean" and answer.value not in ("true", "false"):
            raise SpecError(f"{answer.question} is true or false", where=place)
        if answer.question in COMMANDS:
            _shell_syntax(answer, place)
    _debconf(text, where)
    return warnings


def _known(answer: Answer, place: str) -> list[str]:
    known = known_questions()
    wanted = known.get(answer.question)
    if wanted is None:
        close = difflib.get_close_matches(answer.question, known, n=1, cutoff=0.9)
        if close:
            raise SpecError(
                f"the installer has no question {answer.question}",
                where=place,
                hint=f"is {close[0]} meant?",
            )
        return [f"{place}: {answer.question} is not in the table of known questions"]
    # Its guide writes string for many select questions; cdebconf keeps the template's own type.
    allowed = {"string", "select", "multiselect"} if wanted in CHOICES else {wanted}
    if answer.type not in allowed | {"seen"}:
        raise SpecError(f"{answer.question} is a {wanted}, not a {answer.type}", where=place)
    return []


def _shell_syntax(answer: Answer, place: str) -> None:
    done = run(["sh", "-n"], input=answer.value.encode(), check=False, timeout=SECONDS)
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip()[:200]
        raise SpecError(f"{answer.question} is no shell command: {said}", where=place)


def _debconf(text: str, where: str) -> None:
    done = run(
        ["debconf-set-selections", "--checkonly"],
        input=text.encode(),
        check=False,
        timeout=SECONDS,
    )
    said = done.stderr.decode("utf-8", "replace").strip()
    if done.returncode != 0 or "error:" in said:
        raise SpecError(f"debconf refuses the answers: {said[:300]}", where=where)


def _kickstart(text: str, target: Target, where: str) -> None:
    program = _ksvalidator()
    with tempfile.TemporaryDirectory(prefix="imagekit-ks-") as directory:
        path = Path(directory) / "answers.ks"
        path.touch(mode=0o600)
        path.write_text(text)
        done = run(
            [program, "--version", target.name, "--firsterror", path], check=False, timeout=SECONDS
        )
        output = (done.stdout + done.stderr).decode("utf-8", "replace").replace(str(path), "")
    if done.returncode == 0:
        return
    if "is not supported by pykickstart" in output:
        raise SpecError(f"pykickstart knows no release {target.name}", where=where)
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Checking kickstart file")]
    said = " ".join(lines[:3])[:300] or f"exit {done.returncode}"
    raise SpecError(
        f"pykickstart refuses the answers for {target.name}: {said}",
        where=where,
        hint="the line number is that of the rendered file",
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


def _autoinstall(text: str, where: str) -> None:
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError) as error:
        first = str(error).strip().splitlines()
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1} as rendered" if mark else ""
        raise SpecError(f"not YAML: {first[0] if first else error}", where=where + line) from None
    top = value.get("autoinstall", value) if isinstance(value, dict) else None
    if not isinstance(top, dict) or top.get("version") != 1:
        raise SpecError("autoinstall needs a mapping with version: 1", where=where)
    unknown = sorted(str(key) for key in top if key not in AUTOINSTALL_KEYS)
    if unknown:
        raise SpecError(f"autoinstall has no key {unknown[0]}", where=where)
    if not ({"identity", "user-data"} & set(top)):
        raise SpecError("autoinstall needs identity or user-data", where=where)
    for key in ("early-commands", "late-commands", "error-commands"):
        for command in top.get(key) or []:
            if isinstance(command, str) and re.search(r"[\r\n]", command.strip()):
                raise SpecError(f"a command of {key} has more than one line", where=where)
