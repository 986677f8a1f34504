"""Installations emitted for a Xen host: what the real xl, xm and pypxeboot read in them."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from oracles import ncm_xen_reader, pan_reader, tiny_installer, xl_model, xl_reader, xm_reader
from oracles.builds import Build, Run

from imagekit.pypxeboot import arguments, profile

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(xl_reader.missing() is not None, reason=str(xl_reader.missing())),
]
MAC = "00:16:3e:10:20:36"
SPEC = """name: far01
os: {{distribution: debian, suite: bookworm}}
install: {install}
disk: {{size: 2GiB, swap: 64MiB}}
boot: {{modes: [pv, pvh, hvm]}}
nics: [{{bridge: xenbr7, mac: "{mac}"}}]
toolstacks: {toolstacks}
"""


def spec(base: Path, install: str, toolstacks: str = "[xl]") -> Path:
    path = base / "far01.yaml"
    path.write_text(SPEC.format(install=install, toolstacks=toolstacks, mac=MAC))
    return path


@pytest.fixture(scope="module")
def from_iso(
    demo: Build, tmp_path_factory: pytest.TempPathFactory, build: Callable[..., Build]
) -> Build:
    base = tmp_path_factory.mktemp("stub")
    iso = tiny_installer.make_stub(base / "iso", demo.one("kernel"), demo.one("initrd"))
    return build(spec(base, f"{{method: iso, iso: {iso}, on_host: true, memory: 1536}}"))


@pytest.fixture(scope="module")
def from_network(
    demo: Build, tmp_path_factory: pytest.TempPathFactory, build: Callable[..., Build]
) -> Build:
    files = f"kernel: {demo.one('kernel')}, initrd: {demo.one('initrd')}"
    path = spec(
        tmp_path_factory.mktemp("net"),
        f"{{method: netboot, {files}, on_host: true}}",
        "[xl, xm, libvirt, quattor]",
    )
    return build(path)


def xl_reads(made: Build, name: str) -> dict[str, Any]:
    reading = xl_reader.read((made.path / name).read_text())
    assert reading.complaints == () and reading.returncode == 0
    return xl_model.from_xl(reading.config)


@pytest.mark.parametrize("mode", ["pv", "pvh", "hvm"])
def test_xl_reads_the_domain_that_installs_and_the_one_that_stays(
    from_iso: Build, mode: str
) -> None:
    installing = xl_reads(from_iso, f"far01.{mode}.install.xl.cfg")
    final = xl_reads(from_iso, f"far01.{mode}.xl.cfg")
    assert installing["uuid"] == final["uuid"] and installing["nics"] == final["nics"]
    assert installing["disks"][0] == final["disks"][0] and len(final["disks"]) == 1
    disc = installing["disks"][1]
    assert disc["cdrom"] and Path(disc["target"]) == from_iso.path / "far01.iso"
    assert (installing["on_reboot"], final["on_reboot"]) == ("preserve", "restart")
    assert (installing["memory_kib"], final["memory_kib"]) == (1536 << 10, 1024 << 10)
    if mode == "hvm":
        assert (installing["boot_order"], final["boot_order"]) == ("dc", "c")
    else:
        assert final["bootloader"] == "pygrub" and final["kernel"] is None
        assert Path(installing["kernel"]) == from_iso.path / "far01-installer-vmlinuz"
        words = installing["cmdline"].split()
        assert "auto=true" in words and words[-1] == "console=hvc0"
        assert [w for w in words if w.startswith("console=")] == ["console=hvc0"]


def test_the_installers_kernel_and_initrd_are_those_of_the_iso_with_the_answers(
    from_iso: Build, demo: Build
) -> None:
    kernel = from_iso.path / "far01-installer-vmlinuz"
    assert kernel.read_bytes() == demo.one("kernel").read_bytes()
    initrd = (from_iso.path / "far01-installer-initrd.img").read_bytes()
    answers = (from_iso.path / "far01.answers").read_bytes()
    assert initrd.startswith(demo.one("initrd").read_bytes())
    tail = initrd[initrd.rindex(b"\x1f\x8b\x08") :] if answers not in initrd else b""
    assert answers in (gzip.decompress(tail) if tail else initrd)
    roles = {a["role"] for a in from_iso.manifest["artefacts"]}
    assert "disk" not in roles and "facts" not in from_iso.manifest


def test_the_script_is_portable_shell(from_iso: Build) -> None:
    script = from_iso.path / "far01.on-host.sh"
    assert script.stat().st_mode & 0o111 == 0o111
    for shell in (["sh", "-n"], ["/bin/busybox", "sh", "-n"]):
        assert subprocess.run([*shell, script], capture_output=True).stderr == b""
    used = subprocess.run([script], capture_output=True, text=True)
    assert used.returncode == 2 and "install [--force] [MODE]" in used.stderr


def test_a_build_without_an_image_says_so_when_a_config_is_asked_for(
    from_iso: Build, imagekit: Run
) -> None:
    done = imagekit("config", from_iso.path, check=False)
    assert done.returncode == 3 and "no facts" in done.stderr


def test_a_network_installation_boots_by_pypxeboot_or_the_pxe_rom(from_network: Build) -> None:
    for mode in ("pv", "pvh"):
        read = xl_reads(from_network, f"far01.{mode}.xl.cfg")
        assert read["bootloader"] == "/usr/bin/pypxeboot"
        asked = arguments.parse(["--output-format=simple0", *read["bootloader_args"], "/dev/x"])
        assert (asked.settings.mac, asked.settings.interface) == (MAC, "xenbr7")
    assert xl_reads(from_network, "far01.hvm.xl.cfg")["boot_order"] == "n"
    xm = xm_reader.from_xm((from_network.path / "far01.pv.xm.cfg").read_text())
    assert xm == xl_reads(from_network, "far01.pv.xl.cfg") | {"firmware": None}


def test_quattor_and_libvirt_hand_pypxeboot_what_it_understands(
    from_network: Build, tmp_path: Path
) -> None:
    _, tree = pan_reader.read((from_network.path / "far01.pv.pan").read_text())
    options = tree["software"]["components"]["xen"]["domains"]["far01"]["options"]
    text = ncm_xen_reader.variables(ncm_xen_reader.replay(options))["bootargs"]
    assert arguments.parse(["-q", "--output=/x", text, "/dev/x"]).settings.mac == MAC
    xml = (from_network.path / "far01.pv.xml").read_text()
    assert "<bootloader_args>--profile=far01</bootloader_args>" in xml
    known = profile.load_profile("far01", from_network.path / "far01.pypxeboot.toml")
    assert known == {"mac": MAC, "interface": "xenbr7"}


def test_the_request_publishes_the_guest_as_it_is(
    from_network: Build, imagekit: Run, tmp_path: Path
) -> None:
    request = from_network.path / "far01.netboot.yaml"
    root = tmp_path / "root"
    imagekit("netboot", "publish", request, "--root", root, "--http", "http://192.0.2.1:8080")
    config = (root / f"tftp/pxelinux.cfg/01-{MAC.replace(':', '-')}").read_text()
    assert "url=http://192.0.2.1:8080/answers/" in config and "console=hvc0" in config
    record = json.loads((root / "state.json").read_text())["guests"]["far01"]
    answers = (root / record["answers"]).read_bytes()
    assert answers == (from_network.path / "far01.answers").read_bytes()
    assert b"imagekit.done=" in answers
