"""Sending a build to XAPI from the command line: passwords, networks, the XVA in between."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from oracles import fake_xapi
from oracles.domain_facts import facts_for

from imagekit.domain import model
from imagekit.errors import SpecError
from imagekit.toolstacks.declaration import Import
from imagekit.toolstacks.registry import toolstack
from imagekit.toolstacks.wording import Worded, deliver
from imagekit.toolstacks.xapi.import_option import network_choices, pool

needs_xenapi = pytest.mark.skipif(
    find_spec("XenAPI") is None, reason="the Python package XenAPI is not installed"
)


def guest(disk: Path) -> model.Domain:
    return model.Domain(
        "web1",
        "5f0c7f5e-3a77-4f0b-9a0e-2f6d6f2b4d11",
        "pv",
        512,
        1,
        model.Pygrub(),
        (model.Disk(str(disk)),),
        (model.Nic("00:16:3e:10:20:30", "xenbr0"),),
    )


def worded(name: str, domain: model.Domain) -> Worded:
    found = toolstack(name)
    return Worded(found, found.options(), domain, facts_for(domain))


def test_the_password_comes_from_a_file_or_the_environment_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IMAGEKIT_XAPI_PASSWORD", raising=False)
    with pytest.raises(SpecError, match="no password"):
        pool(Import("https://xen1"))
    monkeypatch.setenv("IMAGEKIT_XAPI_PASSWORD", "from the environment")
    assert pool(Import("https://xen1")).password == "from the environment"
    path = tmp_path / "password"
    path.write_bytes("gehéim\r\nrest\n".encode())
    assert pool(Import("https://xen1", password_file=path)).password == "gehéim"
    path.write_bytes(b"\xff")
    for wrong in (path, tmp_path / "none"):
        with pytest.raises(SpecError) as caught:
            pool(Import("https://xen1", password_file=wrong))
        assert caught.value.where == str(wrong)


@pytest.mark.parametrize("pairs", [["xenbr0"], ["=LAN"], ["xenbr0="], ["a=1", "a=2"]])
def test_networks_are_pairs(pairs: list[str]) -> None:
    with pytest.raises(SpecError):
        network_choices(pairs)
    assert network_choices(["a=b=c", "d=e"]) == {"a": "b=c", "d": "e"}


@needs_xenapi
def test_both_ways_of_import_reach_the_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGEKIT_XAPI_PASSWORD", "secret")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    disk = tmp_path / "a.raw"
    disk.write_bytes(b"x" * 4096)
    domain = guest(disk)
    with fake_xapi.running() as fake:
        lan = Import(fake.url, networks=("xenbr0=DMZ",))
        (one,) = deliver(worded("xapi", domain), lan).made
        (two,) = deliver(worded("xva", domain), Import(fake.url)).made
        for name, asked in (("xl", Import(fake.url)), ("xva", lan)):
            with pytest.raises(SpecError):
                deliver(worded(name, domain), asked)
    assert one != two
    assert fake.of("VIF")[0]["network"] == "OpaqueRef:net2"
    assert fake.uploads["xva"][1] > 1 << 20
    assert list(tmp_path.iterdir()) == [disk]
