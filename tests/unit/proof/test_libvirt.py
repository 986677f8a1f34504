"""Proofs by libvirt: how its XML is read, which trials there are, what dom0's agent does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import domain_strategies as some
from oracles.labs import lab_tools
from oracles.manifests import artefact as made_up
from oracles.manifests import write_manifest
from pydantic import ValidationError
from typer.testing import CliRunner

from imagekit.cli.main import make_app
from imagekit.domain import model
from imagekit.domain.bootpath import domain_for
from imagekit.domain.facts import BuildFacts, DiskFacts, PygrubView, Verdict
from imagekit.domain.model import Mode, Nic
from imagekit.errors import ImagekitError, SpecError
from imagekit.proof import boots, prove
from imagekit.proof.boots import Trial, Wanted, trials_of_build, under_each
from imagekit.proof.guestconfig import GuestConfig, GuestDisk
from imagekit.proof.lab import lab_plan
from imagekit.proof.libvirtxml import parse_xml
from imagekit.proof.report import Boot, Outcome, ProofReport, table
from imagekit.proof.xens import LIBVIRT, XENS
from imagekit.proof.xlcfg import parse_config
from imagekit.spec.model import Proof
from imagekit.toolstacks.libvirt import emitter as libvirt
from imagekit.toolstacks.xl import emitter as xl

PATH = Path("/b/web.xml")
MODES: tuple[Mode, ...] = ("pv", "pvh", "hvm")
quick = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@given(some.attempts())
@quick
def test_every_emitted_xml_reads_back_as_the_domain(arguments: dict[str, object]) -> None:
    domain = some.build(arguments)
    if domain is None:
        return
    try:
        text = libvirt.emit(domain)
    except ImagekitError:
        return
    config = parse_xml(text.encode(), PATH)
    assert (config.toolstack, config.name, config.mode) == ("libvirt", domain.name, domain.mode)
    assert config.memory_mib == max(domain.memory_mib, 32)
    assert config.boot == parse_config(xl.emit(domain).encode(), PATH).boot
    direct = domain.boot if isinstance(domain.boot, model.DirectKernel) else None
    if direct is not None:
        assert (config.kernel, config.ramdisk) == (direct.kernel, direct.initrd)
    assert [n.mac for n in config.nics] == [n.mac for n in domain.nics]
    assert list(config.disks) == [
        GuestDisk(d.target, "empty" if d.target is None else d.format, d.vdev, d.readonly, d.cdrom)
        for d in domain.disks
    ]


@given(st.binary(max_size=60) | st.text("<>/domain type='xen' name os&;!", max_size=80))
@settings(max_examples=200, deadline=None)
def test_anything_is_xml_of_a_guest_or_refused_with_a_reason(data: bytes | str) -> None:
    with pytest.raises(SpecError) as error:
        parse_xml(data if isinstance(data, bytes) else data.encode(), PATH)
    assert str(PATH) in str(error.value)


BY_VIRT_INSTALL = """<domain type="xen">
  <name>web</name>
  <memory>1048576</memory>
  <currentMemory unit="%s">%s</currentMemory>
  <os><type arch="x86_64" machine="xenfv">hvm</type>
    <loader type="rom">/usr/lib/xen-4.17/boot/hvmloader</loader></os>
  <devices>
    <disk type="block" device="disk"><source dev="/dev/vg0/web"/><target dev="xvda"/></disk>
    <disk type="file" device="disk"><driver name="qemu"/><source file="/b"/><target dev="xvdb"/>
    </disk>
    <disk type="file" device="cdrom"><target dev="hdc"/></disk>
    <interface type="bridge"><mac address="00-16-3E-00-00-01"/><source bridge="br7"/></interface>
    <interface type="network"/>
    <serial type="pty"/>
  </devices>
</domain>
"""


@pytest.mark.parametrize(
    ("unit", "number", "mib"), [("KiB", 524288, 512), ("MiB", 600, 600), ("GB", 1, 954)]
)
def test_what_virt_install_writes_is_understood(unit: str, number: int, mib: int) -> None:
    config = parse_xml((BY_VIRT_INSTALL % (unit, number)).encode(), PATH)
    assert (config.mode, config.boot, config.memory_mib) == ("hvm", "firmware", mib)
    assert config.serial
    assert config.disks == (
        GuestDisk("/dev/vg0/web", "raw", "xvda", False, False),
        GuestDisk("/b", "raw", "xvdb", False, False),
        GuestDisk(None, "empty", "hdc", True, True),
    )
    assert [(nic.mac, nic.bridge) for nic in config.nics] == [
        ("00:16:3e:00:00:01", "br7"),
        (None, None),
    ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("<domain", "<!DOCTYPE domain [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>\n<domain",
         "document type"),
        ('type="xen"', 'type="kvm"', "not the XML of a Xen domain"),
        ("<name>web</name>", "<name/>", "names no domain"),
        (">hvm<", ">exe<", "not linux, xenpvh or hvm"),
        ('unit="MiB"', 'unit="XiB"', "not a number with a unit"),
        ('disk type="block"', 'disk type="network"', "not file or block"),
        ('<target dev="xvda"/>', "<target/>", "no <target dev"),
        ('<driver name="qemu"/>', '<driver name="tap"/>', "driver 'tap'"),
        ("</domain>", "", "not XML"),
    ],
)  # fmt: skip
def test_what_no_proof_can_use_is_refused(old: str, new: str, said: str) -> None:
    text = BY_VIRT_INSTALL % ("MiB", 256)
    assert old in text
    with pytest.raises(SpecError, match=said) as error:
        parse_xml(text.replace(old, new).encode(), PATH)
    assert str(PATH) in str(error.value)


YES = Verdict(True, ("made up",))
FACTS = BuildFacts(
    name="web",
    uuid="5f0c7f5e-3a77-4f0b-9a0e-2f6d6f2b4d11",
    memory_mib=512,
    vcpus=1,
    disks=(DiskFacts({"raw": "web.raw"}, 2 << 30),),
    nics=(Nic("00:16:3e:00:00:01", bridge="xenbr0"),),
    kernel="web-vmlinuz",
    initrd="web-initrd.img",
    pv=YES,
    pvh=YES,
    hvm=YES,
    pygrub=PygrubView(True, "made up"),
    bootloader_bios=True,
)


def a_build(path: Path, *own: str) -> Path:
    """A build directory as far as a proof reads it, with the configs whose files end in ``own``."""
    artefacts = []
    for mode in MODES:
        domain = domain_for(FACTS.located(str(path)), mode=mode)
        for suffix, text in ((".xl.cfg", xl.emit(domain)), (".xml", libvirt.emit(domain))):
            if suffix in own:
                (path / f"web.{mode}{suffix}").write_text(text)
                toolstack = "xl" if suffix == ".xl.cfg" else "libvirt"
                name = f"web.{mode}{suffix}"
                artefacts.append(made_up("domain-config", name, toolstack=toolstack))
    write_manifest(path, FACTS, artefacts)
    return path


def trials(build: Path, *toolstacks: str) -> list[Trial]:
    return trials_of_build(build, Wanted.checked(toolstacks=toolstacks), build / "proof")


def test_the_xml_of_a_build_is_proven_as_it_is(tmp_path: Path) -> None:
    found = trials(a_build(tmp_path, ".xl.cfg", ".xml"), "libvirt")
    assert [trial.ident for trial in found] == [
        "web-pv-pygrub-raw-libvirt",
        "web-pvh-direct-raw-libvirt",
        "web-hvm-firmware-raw-libvirt",
    ]
    for trial, mode in zip(found, MODES, strict=True):
        assert trial.config.path == tmp_path / f"web.{mode}.xml"
        assert trial.config.data == trial.config.path.read_bytes()


def test_xml_is_written_where_the_build_has_none(tmp_path: Path) -> None:
    found = trials(a_build(tmp_path, ".xl.cfg"), "libvirt")
    assert [trial.config.path.name for trial in found] == [
        "web-pv-pygrub-raw.xml",
        "web-pvh-direct-raw.xml",
        "web-hvm-firmware-raw.xml",
    ]
    for trial in found:
        assert trial.config.path.parent == tmp_path / "proof"
        assert trial.config.data == trial.config.path.read_bytes()


def test_both_toolstacks_prove_each_guest_under_names_of_their_own(tmp_path: Path) -> None:
    build = a_build(tmp_path, ".xl.cfg", ".xml")
    both = trials(build, "xl", "libvirt")
    assert len({trial.ident for trial in both}) == 6
    assert [trial.config.toolstack for trial in both] == ["xl"] * 3 + ["libvirt"] * 3
    for one, other in zip(both[:3], both[3:], strict=True):
        assert described(one.config) == described(other.config)
    assert [trial.config.toolstack for trial in trials(build)] == ["xl"] * 3
    versions = ["4.14", "4.17"]
    needed = prove._needed(under_each(both, versions), [XENS[version] for version in versions])
    assert {name: (lab.version, lab.added) for name, lab in needed.items()} == {
        "4.14": ("4.14", ()),
        "4.14-libvirt": ("4.14", LIBVIRT),
        "4.17": ("4.17", ()),
        "4.17-libvirt": ("4.17", LIBVIRT),
    }


def described(config: GuestConfig) -> dict[str, Any]:
    """What ``config`` says, whichever toolstack it is for; both call pygrub by its name."""
    return {k: v for k, v in vars(config).items() if k not in ("toolstack", "path", "data")}


def test_a_build_without_configs_for_xl_says_so(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no config for xl"):
        trials(a_build(tmp_path, ".xml"))


def test_somebody_elses_xml_is_proven_with_an_image(tmp_path: Path) -> None:
    path, image = tmp_path / "web.xml", tmp_path / "web.raw"
    path.write_text(BY_VIRT_INSTALL % ("MiB", 256))
    (trial,) = boots.trial_of_config(path, image, "libvirt")
    assert trial.config.toolstack == "libvirt"
    assert trial.host_path("/dev/vg0/web") == image


def test_libvirt_has_labs_of_its_own() -> None:
    xen = XENS["4.17"]
    plain, other = (lab_plan(lab, lab.shape(3072), lab_tools(), state=True)
                    for lab in (xen, xen.having("libvirt")))  # fmt: skip
    assert xen.having("xl") is xen
    for artefact in ("rootfs.tar", "dom0.img", "state"):
        assert plain.maker(artefact).key != other.maker(artefact).key


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--toolstack", "xm"], "'xm' is not known"),
        (["--toolstack", "libvirt", "--under", "qemu"], "--toolstack needs a Xen"),
    ],
)
def test_a_wrong_toolstack_is_refused_before_anything_starts(
    tmp_path: Path, words: list[str], said: str
) -> None:
    done = CliRunner().invoke(make_app(["prove"]), ["prove", str(tmp_path), *words])
    assert isinstance(done.exception, SpecError)
    assert said in done.exception.what


def test_a_spec_says_which_toolstacks_and_the_user_comes_first(tmp_path: Path) -> None:
    proof = Proof.model_validate({"toolstacks": ["libvirt", "xl"]})
    write_manifest(tmp_path, proof=proof)
    options = prove._with_manifest(tmp_path, prove.ProofOptions())
    assert options.wanted.toolstacks == ("libvirt", "xl")
    asked = prove.ProofOptions(wanted=Wanted.checked(toolstacks=["xl"]))
    assert prove._with_manifest(tmp_path, asked).wanted.toolstacks == ("xl",)


@pytest.mark.parametrize("value", [[], ["xl", "xl"], ["xm"]])
def test_a_spec_with_other_toolstacks_is_refused(value: list[str]) -> None:
    with pytest.raises(ValidationError):
        Proof.model_validate({"toolstacks": value})


def test_the_table_says_who_started_a_guest() -> None:
    def boot(toolstack: str) -> Boot:
        return Boot(
            ident="web", name="web", mode="pv", boot="pygrub", format="raw", config="/b/web",
            config_sha256="0" * 64, outcome=Outcome.UP, toolstack=toolstack,
        )  # fmt: skip

    report = ProofReport("xen", (boot("xl"), boot("libvirt")), {})
    rows = [line.split() for line in table(report).splitlines()]
    assert rows[1][:5] == ["web", "pv", "pygrub", "raw", "up"]
    assert rows[2][:6] == ["web", "pv", "pygrub", "libvirt", "raw", "up"]
    assert [boot["toolstack"] for boot in report.to_json()["boots"]] == ["xl", "libvirt"]
