"""What a shell script calls, as the real sh runs it with its programs replaced by recorders."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

Call = tuple[str, ...]


def calls(script: str, programs: dict[str, str]) -> list[Call]:
    """Run ``script`` under sh and return every call of ``programs`` in order, with its arguments.

    ``programs`` maps a name to what it prints. Nothing else is on the PATH.
    """
    with tempfile.TemporaryDirectory() as name:
        log = Path(name) / "log"
        functions = "".join(
            f"{program}() {{ printf '%s\\0' {program} \"$@\" '' >>'{log}'; echo '{text}'; }}\n"
            for program, text in programs.items()
        )
        done = subprocess.run(
            ["/bin/sh", "-s"],
            input=(functions + script).encode(),
            capture_output=True,
            env={"PATH": "/nonexistent", "LC_ALL": "C.UTF-8"},
            cwd=name,
            timeout=20,
        )
        assert done.returncode == 0 and done.stderr == b"", done.stderr
        text = log.read_bytes().decode() if log.exists() else ""
    found, words = [], []
    for word in text.split("\0")[:-1]:
        if word:
            words.append(word)
        else:
            found.append(tuple(words))
            words = []
    return found
