"""The openstack commands, run by a real shell against a recorder."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import domain_strategies as some
from oracles import fake_openstack
from oracles.domain_facts import facts_for
from oracles.fake_openstack import FakeOpenstack

from imagekit.domain import model
from imagekit.domain.facts import BuildFacts
from imagekit.errors import CapabilityError, ImagekitError, SpecError
from imagekit.toolstacks.glance.emitter import GlanceEmitter, Options
from imagekit.toolstacks.tarball import Handler

UUID = "5f0c7f5e-3a77-4f0b-9a0e-2f6d6f2b4d11"
MIB = 1024 * 1024
DIRECT = model.DirectKernel("/b/vmlinuz", "/b/initrd", "root=UUID=1 ro console=hvc0")
outcomes: Counter[str] = Counter()


def guest(**changes: Any) -> model.Domain:
    values: dict[str, Any] = {
        "name": "web1",
        "uuid": UUID,
        "mode": "pv",
        "memory_mib": 512,
        "vcpus": 2,
        "boot": model.Pygrub(),
        "disks": (model.Disk("/srv/xen/web1.raw"),),
    }
    return model.Domain(**(values | changes))


def hvm(**changes: Any) -> model.Domain:
    return guest(**({"mode": "hvm", "boot": model.Firmware()} | changes))


def with_vhd(domain: model.Domain, **changes: Any) -> BuildFacts:
    facts = facts_for(domain, **changes)
    first = dataclasses.replace(facts.disks[0], paths={**facts.disks[0].paths, "vhd": "/srv/a.vhd"})
    return dataclasses.replace(facts, disks=(first, *facts.disks[1:]))


def created(
    domain: model.Domain, facts: BuildFacts | None = None, **options: Any
) -> list[dict[str, Any]]:
    """The images that the script creates, in order."""
    fake = FakeOpenstack()
    script = GlanceEmitter(Options(**options)).text(domain, facts or facts_for(domain))
    status, stdout, stderr = fake_openstack.run(script, fake)
    assert (status, stderr) == (0, "")
    disks = [i for i, image in fake.images.items() if image["disk-format"] not in ("aki", "ari")]
    assert stdout.split() == disks
    return list(fake.images.values())


def tame(domain: model.Domain) -> model.Domain:
    """The domain in a mode and by a boot path that nova has, so that more than a few pass."""
    boot = domain.boot
    if domain.mode == "hvm":
        boot = model.Firmware("bios", "c")
    elif isinstance(boot, model.Pygrub | model.Netboot):
        boot = model.Pygrub()
    nics = tuple(dataclasses.replace(nic, model=None, type=None) for nic in domain.nics)
    mode: model.Mode = "hvm" if domain.mode == "hvm" else "pv"
    return dataclasses.replace(domain, mode=mode, boot=boot, nics=nics)


@pytest.mark.parametrize("target", ["nova-libvirt", "nova-xenapi"])
@given(domain=some.domains(), simple=st.sampled_from([False, True, True]))
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
def test_commands_carry_the_domain_or_it_is_refused(
    target: Any, domain: model.Domain, simple: bool
) -> None:
    if simple:
        domain = tame(domain)
    try:
        found = created(domain, target=target)
    except ImagekitError as error:
        assert (error.where and error.hint) or "character" in str(error)
        return
    outcomes[target] += 1
    assert domain.mode in ("pv", "hvm")
    images = [image for image in found if image["disk-format"] not in ("aki", "ari")]
    boot = images[0]
    assert boot["name"] == domain.name and boot["min-ram"] == str(domain.memory_mib)
    assert boot["properties"]["vm_mode"] == boot["properties"]["hw_vm_mode"]
    assert boot["properties"]["vm_mode"] == {"pv": "xen", "hvm": "hvm"}[domain.mode]
    assert len(images) == len(domain.disks)
    for image, disk in zip(images, domain.disks, strict=True):
        if not image["file"].endswith(".tgz"):
            assert image["file"] == disk.target
        if target == "nova-xenapi":
            assert image["disk-format"] in ("vhd", "raw", "iso")
    kernels = {image["disk-format"]: image["file"] for image in found[: -len(images)]}
    if isinstance(domain.boot, model.DirectKernel):
        assert kernels.get("aki") == domain.boot.kernel
        assert kernels.get("ari") == domain.boot.initrd
        assert boot["properties"].get("os_command_line", "") == domain.boot.cmdline
        assert boot["properties"]["kernel_id"] == found[0]["id"]


def test_enough_random_domains_were_read() -> None:
    if not outcomes:  # this test was picked alone
        test_commands_carry_the_domain_or_it_is_refused(target="nova-libvirt")
    assert outcomes["nova-libvirt"] > 8, outcomes


def test_each_property_has_its_own_option() -> None:
    script = GlanceEmitter().text(hvm(), facts_for(hvm()))
    assert "--property hypervisor_type=xen --property img_hv_type=xen" in script
    (image,) = created(hvm())
    assert image["properties"] == {
        "vm_mode": "hvm",
        "hw_vm_mode": "hvm",
        "hypervisor_type": "xen",
        "img_hv_type": "xen",
        "architecture": "x86_64",
        "hw_architecture": "x86_64",
        "os_type": "linux",
        "auto_disk_config": "False",
        "hw_auto_disk_config": "False",
        "root_device_name": "/dev/xvda",
        "img_root_device_name": "/dev/xvda",
        "hw_disk_bus": "xen",
    }


@pytest.mark.parametrize(
    ("names", "there", "away"),
    [("legacy", "vm_mode", "hw_vm_mode"), ("canonical", "img_hv_type", "hypervisor_type")],
)
def test_names_can_be_old_or_new_only(names: str, there: str, away: str) -> None:
    (image,) = created(guest(), names=names)
    assert there in image["properties"] and away not in image["properties"]


@pytest.mark.parametrize(
    ("kind", "options", "form"),
    [
        ("raw", {}, ("raw", "bare")),
        ("qcow2", {}, ("qcow2", "bare")),
        ("vhd", {}, ("vhd", "bare")),
        ("vhd", {"target": "nova-xenapi"}, ("vhd", "ovf")),
        ("vhd", {"target": "nova-xenapi", "handler": "vdi_remote_stream"}, ("vhd", "ovf")),
        ("raw", {"target": "nova-xenapi"}, ("raw", "bare")),
        ("raw", {"target": "nova-xenapi", "handler": "vdi_local_dev"}, ("raw", "tgz")),
    ],
)
def test_formats_fit_the_driver(kind: Any, options: dict[str, Any], form: tuple[str, str]) -> None:
    (image,) = created(guest(disks=(model.Disk("/srv/a", kind),)), **options)
    assert (image["disk-format"], image["container-format"]) == form
    packed = form[1] in ("ovf", "tgz")
    assert image["file"] == (f"web1.{form[0]}.tgz" if packed else "/srv/a")


def test_qcow2_is_refused_for_xenserver_but_its_vhd_twin_is_taken() -> None:
    domain = guest(disks=(model.Disk("/srv/a.qcow2", "qcow2"),))
    with pytest.raises(CapabilityError) as caught:
        created(domain, target="nova-xenapi")
    assert "vhd" in str(caught.value.hint)
    (image,) = created(domain, with_vhd(domain), target="nova-xenapi")
    assert image["disk-format"] == "vhd"


def test_an_ami_is_three_images_that_refer_to_each_other() -> None:
    domain = guest(boot=DIRECT)
    kernel, initrd, disk = created(domain, target="nova-xenapi", ami=True)
    assert (kernel["disk-format"], initrd["disk-format"]) == ("aki", "ari")
    assert (disk["disk-format"], disk["container-format"]) == ("ami", "ami")
    assert disk["properties"]["kernel_id"] == kernel["id"]
    assert disk["properties"]["ramdisk_id"] == initrd["id"]
    assert "os_command_line" not in disk["properties"]
    assert created(domain, ami=True)[2]["properties"]["os_command_line"] == DIRECT.cmdline


@pytest.mark.parametrize("role", ["kernel", "initrd"])
def test_an_initrd_or_kernel_over_16_mib_is_refused_for_xenserver(role: str) -> None:
    domain = guest(boot=DIRECT)
    for size, fine in ((16 * MIB, True), (16 * MIB + 1, False)):
        facts = facts_for(domain, **{f"{role}_bytes": size})
        if fine:
            created(domain, facts, target="nova-xenapi", ami=True)
        else:
            with pytest.raises(CapabilityError, match="16 MiB") as caught:
                created(domain, facts, target="nova-xenapi", ami=True)
            assert caught.value.where == f"boot.{role}"
    created(domain, facts_for(domain, initrd_bytes=34 * MIB), ami=True)


def test_claims_the_image_cannot_keep_are_refused() -> None:
    pvh = guest(mode="pvh")
    uefi = hvm(boot=model.Firmware("uefi"))
    partitioned = facts_for(guest(), partition_table="mbr")
    cases: list[tuple[model.Domain, BuildFacts, dict[str, Any]]] = [
        (pvh, facts_for(pvh), {}),
        (uefi, facts_for(uefi), {}),
        (guest(boot=DIRECT), facts_for(guest()), {"target": "nova-xenapi"}),
        (guest(boot=DIRECT), partitioned, {"ami": True}),
        (guest(), facts_for(guest()), {"auto_disk_config": True}),
        (guest(), facts_for(guest(), partition_table="mbr", boot_filesystem="xfs"),
         {"auto_disk_config": True}),
        (guest(), facts_for(guest(), partition_table="gpt", boot_filesystem="ext4",
                            bootloader_bios=True), {"auto_disk_config": True}),
    ]  # fmt: skip
    for domain, facts, options in cases:
        with pytest.raises(CapabilityError) as caught:
            created(domain, facts, **options)
        assert caught.value.where and caught.value.hint
    fine = facts_for(guest(), partition_table="mbr", boot_filesystem="ext4")
    (image,) = created(guest(), fine, auto_disk_config=True)
    assert image["properties"]["auto_disk_config"] == "True"


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"boot": model.Netboot("pypxeboot")}, "boot"),
        ({"boot": model.Pygrub(("-q",))}, "boot"),
        ({"disks": (model.Disk("/srv/a", vdev="sda"),)}, "disks[0].vdev"),
        ({"boot": dataclasses.replace(DIRECT, cmdline="quiet 🐧")}, "boot.cmdline"),
        ({"raw": (("vm_mode", "hvm"),)}, "raw.vm_mode"),
    ],
)
def test_what_nova_or_glance_cannot_take_is_refused(changes: Any, where: str) -> None:
    with pytest.raises(SpecError) as caught:
        created(guest(**changes))
    assert caught.value.where == where and caught.value.hint


def test_nic_models_become_one_property() -> None:
    nics = tuple(model.Nic(f"00:16:3e:00:00:0{n}", "b0", model="e1000") for n in (1, 2))
    (image,) = created(hvm(nics=nics))
    assert image["properties"]["hw_vif_model"] == "e1000"
    (image,) = created(hvm(nics=(model.Nic("00:16:3e:00:00:01", "b0", type="vif"),)))
    assert image["properties"]["hw_vif_model"] == "netfront"
    other = model.Nic("00:16:3e:00:00:03", "b0", model="rtl8139")
    for wrong in ((*nics, other), (dataclasses.replace(other, model="virtio-net"),)):
        with pytest.raises(SpecError):
            created(hvm(nics=wrong))


def test_further_properties_are_passed_on_quoted() -> None:
    (image,) = created(guest(raw=(("hw_video_ram", 16), ("note", 'it\'s "$(x)" a=b'))))
    assert image["properties"]["hw_video_ram"] == "16"
    assert image["properties"]["note"] == 'it\'s "$(x)" a=b'


def test_disk_sizes_round_up_to_what_a_flavor_needs() -> None:
    facts = facts_for(guest())
    disk = dataclasses.replace(facts.disks[0], virtual_size=(3 << 30) + 512)
    (image,) = created(guest(), dataclasses.replace(facts, disks=(disk,)))
    assert image["min-disk"] == "4"


def test_files_hold_the_script_and_its_tarball() -> None:
    emitter = GlanceEmitter(Options(target="nova-xenapi"))
    files = emitter.files(guest(), with_vhd(guest()))
    assert {name: file.mode for name, file in files.items()} == {
        "web1.pv.glance.sh": 0o755,
        "web1.vhd.tgz": 0o600,
    }


def ran(fake: FakeOpenstack) -> tuple[int, str, str]:
    domain = guest(boot=DIRECT)
    script = GlanceEmitter(Options(ami=True)).text(domain, facts_for(domain))
    return fake_openstack.run(script, fake)


def test_a_second_run_is_refused_and_makes_no_duplicates() -> None:
    fake = FakeOpenstack()
    assert ran(fake)[0] == 0
    before = dict(fake.images)
    status, stdout, stderr = ran(fake)
    assert (status, stdout, fake.images) == (1, "", before)
    kernel = next(iter(before))
    assert "web1-kernel already" in stderr and f"openstack image delete {kernel}" in stderr


@pytest.mark.parametrize("half", [False, True])
def test_a_failure_takes_away_what_was_uploaded_and_the_second_try_works(half: bool) -> None:
    fake = FakeOpenstack(refuse="web1", half=half)
    status, stdout, _ = ran(fake)
    assert (status, stdout, fake.images) == (1, "", {})
    fake.refuse = ""
    assert ran(fake)[0] == 0 and len(fake.images) == 3


def test_what_cannot_be_taken_away_is_named_with_its_command() -> None:
    fake = FakeOpenstack(refuse="web1", half=True, keep=True)
    status, _, stderr = ran(fake)
    assert status == 1 and len(fake.images) == 3
    assert all(f"openstack image delete {identity}" in stderr for identity in fake.images)


def test_the_script_says_that_glance_takes_no_tgz_by_default() -> None:
    disks = (model.Disk("/srv/a"),)
    handlers: list[tuple[Handler, bool]] = [("vdi_local_dev", True), ("direct_vhd", False)]
    for handler, there in handlers:
        emitter = GlanceEmitter(Options(target="nova-xenapi", handler=handler))
        text = emitter.text(guest(disks=disks), with_vhd(guest(disks=disks)))
        assert ("container_formats" in text) == there
