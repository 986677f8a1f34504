"""What we write for xl, as the real xl reads it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from oracles import domain_strategies as some
from oracles import libvirt_reader, xl_model, xl_reader, xm_reader

from imagekit.domain import model
from imagekit.errors import ImagekitError
from imagekit.toolstacks import xlkeys
from imagekit.toolstacks.libvirt import emitter as libvirt
from imagekit.toolstacks.xl import emitter as xl
from imagekit.toolstacks.xm import emitter as xm

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(xl_reader.missing() is not None, reason=str(xl_reader.missing())),
]

UUID = "5f0c7f5e-3a77-4f0b-9a0e-2f6d6f2b4d11"
outcomes: Counter[str] = Counter()


def assert_read_back(domain: model.Domain) -> None:
    text = xl.emit(domain)
    reading = xl_reader.read(text)
    assert reading.complaints == (), text
    assert reading.returncode == 0, text
    assert xl_model.from_xl(reading.config) == xl_model.expected(domain), text


@given(some.attempts())
@settings(
    max_examples=2500,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_xl_understands_every_domain_exactly_or_it_is_refused(arguments: dict[str, object]) -> None:
    domain = some.build(arguments)
    outcomes["refused" if domain is None else "read back"] += 1
    if domain is not None:
        assert_read_back(domain)


def test_enough_of_the_random_domains_were_read_back() -> None:
    if not outcomes["read back"]:  # alone, or in another process than the property test
        test_xl_understands_every_domain_exactly_or_it_is_refused()
    assert outcomes["read back"] > 500, outcomes  # of 2500; about 1000 in the mean


@given(some.domains())
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_xl_xm_and_libvirt_configs_describe_the_same_machine(domain: model.Domain) -> None:
    reading = xl_reader.read(xl.emit(domain))
    machine = xl_model.from_xl(reading.config)
    for name, emit, read in (
        ("xm", xm.emit, xm_reader.from_xm),
        ("libvirt", libvirt.emit, libvirt_reader.from_libvirt),
    ):
        try:
            text = emit(domain)
        except ImagekitError:
            continue
        outcomes[name] += 1
        xl_model.assert_same_machine(read(text), machine)


def test_enough_domains_were_compared_between_toolstacks() -> None:
    if not outcomes["libvirt"]:
        test_xl_xm_and_libvirt_configs_describe_the_same_machine()
    assert outcomes["xm"] > 15 and outcomes["libvirt"] > 60, outcomes


@given(some.domains().filter(lambda domain: domain.mode == "pv"))
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_xl_reads_a_pv_config_for_xm_as_the_same_machine(domain: model.Domain) -> None:
    try:
        text = xm.emit(domain)
    except ImagekitError:
        return
    reading = xl_reader.read(text)
    assert reading.complaints == (), text
    xl_model.assert_same_machine(xl_model.from_xl(reading.config), xl_model.expected(domain))


def test_xl_has_every_key_that_raw_may_set() -> None:
    program = xl_reader.xl_program()
    assert program is not None
    binary = Path(program).read_bytes()
    keys = xlkeys.OTHERS | set(xlkeys.OURS)
    assert {key for key in keys if f"{key}\0".encode() not in binary} == set()
    assert {key for key in xlkeys.NEWER if f"\0{key}\0".encode() in binary} == set()


def test_a_raw_setting_reaches_xl() -> None:
    domain = model.Domain(
        "web1",
        UUID,
        "hvm",
        512,
        1,
        model.Firmware(),
        disks=(model.Disk("/srv/web1.img"),),
        raw=(
            ("videoram", 16),
            ("vga", "stdvga"),
            ("usbdevice", ("tablet", "mouse")),
            ("vnuma", (("pnode=0", "size=512", "vcpus=0", "vdistances=10"),)),
        ),
    )
    reading = xl_reader.read(xl.emit(domain))
    assert reading.complaints == ()
    hvm = reading.config["b_info"]["type.hvm"]
    assert hvm["vga"]["kind"] == "std"
    assert hvm["usbdevice_list"] == ["tablet", "mouse"]
    assert reading.config["b_info"]["video_memkb"] == 16 * 1024
    (node,) = reading.config["b_info"]["vnuma_nodes"]
    assert node["memkb"] == 512 * 1024
