"""Quattor's templates read back, ncm-xen replayed, and its file read as xm reads it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import domain_strategies as some
from oracles import ncm_xen_reader, pan_reader, xl_model
from oracles.domain_facts import facts_for

from imagekit.domain import model
from imagekit.errors import CapabilityError, ImagekitError, SpecError
from imagekit.toolstacks.quattor import pan
from imagekit.toolstacks.quattor.emitter import EMITTER, Options, QuattorEmitter

UUID = "5f0c7f5e-3a77-4f0b-9a0e-2f6d6f2b4d11"
outcomes: Counter[str] = Counter()


def guest(**changes: Any) -> model.Domain:
    values: dict[str, Any] = {
        "name": "web1",
        "uuid": UUID,
        "mode": "pv",
        "memory_mib": 1024,
        "vcpus": 2,
        "boot": model.Pygrub(),
        "disks": (model.Disk("/dev/vg01/web1"),),
        "nics": (model.Nic("00:16:3e:10:20:30", "xenbr0"),),
    }
    return model.Domain(**(values | changes))


def files(domain: model.Domain, **options: Any) -> dict[str, str]:
    made = QuattorEmitter(Options(**options)).files(domain, facts_for(domain))
    return {name: str(file.content) for name, file in made.items()}


def written(domain: model.Domain) -> list[str]:
    """The lines of /etc/xen/NAME after the header."""
    text = files(domain)[f"etc/xen/{domain.name}"]
    return [line for line in text.splitlines() if not line.startswith("#")]


def expected(domain: model.Domain) -> dict[str, Any]:
    shape = xl_model.expected(domain)
    del shape["uuid"]
    if shape["bootloader"] and not shape["bootloader"].startswith("/"):
        shape["bootloader"] = f"/usr/bin/{shape['bootloader']}"
    if shape["bootloader"] and shape["bootloader"].endswith("/pypxeboot"):
        shape["bootloader_args"] = shape["bootloader_args"] or ["vif"] * bool(domain.nics)
    return shape


def tame(domain: model.Domain) -> model.Domain:
    """The domain without what ncm-xen has no options for, so that more than a few pass."""
    nics = tuple(dataclasses.replace(nic, gatewaydev=None) for nic in domain.nics)
    disks = tuple(
        dataclasses.replace(d, format="raw", target=f"/srv/xen/{n}.img" if n % 2 else "/dev/vg/a")
        for n, d in enumerate(domain.disks)
    )
    cpu = model.Cpu(pins=domain.cpu.pins)
    return dataclasses.replace(
        domain,
        maxmem_mib=None,
        maxvcpus=None,
        nics=nics,
        disks=disks,
        cpu=cpu,
        on_poweroff="destroy",
        on_reboot="restart",
    )


@given(some.domains().filter(lambda domain: domain.mode == "pv"), st.booleans())
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_templates_and_file_read_back_as_the_domain_or_are_refused(
    domain: model.Domain, simple: bool
) -> None:
    if simple:
        domain = tame(domain)
    try:
        made = files(domain)
    except ImagekitError as error:
        assert error.where and error.hint
        outcomes["refused"] += 1
        return
    outcomes["read back"] += 1
    name = domain.name
    declaration, tree = pan_reader.read(made[f"xen/guests/{name}.pan"])
    assert declaration == f"template xen/guests/{name}"
    entry = tree["software"]["components"]["xen"]["domains"][name]
    body = made[f"etc/xen/{name}"].partition(" writes it.\n")[2]
    assert body == ncm_xen_reader.replay(entry["options"])
    shape, wanted = ncm_xen_reader.machine(body), expected(domain)
    if wanted["bootloader_args"] == ["vif"]:
        assert f"mac={domain.nics[0].mac}" in shape["bootloader_args"][0]
        shape["bootloader_args"] = ["vif"]
    for nic in wanted["nics"]:
        nic["type"] = None
    xl_model.assert_same_machine(shape, wanted)
    assert_hardware(domain, made[f"hardware/machine/xen/{name}.pan"])


def assert_hardware(domain: model.Domain, text: str) -> None:
    declaration, tree = pan_reader.read(text)
    assert declaration == f"structure template hardware/machine/xen/{domain.name}"
    assert len(tree["cpu"]) == domain.vcpus
    assert tree["ram"] == [{"create": "hardware/ram/generic", "size": domain.memory_mib}]
    assert tree["serialnumber"] == domain.uuid
    assert list(tree.get("harddisks", {})) == [disk.vdev for disk in domain.disks]
    cards = tree.get("cards", {}).get("nic", {})
    assert [card["hwaddr"] for card in cards.values()] == [nic.mac for nic in domain.nics]


HARDDISKS = ("generic/ide", "generic/nvme", "generic/sas", "generic/sata", "generic/scsi")
"""Of hardware/harddisk in template-library-standard, those for disks of no maker."""


def test_the_disks_template_is_one_that_the_standard_library_has() -> None:
    _, tree = pan_reader.read(files(guest())["hardware/machine/xen/web1.pan"])
    name = tree["harddisks"]["xvda"]["create"]
    assert name.removeprefix("hardware/harddisk/") in HARDDISKS
    _, tree = pan_reader.read(files(guest(), disk="site/disk")["hardware/machine/xen/web1.pan"])
    assert tree["harddisks"]["xvda"]["create"] == "site/disk"


def test_the_template_says_what_to_include_and_to_copy_before_it() -> None:
    text = files(guest())["xen/guests/web1.pan"]
    assert "# Include this after xen/host/config or xen/configure_guests" in text
    assert "# Put the image at /dev/vg01/web1 before ncm-xen runs" in text
    text = files(guest(disks=(model.Disk("/srv/web1.img"),)))["xen/guests/web1.pan"]
    assert "# Put the image at /srv/web1.img before ncm-xen runs, which makes a file of ze" in text


def test_enough_random_domains_were_read_back() -> None:
    if not outcomes:  # this test was picked alone
        test_templates_and_file_read_back_as_the_domain_or_are_refused()
    assert outcomes["read back"] > 5, outcomes


@given(st.text(max_size=12) | st.text("'\"\\;)= a", max_size=9))
@settings(max_examples=500, deadline=None)
def test_any_text_survives_a_pan_string_or_is_refused(text: str) -> None:
    try:
        source = pan.assign("a/b", {"c": [text, 7, True]}, "field")
    except SpecError as error:
        assert error.where == "field" and not text.isprintable()
        return
    assert pan_reader.read(f"template x;\n{source}\n'end' = 1;\n")[1] == {
        "a": {"b": {"c": [text, 7, True]}},
        "end": 1,
    }


def test_the_file_is_alphabetical_with_quoted_numbers_and_lists_without_blanks() -> None:
    assert written(guest()) == [
        "bootloader = '/usr/bin/pygrub'",
        "disk = ['phy:/dev/vg01/web1,xvda,w']",
        "memory = '1024'",
        "name = 'web1'",
        "on_crash = 'destroy'",
        "on_poweroff = 'destroy'",
        "on_reboot = 'restart'",
        "vcpus = '2'",
        "vif = ['mac=00:16:3e:10:20:30,bridge=xenbr0']",
    ]


def test_pypxeboot_gets_the_first_nic_by_an_unquoted_line_at_the_very_end() -> None:
    lines = written(guest(boot=model.Netboot("/usr/bin/pypxeboot")))
    assert lines[-1] == "bootargs = vif[0]"
    assert lines.index("bootloader = '/usr/bin/pypxeboot'") < len(lines) - 1
    lines = written(guest(boot=model.Netboot("pypxeboot", ("--profile=web",))))
    assert lines[-1] == "bootargs = '--profile=web'"
    assert not any("bootargs" in line for line in written(guest()))
    alone = guest(boot=model.Netboot("pypxeboot"), nics=())
    assert not any("bootargs" in line for line in written(alone))


@pytest.mark.parametrize(
    ("target", "entry"),
    [
        ("/dev/vg01/web1", {"type": "lvm", "hostdevice": "vg01", "hostvol": "web1"}),
        ("/dev/mapper/vg01-web1", {"type": "phy", "hostdevice": "mapper/vg01-web1"}),
        ("/dev/sdb2", {"type": "phy", "hostdevice": "sdb2"}),
        ("/srv/xen/web1.img", {"type": "file", "path": "/srv/xen/web1.img"}),
    ],
)
def test_disks_are_volumes_devices_or_files(target: str, entry: dict[str, str]) -> None:
    text = files(guest(disks=(model.Disk(target, readonly=True),)))["xen/guests/web1.pan"]
    (disk,) = pan_reader.read(text)[1]["software"]["components"]["xen"]["domains"]["web1"][
        "options"
    ]["disk"]
    assert disk == entry | {"guestdevice": "xvda", "rw": "r", "size": 10}


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"name": "7seas"}, "name"),
        ({"name": "a:b"}, "name"),
        ({"maxmem_mib": 2048}, "maxmem_mib"),
        ({"cpu": model.Cpu(weight=512)}, "cpu.weight"),
        ({"raw": (("hap", 1),)}, "raw.hap"),
        ({"disks": (model.Disk("/srv/a,b"),)}, "disks[0].target"),
        ({"boot": model.DirectKernel("/k", None, "a=[1]")}, "boot.cmdline"),
        ({"boot": model.DirectKernel("/k", None, "it's")}, "boot.cmdline"),
        ({"boot": model.DirectKernel("/k", None, "a(b")}, "boot.cmdline"),
        ({"boot": model.DirectKernel("/k", None, "é")}, "boot.cmdline"),
        ({"boot": model.Pygrub(("a b",))}, "boot.args"),
        ({"graphics": model.Vnc(password="a'b")}, "graphics.password"),
    ],
)
def test_what_ncm_xen_would_garble_or_lose_is_refused(changes: Any, where: str) -> None:
    domain = guest(**changes)
    with pytest.raises(SpecError) as caught:
        EMITTER.files(domain, facts_for(domain))
    assert caught.value.where == where and caught.value.hint


def test_modes_and_formats_ncm_xen_never_had_are_refused() -> None:
    for domain in (
        guest(mode="pvh"),
        guest(mode="hvm", boot=model.Firmware()),
        guest(disks=(model.Disk("/srv/a.qcow2", "qcow2"),)),
    ):
        with pytest.raises(CapabilityError) as caught:
            EMITTER.text(domain, facts_for(domain))
        assert caught.value.hint and "--" in caught.value.hint


def test_screen_is_a_list_that_goes_unquoted_and_its_files_are_secret() -> None:
    domain = guest(graphics=model.Vnc(display=3, password="geheim", keymap="de"))
    assert (
        "vfb = ['type=vnc,vnclisten=127.0.0.1,vncunused=0,vncdisplay=3,vncpasswd=geheim,keymap=de']"
        in written(domain)
    )
    made = EMITTER.files(domain, facts_for(domain))
    for name, file in made.items():
        assert file.mode == (0o600 if "geheim" in str(file.content) else 0o644), name


def test_host_and_site_templates_are_named_by_options() -> None:
    made = files(guest(), host="it's.example.org", disk="site/disk", auto=False)
    _, hardware = pan_reader.read(made["hardware/machine/xen/web1.pan"])
    assert hardware["location"] == "it's.example.org"
    assert hardware["harddisks"] == {"xvda": {"create": "site/disk", "capacity": 10}}
    _, tree = pan_reader.read(made["xen/guests/web1.pan"])
    assert tree["software"]["components"]["xen"]["domains"]["web1"]["auto"] is False
