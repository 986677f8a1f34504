"""An ordinary user builds the same image in user namespaces; files get their right owners."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from oracles.builds import ROOT

pytestmark = [pytest.mark.real, pytest.mark.slow]

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


@pytest.fixture
def as_builder(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command as a user with subordinate ids and a home that others cannot read."""
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


def owner(image: Path, start: int, path: str) -> tuple[int, int, str]:
    text = subprocess.run(
        ["/sbin/debugfs", "-R", f"stat {path}", f"{image}?offset={start}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = re.search(r"User:\s*(\d+)\s+Group:\s*(\d+)", text)
    mode = re.search(r"Mode:\s*(\d+)", text)
    assert found is not None
    assert mode is not None
    return int(found[1]), int(found[2]), mode[1]


def test_an_ordinary_user_builds_an_image_with_the_right_owners(
    as_builder: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    spec = tmp_path / "guest.yaml"
    text = (ROOT / "examples/web01.yaml").read_text().replace("[raw, qcow2, vhd]", "[raw]")
    text += "identity: {users: [{name: ann, groups: [sudo], sudo: true}]}\n"
    spec.write_text(text)
    out = tmp_path / "home/out"
    done = as_builder(sys.executable, "-m", "imagekit", "build", spec, "-o", out)
    assert done.returncode == 0, done.stderr
    image = out / "web01.raw"
    start = 18 << 20
    assert owner(image, start, "/etc/passwd") == (0, 0, "0644")
    assert owner(image, start, "/etc/shadow") == (0, 42, "0640")
    assert owner(image, start, "/usr/bin/su") == (0, 0, "04755")
    assert owner(image, start, "/home/ann") == (1000, 1000, "0700")
    cache = tmp_path / "home/.cache/imagekit"
    assert list((cache / "work").iterdir()) == []
    assert list(Path("/dev/shm").glob("imagekit-4321-*")) == []


def test_a_user_without_subordinate_ids_is_told_what_to_change(
    as_builder: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "subuid").write_text("")
    spec = tmp_path / "guest.yaml"
    spec.write_text((ROOT / "examples/web01.yaml").read_text())
    out = tmp_path / "home/out"
    done = as_builder(sys.executable, "-m", "imagekit", "build", spec, "-o", out)
    assert done.returncode == 4
    assert "usermod --add-subuids" in done.stderr
    assert not out.exists()
