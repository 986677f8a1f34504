"""Specs that install over the network: what is refused while planning, what a kernel is told."""

from __future__ import annotations

import contextlib
import http.client
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from imagekit.answers.context import Static
from imagekit.errors import ImagekitError, SpecError
from imagekit.installs import iso, netboot
from imagekit.installs.context import BuildContext
from imagekit.installs.machine import Hardware
from imagekit.installs.netboot_tree import arguments, host_address, netboot_guest, serving
from imagekit.netboot.publish import Site, publish
from imagekit.netboot.tree import load
from imagekit.pipeline.plan import Plan
from imagekit.spec.install import Netboot
from imagekit.spec.load import SpecFile, load_spec
from imagekit.vm.card import NetworkBoot
from imagekit.vm.handed import Handed

STATIC = {"addresses": ["192.0.2.10/24"], "gateways": ["192.0.2.1"], "dns": ["192.0.2.53"]}


def load_it(base: Path, install: dict[str, Any] | None = None, **changes: Any) -> SpecFile:
    value: dict[str, Any] = {
        "name": "web01",
        "os": {"suite": "bookworm"},
        "install": {"method": "netboot", "kernel": "linux", "initrd": "initrd", **(install or {})},
        "disk": {"size": "8GiB"},
        **changes,
    }
    value["install"] = {k: v for k, v in value["install"].items() if v is not None}
    (base / "linux").write_bytes(bytes(0x202) + b"HdrS" + bytes(100))
    (base / "initrd").write_bytes(b"initrd")
    with (base / "web01.yaml").open("w") as stream:
        YAML().dump(value, stream)
    return load_spec(base / "web01.yaml")


def plan(base: Path, install: dict[str, Any] | None = None, **changes: Any) -> Plan:
    return netboot.plan(BuildContext(load_it(base, install, **changes), base / "out"))


def told(base: Path, install: dict[str, Any] | None = None, **changes: Any) -> str:
    spec = load_it(base, install, **changes).spec
    assert isinstance(spec.install, Netboot)
    return arguments(spec, spec.install, "console=ttyS0")


def test_a_network_installation_is_harvested_as_one_from_iso(tmp_path: Path) -> None:
    made = plan(tmp_path, disk={"size": "8GiB", "formats": ["raw", "vhd"]})
    names = [p.stage.name for p in made.stages]
    assert names[:5] == ["installer", "answers", "install", "harvest", "configs"]
    (tmp_path / "x.iso").write_bytes(b"an ISO")
    other = {"method": "iso", "iso": "x.iso", "kernel": None, "initrd": None}
    from_iso = iso.plan(BuildContext(load_it(tmp_path, other), tmp_path / "out"))
    roles = {t.role for t in from_iso.targets} - {"remaster-report"} | {"netboot-report"}
    assert {t.role for t in made.targets} == roles


@pytest.mark.parametrize(
    ("install", "changes", "message"),
    [
        ({"kernel": "no"}, {}, "there is no kernel"),
        ({"initrd": None}, {}, "kernel and initrd go together"),
        ({"kernel": None, "initrd": None}, {}, "an installer is named by"),
        ({"package": "some-netboot"}, {}, "an installer is named by"),
        ({"kernel": "https://host.example/linux"}, {}, "can be verified"),
        (
            {
                "kernel": None,
                "initrd": None,
                "mirror": "http://h.example/debian",
                "keyring": "no.gpg",
            },
            {},
            "there is no keyring",
        ),
        ({"answers": "autoinstall"}, {}, "install.method iso"),
        ({"template": "no.j2"}, {}, "there is no template"),
        ({}, {"nics": []}, "without a NIC"),
        ({}, {"nics": [{"network": {"addresses": ["2001:db8::2/64"]}}]}, "PXE"),
        ({}, {"nics": [{"network": {"addresses": ["192.0.2.2/24"]}}]}, "PXE"),
        (
            {"on_host": True},
            {"files": [{"target": "/etc/motd", "content": "x"}]},
            "imagekit inject",
        ),
        ({"on_host": True}, {"scripts": ["linux"]}, "imagekit inject"),
        ({}, {"scripts": ["no.sh"]}, "there is no script"),
        ({"on_host": True}, {"toolstacks": ["glance"]}, "bootloader program"),
        ({"on_host": True}, {"nics": [{"type": "vif"}]}, "PXE ROM"),
    ],
)
def test_what_cannot_be_installed_is_refused_before_anything_is_done(
    tmp_path: Path, install: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    if changes.get("nics") == [{"type": "vif"}]:
        changes = {**changes, "boot": {"modes": ["hvm"]}}
    with pytest.raises(ImagekitError) as caught:
        plan(tmp_path, install, **changes)
    assert message in str(caught.value) and "web01.yaml" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_preseed_is_named_with_what_the_installer_asks_before_it_can_read_it(
    tmp_path: Path,
) -> None:
    words = told(tmp_path, nics=[{"network": STATIC}], identity={"domain": "example.org"}).split()
    assert {"auto=true", "url={answers}", "hostname=web01", "domain=example.org"} <= set(words)
    assert {"netcfg/get_ipaddress=192.0.2.10", "netcfg/get_nameservers=192.0.2.53"} <= set(words)
    assert words[-2:] == ["console=ttyS0", "imagekit.done={done}"]
    assert not [w for w in told(tmp_path).split() if w.startswith("netcfg/get")]


@pytest.mark.parametrize(
    ("release", "wanted"),
    [
        ("9", ["inst.ks={answers}", "inst.repo=http://h.example/9", "ip=dhcp"]),
        ("6", ["ks={answers}", "method=http://h.example/9", "ksdevice=bootif"]),
    ],
)
def test_anaconda_is_told_in_the_words_of_its_release(
    tmp_path: Path, release: str, wanted: list[str]
) -> None:
    os_ = {"distribution": "rhel", "suite": release, "mirror": "http://h.example/9"}
    words = told(tmp_path, {"answers": "kickstart"}, os=os_).split()
    assert set(wanted) <= set(words)


def test_arguments_that_boot_loaders_would_take_for_their_own_are_refused(tmp_path: Path) -> None:
    for args in ("initrd=/etc/shadow", "a || b", "${net0/mac}", "a" * 3000):
        with pytest.raises(SpecError):
            told(tmp_path, {"args": args})


@contextlib.contextmanager
def served(base: Path) -> Iterator[tuple[int, Path, str]]:
    """A published guest behind the HTTP server: port, root, and the answers' path."""
    spec = load_it(base).spec
    assert isinstance(spec.install, Netboot)
    root = base / "root"
    guest = netboot_guest(spec, spec.install, base / "linux", base / "initrd", "d-i\n", "")
    with serving(root, base / "log") as port:
        publish(Site(root, "", f"http://{host_address(load_it(base))}:{port}"), [guest])
        yield port, root, load(root).guests["web01"].answers


def get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", f"/{path}")
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_a_guest_fetches_its_answers_once_and_says_when_it_is_done(tmp_path: Path) -> None:
    with served(tmp_path) as (port, root, answers):
        script = next((root / "tftp/ipxe").iterdir()).read_text()
        assert f"http://10.0.2.2:{port}/images/" in script
        assert get(port, answers) == (200, b"d-i\n") and get(port, answers)[0] == 410
        done = re.search(r"imagekit\.done=http://10\.0\.2\.2:\d+/(done/\S+)", script)
        assert done is not None and get(port, done[1])[0] == 200
        assert load(root).guests["web01"].mode == "local"
        assert "sanboot" in next((root / "tftp/ipxe").iterdir()).read_text()
    assert load(root).guests["web01"].done_token not in (tmp_path / "log").read_text()
    with pytest.raises(OSError):
        get(port, answers)


def test_the_machine_boots_by_its_pxe_rom_before_the_disk() -> None:
    static = Static("192.0.2.10", "255.255.255.0", 24, "192.0.2.1", (), 4)
    media = NetworkBoot(Path("/t,ftp"), "boot.ipxe")
    line = " ".join(Hardware(media, Path("/d"), 512, False, static=static).argv(Handed()))
    assert (
        "-netdev user,id=net,net=192.0.2.0/24,host=192.0.2.1,dhcpstart=192.0.2.10"
        ",tftp=/proc/self/fd/100,bootfile=boot.ipxe " in line
    )
    assert ",bootindex=1" in line.partition("virtio-net-pci")[2]
    assert "drive=disk,bootindex=2" in line and "ide-cd" not in line and "romfile" not in line
