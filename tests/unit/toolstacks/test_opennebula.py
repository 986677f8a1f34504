"""OpenNebula's templates, read back by a tokenizer of its grammar."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import domain_strategies as some
from oracles import opennebula_reader, xl_model
from oracles.domain_facts import facts_for

from imagekit.domain import model
from imagekit.errors import ImagekitError, SpecError
from imagekit.toolstacks.opennebula.emitter import (
    EMITTER,
    OpenNebulaEmitter,
    Options,
    context_target,
)
from imagekit.toolstacks.opennebula.quote import Attribute

UUID = "5f0c7f5e-3a77-4f0b-9a0e-2f6d6f2b4d11"
MODERN = OpenNebulaEmitter(Options(release="4.14"))
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
        "nics": (model.Nic("00:16:3e:10:20:30", "xenbr0"),),
    }
    return model.Domain(**(values | changes))


def hvm(**changes: Any) -> model.Domain:
    return guest(**({"mode": "hvm", "boot": model.Firmware()} | changes))


def template(domain: model.Domain, **options: Any) -> opennebula_reader.Attributes:
    emitter = OpenNebulaEmitter(Options(**options))
    return opennebula_reader.parse(emitter.text(domain, facts_for(domain)))


def vectors(found: opennebula_reader.Attributes, name: str) -> list[dict[str, str]]:
    return [value for key, value in found if key == name and isinstance(value, dict)]


def raw(found: opennebula_reader.Attributes) -> str:
    return "; ".join(values["DATA"] for values in vectors(found, "RAW"))


def expected(domain: model.Domain) -> dict[str, Any]:
    """What OpenNebula can say of the domain: no UUID, back-ends, scripts or rates."""
    shape = xl_model.expected(domain)
    del shape["uuid"]
    shape["arch"] = {"x86_64": "x86_64", "i386": "i686"}[domain.arch]
    shape["weight"] = domain.cpu.weight or 256
    if domain.graphics is not None and domain.graphics.password is not None:
        assert shape["vnc"]["password"]
    for disk in shape["disks"]:
        del disk["backend"]
    shape["nics"] = [{k: n[k] for k in ("mac", "bridge", "ip", "model")} for n in shape["nics"]]
    return shape


@given(some.domains())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_templates_read_back_as_the_domain_or_are_refused(domain: model.Domain) -> None:
    try:
        files = MODERN.files(domain, facts_for(domain))
    except ImagekitError as error:
        assert error.where and error.hint
        outcomes["refused"] += 1
        return
    vm = next(f.content for name, f in files.items() if name.endswith(".vm"))
    images = [str(f.content) for name, f in files.items() if name.endswith(".image")]
    assert opennebula_reader.from_templates(str(vm), images) == expected(domain)
    outcomes["read back"] += 1


def test_enough_random_domains_were_read_back() -> None:
    if not outcomes:  # this test was picked alone
        test_templates_read_back_as_the_domain_or_are_refused()
    assert outcomes["read back"] > 10, outcomes


@given(st.text(max_size=20) | st.text("a\"\\]> ,=[#$'", max_size=12))
@settings(max_examples=700, deadline=None)
def test_any_text_survives_the_template_or_is_refused(value: str) -> None:
    pair = Attribute("A", (("B", value), ("C", 'x"y')), "field")
    try:
        text = f'{pair}\n{Attribute("D", value, "field")}\nE = "end"\n'
    except SpecError as error:
        assert error.where == "field"
        assert not value or value.endswith("\\") or "]]>" in value or not value.isprintable()
        return
    assert opennebula_reader.parse(text) == [
        ("A", {"B": value, "C": 'x"y'}),
        ("D", value),
        ("E", "end"),
    ]


def test_actions_in_raw_data_are_quoted_where_the_documented_example_is_not() -> None:
    found = template(guest(on_crash="preserve"))
    assert 'on_crash = "preserve"' in raw(found)
    assert {values["TYPE"] for values in vectors(found, "RAW")} == {"xen"}


def test_a_pv_only_nic_of_an_hvm_guest_is_refused_as_model_would_name_an_emulated_card() -> None:
    nic = model.Nic("00:16:3e:10:20:30", "xenbr0", type="vif")
    with pytest.raises(SpecError, match="twin") as caught:
        template(hvm(nics=(nic,)))
    assert caught.value.where == "nics[0].type"
    (words,) = vectors(template(guest(nics=(nic,))), "NIC")
    assert "MODEL" not in words


def test_root_by_uuid_goes_into_the_command_line_and_root_stays_unset() -> None:
    boot = model.DirectKernel("/b/vmlinuz", "/b/initrd", "root=UUID=0f5e ro console=hvc0")
    (words,) = vectors(template(guest(boot=boot)), "OS")
    assert words["KERNEL_CMD"] == boot.cmdline
    assert "ROOT" not in words
    assert words["KERNEL_DS"] == '$FILE[IMAGE="web1-kernel"]'


@pytest.mark.parametrize(("weight", "units"), [(None, "1.0"), (512, "2.0"), (128, "0.5"), (1, "")])
def test_cpu_times_256_is_the_credit(weight: int | None, units: str) -> None:
    domain = guest(cpu=model.Cpu(weight))
    found = dict(template(domain))
    assert float(str(found["CPU"])) * 256 == (weight or 256)
    assert not units or found["CPU"] == units
    files = EMITTER.files(domain, facts_for(domain))
    assert f"#O CPU_CREDITS = {weight or 256}\n" in str(files["web1.pv.one.deployment"].content)


def test_a_fifth_ide_disk_is_refused_and_the_context_goes_where_hvm_can_see_it() -> None:
    disks = tuple(model.Disk(f"/srv/{n}.raw", vdev=f"hd{n}") for n in "abcd")
    with pytest.raises(SpecError, match="past the last hd disk"):
        hvm(disks=(*disks, model.Disk("/srv/e.raw", vdev="hde")))
    domain = hvm(disks=disks)
    (context,) = vectors(template(domain, context="auto"), "CONTEXT")
    assert context["TARGET"] == "xvde"
    with pytest.raises(SpecError) as caught:
        context_target(hvm(), "hdc")
    assert "SCSI" in str(caught.value.hint) and "xvde" in str(caught.value.hint)
    assert context_target(guest()) == "xvdb"


@pytest.mark.parametrize(
    ("driver", "kind", "prefix"),
    [("xen3", "raw", "tap2:tapdisk:aio:"), ("xen4", "raw", "raw:"), ("xen4", "vhd", "vhd:")],
)
def test_disk_driver_prefix_fits_format_and_driver(driver: Any, kind: Any, prefix: str) -> None:
    domain = guest(disks=(model.Disk("/srv/a", kind),))
    (disk,) = vectors(template(domain, driver=driver), "DISK")
    assert disk["DRIVER"] == prefix


@pytest.mark.parametrize("text", ["root=UUID=1 quiet='x'", 'a="b"', "a\\b"])
def test_a_command_line_that_the_driver_would_garble_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="without escaping") as caught:
        template(guest(boot=model.DirectKernel("/b/vmlinuz", None, text)))
    assert caught.value.where == "boot.cmdline"


@pytest.mark.parametrize("path", ["/srv/a b.raw", "/srv/$(reboot).raw", "/srv/a;b", "/srv/é"])
def test_a_path_that_datastore_scripts_would_hand_to_a_shell_is_refused(path: str) -> None:
    domain = guest(disks=(model.Disk(path),))
    with pytest.raises(SpecError, match="shell"):
        EMITTER.files(domain, facts_for(domain))


def test_cd_roms_need_a_release_that_attaches_them() -> None:
    disks = (model.Disk("/a.raw", vdev="hda"), model.Disk("/b.iso", "raw", "hdc", True, True))
    domain = hvm(disks=disks)
    with pytest.raises(SpecError, match=r"4\.14"):
        EMITTER.files(domain, facts_for(domain))
    files = MODERN.files(domain, facts_for(domain))
    assert ",hdc:cdrom,r'" in str(files["web1.hvm.one.deployment"].content)


def test_files_with_a_password_are_secret_and_images_are_not() -> None:
    domain = guest(graphics=model.Vnc(password="geheim"))
    files = EMITTER.files(domain, facts_for(domain))
    for name, file in files.items():
        assert file.mode == (0o600 if "geheim" in str(file.content) else 0o644), name
    assert {name for name, file in files.items() if file.mode == 0o600} == {
        "web1.pv.one.vm",
        "web1.pv.one.deployment",
    }


def test_old_driver_refuses_what_xm_never_had() -> None:
    for domain in (
        guest(mode="pvh", boot=model.DirectKernel("/k")),
        hvm(boot=model.Firmware("uefi")),
        guest(raw=(("hap", 1),)),
        guest(boot=model.Netboot("pypxeboot", ("a b",))),
    ):
        with pytest.raises(SpecError, match=r"xm|xl") as caught:
            template(domain, driver="xen3")
        assert "xen4" in str(caught.value.hint)


def test_raw_settings_of_the_spec_are_parsed_not_pasted() -> None:
    found = template(guest(raw=(("hap", 0), ("cpuid", 'host,x="1"; name="evil"'))))
    assert 'cpuid = "host,x=\\"1\\"; name=\\"evil\\""' in raw(found)
    with pytest.raises(SpecError, match="knows no key"):
        template(dataclasses.replace(guest(), raw=(("nosuch", 1),)))


def test_a_virtual_network_replaces_the_bridge_and_gives_the_mac() -> None:
    (nic,) = vectors(template(guest(), network='lan "7"'), "NIC")
    assert nic == {"NETWORK": 'lan "7"'}
    (nic,) = vectors(template(guest(), network="lan", mac=True), "NIC")
    assert nic == {"NETWORK": "lan", "MAC": "00:16:3e:10:20:30"}
    card = model.Nic("00:16:3e:10:20:30", "xenbr0", ips=("192.0.2.7",), model="e1000")
    (nic,) = vectors(template(hvm(nics=(card,)), network="lan"), "NIC")
    assert nic == {"NETWORK": "lan", "MODEL": "e1000", "IP": "192.0.2.7"}


RESTRICTED = ("MAC", "BRIDGE", "VLAN_ID")
"""VM_RESTRICTED_ATTR of NIC in oned.conf, 4.4 to 7.4: refused to users outside oneadmin."""


@pytest.mark.parametrize(
    ("options", "restricted"),
    [({}, ["MAC", "BRIDGE"]), ({"network": "lan", "mac": True}, ["MAC"]), ({"network": "lan"}, [])],
)
def test_a_template_says_when_it_is_for_administrators_only(
    options: dict[str, Any], restricted: list[str]
) -> None:
    emitter = OpenNebulaEmitter(Options(**options))
    files = emitter.files(guest(), facts_for(guest()))
    text = str(files["web1.pv.one.vm"].content)
    (nic,) = vectors(opennebula_reader.parse(text), "NIC")
    assert [key for key in RESTRICTED if key in nic] == restricted
    for word in ("NIC/MAC", "NIC/BRIDGE"):
        assert (word in text) == (word.partition("/")[2] in restricted)
    preview = str(files["web1.pv.one.deployment"].content)
    assert ("MAC-OF-THE-NETWORK" in preview) == ("MAC" not in restricted)
