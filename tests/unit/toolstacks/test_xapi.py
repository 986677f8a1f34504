"""The script for xe, run by a real shell against a recording xe; the tarballs for nova."""

from __future__ import annotations

import dataclasses
import io
import subprocess
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import domain_strategies as some
from oracles import fake_xe
from oracles.domain_facts import facts_for

from imagekit.disk.vhd import write_vhd
from imagekit.domain import model
from imagekit.domain.facts import BuildFacts
from imagekit.errors import CapabilityError, ImageError, ImagekitError, SpecError
from imagekit.toolstacks.tarball import write_tarball
from imagekit.toolstacks.xapi.script import EMITTER, XapiEmitter

UUID = "5f0c7f5e-3a77-4f0b-9a0e-2f6d6f2b4d11"
MIB = 1024 * 1024
outcomes: Counter[str] = Counter()


def guest(**changes: Any) -> model.Domain:
    values: dict[str, Any] = {
        "name": "web1",
        "uuid": UUID,
        "mode": "pv",
        "memory_mib": 512,
        "vcpus": 2,
        "boot": model.Pygrub(),
        "disks": (model.Disk("/srv/xen/web1.vhd", "vhd"),),
        "nics": (model.Nic("00:16:3e:10:20:30", "xenbr0"),),
    }
    return model.Domain(**(values | changes))


def ran(domain: model.Domain, facts: BuildFacts | None = None) -> fake_xe.FakeXe:
    """The script, run to its end by a real sh; xe has read every parameter it was given."""
    fake = fake_xe.FakeXe()
    status, stderr = fake_xe.run(EMITTER.text(domain, facts or facts_for(domain)), fake)
    assert (status, stderr, fake.ignored) == (0, "", [])
    return fake


def xe_calls(domain: model.Domain, facts: BuildFacts | None = None) -> list[dict[str, str]]:
    """The calls of xe, each a mapping of its parameters with the command under ``""``."""
    return ran(domain, facts).calls


def settings_of(found: list[dict[str, str]], *commands: str) -> dict[str, str]:
    merged: dict[str, str] = {}
    for call in found:
        if call[""] in commands:
            merged |= call
    return merged


BOOTS = st.sampled_from(
    [
        model.DirectKernel("/srv/it's a $(kernel)", '/srv/"init" rd', "root=\"a b\" $HOME 'x' `y`"),
        model.DirectKernel("/var/lib/xcp/guest/k", None, "é雪🐧 \\ %s"),
        model.Pvgrub("/usr/lib/grub-xen/grub-x86_64-xen.bin"),
        model.Pygrub(("--entry=2",)),
    ]
)


@given(some.domains(), BOOTS, st.booleans())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_xe_is_called_with_the_domain_or_it_is_refused(
    domain: model.Domain, boot: model.Boot, swap: bool
) -> None:
    if swap and domain.mode != "hvm" and domain.disks:
        domain = dataclasses.replace(domain, boot=boot)
    if swap:
        domain = dataclasses.replace(domain, on_poweroff="destroy", on_reboot="restart")
    try:
        EMITTER.text(domain, facts_for(domain))
    except ImagekitError as error:
        assert error.where and error.hint
        outcomes["refused"] += 1
        return
    outcomes["called"] += 1
    fake = ran(domain)
    found, vm = fake.calls, fake.vms["vm-1"]
    assert vm["name-label"] == domain.name
    assert vm["memory-dynamic-max"] == str(domain.memory_mib * MIB)
    assert vm["memory-static-max"] == str((domain.maxmem_mib or domain.memory_mib) * MIB)
    assert vm["VCPUs-max"] == str(domain.maxvcpus or domain.vcpus)
    assert vm["VCPUs-at-startup"] == str(domain.vcpus)
    assert vm["domain-type"] == domain.mode
    assert vm.get("VCPUs-params:weight") == (domain.cpu.weight and str(domain.cpu.weight))
    assert_boot(domain, vm, found)
    assert_devices(domain, found)


def assert_boot(domain: model.Domain, vm: dict[str, str], found: list[dict[str, str]]) -> None:
    boot = domain.boot
    if isinstance(boot, model.Firmware):
        assert vm["HVM-boot-policy"] == "BIOS order" and vm["PV-bootloader"] == ""
        assert vm["HVM-boot-params:order"] == boot.boot_order
        assert vm["HVM-boot-params:firmware"] == boot.kind
        return
    assert vm["HVM-boot-policy"] == ""
    assert vm["PV-bootloader"] == ("pygrub" if isinstance(boot, model.Pygrub) else "")
    copies = {call["to"]: call["from"] for call in found if call[""] == "install"}
    wanted = {"PV-kernel": "", "PV-ramdisk": "", "PV-args": ""}
    if isinstance(boot, model.DirectKernel):
        wanted = {
            "PV-kernel": boot.kernel,
            "PV-ramdisk": boot.initrd or "",
            "PV-args": boot.cmdline,
        }
    elif isinstance(boot, model.Pvgrub):
        wanted["PV-kernel"] = boot.image_path
    for key, value in wanted.items():
        assert copies.get(vm[key], vm[key]) == value
    for key in ("PV-kernel", "PV-ramdisk"):
        assert not vm[key] or vm[key].startswith("/var/lib/xcp/guest/")


def assert_devices(domain: model.Domain, found: list[dict[str, str]]) -> None:
    vbds = [call for call in found if call[""] == "vbd-create"]
    imports = iter([call for call in found if call[""] == "vdi-import"])
    for disk, vbd in zip(domain.disks, vbds, strict=True):
        assert vbd["device"] == str("abcdefgh".index(disk.vdev[-1]))
        assert vbd["mode"] == ("RO" if disk.readonly else "RW")
        assert vbd["type"] == ("CD" if disk.target is None else "Disk")
        assert vbd["bootable"] == ("true" if disk is domain.disks[0] else "false")
        if disk.target is not None:
            call = next(imports)
            assert (call["filename"], call["format"]) == (disk.target, disk.format)
    assert next(imports, None) is None
    vifs = [call for call in found if call[""] == "vif-create"]
    assert [(v["mac"], v["device"]) for v in vifs] == [
        (nic.mac, str(i)) for i, nic in enumerate(domain.nics)
    ]
    asked = {call["bridge"] for call in found if call[""] == "network-list"}
    assert asked == {nic.bridge for nic in domain.nics}


def test_enough_random_domains_were_called() -> None:
    if not outcomes:  # this test was picked alone
        test_xe_is_called_with_the_domain_or_it_is_refused()
    assert outcomes["called"] > 5, outcomes


def test_disks_are_created_large_enough_for_their_vhd() -> None:
    facts = facts_for(guest())
    odd = dataclasses.replace(facts.disks[0], virtual_size=10 * MIB + 512)
    found = xe_calls(guest(), dataclasses.replace(facts, disks=(odd,)))
    assert settings_of(found, "vdi-create")["virtual-size"] == str(12 * MIB)


def test_a_vhd_is_uploaded_when_the_domain_boots_from_the_raw_twin() -> None:
    domain = guest(disks=(model.Disk("/srv/a.raw"),))
    facts = facts_for(domain)
    disk = dataclasses.replace(facts.disks[0], paths={"raw": "/srv/a.raw", "vhd": "/srv/a.vhd"})
    call = settings_of(xe_calls(domain, dataclasses.replace(facts, disks=(disk,))), "vdi-import")
    assert (call["filename"], call["format"]) == ("/srv/a.vhd", "vhd")


def test_a_qcow2_disk_is_refused_with_the_way_out() -> None:
    domain = guest(disks=(model.Disk("/srv/a.qcow2", "qcow2"),))
    with pytest.raises(CapabilityError) as caught:
        EMITTER.text(domain, facts_for(domain))
    assert "convert" in str(caught.value.hint)


def test_limits_and_addresses_of_a_nic_are_set() -> None:
    nic = model.Nic(
        "00:16:3e:10:20:30",
        "xenbr0",
        ips=("192.0.2.7", "2001:db8::7"),
        rate=model.Rate.parse("10Mb/s@20ms"),
    )
    vif = settings_of(xe_calls(guest(nics=(nic,))), "vif-param-set")
    assert vif["qos_algorithm_type"] == "ratelimit"
    assert vif["qos_algorithm_params:kbps"] == "1221"
    assert vif["qos_algorithm_params:timeslice_us"] == "20000"
    assert (vif["ipv4-allowed"], vif["ipv6-allowed"]) == ("192.0.2.7", "2001:db8::7")


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"boot": model.Netboot("pypxeboot")}, "boot.program"),
        ({"boot": model.Pygrub(("a b",))}, "boot.args"),
        ({"graphics": model.Vnc(password="geheim")}, "graphics.password"),
        ({"on_reboot": "preserve"}, "on_reboot"),
        ({"disks": (model.Disk("/srv/a", vdev="sda"),)}, "disks[0].vdev"),
        ({"nics": (model.Nic("00:16:3e:10:20:30", "b0", name="web0"),)}, "nics[0].name"),
        ({"raw": (("hap", 1),)}, "raw.hap"),
    ],
)
def test_what_xapi_cannot_express_is_refused(changes: dict[str, Any], where: str) -> None:
    domain = guest(**changes)
    with pytest.raises(SpecError) as caught:
        EMITTER.text(domain, facts_for(domain))
    assert caught.value.where == where and caught.value.hint


def test_memory_and_vcpus_are_what_the_domain_says_and_not_what_xe_starts_with() -> None:
    vm = ran(guest(memory_mib=2048, maxmem_mib=4096, vcpus=3, maxvcpus=6)).vms["vm-1"]
    assert {key: int(vm[key]) // MIB for key in vm if key.startswith("memory")} == {
        "memory-static-max": 4096,
        "memory-dynamic-max": 2048,
        "memory-dynamic-min": 2048,
        "memory-static-min": 2048,
    }
    assert (vm["VCPUs-max"], vm["VCPUs-at-startup"]) == ("6", "3")


@pytest.mark.parametrize("field", ["memory-static-max", "VCPUs-at-startup"])
def test_a_vm_that_xapi_made_otherwise_is_taken_away_and_named(field: str) -> None:
    fake = fake_xe.FakeXe(lie=field)
    status, stderr = fake_xe.run(EMITTER.text(guest(), facts_for(guest())), fake)
    assert status == 1 and f"{field} is 1, not " in stderr
    assert fake.vms == {} and fake.vdis == {}


def test_a_failing_import_takes_the_vm_and_its_disks_away_again() -> None:
    fake = fake_xe.FakeXe(refuse="vdi-import")
    status, _ = fake_xe.run(EMITTER.text(guest(), facts_for(guest())), fake)
    assert status != 0 and fake.vms == {} and fake.vdis == {}
    assert [call[""] for call in fake.calls[-2:]] == ["vm-destroy", "vdi-destroy"]


def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.raw"
    with path.open("wb") as file:
        file.write(b"start")
        file.truncate(9 * MIB)
        file.seek(5 * MIB + 3)
        file.write(b"middle")
    return path


def test_vhd_tarball_holds_one_member_as_the_image_handlers_want_it(tmp_path: Path) -> None:
    vhd = tmp_path / "a.vhd"
    write_vhd(image(tmp_path), vhd)
    streams = [io.BytesIO(), io.BytesIO()]
    for stream in streams:
        write_tarball(vhd, "direct_vhd", stream)
    assert streams[0].getvalue() == streams[1].getvalue()
    target = tmp_path / "a.tgz"
    target.write_bytes(streams[0].getvalue())
    done = subprocess.run(["tar", "-tzf", target], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("0.vhd\n", "")
    content = subprocess.run(["tar", "-xzOf", target], capture_output=True, check=True).stdout
    assert content == vhd.read_bytes()


def test_raw_tarball_holds_the_whole_disk(tmp_path: Path) -> None:
    raw = image(tmp_path)
    stream = io.BytesIO()
    write_tarball(raw, "vdi_local_dev", stream)
    stream.seek(0)
    with tarfile.open(fileobj=stream, mode="r:gz") as archive:
        (member,) = archive.getmembers()
        assert member.name == "disk.raw"
        content = archive.extractfile(member)
        assert content is not None and content.read() == raw.read_bytes()


def test_a_fixed_vhd_is_refused_for_a_tarball(tmp_path: Path) -> None:
    vhd = tmp_path / "a.vhd"
    write_vhd(image(tmp_path), vhd, subformat="fixed")
    with pytest.raises(ImageError, match="dynamic"):
        write_tarball(vhd, "vdi_remote_stream", io.BytesIO())


def test_files_are_an_executable_script_and_the_tarball_of_what_was_built() -> None:
    files = EMITTER.files(guest(), facts_for(guest()))
    assert {name: file.mode for name, file in files.items()} == {
        "web1.pv.xe.sh": 0o755,
        "web1.vhd.tgz": 0o600,
    }
    with pytest.raises(CapabilityError, match="raw"):
        XapiEmitter(("vdi_local_dev",)).files(guest(), facts_for(guest()))
