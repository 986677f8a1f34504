"""Boot paths and domains from the facts of an image: never more than the image can do."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from support.domains import FACTS

from imagekit.domain import bootpath, model
from imagekit.domain.bootpath import domain_for
from imagekit.domain.facts import BuildFacts, DiskFacts, PygrubView, Verdict
from imagekit.errors import CapabilityError, SpecError


def refusal(facts: BuildFacts, **options: object) -> CapabilityError:
    with pytest.raises(CapabilityError) as caught:
        domain_for(facts, **options)  # type: ignore[arg-type]
    assert caught.value.hint
    return caught.value


def test_pv_takes_pygrub_then_pvgrub_then_the_kernel() -> None:
    assert domain_for(FACTS, mode="pv").boot == model.Pygrub()
    blind = replace(FACTS, pygrub=PygrubView(False, "XFS v5 on /boot"))
    assert domain_for(blind, mode="pv").boot == model.Pvgrub(
        "/usr/lib/grub-xen/grub-x86_64-xen.bin"
    )
    bare = replace(blind, grub_config=None)
    assert domain_for(bare, mode="pv").boot == model.DirectKernel(
        "/b/vmlinuz", "/b/initrd.img", "root=UUID=0f5e ro console=hvc0"
    )


def test_pvh_takes_the_kernel_first_and_its_own_grub() -> None:
    assert isinstance(domain_for(FACTS, mode="pvh").boot, model.DirectKernel)
    grub = domain_for(FACTS, mode="pvh", boot="pvgrub").boot
    assert grub == model.Pvgrub("/usr/lib/grub-xen/grub-i386-xen_pvh.bin")


def test_pvgrub_has_the_word_size_of_a_pv_guest() -> None:
    small = replace(FACTS, arch="i386")
    grub = domain_for(small, mode="pv", boot="pvgrub").boot
    assert grub == model.Pvgrub("/usr/lib/grub-xen/grub-i386-xen.bin")


def test_hvm_boots_through_firmware_with_a_serial_console() -> None:
    domain = domain_for(FACTS, mode="hvm")
    assert domain.boot == model.Firmware("bios", "c")
    assert domain.serial == "pty"
    direct = domain_for(FACTS, mode="hvm", boot="direct").boot
    assert isinstance(direct, model.DirectKernel)
    assert direct.cmdline.endswith("console=tty0 console=ttyS0,115200n8")


def test_uefi_is_taken_where_only_it_can_boot() -> None:
    uefi = replace(FACTS, bootloader_bios=False, bootloader_uefi=True)
    assert domain_for(uefi, mode="hvm").boot == model.Firmware("uefi", "c")
    assert "BIOS" in refusal(uefi, mode="hvm", firmware="bios").what
    assert "UEFI" in refusal(FACTS, mode="hvm", firmware="uefi").what


def test_a_mode_without_evidence_is_refused_and_others_are_named() -> None:
    old = replace(FACTS, pvh=Verdict(False, ("no ELF note PHYS32_ENTRY",)))
    error = refusal(old, mode="pvh")
    assert "no ELF note PHYS32_ENTRY" in error.what
    assert "pv or hvm" in (error.hint or "")


@pytest.mark.parametrize(
    ("filesystem", "view"),
    [
        ("btrfs", PygrubView(False, "pygrub reads no btrfs")),
        ("btrfs", PygrubView(True, "claimed by mistake")),
        ("lvm", PygrubView(True, "claimed by mistake")),
        ("xfs", PygrubView(False, "pygrub reads no XFS v5")),
    ],
)
def test_pygrub_is_refused_for_a_boot_it_cannot_read(filesystem: str, view: PygrubView) -> None:
    facts = replace(FACTS, boot_filesystem=filesystem, pygrub=view)
    error = refusal(facts, mode="pv", boot="pygrub")
    assert "pvgrub" in (error.hint or "")
    assert isinstance(domain_for(facts, mode="pv").boot, model.Pvgrub)


def test_a_command_line_that_xen_would_cut_is_no_boot_path() -> None:
    exact = replace(FACTS, cmdline="x" * (1023 - len(" console=hvc0")))
    assert isinstance(domain_for(exact, mode="pvh", boot="direct").boot, model.DirectKernel)
    long = replace(exact, cmdline=exact.cmdline + "x")
    error = refusal(long, mode="pvh", boot="direct")
    assert "1024 bytes" in error.what
    assert "pygrub" in (error.hint or "")
    assert isinstance(domain_for(long, mode="pvh").boot, model.Pygrub)


def test_a_boot_path_of_another_mode_is_refused() -> None:
    assert "firmware" in refusal(FACTS, mode="pv", boot="firmware").what
    assert "pygrub" in refusal(FACTS, mode="hvm", boot="pygrub").what


def test_an_image_without_boot_code_is_refused_as_hvm_and_direct_is_named() -> None:
    bare = replace(FACTS, bootloader_bios=False)
    assert "direct" in (refusal(bare, mode="hvm").hint or "")


def test_every_boot_path_comes_with_its_reason() -> None:
    for mode in model.MODES:
        for path, ok, reason in bootpath.boot_paths(FACTS, mode):
            assert path and ok and reason


def test_a_format_that_was_not_built_is_refused() -> None:
    assert domain_for(FACTS, mode="pv", image_format="qcow2").disks[0].format == "qcow2"
    assert "raw, qcow2" in (refusal(FACTS, mode="pv", image_format="vhd").hint or "")


def test_pygrub_on_qcow2_says_that_dom0_attaches_the_image() -> None:
    qcow2 = domain_for(FACTS, mode="pv", image_format="qcow2")
    assert any("dom0 attaches" in note for note in bootpath.notes(qcow2))
    raw = domain_for(FACTS, mode="pv")
    assert not any("attaches" in note for note in bootpath.notes(raw))


def test_an_ip_on_vif_bridge_is_said_to_be_no_filter() -> None:
    nic = model.Nic("00:16:3e:10:20:30", bridge="xenbr0", ips=("192.0.2.7",))
    domain = domain_for(replace(FACTS, nics=(nic,)), mode="pv")
    assert any("does not keep a guest to its ip" in note for note in bootpath.notes(domain))


def test_nics_lose_their_card_outside_hvm_and_gain_the_default_bridge() -> None:
    assert domain_for(FACTS, mode="pv").nics[0] == model.Nic("00:16:3e:10:20:30", "xenbr0")
    assert domain_for(FACTS, mode="hvm").nics[0].model == "e1000"
    routed = model.Nic("00:16:3e:10:20:30", "xenbr0", ("192.0.2.7",), script="vif-route")
    assert domain_for(replace(FACTS, nics=(routed,)), mode="pv").nics[0].bridge is None


def test_raw_settings_go_to_their_toolstack_alone() -> None:
    facts = replace(FACTS, raw={"xl": {"nomigrate": True, "usbdevice": ("tablet",)}})
    domain = domain_for(facts, mode="hvm", toolstack="xl")
    assert domain.raw == (("nomigrate", 1), ("usbdevice", ("tablet",)))
    assert domain_for(facts, mode="hvm", toolstack="xm").raw == ()


@pytest.mark.parametrize("value", [1.5, None, {"a": 1}, [[["nested"]]], b"bytes"])
def test_raw_values_are_text_numbers_or_lists(value: object) -> None:
    with pytest.raises(SpecError):
        bootpath.raw_settings({"nomigrate": value})


def test_facts_survive_json() -> None:
    facts = replace(
        FACTS,
        graphics=model.Vnc(display=3),
        cpu=model.Cpu(512, None, (0, 2)),
        raw={"xl": {"a": 1, "b": ("x", 2), "vnuma": (("pnode=0", 3), "y")}},
        nics=(model.Nic("00:16:3e:10:20:30", rate=model.Rate.parse("100Mb/s@20ms")),),
        origins={"memory_mib": "web1.yaml:3 memory"},
    )
    assert BuildFacts.from_json(json.loads(json.dumps(facts.to_json()))) == facts


def test_a_vnc_password_never_reaches_the_manifest_and_is_asked_for_again() -> None:
    facts = replace(FACTS, graphics=model.Vnc(password="hunter2"))
    text = json.dumps(facts.to_json())
    assert "hunter2" not in text
    read = BuildFacts.from_json(json.loads(text))
    with pytest.raises(SpecError, match="password"):
        domain_for(read, mode="pv")
    assert "hunter2" not in repr(domain_for(facts, mode="pv"))


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        (("memory_mib",), "512", "facts.memory_mib"),
        (("memory_mib",), True, "facts.memory_mib"),
        (("arch",), "sparc", "facts.arch"),
        (("surprise",), 1, "facts"),
        (("disks",), {}, "facts.disks"),
        (("disks", 0, "paths"), {"vmdk": "/x"}, "facts.disks[0].paths"),
        (("disks", 0, "paths", "raw"), 7, "facts.disks[0].paths.raw"),
        (("nics", 0, "mac"), None, "facts.nics[0].mac"),
        (("pv",), None, "facts.pv"),
        (("pv", "evidence"), [1], "facts.pv.evidence[0]"),
        (("kernel",), ["/x"], "facts.kernel"),
        (("cmdline",), "x" * 5000, "facts.cmdline"),
    ],
)
def test_bad_facts_are_refused_with_the_key(
    path: tuple[str | int, ...], value: object, where: str
) -> None:
    data = json.loads(json.dumps(FACTS.to_json()))
    target = data
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(SpecError) as caught:
        BuildFacts.from_json(data)
    assert caught.value.where == where


@pytest.mark.parametrize("value", [None, [], "facts", 3, {}, {"name": "x"}])
def test_what_is_not_facts_is_refused(value: object) -> None:
    with pytest.raises(SpecError):
        BuildFacts.from_json(value)


def test_relative_paths_belong_to_the_build() -> None:
    facts = replace(FACTS, kernel="vmlinuz", disks=(DiskFacts({"raw": "./web1.raw"}, 1),))
    located = facts.located("/srv/build")
    assert located.kernel == "/srv/build/vmlinuz"
    assert located.disks[0].paths == {"raw": "/srv/build/web1.raw"}
    assert located.initrd == "/b/initrd.img"


def test_a_path_that_leaves_the_build_is_refused() -> None:
    facts = replace(FACTS, disks=(DiskFacts({"raw": "../other/web1.raw"}, 1),))
    with pytest.raises(SpecError, match=r"\.\."):
        domain_for(facts.located("/srv/build"), mode="pv")
