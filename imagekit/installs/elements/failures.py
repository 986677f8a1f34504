"""Tells from the log of dib-run-parts which element's script failed, and in which line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imagekit.errors import ToolError
from imagekit.installs.elements.catalogue import Element

TAIL = 1 << 20
# disk-image-create puts times and a bar before each line unless told otherwise.
_RUNNING = re.compile(r"dib-run-parts Running (\S+)/([^/\s]+)$", re.M)


@dataclass(frozen=True)
class Culprit:
    """The script that ran last, whose it is, and the line where it stopped (0: not known)."""

    element: str
    phase: str
    script: str
    line: int
    command: str


def tail(log: Path) -> str:
    """The last MiB of ``log``."""
    if not log.is_file():
        return ""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - TAIL))
        return stream.read().decode("utf-8", "backslashreplace")


def find_culprit(text: str, elements: Sequence[Element], phase: str) -> Culprit | None:
    """The script that ran when ``text``, a log, ended; None when none had been started."""
    running = list(_RUNNING.finditer(text))
    if not running:
        return None
    name = running[-1][2]
    after = text[running[-1].end() :]
    owner = next((e.name for e in elements if _has(e, phase, name)), "unknown")
    line, command = _line(after, name)
    return Culprit(owner, phase, name, line, command)


def last_phase(log: Path) -> str:
    """The phase whose script ran last according to ``log``; "" when there was none."""
    running = list(_RUNNING.finditer(tail(log)))
    return running[-1][1].rsplit("/", 1)[-1] if running else ""


def _has(element: Element, phase: str, name: str) -> bool:
    directory = element.path / phase
    return (directory / name).is_file() or (
        directory.is_dir() and any(p.name == name for p in directory.glob(f"*/{name}"))
    )


def _line(text: str, name: str) -> tuple[int, str]:
    """Line and command where the script ``name`` stopped, as bash, dash or Python tell it."""
    escaped = re.escape(name)
    traced = re.findall(rf"^imagekit-trace \S*/{escaped}:(\d+): (.*)$", text, re.M)
    if traced:
        return int(traced[-1][0]), str(traced[-1][1])
    for pattern in (
        rf"/{escaped}: line (\d+): (.*)$",
        rf"/{escaped}: (\d+): (.*)$",
        rf'File "\S*/{escaped}", line (\d+)(.*)$',
    ):
        found = re.findall(pattern, text, re.M)
        if found:
            return int(found[-1][0]), str(found[-1][1]).strip(", ")
    return 0, ""


def explain(
    error: ToolError, log: Path, elements: Sequence[Element], phase: str, *, network: bool
) -> ToolError:
    """``error`` of a phase with element, script and line named."""
    text = tail(log)
    culprit = find_culprit(text, elements, phase)
    hint = f"the whole log is in {log}"
    offline = r"Temporary failure resolving|Could not resolve|Unable to locate package|has no inst"
    if not network and re.search(offline, text):
        hint = f"elements have no network unless install.element_network is true; {hint}"
    if culprit is None:
        error.hint = hint
        return error
    place = f"{phase}/{culprit.script}" + (f" line {culprit.line}" if culprit.line else "")
    stopped = any(x in error.what for x in ("took longer than", "reached its bound"))
    what = f"the element {culprit.element} failed in {place}"
    if stopped:
        what = f"the element {culprit.element} was stopped in {place}: {error.what}"
    elif culprit.command:
        what += f" ({culprit.command[:120]})"
    clean = "\n".join(x for x in error.output.splitlines() if not x.startswith("imagekit-trace"))
    return ToolError(what, hint=hint, output=clean, returncode=error.returncode)
