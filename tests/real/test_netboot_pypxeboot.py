"""pypxeboot against a real dnsmasq and a real HTTP server, in network namespaces."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from oracles import netns, pxe_site
from oracles.pxe_site import DASHES, INITRD, KERNEL, MAC

needs_lab = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(not shutil.which("dnsmasq"), reason="dnsmasq is not installed"),
]
pytestmark = needs_lab
ARGS = "console=tty0 console=hvc0 ks=http://h/?a=b"


@pytest.fixture
def lab() -> Iterator[netns.Lab]:
    with netns.lab() as made:
        yield made


@pytest.fixture
def disk(tmp_path: Path) -> str:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    return str(path)


def check_result(items: dict[str, str], directory: Path, args: str = ARGS) -> None:
    assert Path(items["kernel"]).read_bytes() == KERNEL
    assert Path(items["ramdisk"]).read_bytes() == INITRD
    assert items.get("args", "") == args
    assert {Path(items["kernel"]), Path(items["ramdisk"])} == set(directory.iterdir())


def test_xl_calling_convention_gets_a_lease_and_exact_bytes(
    lab: netns.Lab, tmp_path: Path, disk: str
) -> None:
    root = pxe_site.fill(tmp_path / "tftp")
    output, directory, options = pxe_site.libxl_place(tmp_path)
    with pxe_site.dnsmasq(lab, root) as log:
        run = pxe_site.pypxeboot(
            lab,
            ["--args=quiet", *options, f"--mac={MAC}", "--interface=xenbr0", disk],
        )
        assert run.status == 0, run.err
        told = log.read_text()
    check_result(pxe_site.simple0(output.read_bytes()), directory, ARGS + " quiet")
    assert f"DHCPACK(eth0) 192.0.2.150 {MAC}" in told
    assert run.out == b""


def test_a_server_in_dom0_itself_is_asked_too(lab: netns.Lab, tmp_path: Path, disk: str) -> None:
    root = pxe_site.fill(tmp_path / "tftp")
    output, directory, options = pxe_site.libxl_place(tmp_path)
    with pxe_site.dnsmasq(lab, root, in_dom0=True) as log:
        run = pxe_site.pypxeboot(lab, [*options, f"--mac={MAC}", "--interface=xenbr0", disk])
        assert run.status == 0, run.err
        told = log.read_text()
    check_result(pxe_site.simple0(output.read_bytes()), directory)
    assert f"DHCPACK(xenbr0) 192.0.2.150 {MAC}" in told
    assert run.seconds < 5


def test_libvirt_calling_convention_with_all_arguments_in_one(
    lab: netns.Lab, tmp_path: Path, disk: str
) -> None:
    root = pxe_site.fill(tmp_path / "tftp")
    output, directory, options = pxe_site.libxl_place(tmp_path)
    with pxe_site.dnsmasq(lab, root) as log:
        packed = f"--mac={MAC} --interface=xenbr0\t--dhcp=offer"
        run = pxe_site.pypxeboot(lab, ["--args=ro two words", *options, packed, disk])
        assert run.status == 0, run.err
        assert "DHCPOFFER" in log.read_text()
        assert "DHCPREQUEST" not in log.read_text()
    check_result(pxe_site.simple0(output.read_bytes()), directory, ARGS + " ro two words")


def test_libvirt_calling_convention_with_a_profile(
    lab: netns.Lab, tmp_path: Path, disk: str
) -> None:
    root = pxe_site.fill(tmp_path / "tftp")
    profiles = tmp_path / "profiles.toml"
    profiles.write_text(f'[web1]\nmac = "{MAC}"\ninterface = "xenbr0"\nnext-server = "192.0.2.1"\n')
    output, directory, options = pxe_site.libxl_place(tmp_path)
    with pxe_site.dnsmasq(lab, root):
        packed = f"--profile-file={profiles} --profile=web1"
        run = pxe_site.pypxeboot(lab, [*options, packed, disk])
        assert run.status == 0, run.err
    check_result(pxe_site.simple0(output.read_bytes()), directory)


def test_xend_calling_convention_over_a_fifo(lab: netns.Lab, tmp_path: Path, disk: str) -> None:
    root = pxe_site.fill(tmp_path / "tftp")
    fifo, directory = tmp_path / "xenbl.1", tmp_path / "boot"
    os.mkfifo(fifo, 0o600)
    directory.mkdir()
    argv = pxe_site.program(
        "--args=root=/dev/xvda1 ro", "-q", f"--output={fifo}", f"mac={MAC},", "bridge=xenbr0",
        f"--output-directory={directory}", disk,
    )  # fmt: skip
    with pxe_site.dnsmasq(lab, root):
        child = subprocess.Popen(lab.exec(lab.dom0, *argv), stderr=subprocess.PIPE)
        with fifo.open("rb") as stream:
            said = stream.read().decode()
        assert child.wait(30) == 0
    sxp = parse_sxp(said)
    assert sxp[0] == "linux"
    check_result({k: v for k, v in sxp[1:]}, directory, ARGS + " root=/dev/xvda1 ro")


def test_xend_sees_the_fifo_close_when_pypxeboot_fails(tmp_path: Path) -> None:
    fifo = tmp_path / "xenbl.2"
    os.mkfifo(fifo, 0o600)
    child = subprocess.Popen(
        pxe_site.program(f"--output={fifo}", "mac=nonsense", "/dev/null"), stderr=subprocess.PIPE
    )
    with fifo.open("rb") as stream:
        assert stream.read() == b""
    assert child.wait(10) == 3


def parse_sxp(text: str) -> list[Any]:
    """Read the SXP of a bootloader by xend's quoting rules (sxp.py)."""
    words: list[Any] = []
    stack = [words]
    position = 0
    while position < len(text):
        char = text[position]
        position += 1
        if char == "(":
            stack[-1].append([])
            stack.append(stack[-1][-1])
        elif char == ")":
            stack.pop()
        elif char in "'\"":
            value = ""
            while text[position] != char:
                if text[position] == "\\":
                    position += 1
                value += text[position]
                position += 1
            position += 1
            stack[-1].append(value)
        elif not char.isspace():
            value = char
            while position < len(text) and text[position] not in " ()":
                value += text[position]
                position += 1
            stack[-1].append(value)
    return words


def test_http_server_gives_config_kernel_and_initrd(
    lab: netns.Lab, tmp_path: Path, disk: str
) -> None:
    root = pxe_site.fill(tmp_path / "tftp")
    output, directory, options = pxe_site.libxl_place(tmp_path)
    server = subprocess.Popen(
        lab.exec(lab.server, sys.executable, "-u", "-m", "http.server", "8080", "-d", str(root)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert server.stdout is not None and server.stdout.readline()  # "Serving HTTP on ..."
        with pxe_site.dnsmasq(lab, root):
            words = [f"--mac={MAC}", "--interface=xenbr0", "--http=http://192.0.2.1:8080"]
            run = pxe_site.pypxeboot(lab, [*options, *words, disk])
        assert run.status == 0, run.err
        check_result(pxe_site.simple0(output.read_bytes()), directory)
    finally:
        server.terminate()
        server.wait(10)


def test_ipxe_script_named_by_dhcp(lab: netns.Lab, tmp_path: Path, disk: str) -> None:
    root = pxe_site.fill(tmp_path / "tftp")
    (root / "boot").mkdir()
    (root / "boot/boot.ipxe").write_text(
        "#!ipxe\nset base tftp://${next-server}\ndhcp\nchain guests/${net0/mac:hexhyp}.ipxe\n"
    )
    (root / "boot/guests").mkdir()
    (root / f"boot/guests/{DASHES}.ipxe").write_text(
        "#!ipxe\nkernel --name linux ${base}/images/linux console=hvc0 ip=${ip}\n"
        "initrd ../../images/initrd.gz\nboot\n"
    )
    output, directory, options = pxe_site.libxl_place(tmp_path)
    with pxe_site.dnsmasq(lab, root, "--dhcp-boot=boot/boot.ipxe"):
        run = pxe_site.pypxeboot(lab, [*options, f"--mac={MAC}", "--interface=xenbr0", disk])
    assert run.status == 0, run.err
    args = "console=hvc0 ip=192.0.2.150"
    check_result(pxe_site.simple0(output.read_bytes()), directory, args)


def test_options_209_and_210_lead_to_the_config_and_the_only_bridge_is_the_default(
    lab: netns.Lab, tmp_path: Path, disk: str
) -> None:
    root = pxe_site.fill(tmp_path / "tftp")
    (root / "site").mkdir()
    for name in ("images", "pxelinux.cfg"):
        (root / name).rename(root / "site" / name)
    (root / f"site/pxelinux.cfg/01-{DASHES}").rename(root / "site/special.cfg")
    output, directory, options = pxe_site.libxl_place(tmp_path)
    extra = ("--dhcp-option-force=209,special.cfg", "--dhcp-option-force=210,site/")
    with pxe_site.dnsmasq(lab, root, *extra):
        run = pxe_site.pypxeboot(lab, [*options, f"--mac={MAC}", disk])
    assert run.status == 0, run.err
    check_result(pxe_site.simple0(output.read_bytes()), directory)


def test_proxy_dhcp_beside_a_dhcp_server_that_knows_nothing_of_booting(
    lab: netns.Lab, tmp_path: Path, disk: str
) -> None:
    root = pxe_site.fill(tmp_path / "tftp")
    rival = lab.add_rival("192.0.2.9")
    output, directory, options = pxe_site.libxl_place(tmp_path)
    words = [
        "dnsmasq", "-k", "--conf-file=/dev/null", "--port=0", "--interface=eth0", "--no-ping",
        f"--dhcp-leasefile={tmp_path / 'plain.leases'}", "--user=root", "--pid-file=",
        "--dhcp-range=192.0.2.100,192.0.2.200,255.255.255.0",
    ]  # fmt: skip
    plain = subprocess.Popen(lab.exec(rival, *words), stderr=subprocess.DEVNULL)
    try:
        proxy = ("--dhcp-range=192.0.2.0,proxy", "--pxe-service=x86PC,install,pxelinux")
        with pxe_site.dnsmasq(lab, root, *proxy, dhcp=False):
            run = pxe_site.pypxeboot(lab, [*options, f"--mac={MAC}", "--interface=xenbr0", disk])
    finally:
        plain.terminate()
        plain.wait(10)
    assert run.status == 0, run.err
    check_result(pxe_site.simple0(output.read_bytes()), directory)


@pytest.fixture(scope="module")
def guest_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare ext4 with a kernel, an initrd and the grub.cfg that imagekit writes."""
    base = tmp_path_factory.mktemp("guest")
    tree = base / "tree"
    (tree / "boot/grub").mkdir(parents=True)
    (tree / "boot/vmlinuz-1").write_bytes(KERNEL)
    (tree / "boot/initrd.img-1").write_bytes(INITRD)
    (tree / "boot/grub/grub.cfg").write_text(
        "set default=\"0\"\nset timeout=3\nmenuentry 'Linux' --class imagekit {\n"
        "        linux /boot/vmlinuz-1 root=/dev/xvda ro console=hvc0\n"
        "        initrd /boot/initrd.img-1\n}\n"
    )
    image = base / "disk.img"
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-d", tree, image, "40M"], check=True, capture_output=True
    )
    return image


@pytest.mark.skipif(
    not list(Path("/usr/lib").glob("xen-*/bin/pygrub")), reason="no pygrub is installed"
)
def test_flipped_config_boots_the_guests_own_disk_as_pygrub_would(
    lab: netns.Lab, tmp_path: Path, guest_disk: Path
) -> None:
    root = pxe_site.fill(tmp_path / "tftp", "default Localdisk\nlabel Localdisk\nlocalboot 0\n")
    output, directory, options = pxe_site.libxl_place(tmp_path)
    with pxe_site.dnsmasq(lab, root):
        words = ["--args=quiet", *options, f"--mac={MAC}", "--interface=xenbr0", str(guest_disk)]
        run = pxe_site.pypxeboot(lab, words)
    assert run.status == 0, run.err
    items = pxe_site.simple0(output.read_bytes())
    check_result(items, directory, "root=/dev/xvda ro console=hvc0 quiet")


def test_aii_tree_with_hex_links_installs_and_then_boots_locally(
    lab: netns.Lab, tmp_path: Path, disk: str
) -> None:
    root = pxe_site.fill(tmp_path / "tftp")
    configs = root / "pxelinux.cfg"
    (configs / f"01-{DASHES}").unlink()
    (configs / "web1.example.org.cfg").write_text(
        "# File generated by pxelinux AII plug-in.\n# Do not edit.\n"
        "default Install Scientific Linux Xen\n\nlabel Install Scientific Linux Xen\n"
        "    kernel images/linux\n    append ramdisk=32768 initrd=images/initrd.gz"
        " ks=http://q/ks?x=y ksdevice=bootif\n    ipappend 2\n"
    )
    (configs / "localboot.cfg").write_text("default Localdisk\nlabel Localdisk\nlocalboot 0\n")
    link = configs / "C0000296"
    link.symlink_to("web1.example.org.cfg")
    output, directory, options = pxe_site.libxl_place(tmp_path)
    with pxe_site.dnsmasq(lab, root):
        words = [*options, f"--mac={MAC}", "--interface=xenbr0", disk]
        run = pxe_site.pypxeboot(lab, words)
        assert run.status == 0, run.err
        args = f"ramdisk=32768 ks=http://q/ks?x=y ksdevice=bootif BOOTIF=01-{DASHES}"
        check_result(pxe_site.simple0(output.read_bytes()), directory, args)
        link.unlink()
        link.symlink_to("localboot.cfg")
        again = pxe_site.pypxeboot(lab, words)
        assert "booting the guest's own disk" in again.err


def test_it_starts_in_well_under_half_a_second() -> None:
    times = []
    for _ in range(5):
        started = time.monotonic()
        done = subprocess.run(pxe_site.program("--mac=x"), capture_output=True, check=False)
        times.append(time.monotonic() - started)
        assert done.returncode == 3
    assert min(times) < 0.3
    heavy = "import sys, imagekit.pypxeboot.session, imagekit.pypxeboot.program as p;"
    heavy += "print({'pydantic', 'typer', 'rich', 'jinja2', 'ssl'} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", heavy], capture_output=True, check=True).stdout
    assert said == b"set()\n"


@pytest.mark.parametrize("fault", ["loss", "repeat", "reorder"])
def test_bad_line_does_not_change_a_byte(
    lab: netns.Lab, tmp_path: Path, disk: str, fault: str
) -> None:
    root = pxe_site.fill(tmp_path / "tftp")
    (root / "images/linux").write_bytes(KERNEL[:150_000])
    (root / "images/initrd.gz").write_bytes(INITRD[:200_000])
    setattr(lab, fault, {"loss": 0.03, "repeat": 0.3, "reorder": 0.3}[fault])
    output, _, options = pxe_site.libxl_place(tmp_path)
    with pxe_site.dnsmasq(lab, root):
        run = pxe_site.pypxeboot(lab, [*options, f"--mac={MAC}", "--interface=xenbr0", disk])
    assert run.status == 0, run.err
    items = pxe_site.simple0(output.read_bytes())
    assert Path(items["kernel"]).read_bytes() == KERNEL[:150_000]
    assert Path(items["ramdisk"]).read_bytes() == INITRD[:200_000]


def test_netem_loss_and_reordering_do_not_change_a_byte(
    lab: netns.Lab, tmp_path: Path, disk: str
) -> None:
    netem = ["netem", "delay", "3ms", "2ms", "loss", "4%", "reorder", "20%", "50%"]
    made = subprocess.run(
        ["tc", "-n", lab.wire, "qdisc", "add", "dev", "wd", "root", *netem], capture_output=True
    )
    if made.returncode != 0:
        pytest.skip("missing: a netem queue in this kernel (CONFIG_NET_SCH_NETEM)")
    root = pxe_site.fill(tmp_path / "tftp")
    (root / "images/linux").write_bytes(KERNEL[:150_000])
    (root / "images/initrd.gz").write_bytes(INITRD[:200_000])
    output, _, options = pxe_site.libxl_place(tmp_path)
    with pxe_site.dnsmasq(lab, root):
        run = pxe_site.pypxeboot(lab, [*options, f"--mac={MAC}", "--interface=xenbr0", disk])
    assert run.status == 0, run.err
    items = pxe_site.simple0(output.read_bytes())
    assert Path(items["ramdisk"]).read_bytes() == INITRD[:200_000]
