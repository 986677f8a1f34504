"""What can be a domU, and the traps that toolstacks fall into silently."""

from __future__ import annotations

from typing import Any

import pytest
from support.domains import DISK, NIC, UUID, hvm, machine

from imagekit.domain import model
from imagekit.domain.model import Cpu, Disk, Nic, Rate, Vnc
from imagekit.domain.vdev import parse_vdev
from imagekit.errors import SpecError
from imagekit.toolstacks.libvirt import emitter as libvirt
from imagekit.toolstacks.xl import emitter as xl


def assert_refused(where: str, **changes: Any) -> SpecError:
    with pytest.raises(SpecError) as caught:
        machine(**changes)
    assert caught.value.where == where, caught.value
    return caught.value


@pytest.mark.parametrize(
    "name", ["", "123", "a b", "a/b", "Domain-0", "x" * 65, "-v", ".x", "a\nb", 'a"b', "a;b", "é"]
)
def test_names_that_some_toolstack_misreads_are_refused(name: str) -> None:
    assert_refused("name", name=name)


@pytest.mark.parametrize(
    "uuid", ["", "x", UUID.upper(), UUID.replace("-", ""), "{" + UUID + "}", f"urn:uuid:{UUID}"]
)
def test_a_uuid_is_lower_case_with_dashes(uuid: str) -> None:
    assert_refused("uuid", uuid=uuid)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("memory_mib", {"memory_mib": 0}),
        ("memory_mib", {"memory_mib": True}),
        ("memory_mib", {"memory_mib": 10**12}),
        ("maxmem_mib", {"maxmem_mib": 511}),
        ("vcpus", {"vcpus": 0}),
        ("maxvcpus", {"maxvcpus": 1}),
        ("mode", {"mode": "PV"}),
        ("mode", {"mode": ""}),
        ("mode", {"mode": "h"}),
        ("on_crash", {"on_crash": "reboot"}),
        ("cpu.weight", {"cpu": Cpu(weight=70000)}),
        ("cpu.cap", {"cpu": Cpu(cap=0)}),
        ("cpu.pins", {"cpu": Cpu(pins=(3, 1))}),
        ("serial", {"serial": "pty"}),
        ("graphics.listen", {"graphics": Vnc("localhost")}),
        ("graphics.listen", {"graphics": Vnc("::1")}),
        ("graphics.password", {"graphics": Vnc(password="ninechars")}),
        ("graphics.password", {"graphics": Vnc(password="a,b")}),
        ("graphics.password", {"graphics": Vnc(password="")}),
        ("graphics.keymap", {"graphics": Vnc(keymap="../de")}),
    ],
)
def test_values_that_toolstacks_accept_and_get_wrong_are_refused(
    field: str, changes: dict[str, Any]
) -> None:
    assert_refused(field, **changes)


@pytest.mark.parametrize(
    "path", ["srv/x", "", "/", "/a\nb", "/a\0b", "/a\rb", "/a\tb", "/a/../b", "/a ", "/\ud800", 7]
)
def test_paths_that_no_config_can_carry_are_refused(path: Any) -> None:
    assert_refused("disks[0].target", disks=(Disk(path),))


@pytest.mark.parametrize(
    "vdev", ["", "xvd", "xvdA", "vda", "hde", "sdq", "xvda0", "xvda16", "xvdaaa", "xvda,x", "202"]
)
def test_device_names_that_xl_misreads_are_refused(vdev: str) -> None:
    assert_refused("disks[0].vdev", disks=(Disk("/x", vdev=vdev),))


def test_device_names_count_as_xen_does() -> None:
    found = {n: parse_vdev(n).index for n in ("xvda", "xvdz", "xvdaa", "xvdzz", "hdd", "sdp")}
    assert found == {"xvda": 0, "xvdz": 25, "xvdaa": 26, "xvdzz": 701, "hdd": 3, "sdp": 15}
    assert parse_vdev("xvda1").partition == 1


@pytest.mark.parametrize("pair", [("hda", "xvda"), ("sda", "xvda"), ("xvda", "xvda1")])
def test_two_names_of_one_disk_are_refused(pair: tuple[str, str]) -> None:
    one, other = pair
    assert_refused("disks[1].vdev", disks=(Disk("/a", vdev=one), Disk("/b", vdev=other)))


def test_partitions_are_for_pv_only() -> None:
    assert machine(disks=(Disk("/a", vdev="xvda1"), Disk("/b", vdev="xvda2"))).disks
    with pytest.raises(SpecError, match="whole disks"):
        hvm(disks=(Disk("/a", vdev="xvda1"),))


def test_a_bootloader_needs_a_disk_to_be_called_with() -> None:
    assert_refused("disks", disks=())
    assert_refused("disks", disks=(), boot=model.Netboot("pypxeboot", ("--profile=web1",)))


def test_a_bootloader_is_refused_on_hvm_which_would_skip_it() -> None:
    assert_refused("boot", mode="hvm")
    assert_refused("boot", boot=model.Firmware())


def test_a_command_line_is_refused_from_1024_bytes_not_characters() -> None:
    machine(boot=model.DirectKernel("/k", None, "x" * 1023))
    assert_refused("boot.cmdline", boot=model.DirectKernel("/k", None, "x" * 1024))
    error = assert_refused("boot.cmdline", boot=model.DirectKernel("/k", None, "é" * 512))
    assert "pvgrub" in (error.hint or "")


@pytest.mark.parametrize(
    ("disk", "ok"),
    [
        (Disk("/x", "qcow2", backend="phy"), False),
        (Disk("/x", "vhd", backend="phy"), False),
        (Disk("/x", "qcow2", backend="tap"), False),
        (Disk("/x", "vhd", backend="tap"), True),
        (Disk("/x", "qcow2", backend="qdisk"), True),
        (Disk("/x", "vmdk"), False),  # type: ignore[arg-type]
        (Disk(None), False),
        (Disk(None, readonly=True, cdrom=True), False),
        (Disk("/x", cdrom=True), False),
        (Disk("/x", "qcow2", cdrom=True, readonly=True), False),
    ],
)
def test_back_ends_take_the_formats_they_can(disk: Disk, ok: bool) -> None:
    if ok:
        machine(disks=(disk,))
    else:
        with pytest.raises(SpecError):
            machine(disks=(disk,))


@pytest.mark.parametrize("vdev", ["xvdb", "hdb", "xvdd"])
def test_hvm_refuses_read_only_disks_that_qemu_would_emulate(vdev: str) -> None:
    with pytest.raises(SpecError) as caught:
        hvm(disks=(DISK, Disk("/ro", vdev=vdev, readonly=True)))
    assert "xvde" in (caught.value.hint or "")
    assert hvm(disks=(DISK, Disk("/ro", vdev="xvde", readonly=True)))
    assert machine(disks=(DISK, Disk("/ro", vdev=vdev, readonly=True)))


def test_hvm_cdroms_stay_where_firmware_sees_them() -> None:
    assert hvm(disks=(DISK, Disk("/i.iso", vdev="hdc", readonly=True, cdrom=True)))
    with pytest.raises(SpecError, match="invisible"):
        hvm(disks=(DISK, Disk("/i.iso", vdev="xvde", readonly=True, cdrom=True)))


@pytest.mark.parametrize(
    ("field", "nic"),
    [
        ("mac", Nic("00:16:3E:10:20:30", "xenbr0")),
        ("mac", Nic("00-16-3e-10-20-30", "xenbr0")),
        ("mac", Nic("01:16:3e:10:20:30", "xenbr0")),
        ("mac", Nic("00:00:00:00:00:00", "xenbr0")),
        ("bridge", Nic(NIC.mac)),
        ("bridge", Nic(NIC.mac, "xenbr0,script=/tmp/x")),
        ("bridge", Nic(NIC.mac, "a" * 16)),
        ("bridge", Nic(NIC.mac, "xenbr0", ("192.0.2.1",), script="vif-route")),
        ("bridge", Nic(NIC.mac, "ovs0.5000", script="vif-openvswitch")),
        ("ips[0]", Nic(NIC.mac, "xenbr0", ("192.0.2.1,bridge=x",))),
        ("ips[0]", Nic(NIC.mac, "xenbr0", ("fe80::1%eth0",))),
        ("ips[0]", Nic(NIC.mac, "xenbr0", ("2001:DB8::1",))),
        ("ips", Nic(NIC.mac, script="vif-route")),
        ("ips", Nic(NIC.mac, None, ("192.0.2.200",), script="vif-nat")),
        ("script", Nic(NIC.mac, "xenbr0", script="vif-bridge;reboot")),
        ("script", Nic(NIC.mac, "xenbr0", script="../x")),
        ("gatewaydev", Nic(NIC.mac, "xenbr0", gatewaydev="eth0")),
        ("model", Nic(NIC.mac, "xenbr0", model="e1000")),
        ("type", Nic(NIC.mac, "xenbr0", type="ioemu")),
        ("name", Nic(NIC.mac, "xenbr0", name="vif1.0")),
        ("name", Nic(NIC.mac, "xenbr0", name="x" * 16)),
        ("rate", Nic(NIC.mac, "xenbr0", rate=Rate(0))),
        ("rate", Nic(NIC.mac, "xenbr0", rate=Rate(1, 1))),
    ],
)
def test_nics_that_would_not_work_are_refused(field: str, nic: Nic) -> None:
    assert_refused(f"nics[0].{field}", nics=(nic,))


def test_two_nics_do_not_share_a_mac() -> None:
    assert_refused("nics[1].mac", nics=(NIC, NIC))


@pytest.mark.parametrize("name", ["netfront", "vif"])
def test_a_pv_nic_on_hvm_is_a_type_and_not_a_model(name: str) -> None:
    with pytest.raises(SpecError) as caught:
        hvm(nics=(Nic(NIC.mac, "xenbr0", model=name),))
    assert "type: vif" in (caught.value.hint or "")
    only_pv = hvm(nics=(Nic(NIC.mac, "xenbr0", type="vif"),))
    assert "type=vif" in xl.emit(only_pv)
    assert '<model type="netfront"/>' in libvirt.emit(only_pv)


@pytest.mark.parametrize(
    ("text", "bytes_per_second", "interval"),
    [
        ("100Mb/s", 12_500_000, 50_000),
        ("1GB/s@20ms", 1_000_000_000, 20_000),
        ("8b/s@1s", 1, 1_000_000),
        ("250KB/s@500us", 250_000, 500),
        ("12345B/s", 12_345, 50_000),
    ],
)
def test_rates_are_read_as_xl_does(text: str, bytes_per_second: int, interval: int) -> None:
    rate = Rate.parse(text)
    assert rate == Rate(bytes_per_second, interval)
    assert Rate.parse(str(rate)) == rate


@pytest.mark.parametrize(
    "text", ["", "100", "100Mbit", "1Mb/s@50000", "-1b/s", "1Mb/s@5m", "1b/s\n"]
)
def test_rates_that_xl_refuses_or_misreads_are_refused(text: str) -> None:
    with pytest.raises(SpecError):
        Rate.parse(text)


def test_pins_are_read_and_written_alike() -> None:
    assert model.parse_pins("0-3,5,^1") == (0, 2, 3, 5)
    assert model.pin_ranges((0, 2, 3, 5)) == "0,2-3,5"
    assert model.parse_pins("all") == ()
    for bad in ("", "x", "nodes:0", "0-", "1,^1"):
        with pytest.raises(SpecError):
            model.parse_pins(bad)
