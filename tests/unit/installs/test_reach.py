"""Which hosts an installer may reach: those that its spec sends it to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from imagekit.errors import SpecError
from imagekit.installs.reach import reach_of
from imagekit.spec.install import Iso, Netboot
from imagekit.spec.load import SpecFile, load_spec
from imagekit.spec.untrusted import check_untrusted
from imagekit.vm.gate import Endpoint


def spec(tmp_path: Path, os_: dict[str, str] | None = None, **install: Any) -> SpecFile:
    path = tmp_path / "web01.yaml"
    value = {
        "name": "web01",
        "os": {"distribution": "debian", "suite": "bookworm", **(os_ or {})},
        "install": {"method": "iso", "iso": "x.iso", **install},
        "disk": {"size": "8GiB"},
    }
    path.write_text(json.dumps(value))
    return load_spec(path)


def reached(file: SpecFile) -> set[str]:
    install = file.spec.install
    assert isinstance(install, Iso | Netboot)
    return {f"{end.host} {end.port}" for end in reach_of(file.spec, install)}


DOMAIN = "debian.org"
SECURITY = f"security.{DOMAIN} 80"


@pytest.mark.parametrize(
    ("os_", "install", "expected"),
    [
        ({}, {}, {f"deb.{DOMAIN} 80", SECURITY}),
        ({"suite": "buster"}, {}, {f"archive.{DOMAIN} 80", SECURITY}),
        ({"mirror": "http://m.example/debian"}, {}, {"m.example 80", SECURITY}),
        ({"mirror": "https://m.example/debian"}, {}, {"m.example 443", SECURITY}),
        ({"mirror": "http://M.Example:8080/"}, {}, {"m.example 8080", SECURITY}),
        ({"mirror": "http://192.0.2.5/debian"}, {}, {"192.0.2.5 80", SECURITY}),
        (
            {"mirror": "http://m.example/", "proxy": "http://p.example:3128"},
            {},
            {"m.example 80", "p.example 3128", SECURITY},
        ),
        (
            {"mirror": "http://m.example/", "security_mirror": "http://s.example/sec"},
            {},
            {"m.example 80", "s.example 80", SECURITY},
        ),
        (
            {"distribution": "ubuntu", "suite": "noble"},
            {"answers": "autoinstall"},
            {"archive.ubuntu.com 80", "security.ubuntu.com 80"},
        ),
        ({}, {"answers": "kickstart", "release": "RHEL9"}, set()),
        (
            {},
            {
                "answers": "kickstart",
                "release": "RHEL9",
                "args": "inst.repo=https://r.example/os inst.ks.x=http://[bad inst.text",
            },
            None,
        ),
        (
            {},
            {
                "answers": "kickstart",
                "release": "RHEL9",
                "args": "inst.repo=https://r.example/os inst.stage2=ftp://f.example:2121/x quiet",
            },
            {"r.example 443", "f.example 2121"},
        ),
        (
            {"mirror": "http://m.example/"},
            {"reach": ["x.example:8443", "[2001:db8::1]:80", "192.0.2.7:22"]},
            {"m.example 80", SECURITY, "x.example 8443", "2001:db8::1 80", "192.0.2.7 22"},
        ),
    ],
)
def test_what_the_answers_name_is_reached(
    tmp_path: Path, os_: dict[str, str], install: dict[str, Any], expected: set[str] | None
) -> None:
    file = spec(tmp_path, os_, **install)
    if expected is None:
        with pytest.raises(SpecError, match="is no URL"):
            reached(file)
    else:
        assert reached(file) == expected


WRONG = """
x.example x.example:0 x.example:65536 x.example:80x :80 ::1:80 [::1:80 [x]:80 http://x:80 x:-1
x.example: -x:80 x,y:80 *:80 x:+80 x:٣ x:80:
"""


@pytest.mark.parametrize("wrong", [*WRONG.split(), "a b:80", "x\n:80", "x:80\n"])
def test_what_is_no_host_and_port_is_refused(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(SpecError, match="is not HOST:PORT"):
        spec(tmp_path, reach=[wrong])


def test_a_stranger_names_no_more_hosts(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="lets the installer reach this host"):
        check_untrusted(spec(tmp_path, reach=["192.168.1.1:80"]))
    check_untrusted(spec(tmp_path))


def test_an_endpoint_is_ordered_and_equal_by_what_it_says() -> None:
    assert sorted({Endpoint("b", 1), Endpoint("a", 2), Endpoint("a", 2)})[0] == Endpoint("a", 2)
