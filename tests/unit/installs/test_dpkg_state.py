"""Whose maintainer scripts ran when dpkg was killed, by what the real dpkg left behind."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from oracles.local_tree import LocalTree

from imagekit.installs.stages.dpkgstate import STATUS, UPDATES, busy_packages

KILL = "#!/bin/sh\nkill -9 $PPID\n"
SCRIPTLESS = ("good", "other")


def package(directory: Path, name: str, **scripts: str) -> Path:
    root = directory / name
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: n <n@example.org>\n"
        "Description: a test\n"
    )
    (root / "usr/share" / name).mkdir(parents=True)
    for script, text in scripts.items():
        (root / "DEBIAN" / script).write_text(text)
        (root / "DEBIAN" / script).chmod(0o755)
    target = directory / f"{name}.deb"
    subprocess.run(["dpkg-deb", "-b", root, target], check=True, capture_output=True)
    return target


def install(tree: Path, *debs: Path) -> int:
    """Install with the dpkg of this host, without root; returns its exit status."""
    admin = tree / "var/lib/dpkg"
    for name in ("info", "updates", "triggers"):
        (admin / name).mkdir(parents=True, exist_ok=True)
    (admin / "status").touch()
    force = "--force-not-root,script-chrootless,bad-path,unsafe-io"
    argv: list[str | Path] = ["dpkg", force, f"--root={tree}", "--log=/dev/null", "-i", *debs]
    return subprocess.run(argv, capture_output=True).returncode


@pytest.mark.parametrize("script", ["preinst", "postinst"])
def test_the_package_whose_script_ran_is_found(tmp_path: Path, script: str) -> None:
    tree = tmp_path / "tree"
    good = [package(tmp_path, name) for name in SCRIPTLESS]
    bad = package(tmp_path, "bad", **{script: KILL})
    assert install(tree, good[0], bad, good[1]) == -9
    assert busy_packages(LocalTree(tree)) == ["bad"]


def test_after_all_went_well_there_is_none(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    assert install(tree, *(package(tmp_path, name) for name in SCRIPTLESS)) == 0
    assert busy_packages(LocalTree(tree)) == []


def test_what_a_hostile_tree_says_is_taken_for_names_only(tmp_path: Path) -> None:
    files = LocalTree(tmp_path)
    assert busy_packages(files) == []
    stanza = "Package: {}\nStatus: install ok half-configured\n\n"
    names = ("a", "\x1b[2J", "b c", "../d", "e" * 20)
    updates = tmp_path / UPDATES.lstrip("/")
    updates.mkdir(parents=True)
    (tmp_path / STATUS.lstrip("/")).write_text("".join(map(stanza.format, names)))
    (updates / "0000").write_text("Package: a\nStatus: install ok installed\n")
    (updates / "0001").write_bytes(b"\xff\x00no record")
    (updates / "0002").symlink_to("/etc/passwd")
    (updates / "tmp.i").write_text("Package: f\nStatus: install ok half-configured\n")
    assert busy_packages(files) == ["e" * 20]
