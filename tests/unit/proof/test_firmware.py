"""The plan of the lab's firmware, and where its source comes from."""

from __future__ import annotations

from pathlib import Path

from imagekit.proof.firmware import _own_sources
from imagekit.proof.tools import tools_plan


def test_the_tools_are_made_in_a_tree_of_their_own() -> None:
    plan = tools_plan()
    names = [planned.stage.name for planned in plan.stages]
    assert names == [
        "build-tree",
        "lab-firmware",
        "lab-emulator",
        "lab-unpack",
        "lab-check-programs",
    ]
    assert {"bios.bin", "version", "qemu.tar", "unpack.so"} <= {t.artefact for t in plan.targets}


def test_sources_that_the_installer_chose_are_checked_by_our_keyring(tmp_path: Path) -> None:
    listed = tmp_path / "etc/apt/sources.list"
    listed.parent.mkdir(parents=True)
    listed.write_text(
        "# none\n"
        "deb [signed-by=/etc/apt/x.gpg] http://one.test/debian bookworm main\n"
        "deb http://two.test/debian bookworm-updates main\n"
        "deb-src http://three.test/debian bookworm main\n"
    )
    assert _own_sources(tmp_path, Path("/k.gpg")) == [
        "deb [signed-by=/k.gpg] http://one.test/debian bookworm main",
        "deb [signed-by=/k.gpg] http://two.test/debian bookworm-updates main",
    ]
