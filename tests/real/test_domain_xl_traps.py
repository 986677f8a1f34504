"""What the real xl does with configs as older guides write them, and with those of a build."""

from __future__ import annotations

from dataclasses import replace

import pytest
from oracles import xl_model, xl_reader

from imagekit.domain import bootpath, model
from imagekit.domain.facts import BuildFacts, DiskFacts, PygrubView, Verdict
from imagekit.toolstacks.xl import emitter as xl

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(xl_reader.missing() is not None, reason=str(xl_reader.missing())),
]

PV = """\
name = "web1"
type = "pv"
memory = 512
bootloader = "pygrub"
disk = [ "format=raw, vdev=xvda, access=rw, target=/srv/web1.img" ]
"""

FACTS = BuildFacts(
    name="web1",
    uuid="5f0c7f5e-3a77-4f0b-9a0e-2f6d6f2b4d11",
    memory_mib=512,
    maxmem_mib=1024,
    vcpus=2,
    maxvcpus=4,
    disks=(
        DiskFacts({"raw": "/b/web1.raw", "qcow2": "/b/web1.qcow2", "vhd": "/b/web1.vhd"}, 2 << 30),
    ),
    pv=Verdict(True, ("ENTRY",)),
    pvh=Verdict(True, ("PHYS32_ENTRY",)),
    hvm=Verdict(True, ("bzImage",)),
    pygrub=PygrubView(True, "pygrub reads grub.cfg"),
    nics=(
        model.Nic("00:16:3e:10:20:30", model="e1000", rate=model.Rate.parse("100Mb/s")),
        model.Nic("00:16:3e:10:20:31", ips=("192.0.2.7",), script="vif-route", gatewaydev="eth1"),
        model.Nic("00:16:3e:10:20:32", ips=("10.0.0.7",), script="vif-nat"),
        model.Nic("00:16:3e:10:20:33", "ovs0.7:8:9", script="vif-openvswitch"),
    ),
    kernel="/b/vmlinuz",
    initrd="/b/initrd.img",
    cmdline="root=UUID=0f5e ro",
    grub_config="/boot/grub/grub.cfg",
    bootloader_bios=True,
    bootloader_uefi=True,
    graphics=model.Vnc(display=7, password="s3cret", keymap="de"),
    cpu=model.Cpu(512, 150, (0, 1, 2, 5)),
)


@pytest.mark.parametrize("image_format", ["raw", "qcow2", "vhd"])
@pytest.mark.parametrize("mode", model.MODES)
def test_every_boot_path_of_a_build_is_what_xl_understands(
    mode: model.Mode, image_format: model.DiskFormat
) -> None:
    for boot, ok, _ in bootpath.boot_paths(FACTS, mode):
        assert ok
        for firmware in ("bios", "uefi") if boot == "firmware" else (None,):
            domain = bootpath.domain_for(
                FACTS, mode=mode, boot=boot, image_format=image_format, firmware=firmware
            )
            reading = xl_reader.read(xl.emit(domain))
            assert (reading.returncode, reading.complaints) == (0, ())
            assert xl_model.from_xl(reading.config) == xl_model.expected(domain)


@pytest.mark.parametrize(
    ("target", "opened"),
    [("/srv/a,", "/srv/a"), ("/srv/a,,", "/srv/a,"), ("/srv/a,b", "/srv/a,b"), ("/srv/a, b", None)],
)
def test_xl_drops_a_comma_at_the_end_of_a_target(target: str, opened: str | None) -> None:
    reading = xl_reader.read(PV.replace("/srv/web1.img", target))
    assert [disk["pdev_path"] for disk in reading.config["disks"]] == [opened or target]


def test_xl_counts_the_rate_and_the_pins_as_the_domain_does() -> None:
    reading = xl_reader.read(xl.emit(bootpath.domain_for(FACTS, mode="pv")))
    first = reading.config["nics"][0]
    assert (first["rate_bytes_per_interval"], first["rate_interval_usecs"]) == (625_000, 50_000)
    assert reading.config["b_info"]["vcpu_hard_affinity"] == [[0, 1, 2, 5]] * 4


@pytest.mark.parametrize(
    "line",
    [
        "on_crash = destroy",
        'bootloader = "/usr/bin/pypxeboot"\nbootargs = vif[0]',
        'builder = "linux"',
        'type = "PV"',
        'vif = [ "mac=00:16:3e:10:20:30, type=netfront" ]',
        'device_model = "qemu-dm"',
        'disk = "phy:/dev/vg0/web1,xvda,w"',
        'disk = [ "format=vmdk, vdev=xvda, access=rw, target=/a" ]',
        'cmdline = "\\x41"',
        'memory = "512MB"',
    ],
)
def test_xl_complains_of_what_we_never_write(line: str) -> None:
    key = line.split(" = ")[0]
    kept = [one for one in PV.splitlines() if not one.startswith(key)]
    reading = xl_reader.read("\n".join([*kept, line, ""]))
    assert reading.returncode != 0 or reading.complaints


@pytest.mark.parametrize("line", ['bootargs = "--label=x"', "cpu_cap = 50", "memroy = 1024"])
def test_xl_drops_keys_it_does_not_know_without_a_word(line: str) -> None:
    plain, more = xl_reader.read(PV), xl_reader.read(PV + line + "\n")
    assert more.complaints == ()
    for reading in (plain, more):
        del reading.config["c_info"]["uuid"]
    assert more.config == plain.config


def test_xl_takes_a_display_in_both_places_for_an_ipv6_listener() -> None:
    text = PV.replace('"pv"', '"hvm"').replace('bootloader = "pygrub"\n', "")
    text += 'vnc = 1\nvnclisten = "::1"\nvncdisplay = 1\n'
    assert xl_reader.read(text).complaints


def test_a_domain_that_differs_is_told_apart() -> None:
    domain = bootpath.domain_for(FACTS, mode="pv")
    reading = xl_reader.read(xl.emit(domain))
    for other in (
        replace(domain, memory_mib=513),
        replace(domain, on_reboot="destroy"),
        replace(domain, nics=domain.nics[:1]),
        replace(domain, disks=(replace(domain.disks[0], readonly=True),)),
    ):
        assert xl_model.from_xl(reading.config) != xl_model.expected(other)
