"""An ordinary user builds the same image in user namespaces; files get their right owners."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from oracles.builds import ROOT
from oracles.ordinary_user import AsUser

pytestmark = [pytest.mark.real, pytest.mark.slow]


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
    as_builder: AsUser, tmp_path: Path
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
    as_builder: AsUser, tmp_path: Path
) -> None:
    (tmp_path / "subuid").write_text("")
    spec = tmp_path / "guest.yaml"
    spec.write_text((ROOT / "examples/web01.yaml").read_text())
    out = tmp_path / "home/out"
    done = as_builder(sys.executable, "-m", "imagekit", "build", spec, "-o", out)
    assert done.returncode == 4
    assert "usermod --add-subuids" in done.stderr
    assert not out.exists()
