"""What we write for libvirt, as its real Xen driver reads it: the machine that xl would make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import domain_strategies as some
from oracles import libvirt_daemon, libxl_config, xl_reader
from oracles.libvirt_daemon import Daemon
from support.domains import hvm, machine

from imagekit.domain import model
from imagekit.domain.bootpath import domain_for
from imagekit.errors import CapabilityError, ExistsError, ImagekitError, ToolError
from imagekit.installs.build_facts import ABLE_KERNEL, facts_for, trial_image
from imagekit.spec.model import Spec
from imagekit.toolstacks.libvirt import emitter as libvirt
from imagekit.toolstacks.libvirt.define import define
from imagekit.toolstacks.xl import emitter as xl

MISSING = libvirt_daemon.missing() or xl_reader.missing()
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
]

WANTED = 60
"""Domains that both toolstacks have words for, and specs."""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with libvirt_daemon.running() as found:
        yield found


def assert_same(daemon: Daemon, domain: model.Domain) -> None:
    text = libvirt.emit(domain)
    reading, judged = daemon.read(text), xl_reader.read(xl.emit(domain))
    assert reading.said == "" and judged.complaints == (), text
    one, other = reading.config, judged.config
    assert libxl_config.leaves(one, domain) == libxl_config.leaves(other, domain), text
    libxl_config.assert_same_rates(one, other)


def test_libvirt_and_xl_make_the_same_machine_of_every_domain(daemon: Daemon) -> None:
    compared: Counter[str] = Counter()

    @given(some.domains())
    @settings(max_examples=10 * WANTED, deadline=None, suppress_health_check=list(HealthCheck))
    def compare(domain: model.Domain) -> None:
        if compared[domain.mode] >= WANTED // 3:
            return
        try:
            libvirt.emit(domain)
        except ImagekitError:
            return
        assert_same(daemon, domain)
        compared[domain.mode] += 1

    compare()
    assert compared == dict.fromkeys(model.MODES, WANTED // 3)


_nics = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "bridge": st.sampled_from(["xenbr0", "br-lan"]),
            "ip": st.sampled_from(["192.0.2.7", "2001:db8::7"]),
            "model": st.sampled_from(["e1000", "rtl8139"]),
            "rate": st.sampled_from(["10MB/s", "1Gb/s", "300KB/s"]),
            "script": st.sampled_from(["vif-bridge", "vif-openvswitch", "/opt/scripts/vif-mine"]),
        },
    ),
    max_size=3,
)
_machines = st.fixed_dictionaries(
    {},
    optional={
        "graphics": st.fixed_dictionaries(
            {}, optional={"display": st.integers(0, 99), "keymap": st.just("de")}
        ),
        "cpu": st.fixed_dictionaries(
            {}, optional={"weight": st.integers(2, 65535), "pins": st.just("0-3,5,^1")}
        ),
        "maxvcpus": st.integers(8, 16),
        "on_reboot": st.sampled_from(["destroy", "restart"]),
        "on_crash": st.sampled_from(["preserve", "coredump-restart"]),
    },
)
_specs = st.fixed_dictionaries(
    {
        "name": st.just("web1"),
        "os": st.just({"suite": "bookworm"}),
        "install": st.just({"method": "debootstrap"}),
        "memory": st.sampled_from(["256MiB", "1GiB", "3GiB"]),
        "vcpus": st.integers(1, 8),
        "nics": _nics,
        "machine": _machines,
        "disk": st.sampled_from(
            [
                {"table": table, "formats": [kind]}
                for table in ("mbr", "gpt")
                for kind in ("raw", "qcow2", "vhd")
            ]
        ),
    }
)


def test_a_spec_is_the_same_machine_by_libvirt_and_xl(daemon: Daemon) -> None:
    specs = 0

    @given(_specs)
    @settings(max_examples=WANTED, deadline=None, suppress_health_check=list(HealthCheck))
    def compare(written: dict[str, Any]) -> None:
        nonlocal specs
        spec = Spec.model_validate(written)
        facts = facts_for(spec, ABLE_KERNEL, trial_image(spec)).located("/srv/builds/web1")
        for mode in model.MODES:
            for_libvirt = domain_for(facts, mode=mode, toolstack="libvirt")
            assert for_libvirt == domain_for(facts, mode=mode, toolstack="xl")
            assert_same(daemon, for_libvirt)
        specs += 1

    compare()
    assert specs >= WANTED


@pytest.mark.parametrize(
    "domain",
    [
        hvm(),
        hvm(graphics=model.Vnc(password="secret", keymap="de")),
        hvm(graphics=model.Vnc(display=7)),
        machine(graphics=model.Vnc(display=7)),
        machine(cpu=model.Cpu(weight=2, pins=(0, 3)), maxvcpus=4),
    ],
)
def test_screens_and_processors_are_the_same(daemon: Daemon, domain: model.Domain) -> None:
    assert_same(daemon, domain)


def test_a_difference_is_seen(daemon: Daemon) -> None:
    text = libvirt.emit(machine()).replace("xvda", "xvdb")
    config = daemon.read(text).config
    judged = xl_reader.read(xl.emit(machine())).config
    assert libxl_config.leaves(config, machine()) != libxl_config.leaves(judged, machine())


def test_libvirt_sorts_disks_so_that_another_would_be_booted(daemon: Daemon) -> None:
    disks = (model.Disk("/srv/b.img", vdev="xvdb"), model.Disk("/srv/a.img", vdev="xvda"))
    kernel = machine(disks=disks, boot=model.DirectKernel("/k"))
    sorted_by_libvirt = daemon.read(libvirt.emit(kernel)).config["disks"]
    assert [disk["vdev"] for disk in sorted_by_libvirt] == ["xvda", "xvdb"]
    with pytest.raises(CapabilityError, match="first"):
        libvirt.emit(machine(disks=disks))


def test_a_weight_that_libvirt_refuses_is_refused_before(daemon: Daemon) -> None:
    text = libvirt.emit(machine(cpu=model.Cpu(weight=2)))
    assert "shares" in daemon.read(text.replace(">2</shares>", ">1</shares>")).said
    with pytest.raises(CapabilityError) as caught:
        libvirt.emit(machine(cpu=model.Cpu(weight=1)))
    assert caught.value.where == "cpu.weight"


def test_the_schema_is_asked(daemon: Daemon) -> None:
    text = libvirt.emit(machine()).replace("on_reboot", "on_rebot")
    assert "on_rebot" in daemon.read(text).said


def test_define_is_refused_or_replaces_as_it_says(
    daemon: Daemon, capfd: pytest.CaptureFixture[str]
) -> None:
    libvirt_python = pytest.importorskip("libvirt", reason="missing: python3-libvirt of Debian")

    def defined(domain: model.Domain, force: bool = False) -> None:
        define(libvirt.emit(domain), domain, daemon.uri, force=force)

    bigger = machine(memory_mib=1024)
    defined(machine())
    with pytest.raises(ExistsError, match="a domain web1 already"):
        defined(bigger)
    defined(bigger, force=True)
    other = machine(uuid="5f0c7f5e-3a77-4f0b-9a0e-2f6d6f2b4d12")
    for clash in (other, machine(name="web2")):
        with pytest.raises(ExistsError, match="another domain web1"):
            defined(clash, force=True)
    with pytest.raises(ToolError, match="nonsense"):
        define(
            libvirt.emit(other).replace("web1", "web3").replace("clock", "nonsense"),
            machine(name="web3", uuid=other.uuid),
            daemon.uri,
        )
    connection = libvirt_python.open(daemon.uri)
    (found,) = connection.listAllDomains(libvirt_python.VIR_CONNECT_LIST_DOMAINS_INACTIVE)
    assert (found.name(), found.maxMemory()) == ("web1", 1024 * 1024)
    found.undefine()
    connection.close()
    assert capfd.readouterr().err == ""


def test_a_libvirtd_that_is_not_there_is_told(tmp_path: Path) -> None:
    pytest.importorskip("libvirt", reason="missing: python3-libvirt of Debian")
    with pytest.raises(ToolError, match="cannot be reached"):
        define("", machine(), f"xen:///system?socket={tmp_path}/none")
