"""Finds what is wrong with an element before it is run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from imagekit.host.run import run
from imagekit.installs.elements import content
from imagekit.installs.elements.catalogue import ENVIRONMENT, PHASES, RUN_PARTS_NAME, Element
from imagekit.spec.yamltext import yaml_reader

# Directories ending in .d that belong to ramdisks, dracut or the guest rather than to a phase
# (lib/ramdisk-functions and the elements dracut-ramdisk, modprobe and yum of diskimage-builder).
OTHER_DIRECTORIES = {
    *("init.d", "udev.d", "binary-deps.d", "ramdisk-install.d", "dracut-drivers.d"),
    *("dracut.conf.d", "modprobe.d", "yum.repos.d", "sysctl.d"),
}
BASHISMS = (
    (re.compile(r"(^|[;&|]|\bif|\bwhile|!)\s*\[\["), "[[ is bash's; use ["),
    (re.compile(r"(^|[;&|]|\bif|\bwhile)\s*\(\("), "(( is bash's; use [ with -gt"),
    (re.compile(r"\[\s[^]]*\s==\s"), "== in [ is bash's; use ="),
    (re.compile(r"^\s*function\s+\w+"), "'function' is bash's; write name() {"),
    (re.compile(r"<<<"), "<<< is bash's; use printf and a pipe"),
    (re.compile(r"[<>]\("), "process substitution is bash's"),
    (re.compile(r"&>|>&\s*[^0-9\s&-]"), "&> is bash's; use > file 2>&1"),
    (re.compile(r"^\s*(source)\s"), "'source' is bash's; use ."),
    (re.compile(r"\$\{\w+(/|:-?\d|\^|,|@)"), "this expansion of a variable is bash's"),
    (re.compile(r"^\s*(declare|typeset|mapfile|readarray|shopt|pushd|popd)\b"), "bash's own"),
    (re.compile(r"set\s+-o\s+pipefail|set\s+-\w*E"), "this option is bash's"),
    (re.compile(r"^\s*(local\s+)?\w+(\+)?=\("), "arrays are bash's"),
    (re.compile(r"^\s*\w+\+="), "+= is bash's"),
    (re.compile(r"\$'"), "$'..' is bash's; use printf"),
    (re.compile(r"\bread\s+-[a-qs-z]"), "only read -r is in sh"),
    (re.compile(r"\$(RANDOM|BASH_SOURCE|FUNCNAME|PIPESTATUS)\b|\$\{(BASH|PIPE)"), "bash's own"),
)


@dataclass(frozen=True)
class Finding:
    """What is wrong: ``level`` is "error" or "warning", ``line`` 0 for a whole file."""

    level: str
    path: Path
    line: int
    text: str

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else str(self.path)
        return f"{place}: {self.level}: {self.text}"


def lint(element: Element, known: Mapping[str, Element]) -> list[Finding]:
    """Everything wrong with ``element``, whose dependencies are looked up in ``known``.

    Raises SpecError for links that lead out of it, and for devices and the like.
    """
    list(content.entries(element.path))
    findings = [*_directories(element), *_dependencies(element, known), *_data(element)]
    for phase in PHASES:
        directory = element.path / phase
        if directory.is_dir():
            for path in sorted(directory.iterdir()):
                findings += _script(path, sourced=False)
    environment = element.path / ENVIRONMENT
    if environment.is_dir():
        for path in sorted(environment.iterdir()):
            findings += _script(path, sourced=True)
    return findings


def _directories(element: Element) -> Iterator[Finding]:
    known = {*PHASES, ENVIRONMENT, *OTHER_DIRECTORIES}
    for path in sorted(element.path.iterdir()):
        if path.is_dir() and path.name.endswith(".d") and path.name not in known:
            yield Finding("error", path, 0, f"{path.name} is no phase of diskimage-builder")
    if not any(element.path.glob("README*")):
        yield Finding("warning", element.path, 0, "no README tells what it does")


def _dependencies(element: Element, known: Mapping[str, Element]) -> Iterator[Finding]:
    provided = {p for e in known.values() for p in e.provides}
    path = element.path / "element-deps"
    lines = (content.text(element.path, path.name) or "").splitlines()
    for number, line in enumerate(lines, 1):
        name = line.strip()
        if name and name not in known and name not in provided:
            yield Finding("error", path, number, f"there is no element {name}")


def _data(element: Element) -> Iterator[Finding]:
    for name in ("package-installs.yaml", "package-installs.json", "svc-map", "pkg-map"):
        path = element.path / name
        text = content.text(element.path, name)
        if text is None:
            continue
        value: Any
        try:
            if name.endswith((".json", "pkg-map")):
                value = json.loads(text)
            else:
                value = yaml_reader().load(text)
        except (ValueError, YAMLError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            line = mark.line + 1 if mark else int(getattr(error, "lineno", 0))
            yield Finding("error", path, line, f"cannot be read: {str(error).splitlines()[0]}")
            continue
        if value is not None and not isinstance(value, dict):
            yield Finding("error", path, 1, "must be a mapping")


def _script(path: Path, *, sourced: bool) -> Iterator[Finding]:
    if not path.is_file():
        return
    name = RUN_PARTS_NAME if not sourced else re.compile(r"[0-9A-Za-z_.-]+")
    if not name.fullmatch(path.name):
        # Data lies beside the scripts that install it; a file that can be run was meant to be.
        if os.access(path, os.X_OK):
            yield Finding("warning", path, 0, "dib-run-parts passes over a file of this name")
        return
    try:
        text = path.read_bytes()[: 1 << 20].decode()
    except UnicodeDecodeError:
        return
    if sourced:
        yield from _syntax(path, "bash")
        return
    if not os.access(path, os.X_OK):
        yield Finding("error", path, 0, "is not executable and will not be run (chmod +x)")
    first = text.split("\n", 1)[0]
    shebang = re.match(r"#!\s*/(?:usr/)?bin/(?:env\s+)?(\w+)", first)
    if shebang is None:
        yield Finding("error", path, 1, "has no #! line")
    elif shebang[1] in ("sh", "dash"):
        yield from _syntax(path, "sh")
        yield from _bashisms(path, text)
    elif shebang[1] == "bash":
        yield from _syntax(path, "bash")


def _syntax(path: Path, shell: str) -> Iterator[Finding]:
    done = run([shell, "-n", str(path)], check=False, timeout=30)
    if done.returncode != 0:
        message = done.stderr.decode("utf-8", "replace").strip().splitlines()
        text = message[0] if message else "syntax error"
        line = re.search(r"(?:line )?(\d+):", text.removeprefix(str(path)))
        yield Finding("error", path, int(line[1]) if line else 0, f"not {shell}: {text}")


def _bashisms(path: Path, text: str) -> Iterator[Finding]:
    heredoc = ""
    for number, line in enumerate(text.splitlines(), 1):
        if heredoc:
            if line.strip() == heredoc:
                heredoc = ""
            continue
        bare = re.sub(r"'[^']*'|\"[^\"$`]*\"", "''", line)
        bare = re.sub(r"(^|\s)#.*", "", bare)
        for pattern, message in BASHISMS:
            if pattern.search(bare):
                yield Finding("error", path, number, message)
                break
        start = re.search(r"<<-?\s*['\"]?(\w+)", line)
        if start and "<<<" not in line:
            heredoc = start[1]
