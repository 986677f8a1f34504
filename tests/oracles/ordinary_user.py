"""An ordinary user with subordinate ids, for whom nothing on the host is changed; made by root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from oracles.builds import ROOT

AsUser = Callable[..., subprocess.CompletedProcess[str]]

# The user exists only in this command's mount namespace: nothing on the host is changed. There the
# checkout ($2) can be read as well when it lies in a directory ($3) that is closed to others.
AS_BUILDER = """
set -eu
for name in passwd group subuid subgid; do mount --bind "$1/$name" "/etc/$name"; done
home=$1/home
if [ -n "$3" ]; then
	mkdir "$1/checkout"
	mount --bind "$2" "$1/checkout"
	mount -t tmpfs -o mode=755 tmpfs "$3"
	mkdir -p "$2"
	mount --move "$1/checkout" "$2"
	rmdir "$1/checkout"
fi
shift 3
exec setpriv --reuid 4321 --regid 4321 --clear-groups env -i HOME="$home" PATH="$PATH" "$@"
"""


def as_ordinary_user(tmp_path: Path) -> AsUser:
    """Runs commands as a user with subordinate ids and the home ``tmp_path``/home, which others
    cannot read.
    """
    for name, line in (
        ("passwd", "builder:x:4321:4321::{}:/bin/sh\n"),
        ("group", "builder:x:4321:\n"),
    ):
        text = Path("/etc", name).read_text() + line.format(tmp_path / "home")
        (tmp_path / name).write_text(text)
    for name in ("subuid", "subgid"):
        (tmp_path / name).write_text("builder:600000:65536\n")
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    os.chown(home, 4321, 4321)
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_uid == os.getuid() and str(directory).startswith("/tmp/"):
            directory.chmod(directory.stat().st_mode | 0o111)

    closed = [d for d in ROOT.parents if not d.stat().st_mode & 0o001]

    def run(*argv: str | Path) -> subprocess.CompletedProcess[str]:
        places = (tmp_path, ROOT, closed[-1] if closed else "")
        unshare = ["unshare", "--mount", "--propagation=private"]
        return subprocess.run(
            [*unshare, "sh", "-c", AS_BUILDER, "sh", *map(str, (*places, *argv))],
            capture_output=True,
            text=True,
            timeout=900,
        )

    return run
