"""A shell script run by the real sh, with its programs replaced by functions of the test."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

Program = Callable[[list[str]], str]
"""From a program's arguments to the one line it prints; raises Refused to fail."""


class Refused(Exception):
    """The program ends with status 1, and this on standard error."""


def run(script: str, programs: Mapping[str, Program]) -> tuple[int, str, str]:
    """Run ``script`` under sh; its status, standard output and error. No other program is found."""
    with tempfile.TemporaryDirectory() as name:
        asked, answered = Path(name) / "asked", Path(name) / "answered"
        for path in (asked, answered):
            os.mkfifo(path)
        functions = (
            f"fake() {{ printf '%s\\0' \"$@\" >'{asked}'; read -r fakerc fakeout <'{answered}'; "
            '[ "$fakerc" = 0 ] || { echo "$fakeout" >&2; return "$fakerc"; }; '
            '[ -z "$fakeout" ] || echo "$fakeout"; }\n'
        )
        functions += "".join(f'{program}() {{ fake {program} "$@"; }}\n' for program in programs)
        server = threading.Thread(target=_serve, args=(programs, asked, answered), daemon=True)
        server.start()
        done = subprocess.run(
            ["/bin/sh", "-s"],
            input=(functions + script).encode(),
            capture_output=True,
            env={"PATH": "/nonexistent", "LC_ALL": "C.UTF-8"},
            cwd=name,
            timeout=60,
        )
        asked.write_bytes(b"")
        server.join(10)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def _serve(programs: Mapping[str, Program], asked: Path, answered: Path) -> None:
    while words := asked.read_bytes().decode().split("\0")[:-1]:
        program, *rest = words
        try:
            answered.write_text(f"0 {programs[program](rest)}\n")
        except Exception as error:  # a broken fake must not leave sh waiting
            text = str(error) if isinstance(error, Refused) else repr(error)
            answered.write_text(f"1 {text}\n")
