"""The traps that toolstacks set: what older guides and templates get wrong."""

from __future__ import annotations

import ast
from typing import Any

import pytest
from oracles import libvirt_reader, xl_cfg
from oracles.domain_facts import facts_for
from support.domains import NIC, hvm, machine

from imagekit.domain import model
from imagekit.domain.model import Cpu, Disk, Domain, Nic, Rate, Vnc
from imagekit.errors import CapabilityError, ImagekitError, SpecError
from imagekit.toolstacks.libvirt import emitter as libvirt
from imagekit.toolstacks.output import Emitter
from imagekit.toolstacks.registry import emitter_for, toolstack
from imagekit.toolstacks.xl import emitter as xl
from imagekit.toolstacks.xm import emitter as xm


def test_on_crash_is_quoted_because_xl_takes_no_bare_word() -> None:
    assert 'on_crash = "destroy"\n' in xl.emit(machine())


def test_xm_pv_has_no_builder_linux_which_xl_refuses() -> None:
    assert "builder" not in xm.emit(machine())
    assert 'builder = "hvm"' in xm.emit(hvm())


def test_bootloader_arguments_are_written_for_xm_and_for_xl() -> None:
    boot = model.Netboot("/usr/bin/pypxeboot", ("mac=00:16:3e:10:20:30", "--label=a b"))
    for emit in (xm.emit, xl.emit):
        values = xl_cfg.read(emit(machine(boot=boot)))
        assert values["bootloader_args"] == list(boot.args)
    assert xl_cfg.read(xm.emit(machine(boot=boot)))["bootargs"] == (
        "mac=00:16:3e:10:20:30 '--label=a b'"
    )


def test_no_config_refers_to_a_variable_as_bootargs_of_vif_0_did() -> None:
    boot = model.Netboot("/usr/bin/pypxeboot", ("vif[0]",))
    for statement in ast.parse(xm.emit(machine(boot=boot))).body:
        assert isinstance(statement, ast.Assign)
        ast.literal_eval(statement.value)


def test_libvirt_refuses_bootloader_arguments_that_it_would_join() -> None:
    for args in (("--a=1", "--b=2"), ("--a=1 --b=2",), ("",)):
        with pytest.raises(CapabilityError) as caught:
            libvirt.emit(machine(boot=model.Netboot("pypxeboot", args)))
        assert caught.value.where == "boot.args"
    text = libvirt.emit(machine(boot=model.Netboot("pypxeboot", ("--profile=web1",))))
    assert libvirt_reader.from_libvirt(text)["bootloader_args"] == ["--profile=web1"]


def test_libvirt_pins_every_vcpu_by_itself_which_is_all_that_its_driver_reads() -> None:
    pinned = machine(cpu=Cpu(pins=(0, 1, 3)), vcpus=1, maxvcpus=2)
    text = libvirt.emit(pinned)
    assert libvirt_reader.from_libvirt(text)["pins"] == [0, 1, 3]
    words = {line.field for line in libvirt.config_lines(pinned) if "vcpupin" in line.text}
    assert words == {"cpu.pins"}


def test_an_hvm_guest_has_a_graphics_card_under_libvirt_as_under_xl() -> None:
    for domain in (hvm(), hvm(graphics=Vnc())):
        assert libvirt.emit(domain).count('<model type="cirrus"/>') == 1


def test_xl_finds_pygrub_by_its_bare_name() -> None:
    assert xl_cfg.read(xl.emit(machine()))["bootloader"] == "pygrub"


def test_xl_gets_an_explicit_type_and_an_explicit_vnc_off() -> None:
    assert xl_cfg.read(xl.emit(hvm()))["type"] == "hvm"
    assert xl_cfg.read(xl.emit(hvm()))["vnc"] == 0


@pytest.mark.parametrize("tail", [",", ",,", "a,", "a, ,", " ,"])
def test_a_target_that_ends_in_a_comma_is_refused_by_xl_which_would_drop_it(tail: str) -> None:
    disks = (model.Disk("/srv/xen/a.img"), model.Disk(f"/srv/xen/web{tail}", vdev="xvdb"))
    with pytest.raises(SpecError, match="ends in a comma") as caught:
        xl.emit(machine(disks=disks))
    assert caught.value.where == "disks[1].target"
    assert caught.value.hint


def test_a_path_with_commas_stays_a_path_in_xl_and_is_refused_by_xm() -> None:
    evil = machine(disks=(Disk("/srv/a,format=qcow2,vdev=xvdz"),))
    items = xl_cfg.read(xl.emit(evil))["disk"]
    assert isinstance(items, list)
    (item,) = items
    assert str(item).endswith("target=/srv/a,format=qcow2,vdev=xvdz")
    with pytest.raises(SpecError, match="','"):
        xm.emit(evil)


def test_xm_knows_neither_pvh_nor_uefi() -> None:
    for domain in (
        machine(mode="pvh", boot=model.DirectKernel("/k")),
        hvm(boot=model.Firmware("uefi")),
        hvm(boot=model.DirectKernel("/k")),
    ):
        with pytest.raises(CapabilityError):
            xm.emit(domain)


@pytest.mark.parametrize(
    ("disk", "item"),
    [
        (Disk("/dev/vg0/a"), "phy:/dev/vg0/a,xvda,w"),
        (Disk("/a", readonly=True), "file:/a,xvda,r"),
        (Disk("/a", backend="qdisk"), "tap:aio:/a,xvda,w"),
        (Disk("/a", backend="tap"), "tap2:tapdisk:aio:/a,xvda,w"),
        (Disk("/a", "qcow2"), "tap:qcow2:/a,xvda,w"),
        (Disk("/a", "vhd", backend="tap"), "tap2:tapdisk:vhd:/a,xvda,w"),
    ],
)
def test_xm_disks_have_the_prefix_of_their_back_end(disk: Disk, item: str) -> None:
    assert xl_cfg.read(xm.emit(machine(disks=(disk,))))["disk"] == [item]


def test_xm_names_its_encoding_when_python_2_needs_it() -> None:
    plain = xm.emit(machine())
    assert plain.isascii() and not plain.startswith("#")
    accented = xm.emit(machine(disks=(Disk("/srv/é.img"),)))
    assert accented.startswith("# -*- coding: utf-8 -*-\n")


@pytest.mark.parametrize(
    "changes",
    [
        {"cpu": Cpu(cap=50)},
        {"raw": (("nomigrate", 1),)},
        {"on_reboot": "coredump-restart"},
        {"nics": (Nic(NIC.mac, None, ("192.0.2.1",), script="vif-route", gatewaydev="eth0"),)},
        {"nics": (Nic(NIC.mac, "xenbr0", rate=Rate(10**6, 20_000)),)},
        {"nics": (Nic(NIC.mac, "ovs0.3:9", script="vif-openvswitch"),)},
        {"cpu": Cpu(weight=1)},
        {"disks": (Disk("/srv/b.img", vdev="xvdb"), Disk("/srv/a.img"))},
    ],
)
def test_libvirt_refuses_what_its_driver_would_lose(changes: dict[str, Any]) -> None:
    with pytest.raises(CapabilityError) as caught:
        libvirt.emit(machine(**changes))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("memory", 1024, "the spec's memory decides it"),
        ("builder", "linux", "mode"),
        ("kernel", "/x", "boot"),
        ("bootargs", "vif[0]", "bootloader_args"),
        ("device_model", "qemu-dm", "device_model_override"),
        ("nomigrat", 1, "xl.cfg"),
    ],
)
def test_raw_keys_that_collide_or_that_xl_ignores_are_refused(
    key: str, value: model.RawValue, reason: str
) -> None:
    with pytest.raises(SpecError) as caught:
        xl.emit(machine(raw=((key, value),)))
    assert caught.value.where == f"raw.{key}"
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "raw",
    [
        (("nomigrate\nname", 1),),
        (("X", 1),),
        (("nomigrate", -1),),
        (("vga", "a\nb"),),
        (("vga", "\x7f"),),
        (("vga", "std"), ("vga", "std")),
    ],
)
def test_raw_settings_that_cannot_be_written_are_refused(raw: Any) -> None:
    with pytest.raises(SpecError):
        machine(raw=raw)


def test_raw_values_are_quoted_and_not_pasted() -> None:
    text = xl.emit(machine(raw=(("pool", 'x"\ntype = "hvm"'.replace("\n", " ")), ("nomigrate", 1))))
    values = xl_cfg.read(text)
    assert values["pool"] == 'x" type = "hvm"'
    assert values["type"] == "pv"


def test_a_secret_makes_every_file_private() -> None:
    open_, secret = machine(), machine(graphics=Vnc(password="hunter2"))
    facts: Any = None

    def modes(emitter: Emitter, domain: Domain) -> set[int]:
        return {file.mode for file in emitter.files(domain, facts).values()}

    for name in ("xl", "xm", "libvirt"):
        assert modes(emitter_for(name), open_) == {0o644}
        assert modes(emitter_for(name), secret) == {0o600}
        assert "hunter2" in emitter_for(name).text(secret, facts)


def test_an_unknown_toolstack_is_refused_with_those_there_are() -> None:
    with pytest.raises(ImagekitError) as caught:
        emitter_for("kvm")
    assert "xl" in (caught.value.hint or "")


@pytest.mark.parametrize("boot", [model.Pygrub(), model.Netboot("pypxeboot", ("--mac=x",))])
def test_a_xen_that_can_runs_the_bootloader_as_another_user(boot: Any) -> None:
    domain = machine(boot=boot)
    assert "bootloader_restrict" not in xl_cfg.read(xl.emit(domain))
    newer = toolstack("xl").emitter(xl.Options("4.20"))
    text = newer.text(domain, facts_for(domain))
    assert xl_cfg.read(text)["bootloader_restrict"] == 1
    rest = [line for line in text.splitlines() if not line.startswith("bootloader_restrict")]
    assert rest == xl.emit(domain).splitlines()


def test_without_a_bootloader_there_is_nothing_to_restrict() -> None:
    for domain in (hvm(), machine(boot=model.DirectKernel("/k", "/i"))):
        newer = xl.emit(domain, xl.Options("4.20"))
        assert newer == xl.emit(domain)


def test_keys_of_newer_xens_are_for_newer_xens() -> None:
    domain = machine(raw=(("bootloader_user", "web1-boot"),))
    with pytest.raises(SpecError, match=r"xl of Xen 4\.17 knows no key bootloader_user"):
        xl.emit(domain)
    values = xl_cfg.read(xl.emit(domain, xl.Options("4.20")))
    assert (values["bootloader_user"], values["bootloader_restrict"]) == ("web1-boot", 1)
    twice = machine(raw=(("bootloader_restrict", 0),))
    with pytest.raises(SpecError, match="is written by imagekit"):
        xl.emit(twice, xl.Options("4.20"))
