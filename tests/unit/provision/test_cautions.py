"""What is odd about guests that are to be made is said before they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagekit.domain.facts import BuildFacts, DiskFacts, PygrubView, Verdict
from imagekit.domain.model import Nic
from imagekit.provision import cautions as module
from imagekit.provision.cautions import cautions
from imagekit.provision.golden import Golden
from imagekit.provision.request import GuestRequest, make_request


def golden(packages: set[str] | None = None, bridge: str = "xenbr0") -> Golden:
    yes = Verdict(True)
    facts = BuildFacts(
        name="golden",
        uuid="11111111-2222-3333-4444-555555555555",
        memory_mib=256,
        vcpus=1,
        disks=(DiskFacts({"raw": "/b/x"}, 1 << 30),),
        pv=yes,
        pvh=yes,
        hvm=yes,
        pygrub=PygrubView(True, "grub.cfg"),
        nics=(Nic("00:16:3e:00:00:01", bridge),),
    )
    known = None if packages is None else frozenset(packages)
    return Golden(Path("/b"), facts, Path("/b/x"), "raw", 1, "0" * 64, None, None, known)


def request(**more: object) -> GuestRequest:
    return make_request({"name": "web02", **more})


@pytest.fixture
def dom0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dom0 with the bridge xenbr0, and the one of Open vSwitch ovsbr0."""
    capabilities = tmp_path / "capabilities"
    capabilities.write_text("control_d\n")
    interfaces = tmp_path / "net"
    for name in ("lo", "xenbr0", "ovsbr0"):
        (interfaces / name).mkdir(parents=True)
    monkeypatch.setattr(module, "CAPABILITIES", capabilities)
    monkeypatch.setattr(module, "INTERFACES", interfaces)
    return capabilities


@pytest.mark.parametrize(
    ("packages", "seed", "warned"),
    [
        ({"openssh-server"}, True, True),
        ({"cloud-init"}, True, False),
        ({"openssh-server"}, False, False),
        (None, True, False),
    ],
)
def test_a_seed_that_nothing_reads_is_warned_of(
    packages: set[str] | None, seed: bool, warned: bool
) -> None:
    assert bool(cautions([request()], golden(packages), seed=seed)) == warned


@pytest.mark.parametrize(
    ("bridge", "there"),
    [("xenbr0", True), ("ovsbr0.12", True), ("ovsbr0:1:2", True), ("xenbr1", False)],
)
def test_a_bridge_that_dom0_lacks_is_warned_of(dom0: Path, bridge: str, there: bool) -> None:
    found = cautions([request()], golden(bridge=bridge), seed=False)
    assert [bridge in text for text in found] == ([] if there else [True])


def test_the_bridge_asked_for_counts_not_the_golden_images(dom0: Path) -> None:
    assert cautions([request(bridge="xenbr0")], golden(bridge="none"), seed=False) == []
    found = cautions([request(bridge="xenbr7"), request(bridge="xenbr7")], golden(), seed=False)
    assert len(found) == 1 and "xenbr7" in found[0]


def test_elsewhere_than_in_dom0_no_bridge_is_looked_for(dom0: Path) -> None:
    dom0.write_text("")
    assert cautions([request()], golden(bridge="xenbr7"), seed=False) == []


@pytest.mark.parametrize(
    ("ip", "gateway", "warned"),
    [
        ("192.0.2.7/24", "192.0.2.1", False),
        ("192.0.2.7/24", "198.51.100.1", True),
        ("192.0.2.7/32", "198.51.100.1", False),
        ("2001:db8::7/64", "fe80::1", False),
        ("2001:db8::7/64", "192.0.2.1", True),
    ],
)
def test_a_gateway_outside_the_network_is_warned_of(ip: str, gateway: str, warned: bool) -> None:
    found = cautions([request(ip=ip, gateway=gateway)], golden(), seed=False)
    assert [gateway in text for text in found] == ([True] if warned else [])
