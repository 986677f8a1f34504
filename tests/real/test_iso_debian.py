"""Debian's own installer, from the package of its netboot images, on a CD by BIOS and by UEFI.

The mirrors of test machines often carry no udebs (main/debian-installer), without which the
installer stops at "Download installer components". So this shows that it boots from the remastered
CD, takes our answers without a question, configures the network and runs our early command; not
that it installs a system.
"""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from oracles import isos

from imagekit.disk import raw
from imagekit.host.apt_sources import canonical_archive
from imagekit.host.kvm import kvm_works
from imagekit.installs.machine import Hardware, machine
from imagekit.installs.reach import SECURITY
from imagekit.installs.remaster.remaster import remaster
from imagekit.installs.stages.answers import render_answers
from imagekit.spec.install import Iso
from imagekit.spec.load import load_spec
from imagekit.vm.gate import Endpoint

pytestmark = [pytest.mark.real, pytest.mark.slow]
PACKAGE = "debian-installer-12-netboot-amd64"
IMAGES = "usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64"
SPEC = """name: web01
os: {distribution: debian, suite: bookworm}
install: {method: iso, iso: source.iso, packages: [openssh-server]}
disk: {size: 8GiB}
"""
SECONDS = 900.0


@pytest.fixture(scope="module")
def remastered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Debian's kernel and initrd on a hybrid ISO as debian-cd makes it, remastered."""
    base = tmp_path_factory.mktemp("debian")
    isos.run("apt-get", "download", "-o", "APT::Sandbox::User=root", PACKAGE, cwd=base)
    (package,) = base.glob("*.deb")
    isos.run("dpkg-deb", "-x", package, base / "x")
    package.unlink()
    images = base / "x" / IMAGES
    tree = base / "tree"
    tree.mkdir()
    isos.debian_tree(tree, (images / "linux").read_bytes(), (images / "initrd.gz").read_bytes())
    shutil.rmtree(base / "x")
    source = isos.with_xorriso(tree, base / "source.iso", hybrid=True)
    shutil.rmtree(tree)
    (base / "web01.yaml").write_text(SPEC)
    file = load_spec(base / "web01.yaml")
    assert isinstance(file.spec.install, Iso)
    answers, warnings = render_answers(file, file.spec.install, {})
    assert warnings == []
    (base / "scratch").mkdir()
    made = remaster(source, base / "out.iso", answers, scratch=base / "scratch")
    source.unlink()
    shutil.rmtree(base / "scratch")
    return made.path


@pytest.mark.parametrize("firmware", ["bios", pytest.param("uefi", marks=pytest.mark.long)])
def test_debians_installer_takes_our_answers_up_to_its_missing_components(
    remastered: Path, firmware: str, tmp_path: Path
) -> None:
    raw.create(tmp_path / "disk", 4 << 30)
    archive = urlsplit(str(canonical_archive("debian", "bookworm").mirror)).hostname
    hardware = Hardware(
        remastered,
        tmp_path / "disk",
        1024,
        kvm_works().works,
        firmware,
        mac="00:16:3e:00:00:07",
        reach=(Endpoint(SECURITY["debian"], 80), Endpoint(str(archive), 80)),
    )
    wanted = {
        "answers": r"successfully loaded preseed file from file:///preseed\.cfg",
        "early command": r"running preseed command preseed/early_command",
        "network": r"lease of 10\.0\.2\.15 obtained|Network config complete",
        "components": r"Menu item 'download-installer' selected",
    }
    seen: dict[str, str] = {}

    def line(_name: str, text: str) -> None:
        for what, pattern in wanted.items():
            if what not in seen and re.search(pattern, text):
                seen[what] = text

    (tmp_path / "scratch").mkdir()
    (tmp_path / "logs").mkdir()
    started = time.monotonic()
    with machine(
        hardware, scratch=tmp_path / "scratch", logs=tmp_path / "logs", listener=line
    ) as running:
        while running.step(1.0) and len(seen) < len(wanted):
            if time.monotonic() - started > SECONDS:
                break
        tail = running.tail("console", 20) + running.tail("syslog", 20)
    assert set(seen) == set(wanted), tail
    console = (tmp_path / "logs/console.log").read_text("utf-8", "replace")
    assert "imagekit: answers taken" in console
    booted = "EFI v2" in console
    assert booted == (firmware == "uefi")
    assert not re.search(r"Prompt: '\?' for help|Go Back|<Continue>", console)
