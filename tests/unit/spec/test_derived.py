"""Values derived from a spec: those of earlier versions, whatever moves, for guests keep them."""

from __future__ import annotations

import pytest

from imagekit.disk.layout import Ids, plan_layout
from imagekit.errors import SpecError
from imagekit.provision.request import GuestRequest
from imagekit.spec.derived import (
    disk_seed,
    effective_disk,
    mac_of,
    source_date_epoch,
    uuid_of,
    vhd_size,
)
from imagekit.spec.model import Disk, Spec


def a_spec(**more: object) -> Spec:
    return Spec.model_validate(
        {"name": "web01", "os": {"suite": "bookworm"}, "install": {"method": "debootstrap"}, **more}
    )


def test_a_guest_keeps_the_mac_and_uuid_that_its_name_has_always_given_it() -> None:
    spec = a_spec(nics=[{"bridge": "xenbr0"}, {"bridge": "xenbr1"}])
    assert mac_of(spec, 0) == "00:16:3e:37:1e:ee"
    assert mac_of(spec, 1) != mac_of(spec, 0)
    assert uuid_of(spec) == "26815850-f411-5068-8cdb-ea1ff3b598bd"


def test_a_clone_keeps_its_own_which_are_not_those_of_the_spec_of_that_name() -> None:
    clone = GuestRequest(name="web01")
    assert [clone.mac_of(0), clone.mac_of(1)] == ["00:16:3e:4e:37:7e", "00:16:3e:03:e7:8f"]
    assert clone.domain_uuid == "cefdcf45-4820-5c54-8fa4-9d55ce263af7"


def test_what_is_given_wins() -> None:
    given = "2f0d3a9e-6f0e-4b8e-9d55-0f3c1f2a7b10"
    spec = a_spec(uuid=given, nics=[{"bridge": "b", "mac": "52:54:00:00:00:01"}])
    assert uuid_of(spec) == given
    assert mac_of(spec, 0) == "52:54:00:00:00:01"
    assert GuestRequest(name="a", mac="52:54:00:00:00:02").mac_of(0) == "52:54:00:00:00:02"


def test_derived_addresses_are_unicast_ones_of_xen() -> None:
    for number in range(64):
        mac = mac_of(a_spec(name=f"guest{number}", nics=[{"bridge": "b"}]), 0)
        assert mac.startswith("00:16:3e:")
        assert int(mac.split(":")[3], 16) < 0x80


@pytest.mark.parametrize(
    ("size", "formats", "made"),
    [
        (1 << 30, ["vhd"], 1 << 30),
        ((1 << 30) + (1 << 20), ["raw", "vhd"], (1 << 30) + (2 << 20)),
        ((1 << 30) + (1 << 20), ["raw", "qcow2"], (1 << 30) + (1 << 20)),
    ],
)
def test_only_a_vhd_makes_the_disk_larger(size: int, formats: list[str], made: int) -> None:
    disk = Disk.model_validate({"size": f"{size}B", "formats": formats})
    assert effective_disk(disk).size == made
    assert disk.size == size


def test_a_vhd_ends_at_its_limit() -> None:
    assert vhd_size(2040 << 30) == 2040 << 30
    with pytest.raises(SpecError, match="2040 GiB"):
        vhd_size((2040 << 30) + 1)


def test_the_epoch_is_a_number_of_seconds_or_not_there() -> None:
    assert source_date_epoch({}) is source_date_epoch({"SOURCE_DATE_EPOCH": ""}) is None
    assert source_date_epoch({"SOURCE_DATE_EPOCH": "0"}) == 0
    assert source_date_epoch({"SOURCE_DATE_EPOCH": "1700000000"}) == 1_700_000_000
    for wrong in ("yesterday", "-1", "1e9", "\u0661"):
        with pytest.raises(SpecError, match="number of seconds"):
            source_date_epoch({"SOURCE_DATE_EPOCH": wrong})


def test_identifiers_of_a_disk_follow_from_spec_and_epoch() -> None:
    seed = disk_seed("ab", 1_700_000_000)
    assert Ids(seed).uuid() == "5069e4ff-7cc7-4f5e-9354-4bb351f3e837"
    assert plan_layout(Disk(), Ids(seed)) == plan_layout(Disk(), Ids(seed))
    assert disk_seed("ab", None) is None
