"""What is known to fail is said before the first stage, and what is odd is warned of."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from imagekit.errors import ExistsError, HostError, SpecError
from imagekit.host import distro_info, tools
from imagekit.installs import preflight
from imagekit.installs.preflight import check_host, check_spec, check_writable, warnings
from imagekit.spec.load import SpecFile, check_tree

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me"
PLAIN = "name: a\nos: {suite: bookworm}\ninstall: {method: debootstrap}\n"


def spec_of(more: str = "", plain: str = PLAIN) -> SpecFile:
    return check_tree(YAML(typ="rt", pure=True).load(plain + more), Path("a.yaml"))


def said(more: str = "", plain: str = PLAIN) -> str:
    return " ".join(warnings(spec_of(more, plain)))


def test_a_guest_that_nobody_can_log_in_to_is_warned_of() -> None:
    assert "nobody can log in" in said()
    keys = f"identity: {{ssh_keys: ['{KEY}']}}\n"
    assert "no SSH server" in said(keys)
    with_server = PLAIN.replace("debootstrap}", "debootstrap, packages: [openssh-server]}")
    assert said(keys, with_server) == ""


@pytest.mark.parametrize(
    "more",
    [
        "identity: {root_password: {env: X}}\n",
        "identity: {users: [{name: ann, password: {env: X}}]}\n",
        "scripts: [setup.sh]\n",
        "files: [{target: /root/.ssh/authorized_keys, content: x}]\n",
    ],
)
def test_a_guest_that_somebody_may_log_in_to_is_not(more: str) -> None:
    assert said(more) == ""


@pytest.mark.parametrize(
    ("network", "odd"),
    [
        ("{addresses: [192.0.2.7/24], gateways: [192.0.2.1]}", False),
        ("{addresses: [192.0.2.7/24], gateways: [198.51.100.1]}", True),
        ("{addresses: [192.0.2.7/32], gateways: [198.51.100.1]}", False),
        ("{addresses: ['2001:db8::7/64'], gateways: ['fe80::1']}", False),
        ("{addresses: ['2001:db8::7/64'], gateways: ['2001:db8:1::1']}", True),
        ("{addresses: ['2001:db8::7/64'], gateways: [192.0.2.1]}", True),
    ],
)
def test_a_gateway_off_the_subnet_is_warned_of(network: str, odd: bool) -> None:
    text = said(f"identity: {{root_password: {{env: X}}}}\nnics: [{{network: {network}}}]\n")
    assert ("nics[0].network.gateways[0]" in text) == odd


@given(st.integers(16, 4096))
def test_memory_is_refused_warned_of_or_taken_by_its_size(mib: int) -> None:
    file = spec_of(f"memory: {mib}\nidentity: {{root_password: {{env: X}}}}\n")
    if mib < preflight.LEAST_MEMORY_MIB:
        with pytest.raises(SpecError, match="too little"):
            check_spec(file)
    else:
        check_spec(file)
        assert ("are little" in " ".join(warnings(file))) == (mib < preflight.USUAL_MEMORY_MIB)


def test_a_kernel_of_ones_own_may_do_with_less() -> None:
    own = PLAIN.replace("debootstrap}", "debootstrap, kernel: ./vmlinuz}")
    check_spec(spec_of("memory: 16\n", own))


def test_unknown_suites_and_hosts_that_know_none_say_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_spec(spec_of(plain=PLAIN.replace("bookworm", "our-own-suite")))
    monkeypatch.setattr(distro_info, "DISTRO_INFO", tmp_path)
    distro_info.suites_of.cache_clear()
    try:
        check_spec(spec_of(plain=PLAIN.replace("suite", "distribution: ubuntu, suite")))
    finally:
        distro_info.suites_of.cache_clear()


def test_the_suites_are_those_of_their_distributions() -> None:
    assert distro_info.distribution_of("bookworm") == "debian"
    assert distro_info.distribution_of("stable") == "debian"
    assert distro_info.distribution_of("jammy") == "ubuntu"
    assert distro_info.distribution_of("our-own-suite") is None


@pytest.mark.parametrize("name", ["Europe/Berlin", "Etc/UTC", "UTC", "US/Eastern", "EST5EDT"])
def test_time_zones_old_and_new_are_known(name: str) -> None:
    assert distro_info.is_time_zone(name) and name in distro_info.time_zones()


@pytest.mark.parametrize("name", ["Europe/Berlni", "Europe", "tzdata", "posixrules/x"])
def test_what_is_no_time_zone_is_none(name: str) -> None:
    assert not distro_info.is_time_zone(name)


def test_a_host_without_time_zones_refuses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoneinfo.TZPATH", ())
    monkeypatch.setattr(distro_info, "time_zones", frozenset[str])
    assert distro_info.is_time_zone("Europe/Berlni")


def only(names: set[str]) -> object:
    return lambda name: Path("/bin", name) if name in names else None


def test_missing_programs_are_named_with_their_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "find", only({"gpgv"}))
    file = spec_of("disk: {formats: [raw, qcow2], filesystem: xfs}\n")
    with pytest.raises(HostError) as caught:
        check_host(tmp_path, tmp_path, file.spec, {"rootfs", "image", "qcow2"})
    assert caught.value.what.endswith("mkfs.xfs, mmdebstrap, qemu-img, sfdisk")
    assert caught.value.hint == "apt-get install fdisk mmdebstrap qemu-utils xfsprogs"
    # What is stored needs no programs.
    check_host(tmp_path, tmp_path, file.spec, {"configs"})


def test_a_guest_of_32_bits_needs_arch_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "find", only({"gpgv", "mmdebstrap"}))
    file = spec_of(plain=PLAIN.replace("suite", "arch: i386, suite"))
    with pytest.raises(HostError, match="arch-test"):
        check_host(tmp_path, tmp_path, file.spec, {"rootfs"})


@pytest.mark.parametrize(
    ("free", "stages", "fits"),
    [
        (100 << 20, {"configs"}, False),
        (200 << 20, {"configs"}, True),
        (200 << 20, {"rootfs"}, False),
        (2 << 30, {"rootfs"}, True),
        (0, set[str](), True),
    ],
)
def test_room_is_asked_for_by_what_has_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, stages: set[str], fits: bool
) -> None:
    monkeypatch.setattr(tools, "find", lambda name: Path("/bin", name))
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(9, 9, free))
    if fits:
        check_host(tmp_path / "not/there", tmp_path, spec_of().spec, stages)
    else:
        with pytest.raises(HostError, match=f"has {free >> 20} MiB free"):
            check_host(tmp_path / "not/there", tmp_path, spec_of().spec, stages)


def test_an_output_that_cannot_be_made_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_writable(tmp_path / "a/b/c", "")
    (tmp_path / "file").touch()
    with pytest.raises(ExistsError):
        check_writable(tmp_path / "file/b", "")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(HostError, match="this user") as caught:
        check_writable(tmp_path / "a/b", "another")
    assert (caught.value.where, caught.value.hint) == (str(tmp_path), "another")


def test_every_program_that_may_be_missed_has_a_package() -> None:
    disk: Mapping[str, str] = {"filesystem": "btrfs"}
    file = spec_of(f"disk: {dict(disk)}\n", PLAIN.replace("suite", "arch: i386, suite"))
    stages = {"rootfs", "image", "qcow2", "install", "remaster"}
    assert set(preflight._programs(file.spec, stages)) <= set(tools.PACKAGES)
