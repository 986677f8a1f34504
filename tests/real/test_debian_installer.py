"""Debian 13's own installer, driven to its end: from its first line to the guest's login.

In emulation a run takes half an hour and more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from oracles.builds import Build, Run
from oracles.installer_mirror import Installer, installer, served
from oracles.proofs import report_of
from oracles.tiny_installer import HASH, KEY

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.long, pytest.mark.installer]
PACKAGE = "debian-installer-13-netboot-amd64"
SPEC = """name: deb13
os: {{distribution: debian, suite: trixie, mirror: "http://10.0.2.2:{port}/debian"}}
install:
  method: netboot
  kernel: {made.kernel}
  initrd: {made.initrd}
  packages: [openssh-server]
  golden: false
  memory: 1024
  timeout: 14400
  idle: 1800
disk: {{size: 4GiB, swap: 64MiB}}
boot: {{modes: [pv, pvh, hvm]}}
identity: {{ssh_keys: ["{key}"], root_password: {{file: hash}}}}
"""


@pytest.fixture(scope="module")
def debian13(tmp_path_factory: pytest.TempPathFactory) -> Installer:
    try:
        return installer("trixie", PACKAGE, tmp_path_factory.mktemp("installer"))
    except LookupError as error:
        pytest.skip(f"missing: {error}")


@pytest.fixture(scope="module")
def port(debian13: Installer) -> Iterator[int]:
    with served(debian13, "trixie") as port:
        yield port


@pytest.fixture(scope="module")
def over_network(
    debian13: Installer,
    port: int,
    build: Callable[..., Build],
    tmp_path_factory: pytest.TempPathFactory,
) -> Build:
    """The guest deb13, whose installer QEMU's PXE ROM fetched."""
    base = tmp_path_factory.mktemp("net13")
    (base / "hash").write_text(HASH + "\n")
    (base / "deb13.yaml").write_text(SPEC.format(port=port, made=debian13, key=KEY))
    return build(base / "deb13.yaml")


def test_the_installer_powers_off_by_itself_and_its_guest_is_harvested(over_network: Build) -> None:
    facts = json.loads(over_network.one("facts").read_text())
    assert facts["pygrub"]["ok"] and facts["bootloader_bios"]
    assert facts["cmdline"].startswith("root=")
    packages = {p["name"] for p in over_network.manifest["packages"]}
    assert {"openssh-server", "linux-image-amd64", "grub-pc"} <= packages


@pytest.mark.xen
@pytest.mark.parametrize("mode", ["pv", "pvh", "hvm"])
def test_the_installed_guest_boots_under_xen(over_network: Build, imagekit: Run, mode: str) -> None:
    imagekit("prove", over_network.path, "--mode", mode, timeout=4000)
    for boot in report_of(over_network.path)["boots"]:
        assert boot["ok"], boot["failure"]
        assert "deb13 login:" in Path(boot["console"]).read_text(errors="replace")
