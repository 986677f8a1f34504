"""What a proof ran on: the lab's packages, digests of its parts, and the QEMU that runs it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from oracles.labs import lab_tools

from imagekit.proof import versions
from imagekit.proof.report import ProofReport, table
from imagekit.proof.versions import Component, LabVersions, describe_tree, lab_versions

PACKAGES = """linux-image-6.1.0-56-amd64\t6.1.192-2
linux-image-amd64\t6.1.192-2
ovmf\t2022.11-6+deb12u2
seabios\t1.16.2-1
xen-hypervisor-4.17-amd64\t4.17.7+13-g2445b30a44-0+deb12u1
xen-hypervisor-common\t4.17.7+13-g2445b30a44-0+deb12u1
"""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tree = tmp_path / "tree"
    ovmf = tree / versions.OVMF[0]
    ovmf.parent.mkdir(parents=True)
    ovmf.write_bytes(b"uefi")
    listing = SimpleNamespace(text=PACKAGES)
    monkeypatch.setattr(versions, "chroot", lambda *_args, **_options: listing)
    path = tmp_path / "versions.json"
    path.write_text(describe_tree(tree, tmp_path / "log"))
    return path


def test_the_labs_parts_have_their_versions_and_digests(described: Path) -> None:
    digests = {"xen": "0" * 64, "vmlinuz": "1" * 64, "dom0.img": "2" * 64, "initrd": "3" * 64}
    assert lab_versions(described, digests, lab_tools()) == LabVersions(
        accelerator="tcg",
        qemu=Component("1:7.2+dfsg-7", "7" * 64),
        xen=Component("4.17.7+13-g2445b30a44-0+deb12u1", "0" * 64),
        dom0_kernel=Component("6.1.192-2", "1" * 64),
        dom0_disk=Component(None, "2" * 64),
        seabios=Component("1.16.2-1 with ATA DMA", "6" * 64),
        ovmf=Component("2022.11-6+deb12u2", sha256(b"uefi")),
    )


def test_what_is_not_there_is_unknown_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "chroot", lambda *_args, **_options: SimpleNamespace(text=""))
    path = tmp_path / "versions.json"
    path.write_text(describe_tree(tmp_path, tmp_path / "log"))
    found = lab_versions(path, {}, lab_tools())
    assert (found.xen, found.ovmf) == (Component(None, None), None)


def test_a_qemu_of_the_host_says_its_version(tmp_path: Path) -> None:
    qemu = tmp_path / "qemu"
    qemu.write_text("#!/bin/sh\necho 'QEMU emulator version 7.2.22 (Debian 1:7.2)'\necho more\n")
    qemu.chmod(0o755)
    said = Component("7.2.22 (Debian 1:7.2)", sha256(qemu.read_bytes()))
    assert versions.qemu_component(str(qemu)) == said
    assert versions.qemu_component(str(tmp_path / "no-qemu")) == Component(None, None)


def test_the_report_and_its_table_say_it() -> None:
    ran_on = LabVersions("tcg", Component("7.2.22", "4" * 64), xen=Component("4.17.7", "5" * 64))
    report = ProofReport("xen", (), {}, (ran_on,))
    assert "ran on: tcg, QEMU 7.2.22, Xen 4.17.7" in table(report)
    value = json.loads(json.dumps(report.to_json()))
    assert value["ran_on"][0]["xen"] == {"version": "4.17.7", "sha256": "5" * 64}
    assert "machine" not in value
