"""What a proof ran on: the lab's packages, digests of its parts, and the QEMU that runs it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from imagekit.proof import versions
from imagekit.proof.emulator import EmulatorArchive
from imagekit.proof.firmware import Firmware
from imagekit.proof.report import ProofReport, table
from imagekit.proof.versions import (
    Component,
    LabVersions,
    describe_tree,
    firmware_component,
    lab_versions,
    qemu_component,
)

PACKAGES = """linux-image-6.1.0-56-amd64\t6.1.192-2
linux-image-amd64\t6.1.192-2
ovmf\t2022.11-6+deb12u2
seabios\t1.16.2-1
xen-hypervisor-4.17-amd64\t4.17.7+13-g2445b30a44-0+deb12u1
xen-hypervisor-common\t4.17.7+13-g2445b30a44-0+deb12u1
"""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


EMULATOR = EmulatorArchive(Path("/nowhere/qemu.tar"), "1:7.2+dfsg-7", "8" * 64)
FIRMWARE = Firmware(Path("/nowhere/bios.bin"), "1.16.2-1", "9" * 64)


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What dpkg-query says in the lab's tree."""
    listing = SimpleNamespace(text=PACKAGES)
    monkeypatch.setattr(versions, "chroot", lambda *_args, **_options: listing)
    return listing


def test_the_labs_parts_have_their_versions_and_digests(
    packages: SimpleNamespace, tmp_path: Path
) -> None:
    firmware = tmp_path / versions.OVMF[0]
    firmware.parent.mkdir(parents=True)
    firmware.write_bytes(b"uefi")
    (tmp_path / "versions.json").write_text(describe_tree(tmp_path, tmp_path / "log"))
    digests = {"xen": "0" * 64, "vmlinuz": "1" * 64, "dom0.img": "2" * 64, "initrd": "3" * 64}
    assert lab_versions(tmp_path / "versions.json", digests, EMULATOR, FIRMWARE) == LabVersions(
        accelerator="tcg",
        qemu=Component("1:7.2+dfsg-7", "8" * 64),
        xen=Component("4.17.7+13-g2445b30a44-0+deb12u1", "0" * 64),
        dom0_kernel=Component("6.1.192-2", "1" * 64),
        dom0_disk=Component(None, "2" * 64),
        seabios=Component("1.16.2-1, rebuilt with ATA DMA", "9" * 64),
        ovmf=Component("2022.11-6+deb12u2", sha256(b"uefi")),
    )


def test_what_is_not_there_is_unknown_and_no_error(
    packages: SimpleNamespace, tmp_path: Path
) -> None:
    packages.text = ""
    (tmp_path / "versions.json").write_text(describe_tree(tmp_path, tmp_path / "log"))
    found = lab_versions(tmp_path / "versions.json", {}, EMULATOR, FIRMWARE)
    assert (found.xen, found.ovmf) == (Component(None, None), None)


def test_a_program_of_this_host_says_its_version(tmp_path: Path) -> None:
    qemu = tmp_path / "qemu"
    qemu.write_text("#!/bin/sh\necho 'QEMU emulator version 7.2.22 (Debian 1:7.2)'\necho more\n")
    qemu.chmod(0o755)
    found = qemu_component(str(qemu))
    assert found == Component("7.2.22 (Debian 1:7.2)", sha256(qemu.read_bytes()))
    assert qemu_component(str(tmp_path / "no-qemu")) == Component(None, None)
    assert firmware_component(tmp_path / "no-bios", "1") is None
    assert firmware_component(qemu, "1") == Component("1", found.sha256)


def test_the_report_and_its_table_say_it() -> None:
    ran_on = LabVersions("tcg", Component("7.2.22", "4" * 64), xen=Component("4.17.7", "5" * 64))
    report = ProofReport("xen", (), {}, ran_on)
    assert "ran on: tcg, QEMU 7.2.22, Xen 4.17.7" in table(report)
    value = json.loads(json.dumps(report.to_json()))
    assert value["ran_on"]["xen"] == {"version": "4.17.7", "sha256": "5" * 64}
    assert "machine" not in value
