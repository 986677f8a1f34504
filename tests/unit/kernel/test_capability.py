"""Verdicts: what is read from the image, the traps, and what a configuration adds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import kernel_maker as make

from imagekit.cli.kernel import kernel as kernel_command
from imagekit.errors import CapabilityError, SpecError
from imagekit.kernel.capability import examine, judge, modes, require_mode
from imagekit.kernel.image import read_kernel
from imagekit.kernel.initrd import parse_initrd
from imagekit.kernel.kconfig import parse_config
from imagekit.kernel.report import KernelReport, read_report, write_report
from imagekit.kernel.report_text import as_text

GUEST = (
    make.note(make.GUEST_OS, b"linux\0")
    + make.note(make.XEN_VERSION, b"xen-3.0\0")
    + make.note(make.LOADER, b"generic\0")
    + make.note(make.FEATURES, b"!writable_page_tables|pae_pgdir_above_4gb\0")
)
PV_ENTRY = make.note(make.ENTRY, make.number(0xFFFFFFFF81000000))
PVH_ENTRY = make.note(make.PHYS32_ENTRY, make.number(0x1000000, 4))
BIT15 = make.note(make.SUPPORTED_FEATURES, make.number(0x8801))
PVOPS = b"\0Booting paravirtualized kernel on %s\0"
PVHVM = (
    b"\0Xen HVM\0xen_emul_unplug\0"
    b"Blkfront and the Xen platform PCI driver have been compiled\0"
    b"Netfront and the Xen platform PCI driver have been compiled\0"
)
ALL = b"\0Xen PV\0Xen PVH\0" + PVOPS + PVHVM


def report(
    notes: bytes,
    blob: bytes = b"",
    *,
    release: str = "6.1.0",
    config: str | None = None,
    initrd: bytes | None = None,
    **options: Any,
) -> KernelReport:
    bits = options.pop("bits", 64)
    xen_guest = options.pop("xen_guest", None)
    payload = make.elf(notes, blob=blob, bits=bits, xen_guest=xen_guest)
    image = read_kernel(make.bzimage(payload, release=release, **options), name="vmlinuz")
    return judge(
        image,
        config=parse_config(config, name="config") if config is not None else None,
        initrd=parse_initrd(initrd, name="initrd.img") if initrd is not None else None,
    )


def answers(found: KernelReport) -> tuple[bool, bool, bool]:
    return found.pv.capable, found.pvh.capable, found.hvm.capable


def test_full_kernel_boots_everywhere_with_and_without_config() -> None:
    config = "CONFIG_XEN=y\nCONFIG_XEN_PV=y\nCONFIG_XEN_PVH=y\nCONFIG_XEN_PVHVM=y\n"
    for text in (None, config):
        found = report(PV_ENTRY + PVH_ENTRY + GUEST + BIT15, ALL, config=text)
        assert answers(found) == (True, True, True)
        assert found.pvhvm_drivers is True


@pytest.mark.parametrize(
    ("name", "notes", "blob", "release", "config", "expected"),
    [
        (
            "Ubuntu -kvm and -azure: only PHYS32_ENTRY, for KVM",
            PVH_ENTRY,
            PVOPS,
            "6.8.0-1007-azure",
            "CONFIG_PVH=y\n# CONFIG_XEN is not set\n",
            (False, False, True),
        ),
        (
            "RHEL 8 and 10: Xen notes and PHYS32_ENTRY, but XEN_PVH=n",
            PVH_ENTRY + GUEST,
            PVOPS + PVHVM,
            "6.12.0-55.el10",
            "CONFIG_XEN=y\n# CONFIG_XEN_PV is not set\n# CONFIG_XEN_PVH is not set\nCONFIG_PVH=y\n",
            (False, False, True),
        ),
        (
            "el9 5.x: bit 15 is set whatever CONFIG_XEN_PVH",
            PVH_ENTRY + GUEST + BIT15,
            PVOPS + PVHVM,
            "5.14.0-70.el9",
            "CONFIG_XEN=y\n# CONFIG_XEN_PVH is not set\nCONFIG_PVH=y\n",
            (False, False, True),
        ),
        (
            "bionic 4.15: no bit 15 and real PVH",
            PV_ENTRY + PVH_ENTRY + GUEST,
            ALL,
            "4.15.0-20-generic",
            "CONFIG_XEN=y\nCONFIG_XEN_PV=y\nCONFIG_XEN_PVH=y\n",
            (True, True, True),
        ),
        (
            "xenial 4.4: XEN_PVH=y is PVH version 1, XEN_PV does not exist yet",
            PV_ENTRY + GUEST,
            PVOPS + PVHVM,
            "4.4.0-21-generic",
            "CONFIG_XEN=y\nCONFIG_XEN_PVH=y\nCONFIG_XEN_PVHVM=y\n",
            (True, False, True),
        ),
        (
            "Debian i386 686-pae: every note but ENTRY",
            PVH_ENTRY + GUEST + BIT15,
            b"\0Xen PVH\0" + PVOPS + PVHVM,
            "6.1.0-18-686-pae",
            "CONFIG_XEN=y\n# CONFIG_XEN_PV is not set\nCONFIG_XEN_PVH=y\n",
            (False, True, True),
        ),
        (
            "XenLinux in a bzImage: PV only",
            PV_ENTRY + GUEST,
            b"",
            "3.0.101-63-xen",
            "CONFIG_X86_64_XEN=y\nCONFIG_XEN=y\n",
            (True, False, False),
        ),
        (
            "Debian squeeze: a kernel named xen that is pvops and runs anywhere",
            PV_ENTRY + GUEST,
            PVOPS,
            "2.6.32-5-xen-amd64",
            "CONFIG_XEN=y\nCONFIG_PARAVIRT=y\n",
            (True, False, True),
        ),
        (
            "no Xen at all",
            b"",
            b"",
            "6.4.0-kvmsmall",
            "# CONFIG_XEN is not set\n",
            (False, False, True),
        ),
    ],
)
def test_traps_are_seen_with_and_without_config(
    name: str,
    notes: bytes,
    blob: bytes,
    release: str,
    config: str,
    expected: tuple[bool, bool, bool],
) -> None:
    for text in (None, config):
        found = report(notes, blob, release=release, config=text)
        assert answers(found) == expected, name
        assert all(v.evidence for v in (found.pv, found.pvh, found.hvm))


def test_image_wins_over_a_config_that_contradicts_it() -> None:
    config = "# CONFIG_XEN_PV is not set\n# CONFIG_XEN_PVH is not set\n"
    found = report(PV_ENTRY + PVH_ENTRY + GUEST, ALL, config=config)
    assert answers(found) == (True, True, True)
    assert any("contradicts" in line for line in found.pv.evidence)
    assert any("contradicts" in line for line in found.pvh.evidence)


def test_config_of_another_kernel_does_not_make_pvh() -> None:
    title = "# Linux/x86 {} Kernel Configuration\nCONFIG_XEN_PVH=y\n"
    mine = report(PVH_ENTRY + GUEST, PVOPS, config=title.format("6.1.170"))
    other = report(PVH_ENTRY + GUEST, PVOPS, config=title.format("5.10.1"))
    assert (mine.pvh.capable, other.pvh.capable) == (True, False)


def test_config_answers_when_the_image_cannot_be_unpacked() -> None:
    config = "CONFIG_XEN_PV=y\nCONFIG_XEN_PVH=y\n"
    for release, expected in (("6.1.0", (True, True)), ("4.9.0", (True, False))):
        image = read_kernel(
            make.bzimage(b"?", "zstd", compress=lambda _: b"\x28\xb5\x2f\xfdxx", release=release),
            name="k",
        )
        found = judge(image, config=parse_config(config, name="config"))
        assert (found.pv.capable, found.pvh.capable) == expected
        blind = judge(image)
        assert not blind.pv.capable
        assert not blind.pvh.capable
        assert "could not be unpacked" in blind.pv.evidence[0]


def test_old_config_without_xen_pv_means_pv_by_xen_alone() -> None:
    image = read_kernel(
        make.bzimage(b"?", "xz", compress=lambda _: b"\xfd7zXZ\0", release="4.4.0-1"), name="k"
    )
    assert judge(image, config=parse_config("CONFIG_XEN=y\n", name="c")).pv.capable
    assert not judge(image, config=parse_config("CONFIG_XEN=m\n", name="c")).pv.capable


@pytest.mark.parametrize(
    ("text", "capable"),
    [
        (b"GUEST_OS=linux,XEN_VER=xen-3.0,VIRT_ENTRY=0xc0100000,LOADER=generic,PAE=yes\0", True),
        (b"GUEST_OS=linux,XEN_VER=2.0,LOADER=generic\0", False),
        (b"GUEST_OS=plan9,XEN_VER=xen-3.0\0", False),
    ],
)
def test_xen_guest_section_is_read_when_there_are_no_notes(text: bytes, capable: bool) -> None:
    image = read_kernel(make.elf(bits=32, xen_guest=text), name="vmlinux-xen")
    found = judge(image)
    assert found.pv.capable is capable
    assert (found.pvh.capable, found.hvm.capable) == (False, False)


@pytest.mark.parametrize(
    "features", [b"!dom0\0", b"writable_page_tables|!made_of_cheese\0", b" !dom0 |x\0"]
)
def test_required_features_that_xen_refuses_make_pv_impossible(features: bytes) -> None:
    notes = (
        PV_ENTRY
        + make.note(make.GUEST_OS, b"linux\0")
        + make.note(make.XEN_VERSION, b"xen-3.0\0")
        + make.note(make.FEATURES, features)
    )
    assert not report(notes, ALL).pv.capable


def test_unikernel_needs_only_the_pvh_note_and_no_firmware_starts_it() -> None:
    found = judge(read_kernel(make.elf(PVH_ENTRY, bits=32), name="unikernel"))
    assert answers(found) == (False, True, False)


@given(st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.sampled_from([32, 64]))
@settings(max_examples=64, deadline=None)
def test_verdicts_follow_from_notes_and_strings(
    entry: bool, phys: bool, guest: bool, text: bool, bits: int
) -> None:
    size = bits // 8
    notes = make.note(0x101, b"\0\0\0\0", b"Linux\0") + (GUEST if guest else b"")
    notes += make.note(make.ENTRY, make.number(0xC1000000, size)) if entry else b""
    notes += make.note(make.PHYS32_ENTRY, make.number(0x1000000, size)) if phys else b""
    found = report(notes, (b"\0Xen PVH\0" if text else b"") + PVOPS, bits=bits)
    assert answers(found) == (entry and guest, phys and text, True)


@pytest.mark.parametrize(
    ("codec", "unpacks"),
    [("gzip", True), ("xz", True), ("lzma", True), ("lz4", True), ("zstd", True), ("bzip2", False)],
)
def test_dom0_codec_decides_on_pv_and_pvh_but_not_hvm(codec: str, unpacks: bool) -> None:
    found = report(PV_ENTRY + PVH_ENTRY + GUEST, ALL, codec=codec)
    assert found.pv.capable
    assert found.dom0_loader.can_unpack is unpacks
    offered = {mode: verdict.capable for mode, verdict in modes(found).items()}
    assert offered == {"pv": unpacks, "pvh": unpacks, "hvm": True}


BLK = ("usr/lib/modules/6.1.0/kernel/drivers/block/xen-blkfront.ko.xz", b"x")
NET = ("usr/lib/modules/6.1.0/kernel/drivers/net/xen-netfront.ko.zst", b"x")
BUILTIN_LIST = "lib/modules/6.1.0/modules.builtin"


def test_initrd_without_blkfront_makes_every_mode_impossible() -> None:
    initrd = make.cpio([NET, ("init", b"#!/bin/sh\n"), (BUILTIN_LIST, b"kernel/fs/ext4.ko\n")])
    found = report(PV_ENTRY + PVH_ENTRY + GUEST, ALL, initrd=initrd)
    assert found.initrd is not None
    assert found.initrd.xen_blkfront.state == "missing"
    assert found.pvhvm_drivers is False
    assert not any(verdict.capable for verdict in modes(found).values())
    assert all(verdict.capable for verdict in modes(found, needs_disk=False).values())
    with pytest.raises(CapabilityError, match="xen_blkfront"):
        require_mode(found, "pv")


def test_kernel_that_keeps_emulated_disks_boots_hvm_without_blkfront() -> None:
    found = report(b"", b"", initrd=make.cpio([("init", b"x")]))
    assert modes(found)["hvm"].capable
    assert found.pvhvm_drivers is False


@pytest.mark.parametrize(
    ("files", "blob", "config", "state"),
    [
        ([BLK], b"", None, "module"),
        ([(BUILTIN_LIST, b"kernel/drivers/block/xen-blkfront.ko\n")], b"", None, "builtin"),
        ([("init", b"")], b"xen_blkfront.max_queues\0", None, "builtin"),
        ([("init", b"")], b"", "CONFIG_XEN_BLKDEV_FRONTEND=y\n", "builtin"),
        ([("init", b"")], b"", "CONFIG_XEN_BLKDEV_FRONTEND=m\n", "missing"),
        ([("lib/modules/6.1.0/xenblk.ko", b"")], b"", None, "module"),
    ],
)
def test_blkfront_is_found_wherever_it_is(
    files: list[tuple[str, bytes]], blob: bytes, config: str | None, state: str
) -> None:
    found = report(
        PV_ENTRY + GUEST, PVOPS + blob, config=config, initrd=make.cpio([*files, ("a", b"b")])
    )
    assert found.initrd is not None
    assert found.initrd.xen_blkfront.state == state


def test_require_mode_gives_the_evidence_and_what_would_work() -> None:
    found = report(PV_ENTRY + GUEST, PVOPS)
    assert require_mode(found, "pv").capable
    with pytest.raises(CapabilityError, match="PHYS32_ENTRY") as caught:
        require_mode(found, "pvh")
    assert "pv or hvm" in (caught.value.hint or "")
    with pytest.raises(SpecError, match="not a mode"):
        require_mode(found, "kvm")


def test_json_begins_with_the_promised_keys(tmp_path: Path) -> None:
    kernel, initrd, config = tmp_path / "vmlinuz", tmp_path / "initrd", tmp_path / "config"
    payload = make.elf(PV_ENTRY + PVH_ENTRY + GUEST, blob=ALL)
    kernel.write_bytes(make.bzimage(payload, "zstd", release="6.1.0"))
    initrd.write_bytes(make.cpio([BLK, NET]))
    config.write_text("CONFIG_XEN=y\nCONFIG_XEN_BLKDEV_FRONTEND=m\n")
    found = examine(kernel, initrd=initrd, config=config)
    data = json.loads(json.dumps(found.to_json()))
    promised = ["pv", "pvh", "hvm", "pvhvm_drivers", "arch", "release", "compression"]
    assert list(data)[:7] == promised
    for mode in ("pv", "pvh", "hvm"):
        assert set(data[mode]) == {"capable", "evidence"}
    assert data["compression"] == "zstd"
    assert data["initrd"]["xen_netfront"]["state"] == "module"
    assert data["config"]["CONFIG_XEN_BLKDEV_FRONTEND"] == "m"
    assert "together they boot as: pv, pvh, hvm" in as_text(found)


def test_the_report_that_a_build_keeps_gives_the_verdicts_back(tmp_path: Path) -> None:
    found = report(PV_ENTRY + GUEST, PVOPS)
    write_report(found, tmp_path / "kernel.json", "6.1.0-17-amd64")
    kept = read_report(tmp_path / "kernel.json")
    assert (kept.pv, kept.pvh, kept.hvm) == (found.pv, found.pvh, found.hvm)
    assert kept.release == "6.1.0-17-amd64"
    value = json.loads((tmp_path / "kernel.json").read_text())
    verdict = {"capable": 1, "evidence": []}
    wrong: list[Any] = [[], {**value, "pv": True}, {**value, "hvm": verdict}]
    for broken in wrong:
        (tmp_path / "kernel.json").write_text(json.dumps(broken))
        with pytest.raises(SpecError, match=r"report|verdict"):
            read_report(tmp_path / "kernel.json")


def test_absent_symbols_of_a_defconfig_say_nothing() -> None:
    small = parse_config("CONFIG_HYPERVISOR_GUEST=y\n", name="virt.config")
    full = parse_config("".join(f"CONFIG_A{n}=y\n" for n in range(900)), name="config")
    assert (small.value("XEN_PV"), full.value("XEN_PV")) == (None, "n")


def test_missing_paths_are_the_users_error(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(SpecError, match="no kernel file"):
            examine(path)


def test_control_characters_of_a_hostile_kernel_do_not_reach_the_terminal() -> None:
    notes = PV_ENTRY + make.note(make.XEN_VERSION, b"xen-3.0\x1b[2J\0") + make.note(6, b"linux\0")
    assert "\x1b" not in as_text(report(notes, PVOPS))


def test_command_prints_json_or_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(make.bzimage(make.elf(PV_ENTRY + GUEST, blob=PVOPS), "xz"))
    kernel_command(path, None, None, True)
    data = json.loads(capsys.readouterr().out)
    assert (data["pv"]["capable"], data["pvh"]["capable"]) == (True, False)
    kernel_command(path, None, None, False)
    table = capsys.readouterr().out
    assert "compressed with xz" in table
    assert "PVH" in table


def test_modules_of_another_kernel_do_not_count() -> None:
    initrd = make.cpio([BLK, NET])
    notes = PV_ENTRY + PVH_ENTRY + GUEST
    assert modes(report(notes, ALL, initrd=initrd))["pv"].capable
    other = report(notes, ALL, initrd=initrd, release="6.1.0-cloud")
    assert other.initrd is not None
    assert other.initrd.xen_blkfront.state == "missing"
    assert "not for 6.1.0-cloud" in other.initrd.xen_blkfront.evidence
    assert not modes(other)["pv"].capable
