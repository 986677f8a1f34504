"""HVM guests proven through UEFI: which configs are used, which written, which refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from oracles.manifests import artefact, write_manifest

from imagekit.domain.bootpath import domain_for
from imagekit.domain.facts import BuildFacts, DiskFacts, PygrubView, Verdict
from imagekit.errors import CapabilityError, SpecError
from imagekit.proof.boots import Wanted, trials_of_build
from imagekit.toolstacks.xl import emitter as xl

YES = Verdict(True, ("made up",))
FACTS = BuildFacts(
    name="web",
    uuid="5f0c7f5e-3a77-4f0b-9a0e-2f6d6f2b4d11",
    memory_mib=512,
    vcpus=1,
    disks=(DiskFacts({"raw": "web.raw"}, 2 << 30),),
    pv=YES,
    pvh=YES,
    hvm=YES,
    pygrub=PygrubView(True, "made up"),
    bootloader_bios=True,
    bootloader_uefi=True,
)


def a_build(path: Path, facts: BuildFacts) -> Path:
    """A build directory as far as a proof reads it, with a config for HVM."""
    config = xl.emit(domain_for(facts.located(str(path)), mode="hvm"))
    (path / "web.hvm.xl.cfg").write_text(config)
    own = artefact("domain-config", "web.hvm.xl.cfg", toolstack="xl")
    write_manifest(path, facts, [own])
    return path


def trials(build: Path, *boots: str) -> list[tuple[str, bool]]:
    """The boot path of each trial, and whether its config is one of the build's own."""
    wanted = Wanted.checked(["hvm"], boots)
    found = trials_of_build(build, wanted, build / "proof")
    return [(trial.config.boot, trial.config.path.parent == build) for trial in found]


def test_a_config_for_uefi_is_written_where_the_build_has_none(tmp_path: Path) -> None:
    build = a_build(tmp_path, FACTS)
    assert trials(build, "uefi") == [("uefi", False)]
    written = (tmp_path / "proof/web-hvm-uefi-raw.xl.cfg").read_text()
    assert 'firmware = "uefi"' in written
    assert trials(build, "firmware", "uefi") == [("firmware", True), ("uefi", False)]


def test_an_image_for_uefi_alone_is_proven_by_its_own_config(tmp_path: Path) -> None:
    build = a_build(tmp_path, replace(FACTS, bootloader_bios=False))
    for boots in ((), ("uefi",), ("firmware",)):
        assert trials(build, *boots) == [("uefi", True)]


def test_an_image_without_boot_loader_for_uefi_is_refused(tmp_path: Path) -> None:
    build = a_build(tmp_path, replace(FACTS, bootloader_uefi=False))
    with pytest.raises(CapabilityError, match="no boot loader for UEFI"):
        trials(build, "uefi")


def test_only_hvm_guests_have_uefi(tmp_path: Path) -> None:
    build = a_build(tmp_path, FACTS)
    with pytest.raises(SpecError, match="no guest boots as pv through uefi"):
        trials_of_build(build, Wanted.checked(["pv"], ["uefi"]), build / "proof")
