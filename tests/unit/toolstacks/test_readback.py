"""What we write for xm and libvirt, read back: exactly the domain, or a clear refusal."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from oracles import domain_strategies as some
from oracles import libvirt_reader, xl_cfg, xl_model, xm_reader

from imagekit.domain import model
from imagekit.errors import ImagekitError
from imagekit.toolstacks.libvirt import emitter as libvirt
from imagekit.toolstacks.xl import emitter as xl
from imagekit.toolstacks.xm import emitter as xm

quick = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
needs_schema = pytest.mark.skipif(
    not libvirt_reader.SCHEMA.exists(),
    reason="libvirt's schema (Debian package libvirt0) is not installed",
)
older = some.domains().filter(lambda domain: domain.mode != "pvh")
seen: Counter[str] = Counter()


def emitted(name: str, emit: Any, domain: model.Domain) -> str | None:
    try:
        text: str = emit(domain)
    except ImagekitError as error:
        assert error.where and error.hint
        return None
    seen[name] += 1
    return text


@given(some.domains())
@quick
def test_xl_config_holds_only_the_settings_it_should(domain: model.Domain) -> None:
    text = xl.emit(domain)
    values = xl_cfg.read(text)
    assert values["name"] == domain.name
    disks = values.get("disk", [])
    assert isinstance(disks, list) and len(disks) == len(domain.disks)
    assert set(values) == {
        line.text.split(" = ")[0]
        for line in xl.config_lines(domain)
        if " = " in line.text and not line.text.startswith(" ")
    }
    if isinstance(domain.boot, model.DirectKernel):
        assert values.get("cmdline", "") == domain.boot.cmdline
        assert values["kernel"] == domain.boot.kernel
    for item, disk in zip(disks, domain.disks, strict=True):
        assert str(item).partition("target=")[2] == (disk.target or "")


@given(older)
@quick
def test_xm_python_reads_the_domain_back(domain: model.Domain) -> None:
    text = emitted("xm", xm.emit, domain)
    if text is not None:
        xl_model.assert_same_machine(xm_reader.from_xm(text), xl_model.expected(domain))


@given(older)
@quick
def test_xm_s_expression_reads_the_domain_back(domain: model.Domain) -> None:
    text = emitted("sxp", lambda d: xm.emit(d, sxp=True), domain)
    if text is not None:
        xl_model.assert_same_machine(xm_reader.from_sxp(text), xl_model.expected(domain))


def test_an_s_expression_of_hvm_names_what_xend_would_take_for_absent() -> None:
    uuid = "5f0c7f5e-3a77-4f0b-9a0e-2f6d6f2b4d11"
    disks = (model.Disk("/srv/xen/web1.img"),)
    domain = model.Domain("web1", uuid, "hvm", 512, 1, model.Firmware(), disks, serial="pty")
    text = xm.emit(domain, sxp=True)
    xl_model.assert_same_machine(xm_reader.from_sxp(text), xl_model.expected(domain))
    for word in ("(pae 1)", "(acpi 1)", "(apic 1)", "(hap 1)"):
        assert word in text


@needs_schema
@given(some.domains())
@quick
def test_libvirt_xml_is_valid_and_reads_the_domain_back(domain: model.Domain) -> None:
    text = emitted("libvirt", libvirt.emit, domain)
    if text is not None:
        assert libvirt_reader.schema_errors(text) == []
        xl_model.assert_same_machine(libvirt_reader.from_libvirt(text), xl_model.expected(domain))


@needs_schema
def test_each_toolstack_was_given_enough_domains() -> None:
    if not seen:  # this test was picked alone
        test_xm_python_reads_the_domain_back()
        test_xm_s_expression_reads_the_domain_back()
        test_libvirt_xml_is_valid_and_reads_the_domain_back()
    assert min(seen[name] for name in ("xm", "sxp", "libvirt")) >= 15, seen
